"""Marching cubes on fields whose surface is known."""

import time

import numpy as np
import pytest
import torch
import trimesh

from neural_backend.dataset.transforms import field_from_bounds
from neural_backend.extraction import marching_cubes
from neural_backend.extraction.marching_cubes import from_density, from_signed_distance
from neural_backend.protocol import BadInput

CPU = torch.device("cpu")


def ball(centre, radius):
    middle = torch.tensor(centre)
    return lambda points: (points - middle).norm(dim=1) - radius


def union(*fields):
    return lambda points: torch.stack([field(points) for field in fields]).amin(dim=0)


def extract(field, resolution=64):
    return marching_cubes.extract(from_signed_distance(field, CPU), resolution)


def test_a_ball_is_round_closed_and_faces_outwards():
    centre, radius, resolution = (0.55, 0.45, 0.5), 0.2, 48
    vertices, faces = extract(ball(centre, radius), resolution)
    distances = np.linalg.norm(vertices - centre, axis=1)
    half_cell = 0.5 * 2 * radius / resolution
    assert np.abs(distances - radius).max() < half_cell
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    normals = marching_cubes.vertex_normals(vertices, faces)
    assert (normals * (vertices - centre) / distances[:, None]).sum(axis=1).min() > 0.98


def test_resolution_counts_cells_along_the_longest_side():
    for radius in (0.4, 0.1):
        vertices, faces = extract(ball((0.5, 0.5, 0.5), radius), 64)
        edges = vertices[faces[:, 0]] - vertices[faces[:, 1]]
        # the coarse pass may find the box a little larger than the ball
        assert 1.0 <= np.abs(edges).max() / (2 * radius / 64) < 1.0 + 0.1 / radius / 2


def test_a_surface_comes_back_to_its_place_in_the_world():
    bounds = np.array([[10.0, -3.0, 100.0], [14.0, -1.0, 101.0]])
    world_from_field = np.linalg.inv(field_from_bounds(bounds))
    centre = np.array([11.0, -2.0, 100.5])
    in_field = field_from_bounds(bounds) @ [*centre, 1.0]
    vertices, _ = extract(ball(tuple(in_field[:3].astype(np.float32)), 0.09))
    world = vertices @ world_from_field[:3, :3].T + world_from_field[:3, 3]
    radius = np.linalg.norm(world - centre, axis=1)
    assert radius == pytest.approx(0.09 * 4.0 / 0.9, rel=0.01)


def test_what_leaves_the_unit_box_is_closed_at_its_wall():
    vertices, faces = extract(lambda points: points[:, 2] - 0.3)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.bounds == pytest.approx(np.array([[0, 0, 0], [1, 1, 0.3]]), abs=0.02)
    assert mesh.volume == pytest.approx(0.3, rel=0.02)


def test_small_components_are_dropped_and_large_ones_stay():
    field = union(
        ball((0.3, 0.5, 0.5), 0.2), ball((0.8, 0.5, 0.5), 0.1), ball((0.7, 0.9, 0.5), 0.004)
    )
    vertices, faces = extract(field, 200)
    assert len(trimesh.Trimesh(vertices, faces, process=False).split()) == 2
    assert vertices[:, 1].max() < 0.75


def test_thin_blocks_between_coarse_cells_are_not_missed():
    vertices, faces = extract(
        lambda p: torch.maximum((p[:, 2] - 0.5).abs() - 0.01, (p - 0.5).abs().amax(dim=1) - 0.4),
        128,
    )
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(0.8 * 0.8 * 0.02, rel=0.1)


def test_an_empty_field_is_refused():
    with pytest.raises(BadInput, match="no surface"):
        extract(lambda points: torch.ones(len(points)))


def occupied(radius, size=32):
    axis = (torch.arange(size) + 0.5) / size - 0.5
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return (x * x + y * y + z * z).sqrt() < radius


def test_density_is_asked_only_in_occupied_cells():
    grid = occupied(0.4)

    def density(points):
        cell = (points * 32).long()
        assert grid[cell[:, 0], cell[:, 1], cell[:, 2]].all()
        return 1000.0 * ((points - 0.5).norm(dim=1) < 0.3)

    vertices, faces = marching_cubes.extract(from_density(density, grid, CPU), 64)
    radius = np.linalg.norm(vertices - 0.5, axis=1)
    assert np.abs(radius - 0.3).max() < 0.6 / 64
    assert trimesh.Trimesh(vertices, faces, process=False).volume > 0.0


def test_hollows_that_nobody_sees_are_dropped_from_a_density():
    def shell(points):
        radius = (points - 0.5).norm(dim=1)
        return 1000.0 * ((radius < 0.3) & (radius > 0.15))

    vertices, _ = marching_cubes.extract(from_density(shell, occupied(0.4), CPU), 64)
    assert np.linalg.norm(vertices - 0.5, axis=1).min() > 0.28


def test_a_field_of_haze_has_a_surface_too():
    vertices, _ = marching_cubes.extract(
        from_density(lambda p: 5.0 * ((p - 0.5).norm(dim=1) < 0.3), occupied(0.4), CPU), 64
    )
    assert np.abs(np.linalg.norm(vertices - 0.5, axis=1) - 0.3).max() < 0.02


def test_what_no_light_reaches_has_no_surface():
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
    vertices, faces = marching_cubes.extract(from_density(density, everywhere, CPU), 96)
    radius = np.linalg.norm(vertices - 0.5, axis=1)
    # all but the mouth of the pore
    assert np.mean(radius > 0.28) > 0.98
    assert trimesh.Trimesh(vertices, faces, process=False).is_watertight


def test_a_coarse_mesh_of_a_fine_grid_takes_no_time():
    occupied = torch.zeros(128, 128, 128, dtype=torch.bool)
    occupied[30:90, 40:80, 50:70] = True
    volume = from_density(lambda points: torch.full_like(points[:, 0], 100.0), occupied, CPU)
    before = time.perf_counter()
    vertices, _ = marching_cubes.extract(volume, 8)
    assert time.perf_counter() - before < 2.0
    assert vertices.min(axis=0) == pytest.approx([30 / 128, 40 / 128, 50 / 128], abs=0.06)


@pytest.mark.parametrize("half_edge", [0.004, 0.03, 0.09])
def test_what_may_hold_the_surface_is_all_within_reach(half_edge):
    occupied = torch.rand(32, 32, 32, generator=torch.Generator().manual_seed(0)) < 0.001
    volume = from_density(lambda points: torch.ones_like(points[:, 0]), occupied, CPU)
    centres = torch.rand(500, 3, generator=torch.Generator().manual_seed(1))
    reach = np.ceil(half_edge * 32)
    cells = torch.floor(centres * 32)
    apart = (cells[:, None] - occupied.nonzero()).abs().amax(-1).amin(1)
    assert torch.equal(volume.may_hold(centres, half_edge), apart <= reach)
