"""The surfaces' benchmark: its baseline on a ball whose depth is known, and its table."""

import json

import numpy as np
import pytest
import trimesh

from benchmarks import surfaces, tsdf_fusion
from benchmarks.surfaces import Measured
from neural_backend.dataset import exr, transforms
from neural_backend.dataset.transforms import Dataset, Intrinsics, View
from neural_backend.extraction import topology

SIZE = 48
CENTRE, RADIUS = np.array([2.0, -1.0, 0.5]), 0.7


def looking(direction):
    z = direction / np.linalg.norm(direction)
    x = np.cross([0.1, 0.2, 1.0], z)
    x /= np.linalg.norm(x)
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, CENTRE + 3.0 * z], 1)
    return pose


def depth_of_the_ball(pose, intrinsics):
    x, y = np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5)
    right, down = (x - intrinsics.cx) / intrinsics.fl_x, (y - intrinsics.cy) / intrinsics.fl_y
    ray = np.stack([right, -down, -np.ones_like(x)], -1) @ pose[:3, :3].T
    offset = pose[:3, 3] - CENTRE
    a, b, c = (ray**2).sum(-1), ray @ offset, offset @ offset - RADIUS**2
    inside = b * b - a * c
    return np.where(inside > 0.0, (-b - np.sqrt(np.maximum(inside, 0.0))) / a, 0.0)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ball")
    for name in ("images", "depth"):
        (folder / name).mkdir()
    intrinsics = Intrinsics(SIZE, SIZE, 80.0, 80.0, SIZE / 2, SIZE / 2)
    directions = trimesh.creation.icosphere(0).vertices
    views = []
    for index, direction in enumerate(directions):
        pose = looking(direction)
        view = View(f"images/{index}.png", pose, intrinsics, depth=f"depth/{index}.exr")
        (folder / view.file).write_bytes(b"image")
        exr.write_depth(folder / view.depth, depth_of_the_ball(pose, intrinsics).astype(np.float32))
        views.append(view)
    made = Dataset(folder, tuple(views), np.stack([CENTRE - RADIUS, CENTRE + RADIUS]))
    transforms.write(made)
    return made


def test_the_fused_ball_is_where_it_was(dataset):
    vertices, faces = tsdf_fusion.fuse(dataset, 40)
    away = np.linalg.norm(vertices - CENTRE, axis=1) - RADIUS
    assert np.abs(away).mean() < 0.3 * 2.0 * RADIUS / 40
    mesh = trimesh.Trimesh(vertices, faces)
    outwards = ((mesh.triangles_center - CENTRE) * mesh.face_normals).sum(1) > 0.0
    assert outwards.mean() > 0.97
    assert topology.components(len(vertices), faces) >= 1


def test_views_without_depth_are_named(dataset, tmp_path):
    bare = surfaces.without_passes(dataset.folder, tmp_path)
    read = transforms.read(bare)
    assert len(read.views) == len(dataset.views)
    assert (bare / read.views[0].file).read_bytes() == b"image"
    with pytest.raises(ValueError, match="no depth"):
        tsdf_fusion.fuse(read, 16)


def test_the_table_holds_each_surface_against_the_baseline():
    base = Measured("tsdf", 50.0, 4e-4, 20.0, 900, 30, None, None, None)
    ours = Measured("neus", 300.0, 1e-3, 5.0, 0, 1, 21.4, 10**9, 27.04)
    lines = surfaces.table([base, ours]).splitlines()
    assert lines[2] == "| tsdf | 50 | 0.040 | 20.0 | 900 | 30 | - | - | - |"
    assert lines[3] == "| neus | 300 | 0.100 (2.50x) | 5.0 | 0 | 1 | 21 | 1.00 | 27.0 |"


def test_figures_come_from_the_command_line(monkeypatch, capsys, tmp_path, dataset):
    said = {"chamfer": 0.002, "normal_error": 3.0, "boundary_edges": 0, "components": 1}
    asked = []

    def backend(*arguments):
        asked.append(arguments)
        return json.dumps(said), 5 * 10**8

    monkeypatch.setattr(surfaces, "_backend", backend)
    monkeypatch.setattr(surfaces, "textured_psnr", lambda mesh, data: 26.5)
    reference = tmp_path / "ball.ply"
    file = tmp_path / "figures.json"
    data = ["--data", str(dataset.folder), "--reference", str(reference), "--seconds", "9", "3"]
    surfaces.main([*data, "--contestants", "neus", "--json", str(file)])
    trained = [each for each in asked if each[0] == "train"]
    assert [each[-1] for each in trained] == ["3.0", "9.0"]
    assert all("images alone" in each[1] for each in trained)
    assert [each["seconds"] for each in json.loads(file.read_text())["results"]] == [3.0, 9.0]
    assert "| neus | 9 | 0.200 | 3.0 | 0 | 1 |" in capsys.readouterr().out
