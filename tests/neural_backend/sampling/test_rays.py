import math

import numpy as np
import pytest
import torch

from neural_backend.dataset.transforms import Intrinsics, View, field_from_bounds
from neural_backend.sampling.rays import Cameras, distort, intersect_box, undistort

CPU = torch.device("cpu")
FOX = torch.tensor([[0.0578421, -0.0805099, 0.01, -0.000980296, 0.00015575]])


def test_a_ray_by_hand():
    # 45 degrees to the right and up in a camera that stands at z = 3 and looks along -Z
    pose = np.eye(4)
    pose[2, 3] = 3.0
    intrinsics = Intrinsics(w=8, h=6, fl_x=4.0, fl_y=2.0, cx=4.0, cy=3.0)
    cameras = Cameras([View("", pose, intrinsics)], np.eye(4), CPU)
    zero = torch.tensor([0, 0])
    x, y = torch.tensor([4.0, 8.0]), torch.tensor([3.0, 1.0])
    origins, directions = cameras.rays(zero, x, y)
    assert origins.tolist() == [[0.0, 0.0, 3.0]] * 2
    third = 1 / math.sqrt(3)
    expected = torch.tensor([[0.0, 0.0, -1.0], [third, third, -third]])
    torch.testing.assert_close(directions, expected)


def test_rays_in_field_space_hit_the_same_point():
    bounds = np.array([[10.0, -4.0, 2.0], [14.0, 4.0, 3.0]])
    field_from_world = field_from_bounds(bounds)
    angle = 0.7
    pose = np.eye(4)
    pose[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    pose[:3, 3] = [11.0, 0.5, 9.0]
    intrinsics = Intrinsics(20, 10, 15.0, 15.0, 9.0, 6.0, k1=0.1, p2=0.01)
    cameras = Cameras([View("", pose, intrinsics)], field_from_world, CPU)
    point = field_from_world @ np.array([12.0, 1.0, 2.5, 1.0])
    point = torch.tensor(point[:3], dtype=torch.float32)
    x, y, depth = cameras.project(point[None], 0)
    origins, directions = cameras.rays(torch.tensor([0]), x, y)
    along = (point - origins[0]) @ directions[0]
    torch.testing.assert_close(origins[0] + along * directions[0], point, atol=1e-5, rtol=0.0)
    assert float(directions.norm()) == pytest.approx(1.0)
    # the world's 6.5 units below the camera, in field units
    assert float(depth) == pytest.approx(6.5 * field_from_world[0, 0], rel=1e-5)


def test_undistort_inverts_distort():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.rand(200, generator=generator) * 1.4 - 0.7 for _ in range(2))
    lens = FOX.expand(200, 5)
    back = undistort(*distort(x, y, lens)[:2], lens)
    torch.testing.assert_close(back[0], x, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(back[1], y, atol=1e-5, rtol=0.0)


def test_the_distortion_is_opencvs():
    x, y = torch.tensor([0.5]), torch.tensor([0.25])
    k1, k2, k3, p1, p2 = FOX[0].tolist()
    r2 = 0.3125
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    at_x, at_y, _ = distort(x, y, FOX)
    assert float(at_x) == pytest.approx(0.5 * radial + 2 * p1 * 0.125 + p2 * (r2 + 0.5))
    assert float(at_y) == pytest.approx(0.25 * radial + p1 * (r2 + 0.125) + 2 * p2 * 0.125)


def test_the_derivatives_of_the_distortion():
    point = torch.tensor([0.4, -0.3], dtype=torch.float64)
    lens = FOX.double()
    jacobian = torch.autograd.functional.jacobian(
        lambda p: torch.stack(distort(p[:1], p[1:], lens)[:2]).view(2), point
    )
    a, b, d = distort(point[:1], point[1:], lens)[2]
    expected = torch.tensor([[a, b], [b, d]], dtype=torch.float64)
    torch.testing.assert_close(jacobian, expected)


def test_a_lens_that_folds_stays_finite():
    lens = torch.tensor([[-0.9, 0.0, 0.0, 0.0, 0.0]])
    x = torch.tensor([3.0])
    assert all(torch.isfinite(value).all() for value in undistort(x, x, lens))


def test_entering_and_leaving_a_box():
    low, high = torch.zeros(3), torch.ones(3)
    origins = torch.tensor(
        [[-1.0, 0.5, 0.5], [0.5, 0.5, 0.5], [-1.0, 2.0, 0.5], [2.0, 0.5, 0.5], [0.0, -1.0, 0.5]]
    )
    directions = torch.tensor(
        [[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    )
    near, far = intersect_box(origins, directions, low, high)
    assert near[0] == 1.0
    assert far[0] == 2.0
    assert near[1] == 0.0
    assert far[1] == 0.5
    assert far[2] <= near[2]  # passes above
    assert far[3] <= near[3]  # the box lies behind
    assert not torch.isnan(torch.cat([near, far])).any()  # along a face
