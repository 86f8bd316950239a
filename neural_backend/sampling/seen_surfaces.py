"""What exact depth and normals tell about a surface: where it is, and where it is not."""

from __future__ import annotations

import math
import pathlib

import torch
from torch import Tensor

from ..dataset import passes
from ..dataset.images import Images
from ..dataset.transforms import Dataset
from ..protocol import BadInput
from .occupancy import coordinates, project_cells
from .rays import Cameras

_FAR = 1e9  # field units
_SHOWN = 0.5  # alpha from which on a pixel shows something


class SeenSurfaces:
    """Where the rays of all views' pixels meet a surface, in field space.

    Args:
        dataset: some of whose views have a depth.
        images: with those views.
        cameras: of the views.

    Attributes:
        along: [P] distance along the ray through a pixel's centre, field units; infinite where
            there is nothing, NaN where it is not known.
        normals: [P, 3] float16, towards the camera; 0 where not known.
        damaged: the files that have NaN or infinity where their images show something.

    Raises:
        BadInput: a pass cannot be read, has not its view's size, or is mostly NaN.
    """

    def __init__(self, dataset: Dataset, images: Images, cameras: Cameras):
        device = cameras.origins.device
        self._images, self._cameras = images, cameras
        self._scale = float(dataset.field_from_world[0, 0])
        count = len(images.pixels)
        self.along = torch.full((count,), math.nan, device=device)
        self.normals = torch.zeros(count, 3, dtype=torch.float16, device=device)
        self.damaged: list[str] = []
        for index, view in enumerate(images.views):
            part = slice(*images.offsets[index : index + 2].tolist())
            shown = images.alpha(index).view(-1) >= _SHOWN
            if view.depth is not None:
                depth = torch.from_numpy(passes.read_depth(dataset, view)).view(-1)
                self._check(dataset.folder / view.depth, depth, shown)
                self.along[part] = self._along(index, depth.to(device), shown.to(device))
            if view.normal is not None:
                normal = torch.from_numpy(passes.read_normal(dataset, view)).view(-1, 3)
                self._check(dataset.folder / view.normal, normal.sum(1), shown)
                self.normals[part] = normal.nan_to_num(nan=0.0).to(device, torch.float16)

    def _check(self, path: pathlib.Path, numbers: Tensor, shown: Tensor) -> None:
        """Note, or refuse, a file that has no number at pixels [H * W] which show something."""
        if (numbers.isnan() & shown).sum() > 0.5 * shown.sum():
            raise BadInput(
                f"{path}: most of what the image shows is NaN in it; render this view again"
            )
        if (~numbers.isfinite() & shown).any():
            self.damaged.append(str(path))

    def _along(self, index: int, depth: Tensor, shown: Tensor) -> Tensor:
        """[H * W] distances along a view's rays, from its planar depth in scene units."""
        width = self._images.views[index].intrinsics.w
        pixel = torch.arange(len(depth), device=depth.device)
        view = torch.full_like(pixel, index)
        _, directions = self._cameras.rays(view, pixel % width + 0.5, pixel // width + 0.5)
        # the camera looks along its -Z
        forward = -(directions @ self._cameras.rotations[index][:, 2])
        nothing = torch.where(shown, math.nan, math.inf)
        return torch.where(depth.isfinite() & (depth > 0.0), depth * self._scale / forward, nothing)

    def in_front(self, possible: Tensor) -> Tensor:
        """[G, G, G] bool: those of a grid's cells before which and in which some view sees nothing.

        Args:
            possible: [G, G, G] bool: the cells to look at.
        """
        size = len(possible)
        half_diagonal = 0.5 * math.sqrt(3.0) / size
        cells = possible.view(-1).nonzero()[:, 0]
        centres = (coordinates(cells, size) + 0.5) / size
        free = torch.zeros_like(cells, dtype=torch.bool)
        for index, view in enumerate(self._images.views):
            part = slice(*self._images.offsets[index : index + 2].tolist())
            along = self.along[part].nan_to_num(nan=0.0, posinf=_FAR)
            w, h = view.intrinsics.w, view.intrinsics.h
            x, y, _, footprint = project_cells(self._cameras, centres, index, half_diagonal)
            inside = (x > footprint) & (x < w - footprint) & (y > footprint) & (y < h - footprint)
            at = inside.nonzero()[:, 0]
            if len(at) == 0:
                continue
            reach = math.ceil(float(footprint[at].max()))
            nearest = -torch.nn.functional.max_pool2d(
                -along.view(1, 1, h, w), 2 * reach + 1, stride=1, padding=reach
            )
            seen = nearest[0, 0, y[at].long(), x[at].long()]
            distance = (centres[at] - self._cameras.origins[index]).norm(dim=1)
            free[at] |= seen > distance + half_diagonal
        found = torch.zeros_like(possible)
        found.view(-1)[cells[free]] = True
        return found
