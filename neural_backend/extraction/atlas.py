"""Texture atlases: where on a square picture each triangle of a mesh lies, and the reverse."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import xatlas

from .topology import Faces, Points

_PADDING = 4  # texels between charts
_GUTTER = 2  # texels around a chart that are its triangles' too, for bilinear filtering


@dataclasses.dataclass(frozen=True)
class Atlas:
    """A mesh cut into charts that lie flat in the unit square.

    Attributes:
        uv: [U, 2] from the picture's lower left corner.
        faces: [K, 3] the mesh's faces, as indices of ``uv``.
        vertices: [U] the mesh's vertex that each is of.
    """

    uv: Points
    faces: Faces
    vertices: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Texels:
    """The texels of a picture that show a mesh.

    Attributes:
        size: texels along the picture's edge.
        index: [T] which they are, row by row from the top.
        face: [T] what they show.
        weights: [T, 3] barycentric; slightly outside of the face beside its chart's border.
    """

    size: int
    index: npt.NDArray[np.int64]
    face: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    def interpolated(self, values: npt.NDArray, faces: Faces) -> npt.NDArray[np.float32]:
        """[T, C] values at the corners [M, C], that faces [K, 3] index, between them."""
        corners = faces[self.face]
        parts = [
            self.weights[:, corner, None] * values.astype(np.float32)[corners[:, corner]]
            for corner in range(3)
        ]
        return parts[0] + parts[1] + parts[2]


def unwrapped(vertices: Points, faces: Faces, normals: Points, size: int) -> Atlas:
    """Cut a mesh into charts, flatten and pack them (xatlas).

    Args:
        normals: [M, 3] of the vertices.
        size: texels along the edge of the picture that it is for.
    """
    scale = 1.0 / max(np.ptp(vertices, axis=0).max(), 1e-30)
    atlas = xatlas.Atlas()
    atlas.add_mesh(
        np.ascontiguousarray((vertices - vertices.min(axis=0)) * scale, np.float32),
        np.ascontiguousarray(faces, np.uint32),
        np.ascontiguousarray(normals, np.float32),
    )
    charts = xatlas.ChartOptions()
    packing = xatlas.PackOptions()
    packing.resolution = size
    packing.padding = _PADDING
    packing.bilinear = True
    atlas.generate(charts, packing)
    source, corners, uv = atlas[0]
    # the packed picture's sides are only about those wanted
    uv = uv * np.array([atlas.width, atlas.height]) / max(atlas.width, atlas.height)
    uv[:, 1] = 1.0 - uv[:, 1]
    return Atlas(uv.astype(np.float64), corners.astype(np.int64), source.astype(np.int64))


def texels(atlas: Atlas, size: int) -> Texels:
    """Rasterise the atlas into a picture of size x size texels."""
    corners = (atlas.uv * [size, -size] + [0.0, size])[atlas.faces]
    shown = np.full((size, size), -1, np.int64)
    _scan(corners, shown)
    for _ in range(_GUTTER):
        _grow(shown)
    index = np.flatnonzero(shown.ravel() >= 0)
    face = shown.ravel()[index]
    at = np.stack([index % size, index // size], axis=1) + 0.5
    first = corners[face, 0]
    across, along = corners[face, 1] - first, corners[face, 2] - first
    area = across[:, 0] * along[:, 1] - across[:, 1] * along[:, 0]
    area = np.where(np.abs(area) < 1e-9, np.inf, area)
    offset = at - first
    second = (offset[:, 0] * along[:, 1] - offset[:, 1] * along[:, 0]) / area
    third = (across[:, 0] * offset[:, 1] - across[:, 1] * offset[:, 0]) / area
    weights = np.stack([1.0 - second - third, second, third], axis=1)
    # thin triangles must not throw what lies beside them far away
    away = np.abs(weights - 1.0 / 3.0).max(axis=1, keepdims=True)
    weights = 1.0 / 3.0 + (weights - 1.0 / 3.0) / np.maximum(away, 1.0)
    return Texels(size, index, face, weights.astype(np.float32))


def _scan(corners: Points, shown: npt.NDArray[np.int64]) -> None:
    """Write the index of each triangle [K, 3, 2] into the texels whose centres it covers."""
    size = len(shown)
    top = np.ceil(corners[:, :, 1].min(axis=1) - 0.5).clip(0, size).astype(np.int64)
    bottom = np.floor(corners[:, :, 1].max(axis=1) - 0.5).clip(-1, size - 1).astype(np.int64)
    rows = (bottom - top + 1).clip(min=0)
    triangle = np.repeat(np.arange(len(corners)), rows)
    row = _counting(rows) + top[triangle]
    y = row + 0.5
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for start in range(3):
        x0, y0 = corners[triangle, start].T
        x1, y1 = corners[triangle, (start + 1) % 3].T
        crosses = (np.minimum(y0, y1) <= y) & (y <= np.maximum(y0, y1)) & (y0 != y1)
        x = x0 + (y - y0) / np.where(crosses, y1 - y0, 1.0) * (x1 - x0)
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    first = np.ceil(left - 0.5).clip(0, size).astype(np.int64)
    last = np.floor(right - 0.5).clip(-1, size - 1).astype(np.int64)
    columns = (last - first + 1).clip(min=0)
    span = np.repeat(np.arange(len(row)), columns)
    shown[row[span], _counting(columns) + first[span]] = triangle[span]


def _counting(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1, ... up to each count, one after the other."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)


def _grow(shown: npt.NDArray[np.int64]) -> None:
    """Give texels without a triangle that of a neighbour."""
    before = np.pad(shown, 1, constant_values=-1)
    size = len(shown)
    for down, right in ((0, 1), (1, 0), (1, 2), (2, 1), (0, 0), (0, 2), (2, 0), (2, 2)):
        neighbour = before[down : down + size, right : right + size]
        np.copyto(shown, neighbour, where=(shown < 0) & (neighbour >= 0))


def filled(values: npt.NDArray, texels: Texels) -> npt.NDArray:
    """[size, size, C] the texels' values [T, C], and around them what continues them.

    Holes take the mean of what is known around them, at the finest scale that knows something
    (the pull-push algorithm, Gortler et al. 1996): no seam shows in a smaller version either.
    """
    shape = (texels.size, texels.size)
    known = np.zeros(shape[0] * shape[1], bool)
    known[texels.index] = True
    picture = np.zeros((shape[0] * shape[1], values.shape[1]), np.float32)
    picture[texels.index] = values
    return _pushed(picture.reshape(*shape, -1), known.reshape(shape))


def _pushed(picture: npt.NDArray[np.float32], known: npt.NDArray[np.bool_]) -> npt.NDArray:
    size = len(picture)
    if size == 1 or known.all():
        return picture
    even = size + size % 2
    pad = even - size
    weight = np.pad(known, ((0, pad), (0, pad))).astype(np.float32)
    padded = np.pad(picture, ((0, pad), (0, pad), (0, 0))) * weight[..., None]
    half = even // 2
    count = weight.reshape(half, 2, half, 2).sum(axis=(1, 3))
    total = padded.reshape(half, 2, half, 2, -1).sum(axis=(1, 3))
    coarse = _pushed(total / np.maximum(count, 1.0)[..., None], count > 0.0)
    above = coarse.repeat(2, axis=0).repeat(2, axis=1)[:size, :size]
    return np.where(known[..., None], picture, above)
