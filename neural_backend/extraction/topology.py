"""What triangles have in common: borders, components, and joining parts of a mesh."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import trimesh

Points = npt.NDArray[np.float64]
Faces = npt.NDArray[np.int64]

_ROUNDS = 8
_APART = 0.02  # of the way to their neighbours
_INTEGER = 1e-4  # cells: nearer to a lattice plane than this is on it


class Parts:
    """Joins what marching cubes finds in neighbouring tiles of a lattice.

    Vertices on the border of a tile lie on edges of the lattice, one an edge: by the edge the
    tiles' vertices are known as the same.
    """

    def __init__(self) -> None:
        self._vertices: list[Points] = []
        self._faces: list[Faces] = []
        self._keys: list[npt.NDArray[np.int64]] = []
        self._count = 0

    def add(
        self, vertices: npt.NDArray, faces: npt.NDArray, corner: tuple[int, int, int], edge: int
    ) -> None:
        """Take a tile's vertices [M, 3], in cells from its corner, and faces [K, 3]."""
        whole = np.rint(vertices)
        away = np.abs(vertices - whole)
        on_plane = (away < _INTEGER) & ((whole == 0) | (whole == edge))
        keys = np.full(len(vertices), -1, np.int64)
        border = np.flatnonzero(on_plane.any(axis=1))
        axis = away[border].argmax(axis=1)
        start = whole[border].astype(np.int64)
        rows = np.arange(len(border))
        start[rows, axis] = np.floor(vertices[border][rows, axis]).astype(np.int64)
        start += np.array(corner)
        keys[border] = ((start[:, 0] << 40) + (start[:, 1] << 20) + start[:, 2]) * 3 + axis
        self._vertices.append(vertices.astype(np.float64) + corner)
        self._faces.append(faces.astype(np.int64) + self._count)
        self._keys.append(keys)
        self._count += len(vertices)

    def joined(self) -> tuple[Points, Faces]:
        """[M, 3] vertices, in cells of the whole lattice, and [K, 3] faces."""
        if not self._faces:
            return np.zeros((0, 3)), np.zeros((0, 3), np.int64)
        keys = np.concatenate(self._keys)
        renumbered = np.arange(len(keys))
        border = np.flatnonzero(keys >= 0)
        _, first, inverse = np.unique(keys[border], return_index=True, return_inverse=True)
        renumbered[border] = border[first][inverse.ravel()]
        return used(np.concatenate(self._vertices), renumbered[np.concatenate(self._faces)])


def used(vertices: Points, faces: Faces) -> tuple[Points, Faces]:
    """The vertices that the faces use, and the faces with their new numbers."""
    kept = np.zeros(len(vertices), bool)
    kept[faces] = True
    return vertices[kept], (np.cumsum(kept) - 1)[faces]


def labels(count: int, faces: Faces) -> npt.NDArray[np.int32]:
    """[count] the number of the component that each vertex belongs to."""
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    return trimesh.graph.connected_component_labels(edges, count)


def without_small(
    vertices: Points, faces: Faces, fraction: float, cavities: bool
) -> tuple[Points, Faces]:
    """Drop components that are small beside the largest and, unless wished, cavities.

    Args:
        fraction: of the largest component's diagonal, that the others must have.
    """
    label = labels(len(vertices), faces)
    count = int(label.max()) + 1
    low, high = np.full((count, 3), np.inf), np.full((count, 3), -np.inf)
    np.minimum.at(low, label, vertices)
    np.maximum.at(high, label, vertices)
    size = np.linalg.norm(high - low, axis=1)
    keep = size >= fraction * size.max()
    if not cavities:
        corner = vertices[faces]
        six_volumes = (corner[:, 0] * np.cross(corner[:, 1], corner[:, 2])).sum(axis=1)
        keep &= np.bincount(label[faces[:, 0]], six_volumes, count) > 0.0
    return used(vertices, faces[keep[label[faces[:, 0]]]])


def manifold(vertices: Points, faces: Faces) -> tuple[Points, Faces]:
    """Take apart what touches only in an edge or a vertex: each side gets its own vertices.

    Faces that lie back to back on the same corners are left out, and such without an area.
    """
    faces = _single(faces)
    for _ in range(_ROUNDS):
        order, first, sides = _sides(faces)
        many = sides > 2
        if not many.any():
            break
        crowded = [
            order[begin : begin + count]
            for begin, count in zip(first[many], sides[many], strict=True)
        ]
        vertices, faces = _parted(vertices, faces, crowded)
    order, first, sides = _sides(faces)
    one, other = order[first[sides == 2]], order[first[sides == 2] + 1]
    # the faces around a vertex that an edge leads on to are one side; a half-edge stands for the
    # corner where it starts
    following = np.arange(faces.size).reshape(-1, 3)[:, [1, 2, 0]].ravel()
    links = np.stack([np.r_[one, following[one]], np.r_[following[other], other]], axis=1)
    side = trimesh.graph.connected_component_labels(links, faces.size)
    _, some = np.unique(side, return_index=True)
    vertices, faces = vertices[faces.ravel()[some]], side.reshape(-1, 3).astype(np.int64)
    return _drawn_apart(vertices, faces), faces


def _single(faces: Faces) -> Faces:
    """The faces without those that lie back to back with another, and those without an area.

    What remains has each edge as often in one direction as in the other, if all have.
    """
    ordered = np.sort(faces, axis=1)
    whole = (np.diff(ordered, axis=1) > 0).all(axis=1)
    faces, ordered = faces[whole], ordered[whole]
    vertices = int(faces.max(initial=0)) + 1
    _, edge = np.unique(ordered[:, 0] * vertices + ordered[:, 1], return_inverse=True)
    _, which, many = np.unique(
        edge * vertices + ordered[:, 2], return_inverse=True, return_counts=True
    )
    if (many == 1).all():
        return faces
    following = faces[np.arange(len(faces)), (faces.argmin(axis=1) + 1) % 3]
    side = np.where(following == ordered[:, 1], 1, -1)
    more = np.bincount(which, side, len(many)).astype(np.int64)[which]
    majority = np.flatnonzero(side == np.sign(more))
    majority = majority[np.argsort(which[majority], kind="stable")]
    _, first, place = np.unique(which[majority], return_index=True, return_inverse=True)
    rank = np.arange(len(majority)) - first[place]
    return faces[np.sort(majority[rank < np.abs(more[majority])])]


def _drawn_apart(vertices: Points, faces: Faces) -> Points:
    """Vertices in one place moved a little towards their neighbours, so that no program that joins
    what is in one place joins them."""
    _, place, many = np.unique(vertices, axis=0, return_inverse=True, return_counts=True)
    shared = many[place.ravel()] > 1
    if not shared.any():
        return vertices
    starts, ends = faces.ravel(), faces[:, [1, 2, 0]].ravel()
    away = vertices[ends] - vertices[starts]
    total = np.stack([np.bincount(starts, away[:, axis], len(vertices)) for axis in range(3)], 1)
    mean = total / np.bincount(starts, minlength=len(vertices)).clip(min=1)[:, None]
    return np.where(shared[:, None], vertices + _APART * mean, vertices)


def _sides(faces: Faces) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    """Half-edges, the one from corner c of face f is number 3 f + c, sorted by their edges.

    Returns:
        [3 K] half-edges; and for each edge where its half-edges begin and how many it has.
    """
    ends = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    key = ends[:, 0] * (int(faces.max()) + 1) + ends[:, 1]
    order = np.argsort(key, kind="stable")
    _, first, count = np.unique(key[order], return_index=True, return_counts=True)
    return order, first, count


def _parted(
    vertices: Points, faces: Faces, crowded: list[npt.NDArray[np.int64]]
) -> tuple[Points, Faces]:
    """Give the two sides that meet in an edge of four faces, or more, a middle of their own each.

    Args:
        crowded: the half-edges of each such edge.
    """
    new_vertices: list[Points] = []
    new_faces: list[tuple[int, int, int]] = []
    gone: set[int] = set()
    for edges in crowded:
        # a face with two such edges waits for the next round
        if gone.isdisjoint((edges // 3).tolist()):
            for pair in _paired(vertices, faces, edges).tolist():
                middle = len(vertices) + len(new_vertices)
                for face, corner in (divmod(edge, 3) for edge in pair):
                    start, end, apex = np.roll(faces[face], -corner)
                    new_faces += [(start, middle, apex), (middle, end, apex)]
                    gone.add(face)
                new_vertices.append(vertices[[start, end]].mean(axis=0))
    kept = np.delete(faces, sorted(gone), axis=0)
    added = np.array(new_vertices).reshape(-1, 3), np.array(new_faces, np.int64).reshape(-1, 3)
    return np.concatenate([vertices, added[0]]), np.concatenate([kept, added[1]])


def _paired(vertices: Points, faces: Faces, edges: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[P, 2] the half-edges [2 P] of one edge, each with its neighbour across the inside."""
    face, corner = edges // 3, edges % 3
    starts, ends, apexes = (faces[face, (corner + turn) % 3] for turn in range(3))
    low, high = min(starts[0], ends[0]), max(starts[0], ends[0])
    axis = vertices[high] - vertices[low]
    across = np.cross(axis, np.eye(3)[np.abs(axis).argmin()])
    up = np.cross(axis, across) / max(np.linalg.norm(axis), 1e-300)
    around = vertices[apexes] - vertices[low]
    turn = np.argsort(np.arctan2(around @ up, around @ across))
    # seen along the edge, the inside follows the faces that have the edge backwards
    backwards = starts[turn] == high
    if not backwards.any() or backwards.all():
        return np.zeros((0, 2), np.int64)
    turn = np.roll(turn, -int(backwards.argmax()))
    backwards = starts[turn] == high
    count = min(backwards.sum(), (~backwards).sum())
    return np.stack([edges[turn[backwards][:count]], edges[turn[~backwards][:count]]], axis=1)


def boundary_edges(faces: Faces) -> int:
    """How many edges have not just two faces: 0 for a closed mesh."""
    ends = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    _, count = np.unique(ends[:, 0] * (int(faces.max()) + 1) + ends[:, 1], return_counts=True)
    return int(np.count_nonzero(count != 2))


def components(vertices: int, faces: Faces) -> int:
    """How many components a mesh has."""
    return int(labels(vertices, faces).max()) + 1
