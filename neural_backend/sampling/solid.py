"""What a triangle mesh encloses, and what to do where its faces do not tell."""

from __future__ import annotations

import dataclasses

import numpy as np
import trimesh

from .surface import BESIDE, INSIDE, Faces, MeshDistance, Points, areas, face_normals

_PROBES = 1 << 14
_SOLID = 0.5  # part of the surface that borders an inside; a mesh with less encloses nothing
_LOOSE = 0.01  # part of the surface that encloses nothing beside a solid, to be told
_WALLS = 1e-3
THICKNESS = 0.01
"""Of a mesh that encloses nothing, field units."""


@dataclasses.dataclass(frozen=True)
class Solid:
    """A mesh as something with an inside.

    Attributes:
        faces: [K, 3], counter-clockwise seen from outside.
        distance: signed distance to them.
        walls: whether there are faces that are no border of the inside: within it, or loose.
        warnings: what was mended, and what is doubtful.
    """

    faces: Faces
    distance: MeshDistance
    walls: bool
    warnings: tuple[str, ...]


def understood(vertices: Points, faces: Faces) -> Solid:
    """Find out what a mesh in the unit box encloses.

    Parts that are turned inside out are turned around. A mesh that encloses nothing is given a
    thickness.

    Args:
        vertices: [M, 3]
        faces: [K, 3]
    """
    warnings: list[str] = []
    part = _parts(vertices, faces)
    points, face = _probes(vertices, faces)
    distance = MeshDistance(vertices, faces)
    front, back = _windings(distance, points, face_normals(vertices, faces)[face])
    # 0 before and 1 behind: a border; -1 behind: one that is turned; a half each: a loose sheet
    total = np.bincount(part[face], front + back, part.max() + 1)
    count = np.bincount(part[face], minlength=part.max() + 1)
    turned = total < -0.5 * count
    if turned.any():
        whole = turned[count > 0].all()
        which = "its" if whole else f"{np.count_nonzero(turned)} of its {len(turned)} parts'"
        warnings.append(f"{which} faces point inwards; they are turned around")
        faces = np.where((whole | turned[part])[:, None], faces[:, ::-1], faces)
        distance = MeshDistance(vertices, faces)
        front, back = _windings(distance, points, face_normals(vertices, faces)[face])
    border = (front > INSIDE) != (back > INSIDE)
    if border.mean() < _SOLID:
        told = (
            "its faces enclose hardly any space; they are taken for sheets, "
            f"{THICKNESS:.0%} of the longest side thick"
        )
        return Solid(faces, MeshDistance(vertices, faces, THICKNESS), False, (told,))
    loose = np.mean((front <= INSIDE) & (back <= INSIDE))
    if loose > _LOOSE:
        warnings.append(
            f"{loose:.0%} of its surface are sheets beside what it encloses; they are left out"
        )
    return Solid(faces, distance, bool(border.mean() < 1.0 - _WALLS), tuple(warnings))


def _parts(vertices: Points, faces: Faces) -> Faces:
    """[K] which part of the mesh each face belongs to; vertices in one place are one."""
    places, place = np.unique(vertices, axis=0, return_inverse=True)
    corners = place.reshape(-1)[faces]
    edges = corners[:, [0, 1, 1, 2]].reshape(-1, 2)
    label = trimesh.graph.connected_component_labels(edges, len(places))
    return np.asarray(label, dtype=np.int64)[corners[:, 0]]


def _probes(vertices: Points, faces: Faces) -> tuple[Points, Faces]:
    """Points spread evenly over the mesh, [N, 3], and their faces [N]."""
    random = np.random.default_rng(0)
    area = areas(vertices, faces)
    face = random.choice(len(faces), _PROBES, p=area / area.sum())
    weights = random.dirichlet((1.0, 1.0, 1.0), _PROBES)
    return (vertices[faces[face]] * weights[:, :, None]).sum(axis=1), face


def _windings(distance: MeshDistance, points: Points, normals: Points) -> tuple[Points, Points]:
    """[N] winding numbers before and behind points [N, 3] of a mesh."""
    both = np.concatenate([points + BESIDE * normals, points - BESIDE * normals])
    front, back = np.split(distance.winding_number(both), 2)
    return front, back
