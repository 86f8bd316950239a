"""Samples on a mesh and signed distances to it."""

import numpy as np
import pytest
import torch
import trimesh

from neural_backend.sampling.surface import MeshDistance, SurfaceSampler


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


def test_segments_hold_exact_samples():
    distance = MeshDistance(*box())
    points = np.random.default_rng(0).uniform(-2.0, 2.0, (2000, 3))
    segments = distance.segments(points, False)
    assert segments.shape == (2000, 8)
    ends = segments[:, :3] + segments[:, 3:6]
    assert np.sort(ends[:, 0]) == pytest.approx(np.sort(points[:, 0]), abs=1e-6)
    for part in (0.0, 0.3, 1.0):
        at = segments[:, :3] + part * segments[:, 3:6]
        assert np.abs(distance(at) - part * segments[:, 6]).max() < 1e-6
