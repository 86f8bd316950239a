"""What meshes enclose, good ones and bad ones."""

import numpy as np
import pytest
import trimesh

from neural_backend.sampling import solid

CENTRE = np.full((1, 3), 0.5)


def ball(radius=0.3, centre=(0.5, 0.5, 0.5), inverted=False):
    mesh = trimesh.creation.icosphere(3, radius)
    mesh.apply_translation(centre)
    if inverted:
        mesh.invert()
    return mesh


def understood(*meshes, loose=False):
    """Of some meshes as one; where it is loose, each face has corners of its own, as in an stl."""
    mesh = trimesh.util.concatenate(meshes)
    vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces, dtype=np.int64)
    if loose:
        vertices, faces = vertices[faces].reshape(-1, 3), np.arange(faces.size).reshape(-1, 3)
    return solid.understood(vertices, faces)


def check_segments(distance, segments):
    """That each part of the way is as far from the surface as it is told."""
    for share in (0.0, 0.3, 0.7, 1.0):
        part = segments[:, 7] + share * (1.0 - segments[:, 7])
        at = segments[:, :3] + part[:, None] * segments[:, 3:6]
        assert distance(at) == pytest.approx(part * segments[:, 6], abs=2e-5)


def test_a_closed_mesh_is_what_it_is():
    found = understood(ball())
    assert found.warnings == ()
    assert not found.walls
    assert found.distance(CENTRE) == pytest.approx(-0.3, abs=0.01)


def test_parts_turned_inside_out_are_turned_around():
    left, right = (0.25, 0.5, 0.5), (0.75, 0.5, 0.5)
    for loose in (False, True):
        found = understood(ball(0.2, left), ball(0.2, right, inverted=True), loose=loose)
        assert found.warnings == ("1 of its 2 parts' faces point inwards; they are turned around",)
        assert found.distance(np.array([left, right])) == pytest.approx(-0.2, abs=0.01)
    found = understood(ball(inverted=True))
    assert found.warnings == ("its faces point inwards; they are turned around",)
    assert found.distance(CENTRE) == pytest.approx(-0.3, abs=0.01)


def test_a_cavity_stays_one_whichever_way_its_faces_look():
    for inverted in (False, True):
        found = understood(ball(0.4, inverted=inverted), ball(0.2, inverted=not inverted))
        assert len(found.warnings) == inverted
        assert found.distance(CENTRE) == pytest.approx(0.2, abs=0.01)
        assert found.distance(np.array([[0.8, 0.5, 0.5]])) == pytest.approx(-0.1, abs=0.01)


def test_walls_within_are_not_learned():
    found = understood(ball(0.25, (0.4, 0.5, 0.5)), ball(0.25, (0.6, 0.5, 0.5)))
    assert found.walls
    assert found.warnings == ()
    points = np.random.default_rng(0).uniform(0.1, 0.9, (20_000, 3))
    segments = found.distance.segments(points, found.walls)
    part = np.random.default_rng(1).random((len(segments), 1)).astype(np.float32)
    part = segments[:, 7:] + (1.0 - segments[:, 7:]) * part
    at = segments[:, :3] + part * segments[:, 3:6]
    away = np.linalg.norm(at[:, None] - [[0.4, 0.5, 0.5], [0.6, 0.5, 0.5]], axis=2).min(axis=1)
    signed = part[:, 0] * segments[:, 6]
    # the union's: inside, the distance is at most what is told
    assert np.abs(signed - (away - 0.25))[away > 0.25].max() < 0.005
    deep = away < 0.24
    assert signed[deep].max() < -0.004
    surface = found.distance.on_surface(np.array([[0.35, 0.5, 0.5], [0.85, 0.5, 0.5]]))
    assert surface[:, :3] == pytest.approx(np.array([[0.85, 0.5, 0.5]]))


def test_a_hole_is_closed_smoothly():
    mesh = trimesh.creation.box((0.6, 0.6, 0.6))
    mesh.apply_translation([0.5, 0.5, 0.5])
    top = np.asarray(mesh.triangles_center)[:, 2] > 0.79
    found = solid.understood(np.asarray(mesh.vertices), np.asarray(mesh.faces)[~top])
    assert found.warnings == ()
    height = np.linspace(0.3, 0.95, 200)
    line = np.stack([np.full(200, 0.5), np.full(200, 0.5), height], axis=1)
    distance = found.distance(line)
    assert distance[0] < 0.0 < distance[-1]
    # no jump where its sign changes: there the nearest face is as far as the hole is wide
    assert np.abs(np.diff(distance)).max() < 3.0 * (height[1] - height[0])
    points = np.random.default_rng(0).uniform([0.3, 0.3, 0.6], [0.7, 0.7, 0.9], (500, 3))
    segments = found.distance.segments(points, found.walls)
    # to where the hole is closed nothing is known of the way
    assert 0.2 < (segments[:, 7] == 1.0).mean() < 0.9
    check_segments(found.distance, segments)


def test_what_encloses_nothing_gets_a_thickness():
    square = np.array([[0.1, 0.1, 0.5], [0.9, 0.1, 0.5], [0.9, 0.9, 0.5], [0.1, 0.9, 0.5]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    found = solid.understood(square, faces)
    assert "sheets" in found.warnings[0]
    half = 0.5 * solid.THICKNESS
    points = np.array([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5 + half], [0.5, 0.5, 0.6]])
    assert found.distance(points) == pytest.approx([-half, 0.0, 0.1 - half], abs=1e-9)
    surface = found.distance.on_surface(np.array([[0.3, 0.3, 0.5], [0.4, 0.3, 0.5]]))
    assert sorted(np.abs(surface[:, 2] - 0.5)) == pytest.approx([half, half], abs=1e-6)
    segments = found.distance.segments(np.random.default_rng(0).random((2000, 3)), False)
    at = segments[:, :3] + 0.4 * segments[:, 3:6]
    free = segments[:, 7] == 0.0
    assert found.distance(at[free]) == pytest.approx(0.4 * segments[free, 6], abs=1e-6)


def test_sheets_close_together_are_one_thick_sheet():
    """From within, the border on the other side of the nearer one may lie in the other."""
    square = np.array([[0.1, 0.1, 0.498], [0.9, 0.1, 0.498], [0.9, 0.9, 0.498], [0.1, 0.9, 0.498]])
    vertices = np.concatenate([square, square + np.array([0.0, 0.0, 0.004])])
    found = solid.understood(vertices, np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]]))
    assert "taken for sheets" in found.warnings[0]
    points = np.random.default_rng(0).uniform([0.3, 0.3, 0.49], [0.7, 0.7, 0.51], (500, 3))
    segments = found.distance.segments(points, False)
    assert 0.3 < (segments[:, 6] < 0.0).mean() < 0.9
    check_segments(found.distance, segments)


def test_sheets_beside_a_solid_are_left_out_and_told():
    sheet = trimesh.Trimesh([[0.4, 0.4, 0.9], [0.6, 0.4, 0.9], [0.5, 0.6, 0.9]], [[0, 1, 2]])
    found = understood(ball(), sheet)
    assert found.walls
    assert "sheets beside" in found.warnings[0]
    assert found.distance.inside(np.array([[0.5, 0.48, 0.8999], [0.5, 0.48, 0.9001]])).sum() == 0
