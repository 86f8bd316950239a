"""Sphere tracing a ball."""

import numpy as np
import pytest
import torch

from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.rendering import sphere_tracing

CENTRE, RADIUS = torch.tensor([0.5, 0.5, 0.5]), 0.25


def ball(points):
    return (points - CENTRE).norm(dim=1) - RADIUS


def test_distances_along_rays():
    origins = torch.tensor([[0.5, 0.5, 3.0], [0.5, 0.7, 3.0], [0.9, 0.9, 3.0], [0.5, 0.5, 0.5]])
    down = torch.tensor([0.0, 0.0, -1.0]).expand(4, 3)
    distance, hit = sphere_tracing.trace(ball, origins, down)
    assert hit[:3].tolist() == [True, True, False]
    assert distance[0] == pytest.approx(2.25, abs=1e-3)
    assert distance[1] == pytest.approx(2.5 - (RADIUS**2 - 0.2**2) ** 0.5, abs=2e-3)


def test_rays_beside_the_box_hit_nothing():
    origins = torch.tensor([[2.0, 2.0, 3.0]])
    _, hit = sphere_tracing.trace(ball, origins, torch.tensor([[0.0, 0.0, -1.0]]))
    assert not hit.any()


def test_normals_point_outwards():
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=1)
    normals = sphere_tracing.normals(ball, CENTRE + RADIUS * directions)
    assert (normals * directions).sum(dim=1).min() > 0.999


def test_an_image_shows_the_ball_where_the_camera_sees_it():
    pose = np.eye(4)
    pose[:3, 3] = (10.0, 20.0, 35.0)  # above the world's (10, 20, 30), looking down
    field_from_world = np.eye(4) * 0.1
    field_from_world[:3, 3] = 0.5 - 0.1 * np.array([10.0, 20.0, 30.0])
    field_from_world[3, 3] = 1.0
    view = View("a.png", pose, Intrinsics(41, 31, 20.0, 20.0, 20.5, 15.5))
    image = sphere_tracing.render_image(ball, view, field_from_world, torch.device("cpu"))
    assert image.shape == (31, 41, 4)
    alpha = image[..., 3]
    # the ball's silhouette: a sphere of radius 2.5 at distance 5
    radius = 20.0 * 2.5 / (5.0**2 - 2.5**2) ** 0.5
    assert int(alpha.sum()) == pytest.approx(np.pi * radius**2, rel=0.03)
    assert alpha[15, 20] == 1.0
    assert alpha[15, 0] == 0.0
    assert image[15, 20, 0] == pytest.approx(0.8, abs=0.02)
    assert image[15, 20, 0] > image[15, 28, 0] > 0.1


def test_a_field_without_a_surface_is_a_transparent_picture():
    origins = torch.tensor([[0.5, 0.5, 3.0]])
    pixels = sphere_tracing.shade(
        lambda points: torch.ones(len(points)), origins, torch.tensor([[0.0, 0.0, -1.0]])
    )
    assert pixels.tolist() == [[0.0, 0.0, 0.0, 0.0]]
