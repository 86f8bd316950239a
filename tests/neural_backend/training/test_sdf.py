"""Signed distance fields learned from meshes."""

import numpy as np
import pytest
import torch
import trimesh

from neural_backend.config import TrainingSettings
from neural_backend.extraction import comparison
from neural_backend.training import sdf
from neural_backend.training.fitting import fit
from neural_backend.training.sdf import Reference, SdfTask

CPU = torch.device("cpu")
SMALL = {"batch": 4096, "levels": 6, "log2_table_size": 14, "finest": 128}


@pytest.fixture
def torus(tmp_path, monkeypatch):
    monkeypatch.setattr(sdf, "_CPU_POOL", 1 << 15)
    path = tmp_path / "torus.ply"
    mesh = trimesh.creation.torus(2.0, 0.7, 24, 16)
    mesh.apply_translation([5.0, 0.0, -7.0])
    mesh.export(path)
    return path


def fitted(**settings):
    return fit(TrainingSettings(field="sdf", device="cpu", **settings), CPU)


def learn(path, steps, **settings):
    task = SdfTask(fitted(**settings), path, CPU, lambda event: None)
    losses = [float(task.step(step / steps).loss) for step in range(steps)]
    return task, losses


def iou(task, path):
    reference = Reference(path, task.field_from_world)
    low, high = reference.vertices.min(axis=0), reference.vertices.max(axis=0)
    return comparison.intersection_over_union(task.field, reference.distance, low, high, CPU)


def test_a_hash_field_learns_a_torus(torus):
    task, losses = learn(torus, 200, learning_rate=0.03, **SMALL)
    assert losses[-1] < 0.1 * losses[0]
    assert iou(task, torus) > 0.95
    loaded = sdf.load_field(fitted(**SMALL), task.state(), CPU)
    points = torch.rand(100, 3)
    assert (loaded(points) - task.field(points)).abs().max() < 0.02
    centre_of_tube = task.field_from_world @ [7.0, 0.0, -7.0, 1.0]
    point = torch.from_numpy(centre_of_tube[None, :3]).float()
    scale = task.field_from_world[0, 0]
    assert task.field(point).item() / scale == pytest.approx(-0.7, abs=0.2)


def test_samples_are_on_the_surface_near_it_and_anywhere(torus):
    task = SdfTask(fitted(**SMALL), torus, CPU, lambda event: None)
    points, distance = task._samples()
    assert len(points) == len(distance) == SMALL["batch"]
    exact = Reference(torus, task.field_from_world).distance(points.double().numpy())
    np.testing.assert_allclose(distance.numpy(), exact, atol=2e-5)
    assert (np.abs(exact) < 1e-6).mean() == pytest.approx(0.25, abs=0.01)
    assert ((np.abs(exact) > 1e-6) & (np.abs(exact) < 0.05)).mean() > 0.4
    assert (np.abs(exact) > 0.1).mean() > 0.05
    assert (exact < -0.02).any()


def test_a_quarter_of_the_samples_is_on_the_surface_also_where_there_are_walls(tmp_path):
    balls = [trimesh.creation.icosphere(3).apply_translation([x, 0.0, 0.0]) for x in (0.0, 0.8)]
    trimesh.util.concatenate(balls).export(tmp_path / "two.ply")
    task = SdfTask(fitted(**SMALL), tmp_path / "two.ply", CPU, lambda event: None)
    points, distance = task._samples()
    assert (distance == 0.0).float().mean() == pytest.approx(0.25, abs=0.01)
    world = (points[distance == 0.0].numpy() - task.field_from_world[:3, 3]) / (
        task.field_from_world[0, 0]
    )
    away = np.linalg.norm(world[:, None] - [[0.0, 0.0, 0.0], [0.8, 0.0, 0.0]], axis=2)
    # none of them on a part of a ball that lies within the other
    assert away.min(axis=1).min() > 0.98


def test_errors_count_in_proportion_to_the_distance(torus, monkeypatch):
    task = SdfTask(fitted(**SMALL), torus, CPU, lambda event: None)
    points = torch.full((3, 3), 0.5)
    wanted = task.field(points).detach() + torch.tensor([0.02, -0.02, 0.0])
    monkeypatch.setattr(task, "_samples", lambda: (points, wanted))
    expected = (0.02 / (wanted[:2].abs() + 0.01)).sum() / 3
    assert float(task.step(0.0).loss) == pytest.approx(float(expected), rel=1e-4)


def test_fourier_features_learn_a_torus(torus):
    settings = {"encoding": "gaussian", "frequencies": 32, "hidden_layers": 2, "width": 64}
    task, _ = learn(torus, 400, batch=2048, learning_rate=1e-2, **settings)
    assert iou(task, torus) > 0.85


def test_a_mesh_turned_inside_out_is_told_and_turned_back(tmp_path):
    mesh = trimesh.creation.icosphere(2)
    mesh.invert()
    mesh.export(tmp_path / "ball.ply")
    events = []
    task = SdfTask(fitted(**SMALL), tmp_path / "ball.ply", CPU, events.append)
    assert "inwards" in events[0].message
    reference = Reference(tmp_path / "ball.ply", task.field_from_world)
    corner = reference.vertices[reference.faces]
    normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    assert ((corner.mean(axis=1) - 0.5) * normal).sum(axis=1).min() > 0.0


def test_a_mesh_that_encloses_nothing_is_learned_as_a_sheet(tmp_path):
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    events = []
    task = SdfTask(fitted(**SMALL), tmp_path / "flat.obj", CPU, events.append)
    assert "enclose" in events[0].message
    for step in range(150):
        task.step(step / 150)
    middle = torch.from_numpy(task.field_from_world @ [0.25, 0.25, 0.0, 1.0])[None, :3].float()
    off = torch.tensor([[0.0, 0.0, 0.05]])
    assert task.field(middle) < 0.0 < task.field(middle + off)


def test_a_resumed_task_goes_on_as_if_never_stopped(torus):
    settings = fitted(**SMALL)
    first = SdfTask(settings, torus, CPU, lambda event: None)
    # with the pool's oldest samples replaced on both sides
    for _ in range(70):
        first.step(0.0)
    state = {name: value.clone() for name, value in first.state().items()}
    second = SdfTask(settings, torus, CPU, lambda event: None)
    second.load_state(state)
    for _ in range(5):
        assert float(second.step(0.0).loss) == float(first.step(0.0).loss)
    expected = first.state()
    for name, value in second.state().items():
        assert torch.equal(value, expected[name]), name
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        second.load_state({"field.network.weights.0": torch.zeros(3)})


def test_comparison_of_a_mesh_with_itself_and_with_a_larger_one():
    ball = trimesh.creation.icosphere(4, 0.3)
    vertices, faces = np.asarray(ball.vertices), np.asarray(ball.faces)
    chamfer, angle = comparison.surface_errors(vertices, faces, vertices, faces)
    assert chamfer == pytest.approx(0.0, abs=1e-6)
    assert angle == pytest.approx(0.0, abs=0.5)
    chamfer, angle = comparison.surface_errors(1.1 * vertices, faces, vertices, faces)
    assert chamfer == pytest.approx(0.03, rel=0.02)
    assert angle < 3.0
    _, angle = comparison.surface_errors(vertices, faces[:, ::-1], vertices, faces)
    assert angle == pytest.approx(180.0, abs=0.5)


def test_the_preview_shows_the_shape(torus):
    task, _ = learn(torus, 60, **SMALL)
    picture = task.preview()
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert 0.05 < (picture[..., 0] < 250).mean() < 0.6
