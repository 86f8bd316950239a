"""A surface with colour trained from images (NeuS, Wang et al. 2021).

The field begins as the visual hull. Volume rendering then carves it until the views agree, levels
of the hash grid open from the coarsest to the finest (Li et al. 2023, Neuralangelo), and an eikonal
term keeps it a distance. Where views have exact depth and normals, these say where the surface is,
and where it is not (Azinović et al. 2022, Yu et al. 2022, MonoSDF).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .. import protocol
from ..config import TrainingSettings
from ..dataset.transforms import Dataset
from ..fields.encodings import HashEncoding
from ..fields.surface_radiance import SurfaceRadianceField
from ..kernels import Samples
from ..kernels.reference import pooled
from ..rendering.sphere_tracing import gradients
from ..sampling import distance
from ..sampling.occupancy import OccupancyGrid
from ..sampling.rays import intersect_box
from ..sampling.seen_surfaces import SeenSurfaces
from .distributed import ALONE, Ranks
from .nerf import GRID_EVERY, NerfTask, Rays, step_length

MASK = 0.1
"""Weight of the cross-entropy between the rays' alpha and the views'."""
EIKONAL = 0.1
HULL = 1.0
"""Weight of what the distance falls short of that to the visual hull."""
NEARBY = 0.1
"""Weight of the relative error of the distance near to a seen surface."""
FREE = 10.0
"""Weight of what the distance in front of a seen surface is below zero, or above that to it."""
NORMAL = 0.05

FIRST_LEVELS = 4
OPEN_BY = 0.5
"""Progress at which all levels of the hash grid are open."""
DIRECTED_FROM, DIRECTED_BY = 0.25, 0.5
"""Progress between which the colour gets the direction of view: a wrong surface that shows each
view what that wants to see must not come first."""
HULL_STEPS = 150
"""Steps that teach the field the hull, before any ray is cast."""
STEP = 0.5
"""Length of a sample, beside a radiance field's: surfaces are found more exactly than a pixel."""

_HULL_CELLS = 64
_RADIUS = 0.35  # of the ball to begin with where there is no hull, field units
_HULL_POINTS = 4  # a hull step has batch / this many
_EIKONAL_POINTS = 16  # batch / this many
_SEEN_POINTS = 32  # batch / this many, for normals; twice as many near to a surface, and free
_NEAR = 1.0 / 128  # field units
_FINE = 1.0 / 256  # the differences' step where no grid has a cell to tell it
_CERTAIN = 1e-4  # alpha closer to 0 or 1 is as good as this


class NeusTask(NerfTask):
    """Learns a surface from views; see ``task.Task`` and ``nerf.NerfTask``."""

    kind = SurfaceRadianceField
    surroundings = False
    field: SurfaceRadianceField

    def __init__(
        self,
        settings: TrainingSettings,
        dataset: Dataset,
        device: torch.device,
        emit: Callable[[protocol.Event], None],
        ranks: Ranks = ALONE,
    ):
        self._dataset = dataset
        self._seen: SeenSurfaces | None = None
        self._low = torch.zeros(3, device=device)
        self._high = torch.ones(3, device=device)
        super().__init__(settings, dataset, device, emit, ranks)
        if not self._images.linear:
            self._error = l1

    def _first_grid(self) -> OccupancyGrid:
        """What no view shows to be empty, which also is what the field is taught first."""
        step = STEP * step_length(self._cameras, self._settings)
        hull = self._hull()
        if lost := self._dataset.missing_passes:
            self._emit(
                protocol.Warning(
                    f"{len(lost)} depth or normal files that the json lists are missing, the first "
                    f"is {lost[0]}; the surface is led by the others"
                )
            )
        if any(view.depth for view in self._images.views):
            self._seen = SeenSurfaces(self._dataset, self._images, self._cameras)
            if damaged := self._seen.damaged:
                self._emit(
                    protocol.Warning(
                        f"{len(damaged)} depth or normal files have NaN or infinite pixels, the "
                        f"first is {damaged[0]}; there they tell nothing"
                    )
                )
            left = hull & ~self._seen.in_front(hull)
            hull = left if left.any() else hull
        if self._images.opaque and self._seen is None:
            self._emit(
                protocol.Warning(
                    "no pixel of the views is transparent, so what is behind the subject becomes a "
                    "surface too; give views with alpha"
                )
            )
            middle = (torch.arange(_HULL_CELLS, device=self._device) + 0.5) / _HULL_CELLS - 0.5
            squared = middle.square()
            around = squared[:, None, None] + squared[:, None] + squared
            self._first_distance = around.sqrt() - _RADIUS
        else:
            coarse = pooled(hull, max(len(hull) // _HULL_CELLS, 1))
            self._first_distance = distance.signed(coarse)
        return OccupancyGrid(hull, step)

    def _prepare(self, progress: float) -> None:
        self._open(progress)
        if self._steps == 0:
            for _ in range(HULL_STEPS):
                x = self._anywhere(self._batch // _HULL_POINTS)
                wanted = distance.interpolated(self._first_distance, x)
                error = (self.field.distance(x) - wanted).abs() / (wanted.abs() + _NEAR)
                self._learn(error.mean(), 0.0)
            self.grid.renew(self._held, len(self.grid.density), self._for_grid())
        elif self._steps % GRID_EVERY == 0:
            self.grid.renew(self._held, self._batch, self._for_grid())

    def _open(self, progress: float) -> None:
        """Open levels of the hash grid, and the colour to the direction of view."""
        levels, self._finest = self._settings.levels, _FINE
        encoding = self.field.encoding
        if isinstance(encoding, HashEncoding):
            first = min(FIRST_LEVELS, levels)
            levels = first + int((levels - first) * min(progress / OPEN_BY, 1.0))
            self._finest = 1.0 / encoding.grid.resolutions[levels - 1]
        directed = (progress - DIRECTED_FROM) / (DIRECTED_BY - DIRECTED_FROM)
        self.field.open(levels, min(max(directed, 0.0), 1.0))

    def _held(self, x: Tensor) -> Tensor:
        """[N] the density that cells with the middles [N, 3] hold at most."""
        sharpness = self.field.sharpness
        half_diagonal = 0.5 * math.sqrt(3.0) / len(self.grid.possible)
        nearest = self.field.distance(x).abs() - half_diagonal
        return sharpness * torch.sigmoid(-sharpness * nearest)

    def _loss_of(self, rays: Rays, samples: Samples) -> tuple[Tensor, Tensor]:
        field, origins, directions = self.field, rays.origins, rays.directions
        colour, alpha, along = self._kernels.render_surface(field, origins, directions, samples)
        loss, error = self._colour_loss(colour, alpha, rays)
        if not self._images.opaque:
            certain = alpha.clamp(_CERTAIN, 1.0 - _CERTAIN)
            known = rays.rgba[:, 3].clamp(0.0, 1.0)
            loss = loss + MASK * torch.nn.functional.binary_cross_entropy(certain, known)
        with torch.no_grad():
            hit = (alpha > 0.5).nonzero()[:, 0]
            surface = origins[hit] + directions[hit] * (along / alpha)[hit, None]
        loss = loss + self._shape_loss(surface)
        if self._seen is not None:
            loss = loss + self._seen_loss(rays, self._seen)
        return loss, error

    def _shape_loss(self, surface: Tensor) -> Tensor:
        """[] what keeps the field a distance, and outside of the hull.

        Args:
            surface: [S, 3] where rays have met the surface.
        """
        count = self._batch // _EIKONAL_POINTS
        anywhere = self._anywhere(count // 4 if len(surface) else count)
        points = anywhere
        if len(surface):
            near = self._some_of(surface, count - len(anywhere))
            noise = self._anywhere(len(near)) - 0.5
            points = torch.cat([near + 2.0 * _NEAR * noise, anywhere])
        slope = gradients(self.field.distance, points, self._finest).norm(dim=1)
        loss = EIKONAL * (slope - 1.0).square().mean()
        # what lies nearer to the hull than a cell's diagonal may be inside of it
        least = distance.interpolated(self._first_distance, anywhere) - 1.8 / _HULL_CELLS
        missing = torch.where(least > 0.0, least - self.field.distance(anywhere), 0.0)
        return loss + HULL * missing.clamp(min=0.0).mean()

    def _seen_loss(self, rays: Rays, seen: SeenSurfaces) -> Tensor:
        """[] how far the field is from what the views' passes tell along some of the rays."""
        along, normals = seen.along[rays.pixels], seen.normals[rays.pixels].float()
        near, far = intersect_box(rays.origins, rays.directions, self._low, self._high)
        # up to the surface, or through everything, there is nothing
        end = torch.minimum(along, far)
        known = (end > near).nonzero()[:, 0]
        hit = (along.isfinite() & (along < far)).nonzero()[:, 0]
        loss = torch.zeros((), device=self._device)
        count = self._batch // _SEEN_POINTS
        if len(known):
            ray = self._some_of(known, 2 * count)
            depth = near[ray] + self._random(len(ray)) * (end - near)[ray]
            points = rays.origins[ray] + rays.directions[ray] * depth[:, None]
            found = self.field.distance(points)
            wrong = (-found).clamp(min=0.0) + (found - (along[ray] - depth)).clamp(min=0.0)
            loss = loss + FREE * wrong.mean()
        if len(hit):
            ray = self._some_of(hit, 2 * count)
            facing = -(normals[ray] * rays.directions[ray]).sum(1).clamp(max=0.0)
            # further in front than behind, where a thin thing may end
            offset = torch.where(facing > 0.0, _NEAR * (0.5 - 2.0 * self._random(len(ray))), 0.0)
            depth = along[ray] + offset
            points = rays.origins[ray] + rays.directions[ray] * depth[:, None]
            wanted = -offset * facing
            error = (self.field.distance(points) - wanted).abs() / (wanted.abs() + _NEAR)
            loss = loss + NEARBY * error.mean()
        having = hit[normals[hit].any(1)]
        if len(having):
            ray = self._some_of(having, count)
            points = rays.origins[ray] + rays.directions[ray] * along[ray, None]
            slope = gradients(self.field.distance, points, self._finest)
            cosine = torch.nn.functional.cosine_similarity(slope, normals[ray], dim=1)
            apart = (slope - normals[ray]).abs().sum(1) + 1.0 - cosine
            loss = loss + NORMAL * apart.mean()
        return loss

    def _some_of(self, rows: Tensor, count: int) -> Tensor:
        """[count, ...] of some rows, at random."""
        options = {"generator": self._generator, "device": self._device}
        return rows[torch.randint(len(rows), (count,), **options)]

    def _random(self, count: int) -> Tensor:
        return torch.rand(count, generator=self._generator, device=self._device)

    def _anywhere(self, count: int) -> Tensor:
        """[count, 3] random points of the unit box."""
        return torch.rand(count, 3, generator=self._generator, device=self._device)


def l1(predicted: Tensor, target: Tensor) -> Tensor:
    """[R] absolute error of colours [R, 3], mean over the channels.

    Small differences, of shades for instance, tell of the form as well as large ones.
    """
    return (predicted - target).abs().mean(1)
