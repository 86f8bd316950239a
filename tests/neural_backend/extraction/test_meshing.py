"""Meshes as they are asked for: faces, normals and colours of surfaces that are known."""

import numpy as np
import pytest
import torch

from neural_backend.config import ResultSettings
from neural_backend.extraction import meshing, topology
from neural_backend.extraction.surface import from_signed_distance

CPU = torch.device("cpu")


def torus(points):
    x, y, z = (points - 0.5).unbind(1)
    return ((x * x + y * y).sqrt() - 0.25).square().add(z * z).sqrt() - 0.1


def two_balls(points):
    apart = [(points - torch.tensor([x, 0.5, 0.5])).norm(dim=1) for x in (0.3, 0.7)]
    return torch.minimum(apart[0] - 0.15, apart[1] - 0.15)


def places(points, normals, cell):
    return points.astype(np.float32)


def meshed(field, colors=None, report=lambda *told: None, **settings):
    volume = from_signed_distance(field, CPU, colors=colors)
    knobs = {f"mesh_{name}": value for name, value in settings.items()}
    return meshing.meshed(volume, ResultSettings(mesh_resolution=64, **knobs), report)


@pytest.mark.parametrize(("field", "components"), [(torus, 1), (two_balls, 2)])
def test_fewer_faces_lie_on_the_surface_still(field, components):
    mesh = meshed(field, faces=1500)
    assert 1200 < len(mesh.faces) <= 1500
    assert topology.boundary_edges(mesh.faces) == 0
    assert topology.components(len(mesh.vertices), mesh.faces) == components
    assert field(torch.from_numpy(mesh.vertices)).abs().max() < 1e-4


def test_normals_are_the_field_s():
    mesh = meshed(two_balls, faces=400)
    centre = np.where(mesh.vertices[:, :1] < 0.5, [0.3, 0.5, 0.5], [0.7, 0.5, 0.5])
    wanted = (mesh.vertices - centre) / 0.15
    assert (mesh.normals * wanted).sum(axis=1).min() > 0.9999


def test_colours_are_on_vertices_or_in_a_texture():
    assert meshed(torus).colors is None
    plain = meshed(torus, places)
    assert plain.colors == pytest.approx(plain.vertices, abs=1e-6)
    assert plain.texture is None
    textured = meshed(torus, places, faces=1500, texture=128)
    assert textured.colors is None
    assert textured.texture.color.shape == textured.texture.normal.shape == (128, 128, 3)


def test_it_is_told_how_far_the_work_is(monkeypatch):
    monkeypatch.setattr(meshing, "_PART", 5000)
    told = {}
    report = lambda what, done, of: told.setdefault(what, []).append(done / of)  # noqa: E731
    mesh = meshed(torus, places, report, faces=1500, texture=128)
    assert list(told) == ["extracting", "baking normals", "baking colours"]
    for shares in told.values():
        assert len(shares) > 1
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
    # in parts it is the same
    monkeypatch.setattr(meshing, "_PART", 1 << 18)
    whole = meshed(torus, places, faces=1500, texture=128)
    np.testing.assert_array_equal(mesh.texture.color, whole.texture.color)
    np.testing.assert_array_equal(mesh.texture.normal, whole.texture.normal)


def test_a_part_that_is_small_and_no_haze_stays():
    def field(points):
        small = (points - torch.tensor([0.9, 0.5, 0.5])).norm(dim=1) - 0.02
        return torch.minimum(torus(points), small)

    for faces in (0, 3000):
        mesh = meshed(field, faces=faces)
        assert topology.components(len(mesh.vertices), mesh.faces) == 2
