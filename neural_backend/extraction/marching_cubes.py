"""Triangle meshes out of fields, by marching cubes.

Lorensen and Cline 1987; the topology is Lewiner's (2003), as scikit-image has it. A coarse pass
finds where the surface is; the fine pass asks the field only there.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import skimage.measure
import torch
import trimesh

from ..protocol import BadInput

_COARSE = 64  # cells along the unit box's edge
_BLOCK = 8  # fine cells along a block's edge
_CHUNK = 1 << 18
_SMALL = 0.03  # a component's diagonal, beside the largest one's
_LIGHT_CELLS = 160  # along the longest side
_DIRECTIONS_SEEN = 4  # of 26; several, as single rays find their way through pores
_PROBES = 1 << 16
_OPAQUE_WITHIN = 1.0 / 16  # of the unit box's edge


@dataclasses.dataclass(frozen=True)
class Volume:
    """A field as marching cubes sees it.

    Attributes:
        value: maps [N, 3] points of the unit box to [N] values, on their device; the inside is
            where they are above ``level``.
        level: the surface's value.
        may_hold: says for [M, 3] centres of cubes of a given half edge, [M], which of them the
            surface may pass through. What it leaves out is never asked for.
        device: of the points.
        cavities: whether closed surfaces around empty space are wanted.
        advice: what a person can do when there is no surface.
    """

    value: Callable[[torch.Tensor], torch.Tensor]
    level: float
    may_hold: Callable[[torch.Tensor, float], torch.Tensor]
    device: torch.device
    cavities: bool
    advice: str


def from_signed_distance(
    field: Callable[[torch.Tensor], torch.Tensor], device: torch.device
) -> Volume:
    """The zero set of a field that maps [N, 3] points of the unit box to [N] signed distances."""

    def may_hold(centres: torch.Tensor, half_edge: float) -> torch.Tensor:
        # the surface is nearer than the cube's half diagonal; twice, as training is not exact
        return field(centres).abs() < 2.0 * 3.0**0.5 * half_edge

    return Volume(lambda points: -field(points), 0.0, may_hold, device, True, "train longer")


def from_density(
    density: Callable[[torch.Tensor], torch.Tensor],
    occupied: torch.Tensor,
    device: torch.device,
    cavities: bool = False,
) -> Volume:
    """Where a radiance field turns opaque.

    The level is the density at which a length of ``_OPAQUE_WITHIN`` lets half of the light
    through: what is thinner than that and less dense is haze, not a surface. A field that has
    trained so little that all of it is haze has its surface at half of its high densities.

    Args:
        density: maps [N, 3] points of the unit box to [N], per field unit of length.
        occupied: [G, G, G] bool, indexed x, y, z: the cells outside of which it is not asked.
        cavities: see ``Volume``.
    """
    size = len(occupied)
    grid = occupied.float()

    def may_hold(centres: torch.Tensor, half_edge: float) -> torch.Tensor:
        reach = min(math.ceil(half_edge * size), size - 1)
        held = grid
        for axis in range(3):  # one after the other: a cube's cells at once take for ever
            rows = held.transpose(axis, 2)
            pooled = torch.nn.functional.max_pool1d(
                rows.reshape(1, size * size, size), 2 * reach + 1, stride=1, padding=reach
            )
            held = pooled.view(size, size, size).transpose(axis, 2)
        cell = (centres * size).long().clamp(0, size - 1)
        return held[cell[:, 0], cell[:, 1], cell[:, 2]] > 0.0

    def value(points: torch.Tensor) -> torch.Tensor:
        cell = (points * size).long().clamp(0, size - 1)
        inside = occupied[cell[:, 0], cell[:, 1], cell[:, 2]]
        values = torch.zeros(len(points), device=points.device)
        values[inside] = density(points[inside]).clamp(max=2.0 * level)
        return values

    cells = occupied.nonzero()
    if len(cells) > _PROBES:
        cells = cells[torch.arange(_PROBES, device=cells.device) * len(cells) // _PROBES]
    with torch.no_grad():
        probed = density((cells + 0.5) / size)
    high = float(torch.quantile(probed, 0.95)) if len(cells) else 0.0
    level = min(math.log(2.0) / _OPAQUE_WITHIN, 0.5 * high)
    return Volume(value, level, may_hold, device, cavities, "train longer")


@torch.no_grad()
def extract(volume: Volume, resolution: int) -> tuple[npt.NDArray, npt.NDArray]:
    """Extract the surface of ``volume`` in the unit box.

    Where the surface leaves the unit box it is closed along the box's wall. Components that are
    small beside the whole are dropped: floaters.

    Args:
        resolution: cells along the longest side of the surface's bounds, as the coarse pass
            finds them.

    Returns:
        [M, 3] vertices, float64, in the unit box, and [K, 3] faces, counter-clockwise seen from
        outside.

    Raises:
        BadInput: there is no surface.
    """
    low, high = _occupied(volume)
    cell = float((high - low).max()) / resolution
    # a margin, as the coarse pass sees no more than its cells; one layer further out is sealed
    low, high = (low - 2.0 * cell).clip(0.0, 1.0), (high + 2.0 * cell).clip(0.0, 1.0)
    blocks = np.ceil((high - low) / (cell * _BLOCK) - 1e-9).astype(int).clip(1)
    values = _sample(volume, low, cell, blocks)
    if not (values > volume.level).any():
        raise _no_surface(volume)
    if not volume.cavities:
        values[_unseen(values, cell)] = 2.0 * volume.level
    vertices, faces, _, _ = skimage.measure.marching_cubes(
        values, volume.level, gradient_direction="ascent", allow_degenerate=False
    )
    # what lies beyond the box was sealed one layer out: back onto its wall
    vertices = ((vertices.astype(np.float64) - 1.0) * cell + low).clip(0.0, 1.0)
    return _without_small(vertices, faces.astype(np.int64), volume)


def _no_surface(volume: Volume) -> BadInput:
    return BadInput(f"the field has no surface inside its bounds; {volume.advice}")


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


def _occupied(volume: Volume) -> tuple[npt.NDArray, npt.NDArray]:
    """[3], [3] corners of the box of all coarse cells with the surface or the inside in them."""
    cell = 1.0 / _COARSE
    centres = _grid(np.full(3, cell / 2), cell, np.full(3, _COARSE))
    held = _ask(lambda points: volume.may_hold(points, cell / 2), centres, volume.device)
    # an inside that reaches the unit box's wall has no surface there of its own
    held |= _ask(volume.value, centres, volume.device) > volume.level
    if not held.any():
        raise _no_surface(volume)
    inside = np.argwhere(held)
    return inside.min(axis=0) * cell, (inside.max(axis=0) + 1) * cell


def _sample(
    volume: Volume, low: npt.NDArray, cell: float, blocks: npt.NDArray
) -> npt.NDArray[np.float32]:
    """Values at the lattice points of ``blocks``, sealed by one layer of outside all around.

    Blocks that cannot hold the surface are filled with the value at their centre.
    """
    edge = cell * _BLOCK
    centres = _grid(low + edge / 2, edge, blocks)
    held = _ask(lambda points: volume.may_hold(points, edge / 2), centres, volume.device)
    inside = _ask(volume.value, centres, volume.device) > volume.level
    counts = blocks * _BLOCK
    reach = max(abs(volume.level), edge)
    outside = np.float32(volume.level - reach)
    values = np.full(counts + 2, outside, dtype=np.float32)
    core = values[1:-1, 1:-1, 1:-1]
    filled = np.where(inside, np.float32(volume.level + reach), outside)
    for axis in range(3):
        filled = filled.repeat(_BLOCK, axis=axis)
    core[...] = filled
    del filled
    within = _grid(np.zeros(3), 1.0, np.full(3, _BLOCK)).reshape(-1, 3).astype(int)
    held_blocks = np.argwhere(held)
    for part in np.array_split(held_blocks, max(1, len(held_blocks) * _BLOCK**3 // (4 * _CHUNK))):
        index = (part[:, None] * _BLOCK + within).reshape(-1, 3)
        points = low + cell * index
        asked = _ask(volume.value, points.clip(0.0, 1.0), volume.device)
        asked[(points > 1.0 + 1e-6).any(axis=1)] = outside
        core[tuple(index.T)] = asked
    return values


def _unseen(values: npt.NDArray[np.float32], cell: float) -> npt.NDArray[np.bool_]:
    """Which lattice points no light reaches from outside.

    Images say nothing about them, so the density there is whatever the training left. Light comes
    from the 26 directions of a lattice point's neighbours, through a coarser lattice.

    Args:
        values: densities, per field unit of length.
        cell: field units.
    """
    stride = -(-max(values.shape) // _LIGHT_CELLS)
    padded = np.pad(values, [(0, -size % stride) for size in values.shape])
    blocks = [part for size in padded.shape for part in (size // stride, stride)]
    density = padded.clip(min=0.0).reshape(blocks).mean(axis=(1, 3, 5))
    reached = np.zeros(density.shape, np.uint8)
    for direction in itertools.product((-1, 0, 1), repeat=3):
        if any(direction):
            length = stride * cell * float(np.linalg.norm(direction))
            through = np.exp(-length * density)
            reached += _light(through, direction) > 0.5
    unseen = reached < _DIRECTIONS_SEEN
    for axis in range(3):
        unseen = unseen.repeat(stride, axis=axis)
    return unseen[tuple(slice(size) for size in values.shape)]


def _light(through: npt.NDArray[np.float32], direction: tuple[int, ...]) -> npt.NDArray:
    """How much light that travels along ``direction`` gets to each lattice point.

    Args:
        through: the part that each point lets pass on.
        direction: steps along the axes, -1 to 1.
    """
    main = next(axis for axis in range(3) if direction[axis])
    others = [axis for axis in range(3) if axis != main]
    layers = np.moveaxis(through, main, 0)[:: direction[main]]
    light = np.ones_like(layers)
    # what comes in through the sides is full light
    steps = [(direction[axis], through.shape[axis]) for axis in others]
    inner = tuple(slice(max(step, 0), min(size + step, size)) for step, size in steps)
    outer = tuple(slice(max(-step, 0), min(size - step, size)) for step, size in steps)
    for index in range(1, len(layers)):
        passed = light[index - 1] * layers[index - 1]
        light[index][inner] = passed[outer]
    return np.moveaxis(light[:: direction[main]], 0, main)


def _without_small(
    vertices: npt.NDArray, faces: npt.NDArray, volume: Volume
) -> tuple[npt.NDArray, npt.NDArray]:
    """Drop components that are small beside the whole and, if so wished, cavities."""
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    label = trimesh.graph.connected_component_labels(edges, len(vertices))
    count = int(label.max()) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, label, vertices)
    np.maximum.at(high, label, vertices)
    size = np.linalg.norm(high - low, axis=1)
    keep = size >= _SMALL * size.max()
    if not volume.cavities:
        corner = vertices[faces]
        six_volumes = (corner[:, 0] * np.cross(corner[:, 1], corner[:, 2])).sum(axis=1)
        keep &= np.bincount(label[faces[:, 0]], six_volumes, count) > 0.0
    if not keep.any():
        raise _no_surface(volume)
    kept = keep[label]
    renumber = np.cumsum(kept) - 1
    return vertices[kept], renumber[faces[kept[faces[:, 0]]]]


def vertex_normals(vertices: npt.NDArray, faces: npt.NDArray) -> npt.NDArray:
    """[M, 3] unit normals of the vertices: the mean of the faces around, weighted by area."""
    corner = vertices[faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    index = faces.ravel()
    total = np.stack(
        [np.bincount(index, normal[:, axis].repeat(3), len(vertices)) for axis in range(3)], axis=1
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-300)
