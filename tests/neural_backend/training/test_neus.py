import dataclasses
import math
from types import SimpleNamespace

import imageio.v3
import numpy as np
import pytest
import torch
import trimesh

from neural_backend import actions, protocol, voxels
from neural_backend.config import ResultSettings, TrainingSettings
from neural_backend.dataset import exr, transforms
from neural_backend.dataset.transforms import Dataset, Intrinsics, View
from neural_backend.fields.surface_radiance import FIRST_SHARPNESS, SurfaceRadianceField
from neural_backend.training import nerf, neus, run
from neural_backend.training.fitting import fit
from neural_backend.training.nerf import Rays
from neural_backend.training.neus import NeusTask

from .scenes import around, check_that_it_goes_on_exactly, pixel_rays, train

CPU = torch.device("cpu")
SIZE = 48
CENTRE, RADIUS = np.array([5.0, -2.0, 1.0]), 0.8
SMALL = TrainingSettings(
    field="neus",
    device="cpu",
    batch=4096,
    levels=3,
    coarsest=4,
    finest=16,
    log2_table_size=13,
    learning_rate=1e-2,
)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(nerf, "RESOLUTION", 32)
    monkeypatch.setattr(neus, "HULL_STEPS", 40)
    monkeypatch.setattr(neus, "GRID_EVERY", 4)
    monkeypatch.setattr(actions, "_COMPARED_RESOLUTION", 64)


def bowl(pose, intrinsics):
    """The lower half of a ball, whose colour tells the place, hollowed out.

    Its silhouettes are those of a solid half: only colour tells of the hollow.

    Returns:
        [H, W, 4] uint8, and [H, W] planar depth, 0 where it is not.
    """
    d = pixel_rays(pose, intrinsics)
    length = np.linalg.norm(d, axis=-1)
    d /= length[..., None]
    eye = pose[:3, 3] - CENTRE
    nearest = np.full(length.shape, np.inf)
    b = d @ eye
    for radius in (RADIUS, 0.6 * RADIUS):
        inside = b * b - eye @ eye + radius**2
        for side in (-1, 1):
            t = -b + side * np.sqrt(np.maximum(inside, 0.0))
            below = eye[2] + t * d[..., 2] < 0.0
            nearest = np.minimum(nearest, np.where((inside > 0) & below, t, np.inf))
    t = -eye[2] / d[..., 2]
    rim = np.linalg.norm((eye + t[..., None] * d)[..., :2], axis=-1)
    on_rim = (rim < RADIUS) & (rim > 0.6 * RADIUS) & (t > 0)
    nearest = np.minimum(nearest, np.where(on_rim, t, np.inf))
    hit = np.isfinite(nearest)
    place = eye + np.where(hit, nearest, 0.0)[..., None] * d
    image = np.zeros((intrinsics.h, intrinsics.w, 4), np.uint8)
    colour = 0.5 + 0.3 * np.sin(6.0 * place / RADIUS)
    image[hit] = np.round(255 * np.concatenate([colour[hit], np.ones((hit.sum(), 1))], 1))
    return image, np.where(hit, nearest / length, 0.0)


def bowl_mesh():
    """The same as triangles, in world space."""
    angle = np.linspace(0.0, np.pi / 2, 24)
    outer = RADIUS * np.stack([np.sin(angle), -np.cos(angle)], 1)
    profile = np.concatenate([outer, 0.6 * outer[::-1]])
    return trimesh.creation.revolve(profile, sections=64).apply_translation(CENTRE)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A dataset of a bowl: 16 views to train on, 1 to validate, 1 to test."""
    folder = tmp_path_factory.mktemp("bowl")
    intrinsics = Intrinsics(SIZE, SIZE, 72.0, 72.0, SIZE / 2, SIZE / 2)
    views = []
    for index, pose in enumerate(around(CENTRE, 3.0, 18, first=0.95, last=-0.55)):
        split = {3: "val", 6: "test"}.get(index, "train")
        views.append(View(f"{index}.png", pose, intrinsics, split))
        image, depth = bowl(pose, intrinsics)
        imageio.v3.imwrite(folder / f"{index}.png", image)
        exr.write(folder / f"{index}.exr", {"Y": depth.astype(np.float32)})
    low = CENTRE - RADIUS
    return Dataset(folder, tuple(views), np.stack([low, CENTRE + np.array([RADIUS, RADIUS, 0])]))


def task(dataset, settings=SMALL, events=None):
    settings = fit(settings, CPU)
    return NeusTask(settings, dataset, CPU, (events if events is not None else []).append)


def true_distance(x):
    """[N] of the solid bowl, from below and above; exact near its inner and outer walls."""
    p = (x - 0.5) * 2.0 * RADIUS / transforms.FILL
    p[:, 2] -= RADIUS / 2
    radius = p.norm(dim=1)
    wall = torch.maximum(radius - RADIUS, 0.6 * RADIUS - radius)
    return torch.maximum(wall, p[:, 2]) * transforms.FILL / (2.0 * RADIUS)


def test_learns_a_hollow_that_no_silhouette_shows(scene):
    trained = task(scene)
    hollow = torch.tensor([[0.5, 0.5, 0.5 + transforms.FILL / 4 - 0.05]])
    assert trained.grid.possible[16, 16, int(hollow[0, 2] * 32)]
    train(trained, 1, of=500)
    with torch.no_grad():
        before = trained.field.distance(hollow).item()
    assert before < -0.03
    train(trained, 499, 1, 500)
    x = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    truth = true_distance(x)
    with torch.no_grad():
        found = trained.field.distance(x)
        after = trained.field.distance(hollow).item()
    assert after > before + 0.05
    assert trained.field.sharpness.item() > 3.0 * FIRST_SHARPNESS
    assert ((found < 0.0) == (truth < 0.0))[truth.abs() > 0.02].float().mean() > 0.95
    assert (found - truth)[truth.abs() < 0.1].abs().mean() < 0.04
    assert trained.validate().psnr > 18.0
    # empty cells are passed over
    assert 0.02 < trained.grid.occupied.float().mean() < 0.5
    assert (trained.grid.possible & ~trained.grid.occupied).sum() > 500


def test_depth_shows_the_hollow_at_once(scene):
    views = [dataclasses.replace(v, depth=v.file.replace("png", "exr")) for v in scene.views]
    trained = task(dataclasses.replace(scene, views=tuple(views)))
    assert not trained.grid.possible[16, 16, 18]
    train(trained, 100)
    x = torch.rand(4000, 3, generator=torch.Generator().manual_seed(0))
    truth = true_distance(x)
    with torch.no_grad():
        found = trained.field.distance(x)
    assert ((found < 0.0) == (truth < 0.0))[truth.abs() > 0.02].float().mean() > 0.97
    assert (found - truth)[truth.abs() < 0.01].abs().mean() < 0.01


def test_alpha_counts_beside_colour(scene, monkeypatch):
    trained = task(scene)
    rays = trained._rays_through(trained._drawn.draw(256, trained._generator))
    known = rays.rgba[:, 3]
    assert 0.0 < known.mean() < 1.0
    monkeypatch.setattr(trained, "_shape_loss", lambda surface: torch.zeros(()))
    losses = []
    for alpha in (known, 1.0 - known):
        # the same colours on the background
        seen = rays.rgba[:, :3] + (alpha - known)[:, None] * rays.background
        rendered = seen, alpha, 2.0 * alpha
        monkeypatch.setattr(trained._kernels, "render_surface", lambda *_, r=rendered: r)
        losses.append(float(trained._loss_of(rays, None)[0]))
    assert losses[0] < 1e-3
    assert losses[1] == pytest.approx(-neus.MASK * math.log(1e-4), rel=1e-3)
    assert losses[1] > 0.1


def test_what_is_no_distance_or_within_what_must_be_empty_is_a_loss(scene, monkeypatch):
    trained = task(scene)
    trained._open(0.0)

    def loss(distance):
        monkeypatch.setattr(trained.field, "distance", distance)
        return float(trained._shape_loss(torch.rand(50, 3)))

    assert loss(lambda x: 10.0 + x[:, 0]) < 1e-4
    # four times too steep a slope's error, squared
    assert loss(lambda x: 10.0 + 3.0 * x[:, 0]) == pytest.approx(0.4, rel=1e-3)
    # the bowl takes a small part of the box
    assert 4.0 < loss(lambda x: x[:, 0] - 10.0) < 12.0


@pytest.mark.parametrize(
    ("term", "distance"),
    [
        # half of the way through the box is free, and has a wall in its middle
        ("FREE", lambda x: (x[:, 2] - 0.5).clamp(max=0.25) - 2.0 * (x[:, 2] - 0.75).clamp(min=0.0)),
        ("FREE", lambda x: x[:, 2] - 0.3),
        ("NEARBY", lambda x: x[:, 2] - 0.505),
        ("NORMAL", lambda x: 0.6 * (x[:, 2] - 0.5) + 0.8 * (x[:, 0] - 0.5)),
    ],
    ids=["in front", "too far", "off", "tilted"],
)
def test_passes_tell_where_a_plane_is(scene, monkeypatch, term, distance):
    trained = task(scene)
    trained._open(1.0)
    eyes = torch.rand(200, 3) * 0.8 + 0.1
    eyes[:, 2] = 2.0
    down = torch.tensor([0.0, 0.0, -1.0]).expand_as(eyes)
    rays = Rays(torch.arange(200), eyes, down, None, None, None)
    plane = SimpleNamespace(along=torch.full((200,), 1.5), normals=-down.half())
    for other in {"FREE", "NEARBY", "NORMAL"} - {term}:
        monkeypatch.setattr(neus, other, 0.0)
    monkeypatch.setattr(trained.field, "distance", lambda x: x[:, 2] - 0.5)
    assert float(trained._seen_loss(rays, plane)) < 1e-3
    monkeypatch.setattr(trained.field, "distance", distance)
    assert float(trained._seen_loss(rays, plane)) > 0.02


def test_cells_hold_density_where_the_surface_is(scene, monkeypatch):
    trained = task(scene)
    sharpness = trained.field.sharpness.item()
    # half the diagonal of a cell is .027: one whose middle is no further off may hold the surface
    for distance, least, most in ((-0.6, 0.0, 0.01), (0.6, 0.0, 0.01), (0.027, 0.4, 0.6)):
        monkeypatch.setattr(trained.field, "distance", lambda x, d=distance: torch.full((1,), d))
        held = trained._held(torch.rand(1, 3)).item() / sharpness
        assert least <= held <= most


def test_depth_that_is_no_number_is_told(scene, tmp_path):
    first, *others = scene.split("train")[:3]
    views = (dataclasses.replace(first, depth="depth.exr"), *others)
    for view in views:
        (tmp_path / view.file).write_bytes((scene.folder / view.file).read_bytes())
    depth = exr.read(scene.folder / "0.exr")[..., 0]
    shown = imageio.v3.imread(scene.folder / "0.png")[..., 3] > 127
    depth[tuple(np.argwhere(shown)[0])] = np.nan
    exr.write(tmp_path / "depth.exr", {"Y": depth})
    events = []
    task(Dataset(tmp_path, views, scene.bounds), SMALL, events)
    (event,) = events
    assert isinstance(event, protocol.Warning)
    assert "1 depth or normal files have NaN or infinite pixels, the first is" in event.message
    assert "depth.exr" in event.message


@pytest.mark.parametrize(
    "changes",
    [
        {"encoding": "gaussian", "frequencies": 8, "hidden_layers": 2, "width": 32},
        {"encoding": "none", "activation": "sine", "hidden_layers": 2, "width": 32},
        {"view_direction": False, "background": "white"},
    ],
)
def test_every_choice_takes_steps(scene, changes):
    trained = task(scene, dataclasses.replace(SMALL, batch=1024, **changes))
    assert math.isfinite(train(trained, 3))
    assert trained.preview().shape == (SIZE, 2 * SIZE, 3)


def test_a_resumed_run_goes_on_exactly(scene):
    settings = dataclasses.replace(SMALL, batch=1024)
    check_that_it_goes_on_exactly(lambda: task(scene, settings), 6)


def test_levels_open_from_the_coarsest_on(scene, monkeypatch):
    monkeypatch.setattr(neus, "FIRST_LEVELS", 1)
    trained = task(scene, dataclasses.replace(SMALL, batch=1024))
    edges = []
    for progress in (0.0, 0.2, 0.3, 0.5, 1.0):
        trained._open(progress)
        edges.append(trained._finest)
    assert edges == [1 / 4, 1 / 4, 1 / 8, 1 / 16, 1 / 16]


def test_the_colour_gets_the_direction_of_view_after_the_form(scene, monkeypatch):
    trained = task(scene)
    directed = []
    monkeypatch.setattr(trained.field, "open", lambda levels, share: directed.append(share))
    for progress in (0.0, 0.25, 0.375, 0.5, 1.0):
        trained._open(progress)
    assert directed == [0.0, 0.0, 0.5, 1.0, 1.0]


def test_the_grid_follows_the_surface(scene, monkeypatch):
    trained = task(scene, dataclasses.replace(SMALL, batch=1024))
    looked = []
    monkeypatch.setattr(trained.grid, "renew", lambda held, count, generator: looked.append(count))
    train(trained, 9)
    # at first at all cells, then at some every fourth step
    assert looked == [len(trained.grid.density), 1024, 1024]


def test_errors_of_colours_are_absolute(scene):
    predicted, target = torch.tensor([[0.1, 0.5, 0.5]]), torch.tensor([[0.4, 0.5, 0.2]])
    assert task(scene)._error(predicted, target).item() == pytest.approx(0.2)


def test_photos_begin_with_a_ball_and_a_warning(scene, tmp_path):
    views = scene.split("train")[:4]
    for view in views:
        image = imageio.v3.imread(scene.folder / view.file)[..., :3]
        imageio.v3.imwrite(tmp_path / view.file, image)
    events = []
    trained = task(Dataset(tmp_path, views, scene.bounds), SMALL, events)
    assert [type(event) for event in events] == [protocol.Warning]
    assert "transparent" in events[0].message
    assert math.isfinite(train(trained, 2))
    x = torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.98]])
    with torch.no_grad():
        inside, outside = trained.field.distance(x).tolist()
    assert inside < 0.0 < outside


def test_a_run_is_measured_meshed_and_rendered(scene, tmp_path):
    transforms.write(scene)
    reference, folder = tmp_path / "bowl.ply", str(tmp_path / "run")
    bowl_mesh().export(reference)
    settings = dataclasses.replace(SMALL, batch=1024, max_steps=8)
    run.train(scene.folder, folder, settings)
    opened = run.open_run(folder)
    assert isinstance(opened.field, SurfaceRadianceField)
    scores = actions.evaluate(folder, "test", 0, str(reference))
    assert scores["views"] == 1
    assert scores["psnr"] > 8.0
    # it has hardly more than learned its hull
    assert 0.4 < scores["iou"] < 0.95
    assert scores["chamfer"] < 0.1
    assert set(actions.evaluate(folder, "test", 0)) == {"psnr", "ssim", "views", "seconds_per_view"}
    settings = ResultSettings(mesh_resolution=32)
    counts = actions.mesh(folder, str(tmp_path / "mesh.ply"), settings)
    mesh = trimesh.load(tmp_path / "mesh.ply", process=False)
    assert (len(mesh.vertices), len(mesh.faces)) == (counts["vertices"], counts["faces"])
    assert counts["boundary_edges"] == 0
    assert mesh.is_watertight
    assert np.abs(mesh.bounds.mean(0) - (CENTRE - [0, 0, RADIUS / 2])).max() < 0.2
    assert mesh.visual.kind == "vertex"
    cameras, out = str(scene.folder / "transforms.json"), tmp_path / "out"
    assert actions.render(folder, cameras, str(out), passes=True) == 18
    picture = imageio.v3.imread(out / "0.png")
    truth = imageio.v3.imread(scene.folder / "0.png")
    assert ((picture[..., 3] > 127) == (truth[..., 3] > 127)).mean() > 0.9
    depth, normal = (exr.read(out / kind / "0.exr") for kind in ("depth", "normal"))
    true_depth = exr.read(scene.folder / "0.exr")[..., 0]
    both = (depth[..., 0] > 0.0) & (true_depth > 0.0)
    assert both.sum() > 0.9 * (true_depth > 0.0).sum()
    # it knows the hull; the hollow not yet
    assert np.abs(depth[both, 0] - true_depth[both]).mean() < 0.5 * RADIUS
    towards = (normal @ scene.views[0].world_from_camera[:3, :3])[both]
    assert (towards[:, 2] > 0.0).mean() > 0.9
    assert actions.volume_file(folder, str(tmp_path / "volume.npz"), 24) > 1000
    found = voxels.read(tmp_path / "volume.npz")
    middle = found.index[found.density > 1.0].mean(0) @ found.world_from_index[:3, :3].T
    middle += found.world_from_index[:3, 3]
    assert np.abs(middle - (CENTRE - [0, 0, RADIUS / 2])).max() < 0.2
