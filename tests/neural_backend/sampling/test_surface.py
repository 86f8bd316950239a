"""Samples on a mesh and signed distances to it."""

import numpy as np
import pytest
import torch
import trimesh

from neural_backend.sampling.surface import MeshDistance, SurfaceSampler, logistic


def box():
    mesh = trimesh.creation.box((2.0, 2.0, 2.0))
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def test_signed_distance_to_a_box():
    distance = MeshDistance(*box())
    points = np.array([[0.0, 0, 0], [0.5, 0, 0], [3.0, 0, 0], [2.0, 2.0, 0], [1.0, 0, 0]])
    expected = [-1.0, -0.5, 2.0, 2**0.5, 0.0]
    assert distance(points) == pytest.approx(np.array(expected), abs=1e-9)


def test_a_box_with_a_hole_still_has_an_inside():
    vertices, faces = box()
    distance = MeshDistance(vertices, faces[:-1])
    assert distance(np.array([[0.0, 0, 0], [0.0, 0, 3.0]])) == pytest.approx([-1.0, 2.0])


def test_samples_lie_on_the_faces_evenly_by_area():
    # two triangles of areas 0.5 and 1.5
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 1], [8, 0, 1], [5, 1, 1]])
    faces = np.array([[0, 1, 2], [3, 4, 5]])
    points = SurfaceSampler(vertices, faces)(20_000, torch.Generator().manual_seed(0)).numpy()
    upper = points[:, 2] > 0.5
    assert upper.mean() == pytest.approx(0.75, abs=0.02)
    assert np.abs(points[:, 2] - upper).max() < 1e-6
    assert points[~upper].mean(axis=0) == pytest.approx([1 / 3, 1 / 3, 0], abs=0.02)
    assert (points[~upper, :2].sum(axis=1) <= 1.0 + 1e-6).all()


def test_logistic_noise_has_its_spread():
    noise = logistic((200_000,), torch.Generator().manual_seed(0))
    assert noise.mean() == pytest.approx(0.0, abs=0.02)
    assert noise.std() == pytest.approx(np.pi / 3**0.5, rel=0.02)


def test_what_is_in_plain_view():
    vertices, faces = box()
    # a second box hides a part of the first one's side
    vertices = np.concatenate([vertices, vertices * [0.1, 0.5, 0.5] + [2.0, 0, 0]])
    distance = MeshDistance(vertices, np.concatenate([faces, faces + 8]))
    points = np.array([[1.0, 0, 0], [1.0, 0.9, 0.9], [-1.0, 0, 0], [2.1, 0, 0]])
    front, back = np.array([50.0, 0, 0]), np.array([-50.0, 0, 0])
    assert distance.seen(points, front[None]).tolist() == [False, True, False, True]
    assert distance.seen(points, np.stack([front, back])).tolist() == [False, True, True, True]
