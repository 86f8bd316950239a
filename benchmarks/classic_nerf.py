"""The classic Fourier-feature radiance field in a hundred lines of plain torch: the baseline.

It is what many first implementations look like (Mildenhall et al. 2020, with the random Fourier
features of Tancik et al. 2020): 192 stratified samples on every ray, one network of single
precision for all of them, no grid that says where nothing is. It shares no code with the backend.
"""

from __future__ import annotations

import itertools
import math
import pathlib
from collections.abc import Sequence

import imageio.v3
import numpy as np
import torch
from torch import Tensor

from neural_backend.dataset.transforms import Dataset, View

SIGMA = 6.05
FREQUENCIES = 256
HIDDEN_LAYERS, WIDTH = 4, 256
NEAR, FAR = 2.0, 6.0  # scene units, NeRF-synthetic's
BINS = 192
RAYS = 1024
LEARNING_RATE = 5e-4
_RENDERED_RAYS = 1024


class ClassicNerf(torch.nn.Module):
    """Trains on a dataset's training views over white; looks at points in world space.

    Args:
        seed: of the frequencies, the weights and the batches.
    """

    def __init__(self, dataset: Dataset, device: torch.device, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        frequencies = 2.0 * math.pi * SIGMA * torch.randn(3, FREQUENCIES)
        self.register_buffer("frequencies", frequencies)
        sizes = [2 * FREQUENCIES] + [WIDTH] * HIDDEN_LAYERS
        layers: list[torch.nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.ReLU()]
        self.mlp = torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, 4))
        self.to(device)
        self._device = device
        self._views = dataset.split("train")
        images = [_over_white(dataset.folder / view.file) for view in self._views]
        self._widths = torch.tensor([view.intrinsics.w for view in self._views])
        self._starts = torch.tensor([0, *(len(image) for image in images)]).cumsum(0)
        self._pixels = torch.cat(images)
        self._optimiser = torch.optim.Adam(self.parameters(), LEARNING_RATE)

    def step(self, spent: float) -> int:
        """One optimiser step; the learning rate stays, however much of the budget is spent."""
        pixel = torch.randint(len(self._pixels), (RAYS,))
        view = torch.searchsorted(self._starts, pixel, right=True) - 1
        place = pixel - self._starts[view]
        width = self._widths[view]
        origins, directions = _rays(self._views, view, place % width + 0.5, place // width + 0.5)
        colour = self._render(origins.to(self._device), directions.to(self._device), stratify=True)
        loss = (colour - self._pixels[pixel].to(self._device)).square().sum()
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        return RAYS * BINS

    @torch.no_grad()
    def colours(self, views: Sequence[View], view: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """[R, 3] what the views with the indices [R] show at x, y [R], over white."""
        chunks = []
        for part in torch.arange(len(view)).split(_RENDERED_RAYS):
            origins, directions = _rays(views, view[part], x[part], y[part])
            colour = self._render(origins.to(self._device), directions.to(self._device))
            chunks.append(colour.cpu())
        return torch.cat(chunks)

    def _render(self, origins: Tensor, directions: Tensor, stratify: bool = False) -> Tensor:
        """[R, 3] colour over white of rays [R, 3] whose directions reach one unit deep."""
        bins = torch.arange(BINS, device=self._device).expand(len(origins), BINS)
        inside = torch.rand(bins.shape, device=self._device) if stratify else 0.5
        depth = NEAR + (FAR - NEAR) / BINS * (bins + inside)
        phase = (origins[:, None] + directions[:, None] * depth[..., None]) @ self.frequencies
        out = self.mlp(torch.cat([torch.cos(phase), torch.sin(phase)], -1))
        density, colour = torch.relu(out[..., 3]), torch.sigmoid(out[..., :3])
        step = torch.diff(depth, dim=1, append=torch.full_like(depth[:, :1], 1e10))
        alpha = 1.0 - torch.exp(-density * step * directions.norm(dim=-1, keepdim=True))
        through = torch.cumprod(1.0 - alpha + 1e-10, 1)
        weights = alpha * torch.cat([torch.ones_like(through[:, :1]), through[:, :-1]], 1)
        return (weights[..., None] * colour).sum(1) + 1.0 - weights.sum(1, keepdim=True)


def _rays(views: Sequence[View], view: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """[R, 3] origins and [R, 3] directions, one unit deep, in world space; without distortion."""
    lenses = [
        (v.intrinsics.fl_x, v.intrinsics.fl_y, v.intrinsics.cx, v.intrinsics.cy) for v in views
    ]
    fl_x, fl_y, cx, cy = torch.tensor(lenses)[view].unbind(-1)
    direction = torch.stack([(x - cx) / fl_x, -(y - cy) / fl_y, -torch.ones_like(x)], -1)
    poses = torch.from_numpy(np.stack([v.world_from_camera for v in views])).float()[view]
    return poses[:, :3, 3], (poses[:, :3, :3] @ direction[..., None])[..., 0]


def _over_white(file: pathlib.Path) -> Tensor:
    """[H * W, 3] the image in [0, 1]."""
    rgba = torch.from_numpy(imageio.v3.imread(file, mode="RGBA")).float().view(-1, 4) / 255.0
    return rgba[:, :3] * rgba[:, 3:] + 1.0 - rgba[:, 3:]
