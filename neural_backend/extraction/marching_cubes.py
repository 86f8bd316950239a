"""Triangle meshes out of fields, by marching cubes.

Lorensen and Cline 1987; the topology is Lewiner's (2003), as scikit-image has it. Coarse passes
find where the surface is; the fine one asks the field only there, and works in slabs, so that its
memory grows with the square of the resolution.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import skimage.measure
import torch

from . import topology
from .surface import Volume, no_surface, projected
from .topology import Faces, Points

_COARSE = 64  # cells along the longest edge of the box where the surface is looked for
_BRICK = 8  # lattice points along the edge of what is asked for or left out
_TILE = 32  # cells along the edge of what is marched through at once: a slab's thickness
_CHUNK = 1 << 16
_SMALL, _FLOATER = 0.02, 0.05
"""A component's diagonal beside the largest one's, below which it goes: out of a distance without
colour, which geometry has taught, small parts and all; and out of what was looked for in images,
whose small parts are mostly haze."""
_LIMIT = 4.0  # cells; further from the surface no value matters
_NUDGE = 1e-3
"""Values are kept off zero by so much of their limit: no vertex falls on a lattice point."""


@torch.no_grad()
def extract(
    volume: Volume, resolution: int, report: Callable[[int, int], None] = lambda done, of: None
) -> tuple[Points, Faces, float]:
    """Extract the surface of ``volume`` in the unit box.

    Where the surface leaves the unit box it is closed along the box's wall. Components that are
    small beside the whole are dropped: floaters.

    Args:
        resolution: cells along the longest side of the surface's bounds, as the coarse passes
            find them.
        report: called after each slab with the number done and the number of all.

    Returns:
        [M, 3] vertices, float64, in the unit box; [K, 3] faces, counter-clockwise seen from
        outside; and the edge of a cell.

    Raises:
        BadInput: there is no surface.
    """
    low, high = _bounds(volume)
    cell = float((high - low).max()) / resolution
    # a margin, as the coarse pass sees no more than its cells; one layer further out is sealed
    low, high = (low - 2.0 * cell).clip(0.0, 1.0), (high + 2.0 * cell).clip(0.0, 1.0)
    points = np.ceil((high - low) / cell - 1e-9).astype(np.int64) + 1
    vertices, faces = _march(_Lattice(volume, low, cell, points), report)
    if len(faces) == 0:
        raise no_surface()
    # what lies beyond the box was sealed one layer out: back onto its wall
    vertices = ((vertices - 1.0) * cell + low).clip(0.0, 1.0)
    vertices, faces = without_small(volume, vertices, faces)
    if len(faces) == 0:
        raise no_surface()
    if volume.distance:
        vertices = projected(volume, vertices, cell)
    return vertices, faces, cell


def without_small(volume: Volume, vertices: Points, faces: Faces) -> tuple[Points, Faces]:
    """The surface of a volume without what does not count: floaters, and unwanted cavities."""
    taught = volume.distance and volume.colors is None
    fraction = _SMALL if taught else _FLOATER
    return topology.without_small(vertices, faces, fraction, volume.cavities)


def _grid(low: npt.NDArray, cell: float, counts: npt.NDArray) -> npt.NDArray:
    """[counts..., 3] lattice points from ``low`` on, ``cell`` apart."""
    axes = [low[axis] + cell * np.arange(counts[axis]) for axis in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


def _ask(
    function: Callable[[torch.Tensor], torch.Tensor], points: npt.NDArray, device: torch.device
) -> npt.NDArray:
    flat = torch.from_numpy(points.reshape(-1, 3).astype(np.float32))
    parts = [function(part.to(device)).cpu() for part in flat.split(_CHUNK)]
    return torch.cat(parts).numpy().reshape(points.shape[:-1])


def _bounds(volume: Volume) -> tuple[npt.NDArray, npt.NDArray]:
    """[3], [3] corners of a box with the surface and the inside in it.

    Of all coarse cells that may hold some, twice: a second look at where the first has found it
    is finer.
    """
    low, high = np.zeros(3), np.ones(3)
    for _ in range(2):
        cell = float((high - low).max()) / _COARSE
        counts = np.ceil((high - low) / cell - 1e-9).astype(int)
        centres = _grid(low + cell / 2, cell, counts)
        held = _ask(lambda at, half=cell / 2: volume.may_hold(at, half), centres, volume.device)
        # an inside that reaches the unit box's wall has no surface there of its own
        held |= _ask(volume.value, centres.clip(0.0, 1.0), volume.device) > 0.0
        if not held.any():
            raise no_surface()
        inside = np.argwhere(held)
        low, high = low + inside.min(axis=0) * cell, low + (inside.max(axis=0) + 1) * cell
    return low, high.clip(max=1.0)


@dataclasses.dataclass(frozen=True)
class _Lattice:
    """Points at which a volume is asked for its values.

    Point 1 of each axis is at ``low``; point 0 and those behind the last are outside, which closes
    the surface. Eight points along each axis are a brick: all of it is asked for, or nothing.

    Attributes:
        low: [3].
        cell: how far apart the points are.
        points: [3] how many there are, without those outside.
    """

    volume: Volume
    low: npt.NDArray
    cell: float
    points: npt.NDArray[np.int64]

    @property
    def limit(self) -> np.float32:
        """No value is further from zero than this."""
        return np.float32(_LIMIT * self.cell if self.volume.distance else 1.0)

    def held(self, bricks: npt.NDArray) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """[bricks...] which bricks may hold the surface, and which have their middle inside."""
        volume, cell = self.volume, self.cell
        # a brick reaches from the point before its first to the one behind its last
        first = self.low + cell * (_BRICK / 2 - 1.5)
        centres = _grid(first, cell * _BRICK, bricks).clip(0.0, 1.0)
        half_edge = cell * (_BRICK + 1) / 2
        held = _ask(lambda at: volume.may_hold(at, half_edge), centres, volume.device)
        inside = _ask(volume.value, centres, volume.device) > 0.0
        for axis in range(3):
            # between neighbours on different sides there is a surface, whatever was said
            change = np.moveaxis(np.diff(inside, axis=axis), axis, 0)
            moved = np.moveaxis(held, axis, 0)
            moved[:-1] |= change
            moved[1:] |= change
        return held, inside

    def fill(
        self,
        values: npt.NDArray[np.float32],
        layer: int,
        held: npt.NDArray[np.bool_],
        inside: npt.NDArray[np.bool_],
    ) -> None:
        """Set the values [8 * layers, ...] of some layers of bricks.

        Those of bricks that do not hold the surface are all that of the middle's side.

        Args:
            layer: index of the first.
            held, inside: [layers, ...] of their bricks.
        """
        limit = self.limit
        blocks = values.reshape(len(held), _BRICK, held.shape[1], _BRICK, held.shape[2], _BRICK)
        blocks[...] = np.where(inside, limit, -limit)[:, None, :, None, :, None]
        start = np.array([layer, 0, 0]) * _BRICK
        within = _grid(np.zeros(3), 1.0, np.full(3, _BRICK)).reshape(-1, 3).astype(np.int64)
        all_held = np.argwhere(held)
        for part in np.array_split(all_held, len(all_held) * _BRICK**3 // _CHUNK + 1):
            index = (part[:, None] * _BRICK + within).reshape(-1, 3)
            at = (self.low + self.cell * (index + start - 1)).clip(0.0, 1.0)
            asked = _ask(self.volume.value, at, self.volume.device).clip(-limit, limit)
            asked[np.abs(asked) < _NUDGE * limit] = _NUDGE * limit
            values[tuple(index.T)] = asked
        for axis in range(3):
            place = np.arange(values.shape[axis]) + start[axis]
            moved = np.moveaxis(values, axis, 0)
            moved[(place < 1) | (place > self.points[axis])] = -limit


def _march(lattice: _Lattice, report: Callable[[int, int], None]) -> tuple[Points, Faces]:
    """Vertices [M, 3], in cells from point 0, and faces [K, 3] of the surface in a lattice.

    One slab after the other: tiles of a slab are views of one array, and slabs share the values
    of their border, so that vertices on common edges are the same and become one.
    """
    tiles = -(-(lattice.points + 1) // _TILE)
    layers = _TILE // _BRICK
    bricks = tiles * layers + 1
    held, inside = lattice.held(bricks)
    slab = np.empty((_TILE + _BRICK, *bricks[1:] * _BRICK), np.float32)
    head, tail = slab[:_BRICK], slab[_TILE:]
    lattice.fill(tail, 0, held[:1], inside[:1])
    parts = topology.Parts()
    for layer in range(0, tiles[0] * layers, layers):
        head[...] = tail
        new = slice(layer + 1, layer + 1 + layers)
        lattice.fill(slab[_BRICK:], layer + 1, held[new], inside[new])
        for y in range(0, tiles[1] * _TILE, _TILE):
            for z in range(0, tiles[2] * _TILE, _TILE):
                tile = slab[: _TILE + 1, y : y + _TILE + 1, z : z + _TILE + 1]
                if tile.min() < 0.0 < tile.max():
                    vertices, faces, _, _ = skimage.measure.marching_cubes(
                        tile, 0.0, gradient_direction="ascent"
                    )
                    parts.add(vertices, faces, (layer * _BRICK, y, z), _TILE)
        report(layer // layers + 1, int(tiles[0]))
    return parts.joined()
