"""Surfaces of densities: the level, what no view sees, and depth in its place."""

import time

import numpy as np
import pytest
import torch
import trimesh

from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.extraction import depth, marching_cubes, radiance_surface, topology
from neural_backend.extraction.radiance_surface import from_density
from neural_backend.kernels.reference import ReferenceKernels
from neural_backend.protocol import BadInput
from neural_backend.sampling.occupancy import OccupancyGrid

CPU = torch.device("cpu")
KERNELS = ReferenceKernels(CPU)
VIEWS = depth.all_around(np.eye(4))


class SeesAll:
    """Depth maps to which nothing is hidden."""

    def fused(self, points, truncation):
        return -torch.ones(len(points)), torch.ones(len(points))


class SeesOutside:
    """Depth maps of a ball: they know nothing of its depth."""

    def __init__(self, radius):
        self.radius = radius

    def fused(self, points, truncation):
        weights = ((points - 0.5).norm(dim=1) > self.radius - truncation).float()
        return -torch.ones(len(points)), weights


class Ball:
    """A field of a ball in the middle, of a density that falls off over ``haze``."""

    linear = False

    def __init__(self, dense=800.0, radius=0.3, haze=0.002):
        self.dense, self.radius, self.haze = dense, radius, haze

    def density(self, points):
        away = (points - 0.5).norm(dim=1) - self.radius
        return self.dense * torch.sigmoid(-away / self.haze)


def grid_of(occupied):
    return OccupancyGrid(occupied, step=1.0 / 256)


def occupied(radius, size=32):
    axis = (torch.arange(size) + 0.5) / size - 0.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (x * x + y * y + z * z).sqrt() < radius


def extract(density, grid, resolution=64, level=50.0, maps=None):
    volume = from_density(density, grid, level, maps or SeesAll(), 4.0 / resolution)
    return marching_cubes.extract(volume, resolution)[:2]


def surface_of(field, resolution=64):
    grid = grid_of(occupied(field.radius + 0.08))
    return radiance_surface.volume(field, grid, KERNELS, VIEWS, np.eye(4), resolution)


def test_a_clear_density_gives_its_level_set():
    volume = surface_of(Ball())
    vertices, faces, _ = marching_cubes.extract(volume, 64)
    radius = np.linalg.norm(vertices - 0.5, axis=1)
    assert np.abs(radius - 0.3).max() < 0.015
    assert topology.boundary_edges(faces) == 0
    assert topology.components(len(vertices), faces) == 1


def test_haze_without_a_level_gives_what_the_depths_agree_on(monkeypatch):
    used = []
    real = radiance_surface.from_depth
    monkeypatch.setattr(radiance_surface, "from_depth", lambda *args: used.append(1) or real(*args))

    class Uneven(Ball):
        """Dense on one side, thin on the other: no level is where light stops on both."""

        def density(self, points):
            side = torch.sigmoid((points[:, 0] - 0.5) * 100.0)
            return super().density(points) * (0.01 + 0.99 * side)

    vertices, faces, _ = marching_cubes.extract(surface_of(Uneven(2000.0, haze=0.004), 48), 48)
    assert used
    radius = np.linalg.norm(vertices - 0.5, axis=1)
    assert np.median(radius) == pytest.approx(0.3, abs=0.02)
    assert topology.boundary_edges(faces) == 0


def test_an_empty_grid_has_no_surface():
    grid = grid_of(torch.zeros(8, 8, 8, dtype=torch.bool))
    with pytest.raises(BadInput, match="no surface"):
        radiance_surface.volume(Ball(), grid, KERNELS, VIEWS, np.eye(4), 32)


def test_views_from_all_around_look_at_the_unit_box():
    world_from_field = np.diag([3.0, 3.0, 3.0, 1.0])
    world_from_field[:3, 3] = [5.0, -1.0, 2.0]
    views = depth.all_around(np.linalg.inv(world_from_field))
    middle = world_from_field @ [0.5, 0.5, 0.5, 1.0]
    octants = {tuple(view.world_from_camera[:3, 3] > middle[:3]) for view in views}
    assert len(octants) == 8
    for view in views:
        at = np.linalg.inv(view.world_from_camera) @ middle
        assert at[:2] == pytest.approx([0.0, 0.0], abs=1e-6)
        assert at[2] == pytest.approx(-3.0 * 2.0)


def test_depth_maps_know_how_far_a_ball_is():
    field, intrinsics = Ball(5000.0, haze=0.0005), Intrinsics(33, 33, 40.0, 40.0, 16.5, 16.5)
    pose = np.eye(4)
    pose[:3, 3] = [0.5, 0.5, 2.0]
    cameras = depth.Cameras([View("", pose, intrinsics)], np.eye(4), CPU)
    maps = depth.DepthMaps(field, grid_of(occupied(0.4, 64)), KERNELS, cameras)
    # straight below the camera the ball begins at z = .8
    points = torch.tensor([[0.5, 0.5, z] for z in (0.9, 0.81, 0.79, 0.6)])
    behind, weight = maps.fused(points, 0.05)
    assert behind[:3] == pytest.approx([-1.0, -0.2, 0.2], abs=0.12)
    assert weight[:3].tolist() == pytest.approx([1.0, 1.0, 0.8], abs=0.12)
    assert weight[3] == 0.0, "nothing is known about what lies behind"


def test_density_is_asked_only_in_occupied_cells():
    grid = occupied(0.4)

    def density(points):
        cell = (points * 32).long()
        assert grid[cell[:, 0], cell[:, 1], cell[:, 2]].all()
        return 1000.0 * ((points - 0.5).norm(dim=1) < 0.3)

    vertices, faces = extract(density, grid)
    radius = np.linalg.norm(vertices - 0.5, axis=1)
    assert np.abs(radius - 0.3).max() < 0.6 / 64
    assert trimesh.Trimesh(vertices, faces, process=False).volume > 0.0


def test_hollows_that_nobody_sees_are_dropped():
    def shell(points):
        radius = (points - 0.5).norm(dim=1)
        return 1000.0 * ((radius < 0.3) & (radius > 0.15))

    vertices, _ = extract(shell, occupied(0.4))
    assert np.linalg.norm(vertices - 0.5, axis=1).min() > 0.28


def test_what_no_view_sees_is_inside():
    """Behind a dense shell a trained density is anything at all, and the shell may have pores."""

    def density(points):
        x = points - 0.5
        radius = x.norm(dim=1)
        blobs = torch.sin(60.0 * points).sum(dim=1)
        inside = torch.where(blobs > 0.5, 200.0, 0.0)
        pore = (x[:, :2].norm(dim=1) < 0.015) & (x[:, 2] > 0.0)
        shell = torch.where(pore, 0.0, 400.0)
        return torch.where(radius < 0.3, torch.where(radius > 0.26, shell, inside), 0.0)

    everywhere = torch.ones(32, 32, 32, dtype=torch.bool)
    vertices, faces = extract(density, everywhere, 96, maps=SeesOutside(0.3))
    radius = np.linalg.norm(vertices - 0.5, axis=1)
    # all but the mouth of the pore
    assert np.mean(radius > 0.28) > 0.98
    assert trimesh.Trimesh(vertices, faces, process=False).is_watertight


def test_a_coarse_mesh_of_a_fine_grid_takes_no_time():
    grid = torch.zeros(128, 128, 128, dtype=torch.bool)
    grid[30:90, 40:80, 50:70] = True
    before = time.process_time()
    vertices, _ = extract(lambda points: torch.full_like(points[:, 0], 100.0), grid, 8)
    assert time.process_time() - before < 2.0
    assert vertices.min(axis=0) == pytest.approx([30 / 128, 40 / 128, 50 / 128], abs=0.06)


@pytest.mark.parametrize("half_edge", [0.004, 0.03, 0.09])
def test_what_may_hold_the_surface_is_all_within_reach(half_edge):
    grid = torch.rand(32, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.001
    centres = torch.rand(500, 3, generator=torch.Generator().manual_seed(1))
    reach = np.ceil(half_edge * 32)
    cells = torch.floor(centres * 32)
    apart = (cells[:, None] - grid.nonzero()).abs().amax(-1).amin(1)
    assert torch.equal(radiance_surface.reaching(grid)(centres, half_edge), apart <= reach)


def test_enclosed_cells_are_inside():
    grid = occupied(0.4) & ~occupied(0.2)
    assert torch.equal(radiance_surface.enclosed(grid), occupied(0.4))
