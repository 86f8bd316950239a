"""The occupancy grid: which cells of the unit box hold anything (Müller et al. 2022)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..dataset.images import Images
from ..dataset.transforms import INNER
from ..kernels.contraction import expand
from .rays import Cameras

RESOLUTION = 128
DECAY = 0.95
OPACITY = 0.01
"""A cell is kept when a sample in it would be more opaque than this."""

_TRANSPARENT = 2.0 / 255.0
"""Alpha up to this is background."""
_GOLDEN = 0.618034
_WORTHWHILE = 0.8
"""Part of the cells that are left when it pays to move them together."""


class OccupancyGrid:
    """Cells of the unit box, indexed x, y, z.

    Args:
        possible: [G, G, G] bool: the cells that can hold anything at all (the visual hull). All
            others stay empty for good.
        step: length of a sample, field units.
        reach: the distance beyond which samples are longer, field units. Where it is finite, the
            unit box holds all of space (``kernels.contraction``).

    Attributes:
        step, reach: as given.
        possible, occupied: [G, G, G] bool.
        density: [K] the highest seen lately in each of the possible cells; infinite where nobody
            has looked yet.
        low, high: [3] corners of the box around the occupied cells.
    """

    def __init__(self, possible: Tensor, step: float, reach: float = math.inf):
        self.step, self.reach = step, reach
        self._set(possible)
        self.density = torch.full_like(self._cells, math.inf, dtype=torch.float32)
        self._refresh()

    def _set(self, possible: Tensor) -> None:
        self._size = possible.shape[0]
        self.possible = possible
        self._cells = possible.view(-1).nonzero()[:, 0]
        self._corners = coordinates(self._cells, self._size)

    @property
    def contracted(self) -> bool:
        return math.isfinite(self.reach)

    @property
    def inner(self) -> Tensor:
        """[G, G, G] bool: the occupied cells in the part of the box where space is as it is."""
        if not self.contracted:
            return self.occupied
        margin = 0.5 - 0.5 * INNER
        walls = torch.tensor([[margin] * 3, [1.0 - margin] * 3], device=self.occupied.device)
        return self.occupied & box_cells(*walls, self._size, border=0)

    @property
    def _limit(self) -> float:
        return -math.log1p(-OPACITY) / self.step

    def _refresh(self) -> None:
        known = self.density[self.density.isfinite()]
        # before anything is opaque, what is denser than the rest is kept
        limit = min(self._limit, float(known.mean())) if len(known) else self._limit
        kept = self.density >= limit
        if not kept.any():
            kept = torch.ones_like(kept)
        self.occupied = torch.zeros_like(self.possible)
        self.occupied.view(-1)[self._cells[kept]] = True
        self._kept = kept.nonzero()[:, 0]
        corners = self._corners[self._kept]
        if len(corners):
            self.low = corners.amin(0) / self._size
            self.high = (corners.amax(0) + 1) / self._size
        else:
            self.low = self.high = torch.zeros(3, device=corners.device)

    def update(
        self, density: Callable[[Tensor], Tensor], samples: int, generator: torch.Generator
    ) -> None:
        """Look at cells again: half of them from the occupied, half from all the possible ones.

        Args:
            density: the field's, [N, 3] -> [N].
            samples: number of cells.
        """
        cell = self._some(samples, generator)
        corner = self._corners[cell]
        inside = torch.rand(corner.shape, generator=generator, device=corner.device)
        x = (corner + inside) / self._size
        with torch.no_grad():
            value = density(x)
        if self.contracted:
            # as dense as it is for samples that are as long as the others
            distance = (expand(x) - 0.5).norm(dim=-1)
            value = value * (distance / self.reach).square().clamp(min=1.0)
        before = self.density[cell]
        self.density[cell] = torch.where(before.isfinite(), before * DECAY, 0.0)
        self.density.scatter_reduce_(0, cell, value, "amax")
        self._refresh()

    def renew(
        self,
        density: Callable[[Tensor], Tensor],
        samples: int,
        generator: torch.Generator,
    ) -> None:
        """Look at cells again, and forget what they held; all of them if there are so many samples.

        Args:
            density: tells from the middles of cells [N, 3] what these hold at most, [N].
            samples: number of cells.
        """
        cell = torch.arange(len(self._cells), device=self.density.device)
        if samples < len(cell):
            cell = self._some(samples, generator)
        with torch.no_grad():
            parts = ((self._corners[cell] + 0.5) / self._size).split(max(samples, 1))
            self.density[cell] = torch.cat([density(part) for part in parts])
        self._refresh()

    def _some(self, samples: int, generator: torch.Generator) -> Tensor:
        """Random cells: half of them of the occupied, half of all the possible ones."""

        def some(count: int) -> Tensor:
            device = self.density.device
            return torch.randint(count, (samples // 2,), generator=generator, device=device)

        return torch.cat([self._kept[some(len(self._kept))], some(len(self._cells))])

    def state(self) -> dict[str, Tensor]:
        steps = torch.tensor([self.step, self.reach], dtype=torch.float64)
        density = torch.zeros_like(self.possible, dtype=torch.float32)
        density.view(-1)[self._cells] = self.density
        return {"possible": self.possible, "density": density, "steps": steps}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up ``state()``, which may have another resolution: devices differ in theirs.

        Raises:
            KeyError: something is missing.
            ValueError: it is no grid.
        """
        device = self.density.device
        shape = state["density"].shape
        if shape != state["possible"].shape or shape != shape[:1] * 3 or shape[0] == 0:
            raise ValueError("the occupancy grid is not a cube")
        self.step, self.reach = state["steps"].tolist()
        self._set(state["possible"].to(device))
        self.density = state["density"].to(device).view(-1)[self._cells]
        self._refresh()


def full_grid(size: int, step: float, device: torch.device) -> OccupancyGrid:
    """A grid of ``size`` cells along each edge that knows nothing yet."""
    possible = torch.ones(size, size, size, dtype=torch.bool, device=device)
    return OccupancyGrid(possible, step)


def at_points(cells: Tensor, points: Tensor) -> Tensor:
    """[N] the values of a grid's cells [G, G, G] at points [N, 3] of the unit box."""
    size = len(cells)
    x, y, z = (points * size).long().clamp(0, size - 1).unbind(1)
    return cells[x, y, z]


def box_cells(low: Tensor, high: Tensor, size: int, border: int = 1) -> Tensor:
    """[size, size, size] bool: the cells that share space with a box of the unit box.

    Args:
        low, high: [3] the box's corners.
        border: as many layers of cells around those too.
    """
    cells = torch.arange(size, device=low.device)
    first, last = torch.floor(low * size) - border, torch.ceil(high * size) + (border - 1)
    x, y, z = ((cells >= first[axis]) & (cells <= last[axis]) for axis in range(3))
    return x[:, None, None] & y[:, None] & z


def framed_cells(images: Images, cameras: Cameras, size: int) -> Tensor:
    """[size, size, size] bool: the cells of contracted space that some view may frame a part of."""
    # seen coarsely, so that a cell's outline matters little
    coarse = size // 4 if size % 4 == 0 else size
    low = coordinates(torch.arange(coarse**3, device=cameras.origins.device), coarse)
    corners = coordinates(torch.arange(8, device=low.device), 2)
    centres = expand((low + 0.5) / coarse)
    apart = expand((low[:, None] + corners) / coarse) - centres[:, None]
    framed = _framed(images, cameras, centres.T.contiguous(), apart.norm(dim=-1).amax(1))
    framed = framed.view(coarse, coarse, coarse)
    for axis in range(3):
        framed = framed.repeat_interleave(size // coarse, axis)
    return framed


def visual_hull(images: Images, cameras: Cameras, size: int) -> Tensor:
    """[size, size, size] bool: the cells that no view shows to be empty (Laurentini 1994).

    A cell is empty where some view has the whole cell in its frame and sees nothing but
    background there, and where no view frames any part of it: nothing could be learned there. All
    True where the views contradict each other so much that nothing is left.
    """
    device = cameras.origins.device
    # what is empty as one large cell needs no look at its small ones
    coarse = size // 4 if size % 4 == 0 else size
    left = torch.arange(coarse**3, device=device)
    half_diagonal = torch.full((len(left),), 0.5 * math.sqrt(3.0) / coarse, device=device)
    with _one_thread():
        left = left[_framed(images, cameras, _centres(left, coarse), half_diagonal)]
        left = _carve(images, cameras, left, coarse)
        if coarse < size:
            left = _carve(images, cameras, _subdivide(left, coarse, size), size)
    if len(left) == 0:
        return torch.ones(size, size, size, dtype=torch.bool, device=device)
    hull = torch.zeros(size**3, dtype=torch.bool, device=device)
    hull[left] = True
    return hull.view(size, size, size)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """For many small operations: on a busy machine threads wait for each other in every one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def coordinates(cells: Tensor, size: int) -> Tensor:
    """[N, 3] integer coordinates of the cells [N] of a grid."""
    return torch.stack([cells // size**2, cells // size % size, cells % size], -1)


def _centres(cells: Tensor, size: int) -> Tensor:
    """[3, N] the middles of cells [N] of a grid."""
    return ((coordinates(cells, size) + 0.5) / size).T.contiguous()


def _subdivide(cells: Tensor, size: int, finer: int) -> Tensor:
    """The cells of a finer grid in some cells of a coarse one; a whole number of times finer."""
    factor = finer // size
    inner = coordinates(torch.arange(factor**3, device=cells.device), factor)
    parts = (coordinates(cells, size)[:, None] * factor + inner).view(-1, 3)
    return (parts[:, 0] * finer + parts[:, 1]) * finer + parts[:, 2]


def _framed(images: Images, cameras: Cameras, centres: Tensor, radii: Tensor) -> Tensor:
    """[N] whether some view may have some part of a ball in its frame; centres [3, N]."""
    framed = torch.zeros_like(radii, dtype=torch.bool)
    for index, view in enumerate(images.views):
        others = (~framed).nonzero()[:, 0]
        if len(others) == 0:
            break
        radius = radii[others]
        x, y, depth, footprint = project_cells(cameras, centres[:, others].T, index, radius)
        w, h = view.intrinsics.w, view.intrinsics.h
        inside = (x > -footprint) & (x < w + footprint) & (y > -footprint) & (y < h + footprint)
        # a cell that the camera stands in or beside may appear anywhere
        framed[others] = (inside & (depth > 0.0)) | (depth.abs() <= radius)
    return framed


def _carve(images: Images, cameras: Cameras, cells: Tensor, size: int) -> Tensor:
    """Those of a grid's cells [N] that no view shows to be empty."""
    half_diagonal = 0.5 * math.sqrt(3.0) / size
    centres = _centres(cells, size)
    possible = torch.ones_like(cells, dtype=torch.bool)
    # views one after another that look from different sides leave few cells to the others
    for index in sorted(range(len(images.views)), key=lambda view: view * _GOLDEN % 1.0):
        something = images.alpha(index) > _TRANSPARENT
        if something.all():
            continue
        x, y, _, footprint = project_cells(cameras, centres.T, index, half_diagonal)
        h, w = something.shape
        left, right, top, bottom = x - footprint, x + footprint, y - footprint, y + footprint
        whole = (left >= 0.0) & (right <= w) & (top >= 0.0) & (bottom <= h)
        window = (
            torch.where(whole, each, 0.0) for each in (left, right.ceil(), top, bottom.ceil())
        )
        possible &= (_count(something, *window) > 0) | ~whole
        if int(possible.sum()) < _WORTHWHILE * len(possible):
            cells, centres = cells[possible], centres[:, possible]
            possible = torch.ones_like(cells, dtype=torch.bool)
    return cells[possible]


def project_cells(
    cameras: Cameras, centres: Tensor, index: int, radius: Tensor | float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where balls appear in a view: x, y, how deep, and how far around in pixels; each [N].

    Of x and y on the one side and of how far around on the other, only one is ever infinite: x and
    y of what the lens shows nowhere, and how far around what reaches the camera's plane appears.
    """
    x, y, depth = cameras.project(centres, index)
    fl_x, fl_y, cx, cy = cameras.intrinsics[index].tolist()
    # off the axis a ball's picture is longer; what counts is how long it is within the frame
    w, h = int(cameras.widths[index]), int(cameras.heights[index])
    corner = (max(cx, w - cx) / fl_x) ** 2 + (max(cy, h - cy) / fl_y) ** 2
    off_axis = ((x - cx) / fl_x) ** 2 + ((y - cy) / fl_y) ** 2
    longer = (1.0 + off_axis.clamp(max=corner)).sqrt()
    # a pixel more, because its colour is gathered from around its centre
    footprint = max(fl_x, fl_y) * radius / (depth - radius).clamp(min=1e-9) * longer + 1.5
    near = depth <= radius
    footprint[near] = math.inf
    return x.masked_fill(near, cx), y.masked_fill(near, cy), depth, footprint


def _count(mask: Tensor, left: Tensor, right: Tensor, top: Tensor, bottom: Tensor) -> Tensor:
    """[N] how many pixels of a mask [H, W] are set in windows [N], by a summed-area table.

    Crow 1984. A window has the columns from ``left`` to before ``right``, rounded down, and rows
    likewise.
    """
    h, w = mask.shape
    table = torch.zeros(h + 1, w + 1, dtype=torch.int32)
    torch.cumsum(mask.cumsum(1, dtype=torch.int32), 0, out=table[1:, 1:])
    flat = table.view(-1).to(left.device)
    left, right, top, bottom = (each.to(torch.int32) for each in (left, right, top, bottom))
    above, below = top * (w + 1), bottom * (w + 1)

    def until(place: Tensor) -> Tensor:
        return flat.index_select(0, place)

    return until(below + right) - until(above + right) - until(below + left) + until(above + left)
