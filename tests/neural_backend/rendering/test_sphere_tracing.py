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
    assert hit.tolist() == [True, True, False, False], "from within nothing is seen"
    assert distance[0] == pytest.approx(2.25, abs=1e-5)
    assert distance[1] == pytest.approx(2.5 - (RADIUS**2 - 0.2**2) ** 0.5, abs=1e-5)


def test_a_surface_that_the_box_cuts_ends_at_its_wall():
    origins = torch.tensor([[0.5, 0.5, 3.0], [2.0, 0.5, 0.3]])
    directions = torch.tensor([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])
    distance, hit = sphere_tracing.trace(lambda x: x[:, 0] - 0.7, origins, directions)
    assert hit.tolist() == [True, True]
    assert distance.tolist() == pytest.approx([2.0, 1.3], abs=1e-5)


def test_rays_beside_the_box_hit_nothing():
    origins = torch.tensor([[2.0, 2.0, 3.0]])
    _, hit = sphere_tracing.trace(ball, origins, torch.tensor([[0.0, 0.0, -1.0]]))
    assert not hit.any()


def test_rays_do_not_get_through_a_field_that_is_steeper_than_a_distance():
    origins = torch.tensor([[0.5, 0.5 + 0.02 * k, 3.0] for k in range(6)])
    down = torch.tensor([0.0, 0.0, -1.0]).expand(6, 3)
    distance, hit = sphere_tracing.trace(lambda x: 3.0 * ball(x), origins, down)
    assert hit.all()
    points = origins + distance[:, None] * down
    assert ball(points).abs().max() < 1e-4


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


def turned_view():
    """A camera that stands askew, in a world that is turned and ten times the unit box."""
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    field_from_world = np.eye(4)
    field_from_world[:3, :3] = 0.1 * turn * np.sign(np.linalg.det(turn))
    field_from_world[:3, 3] = (0.2, -0.1, 0.7)
    middle = np.linalg.inv(field_from_world) @ [0.5, 0.5, 0.5, 1.0]
    back = np.array([0.6, 0.0, 0.8])
    pose = np.eye(4)
    pose[:3, :3] = np.stack([[0.0, 1.0, 0.0], np.cross(back, [0.0, 1.0, 0.0]), back], axis=1)
    pose[:3, 3] = middle[:3] + 5.0 * back + [0.3, -0.2, 0.1]
    view = View("a.png", pose, Intrinsics(45, 31, 24.0, 26.0, 21.0, 17.5))
    return view, field_from_world, middle[:3]


def test_passes_are_the_ball_s_depth_and_normals_in_the_world():
    view, field_from_world, middle = turned_view()
    found = sphere_tracing.render_passes(ball, view, field_from_world, torch.device("cpu"))
    depth, normal = (each.double().numpy() for each in found)
    k, pose = view.intrinsics, view.world_from_camera
    x, y = np.meshgrid(np.arange(k.w) + 0.5, np.arange(k.h) + 0.5)
    local = np.stack([(x - k.cx) / k.fl_x, -(y - k.cy) / k.fl_y, -np.ones_like(x)], -1)
    rays = local @ pose[:3, :3].T
    towards = rays @ (pose[:3, 3] - middle)
    square = (rays**2).sum(-1)
    root = towards**2 - square * (((pose[:3, 3] - middle) ** 2).sum() - 2.5**2)
    # of rays that hardly touch the ball nothing is asked
    hit, missed = root > 0.05, root < -0.05
    assert 300 < hit.sum() < hit.size - 300
    assert (hit | missed).mean() > 0.98
    assert not depth[missed].any()
    assert not normal[missed].any()
    expected = -(towards[hit] + np.sqrt(root[hit])) / square[hit]
    np.testing.assert_allclose(depth[hit], expected, atol=1e-3)
    out = (pose[:3, 3] + depth[hit][:, None] * rays[hit] - middle) / 2.5
    cosine = (out * normal[hit]).sum(-1)
    assert np.degrees(np.arccos(cosine.clip(-1.0, 1.0))).max() < 1.0


def test_a_field_without_a_surface_is_a_transparent_picture():
    origins = torch.tensor([[0.5, 0.5, 3.0]])
    pixels = sphere_tracing.shade(
        lambda points: torch.ones(len(points)), origins, torch.tensor([[0.0, 0.0, -1.0]]), 0.0, 0.1
    )
    assert pixels.tolist() == [[0.0, 0.0, 0.0, 0.0]]


@pytest.mark.parametrize("parallel", [True, False])
def test_what_is_finer_than_a_pixel_has_no_shades(parallel):
    """A field that was hardly trained is rough where the finest cells are not known yet."""

    def rough(points):
        return points[:, 2] - 0.5 + 1e-3 * torch.sin(2000.0 * points).sum(1)

    x = torch.rand(500, generator=torch.Generator().manual_seed(0))
    origins = torch.stack([x, x.flip(0), torch.full_like(x, 1.5)], 1)
    down = torch.tensor([0.0, 0.0, -1.0]).expand_as(origins)
    greys = []
    for pixel in (1e-4, 0.02):
        widths = (pixel, 0.0) if parallel else (0.0, pixel)
        greys.append(sphere_tracing.shade(rough, origins, down, *widths)[:, 0])
    assert greys[0].min() < 0.5
    assert greys[1].min() > 0.75
