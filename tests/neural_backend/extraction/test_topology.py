"""Meshes that touch themselves, components, and borders."""

import numpy as np
import pytest
import skimage.measure
import trimesh

from neural_backend.extraction import decimation, topology


def box(low, high):
    mesh = trimesh.creation.box(bounds=[low, high])
    return np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int64)


def both(one, other):
    """Two meshes as one, whose common corners are the same vertices."""
    vertices = np.concatenate([one[0], other[0]])
    faces = np.concatenate([one[1], other[1] + len(one[0])])
    _, first, inverse = np.unique(vertices, axis=0, return_index=True, return_inverse=True)
    return vertices[first], inverse.ravel()[faces]


@pytest.mark.parametrize(
    ("low", "edges"),
    [([1.0, 1.0, 0.0], 1), ([1.0, 1.0, 1.0], 0)],
    ids=["in an edge", "in a corner"],
)
def test_boxes_that_touch_are_taken_apart(low, edges):
    vertices, faces = both(box([0, 0, 0], [1, 1, 1]), box(low, np.add(low, 1)))
    assert topology.boundary_edges(faces) == edges
    vertices, faces = topology.manifold(vertices, faces)
    assert topology.boundary_edges(faces) == 0
    assert topology.components(len(vertices), faces) == 2
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(2.0, rel=0.01)
    # programs that join what is in one place must not join them again
    assert len(np.unique(vertices.astype(np.float32), axis=0)) == len(vertices)


def test_faces_back_to_back_go():
    vertices, faces = box([0, 0, 0], [1, 1, 1])
    back_to_back = [[0, 1, 2], [2, 1, 0], [3, 3, 4], faces[0], faces[0, ::-1]]
    vertices, kept = topology.manifold(vertices, np.concatenate([back_to_back, faces]))
    assert len(kept) == 12
    mesh = trimesh.Trimesh(vertices, kept, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(1.0)


def test_components_and_borders_are_counted():
    vertices, faces = both(box([0, 0, 0], [1, 1, 1]), box([3, 0, 0], [4, 1, 1]))
    assert topology.components(len(vertices), faces) == 2
    assert topology.boundary_edges(faces) == 0
    assert topology.boundary_edges(faces[1:]) == 3


def test_small_components_and_cavities_go():
    outer, inner = box([0, 0, 0], [1, 1, 1]), box([0.3, 0.3, 0.3], [0.6, 0.6, 0.6])
    hollow = both(outer, (inner[0], inner[1][:, ::-1]))
    vertices, faces = topology.without_small(*hollow, 0.1, cavities=False)
    assert len(faces) == 12
    assert trimesh.Trimesh(vertices, faces, process=False).volume == pytest.approx(1.0)
    assert len(topology.without_small(*hollow, 0.1, cavities=True)[1]) == 24
    assert len(topology.without_small(*hollow, 0.5, cavities=True)[1]) == 12


def test_tiles_share_the_vertices_of_their_border():
    """Those on one edge of the lattice, also where edges along other axes start in its corner."""
    low = np.array([[4.0, 1.5, 2.0], [4.0, 1.0, 2.5], [3.5, 1.0, 2.0]])
    high = np.array([[0.0, 1.0, 2.5], [0.0, 1.5, 2.0], [0.5, 1.0, 2.0]])
    face = np.array([[0, 1, 2]])
    parts = topology.Parts()
    parts.add(low, face, (0, 0, 0), 4)
    parts.add(high, face, (4, 0, 0), 4)
    vertices, faces = parts.joined()
    assert len(vertices) == 4
    corners = [{tuple(vertex) for vertex in vertices[each]} for each in faces]
    assert corners[0] & corners[1] == {(4.0, 1.5, 2.0), (4.0, 1.0, 2.5)}
    assert corners[1] - corners[0] == {(4.5, 1.0, 2.0)}


def test_decimation_keeps_a_closed_surface_closed():
    mesh = trimesh.creation.icosphere(subdivisions=5)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces, np.int64)
    fewer, triangles = decimation.decimated(vertices, faces, 1000)
    assert 900 < len(triangles) <= 1000
    assert topology.boundary_edges(triangles) == 0
    assert topology.components(len(fewer), triangles) == 1
    assert np.abs(np.linalg.norm(fewer, axis=1) - 1.0).max() < 0.02
    same, all_faces = decimation.decimated(vertices, faces, len(faces))
    assert same is vertices
    assert all_faces is faces


def crumpled(faces):
    """Closed surfaces of mere noise, decimated until they fold up."""
    noise = np.random.default_rng(0).normal(size=(24, 24, 24))
    values = np.pad(noise, 1, constant_values=-1.0).astype(np.float32)
    vertices, triangles, _, _ = skimage.measure.marching_cubes(values, 0.0)
    return decimation.decimated(vertices, triangles.astype(np.int64), faces)


@pytest.mark.parametrize("faces", [30000, 10000])
def test_what_folds_up_stays_closed_and_has_no_more_faces_than_asked_for(faces):
    vertices, triangles = crumpled(faces)
    assert 0.75 * faces < len(triangles) <= faces
    assert topology.boundary_edges(triangles) == 0
    assert trimesh.Trimesh(vertices, triangles, process=False).is_winding_consistent
