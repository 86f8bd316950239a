"""Marching cubes on fields whose surface is known."""

import tracemalloc

import numpy as np
import pytest
import torch
import trimesh

from neural_backend.dataset.transforms import field_from_bounds
from neural_backend.extraction import marching_cubes, topology
from neural_backend.extraction.surface import Volume, from_signed_distance
from neural_backend.protocol import BadInput

CPU = torch.device("cpu")


def ball(centre, radius):
    middle = torch.tensor(centre)
    return lambda points: (points - middle).norm(dim=1) - radius


def union(*fields):
    return lambda points: torch.stack([field(points) for field in fields]).amin(dim=0)


def torus(points, centre=0.5, radius=0.25, thickness=0.1):
    x, y, z = (points - centre).unbind(1)
    return ((x * x + y * y).sqrt() - radius).square().add(z * z).sqrt() - thickness


def extract(field, resolution=64):
    return marching_cubes.extract(from_signed_distance(field, CPU), resolution)[:2]


def test_a_ball_is_round_closed_and_faces_outwards():
    centre, radius, resolution = (0.55, 0.45, 0.5), 0.2, 48
    vertices, faces = extract(ball(centre, radius), resolution)
    distances = np.linalg.norm(vertices - centre, axis=1)
    assert np.abs(distances - radius).max() < 1e-5, "vertices lie on the zero set itself"
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    assert topology.components(len(vertices), faces) == 1


@pytest.mark.parametrize("resolution", [31, 64, 129])
def test_tiles_and_slabs_join_without_seams(resolution):
    vertices, faces = extract(torus, resolution)
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert topology.boundary_edges(faces) == 0
    assert topology.components(len(vertices), faces) == 1
    assert mesh.is_winding_consistent
    assert mesh.euler_number == 0, "one hole, and no vertex twice"
    assert mesh.volume == pytest.approx(2 * np.pi**2 * 0.25 * 0.1**2, rel=0.03)


def test_memory_grows_with_a_slab_not_with_the_cube():
    tracemalloc.start()
    marching_cubes.extract(from_signed_distance(ball((0.5, 0.5, 0.5), 0.4), CPU), 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the lattice alone would take 4 bytes a point
    assert peak < 2 * 4 * 260**3


def test_a_distance_that_is_none_keeps_marching_cubes_vertices():
    """Values that jump have no zero to go to: no vertex leaves its cell."""
    vertices, faces = extract(lambda p: ball((0.5, 0.5, 0.5), 0.3)(p).sign() * 0.02, 64)
    radius = np.linalg.norm(vertices - 0.5, axis=1)
    assert np.abs(radius - 0.3).max() < 1.5 * 0.6 / 64
    assert topology.boundary_edges(faces) == 0


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


def test_what_images_showed_may_have_less_small_parts_than_what_geometry_taught():
    field = union(ball((0.4, 0.5, 0.5), 0.3), ball((0.8, 0.8, 0.5), 0.01))
    found = {}
    for colors in (None, lambda points, normals, cell: torch.zeros_like(points)):
        volume = from_signed_distance(field, CPU, colors=colors)
        vertices, faces, _ = marching_cubes.extract(volume, 200)
        found[colors is None] = len(trimesh.Trimesh(vertices, faces, process=False).split())
    assert found == {True: 2, False: 1}


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


def test_cavities_stay_only_where_they_are_wanted():
    def shell(points):
        return (ball((0.5, 0.5, 0.5), 0.25)(points)).abs() - 0.1

    for cavities, count in ((True, 2), (False, 1)):
        volume = from_signed_distance(shell, CPU, cavities=cavities)
        vertices, faces, _ = marching_cubes.extract(volume, 48)
        assert topology.components(len(vertices), faces) == count


def test_what_may_not_hold_the_surface_is_not_asked():
    asked = []

    def value(points):
        asked.append(len(points))
        return 0.2 - (points - 0.5).norm(dim=1)

    def may_hold(centres, half_edge):
        return ((centres - 0.5).norm(dim=1) - 0.2).abs() < 2.0 * half_edge

    volume = Volume(value, may_hold, CPU, cavities=True, distance=False)
    _, faces, _ = marching_cubes.extract(volume, 128)
    assert topology.boundary_edges(faces) == 0
    assert sum(asked) < 0.8 * 128**3
