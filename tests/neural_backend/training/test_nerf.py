import dataclasses
import math
from unittest.mock import Mock

import imageio.v3
import numpy as np
import pytest
import torch

from neural_backend import protocol
from neural_backend.config import TrainingSettings
from neural_backend.dataset import transforms
from neural_backend.dataset.images import load_views
from neural_backend.dataset.transforms import Dataset, Intrinsics, View
from neural_backend.protocol import BadInput
from neural_backend.rendering import volume
from neural_backend.sampling.rays import Cameras
from neural_backend.training import evaluation, nerf
from neural_backend.training.fitting import fit
from neural_backend.training.nerf import NerfTask, load_field
from neural_backend.training.scores import Scores

from ..dataset.test_exr import write as write_exr
from .scenes import around, check_that_it_goes_on_exactly, looking_at, pixel_rays, train

CPU = torch.device("cpu")
SIZE = 32
CENTRE, RADIUS = np.array([5.0, -2.0, 1.0]), 0.8
# a dozen tiny views say little: a finer grid would learn them by heart
SMALL = TrainingSettings(
    max_steps=10,
    batch=4096,
    levels=2,
    coarsest=4,
    finest=16,
    log2_table_size=13,
    view_direction=False,
)


@pytest.fixture(autouse=True)
def _small_grid(monkeypatch):
    monkeypatch.setattr(nerf, "RESOLUTION", 32)


def ball(pose, intrinsics):
    """[H, W, 4] uint8: a ball whose colour is its normal, ray by ray."""
    d = pixel_rays(pose, intrinsics)
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    offset = pose[:3, 3] - CENTRE
    b = d @ offset
    inside = b * b - offset @ offset + RADIUS**2
    t = -b - np.sqrt(np.maximum(inside, 0.0))
    normal = (offset + t[..., None] * d) / RADIUS
    image = np.zeros((intrinsics.h, intrinsics.w, 4), np.uint8)
    image[..., :3] = np.where(inside[..., None] > 0, np.round(255 * (0.5 + 0.5 * normal)), 0)
    image[..., 3] = np.where(inside > 0, 255, 0)
    return image


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A dataset of a coloured ball: 12 views to train on, 2 to validate, 2 to test."""
    folder = tmp_path_factory.mktemp("ball")
    intrinsics = Intrinsics(SIZE, SIZE, 40.0, 40.0, SIZE / 2, SIZE / 2)
    views = []
    for index, pose in enumerate(around(CENTRE, 3.0, 16)):
        split = {3: "val", 11: "val", 6: "test", 13: "test"}.get(index, "train")
        views.append(View(f"{index}.png", pose, intrinsics, split))
        imageio.v3.imwrite(folder / f"{index}.png", ball(pose, intrinsics))
    return Dataset(folder, tuple(views), np.stack([CENTRE - RADIUS, CENTRE + RADIUS]))


def task(dataset, settings=SMALL, events=None):
    settings = fit(settings, CPU)
    return NerfTask(settings, dataset, CPU, (events if events is not None else []).append)


@pytest.mark.parametrize(
    ("changes", "psnr"),
    [
        ({}, 21.0),
        (
            {
                "encoding": "positional",
                "frequencies": 2,
                "hidden_layers": 2,
                "width": 64,
                "learning_rate": 5e-3,
            },
            18.0,
        ),
    ],
)
def test_learns_a_ball(scene, changes, psnr):
    settings = dataclasses.replace(SMALL, batch=8192, **changes)
    trained = task(scene, settings)
    before = trained.validate()
    train(trained, 200)
    after = trained.validate()
    field, grid, kernels = load_field(fit(settings, CPU), trained.state(), CPU)
    scores = evaluation.mean_scores(
        evaluation.compare_views(field, grid, kernels, scene, scene.field_from_world, "test")
    )
    assert scores.views == 2
    assert scores.psnr > psnr
    assert scores.psnr > before.psnr + 6
    assert 0.7 < scores.ssim <= 1.0
    assert after.psnr == pytest.approx(scores.psnr, abs=4.0)
    # the same views whole
    whole = evaluation.mean_scores(
        evaluation.compare_views(field, grid, kernels, scene, scene.field_from_world, "val")
    )
    assert after.psnr == pytest.approx(whole.psnr, abs=1.0)
    assert after.ssim == pytest.approx(whole.ssim, abs=0.03)


def test_a_dark_ball_is_not_taken_for_black(scene, tmp_path):
    """In the first fog, which shows a background of any colour, darker than it can be fits best."""
    dark = [64, 48, 32]
    for view in scene.views:
        image = imageio.v3.imread(scene.folder / view.file)
        image[..., :3] = dark
        imageio.v3.imwrite(tmp_path / view.file, image)
    trained = task(dataclasses.replace(scene, folder=tmp_path))
    train(trained, 60)
    field = trained.field
    x = torch.rand(5000, 3, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        density, colour = field(x, torch.zeros_like(x))
    shown = (density[:, None] * colour).sum(0) / density.sum()
    assert shown.tolist() == pytest.approx([level / 255 for level in dark], rel=0.5)


@pytest.mark.parametrize(
    "changes",
    [
        {"encoding": "gaussian", "frequencies": 8},
        {"encoding": "basic", "view_direction": True},
        {"encoding": "none", "activation": "sine"},
        {"activation": "gaussian", "background": "white"},
        {"background": "black", "view_direction": True},
    ],
)
def test_every_choice_takes_steps(scene, changes):
    trained = task(scene, dataclasses.replace(SMALL, **changes))
    loss = train(trained, 3)
    assert math.isfinite(loss)
    picture = trained.preview()
    assert picture.shape == (SIZE, 2 * SIZE, 3)
    assert picture.dtype == np.uint8


def test_same_seed_same_field(scene):
    first, second, other = (
        task(scene, dataclasses.replace(SMALL, seed=seed)) for seed in (1, 1, 2)
    )
    assert train(first, 20) == train(second, 20)
    assert train(other, 20) != train(first, 1)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    train(task(scene), 1)
    assert torch.equal(torch.rand(1), expected)


def test_a_resumed_run_goes_on_exactly(scene, monkeypatch):
    # with updates of the grid on both sides
    monkeypatch.setattr(nerf, "GRID_FROM", 16)
    settings = dataclasses.replace(SMALL, batch=1024)
    check_that_it_goes_on_exactly(lambda: task(scene, settings), 20)


def test_a_run_of_another_kind_of_device_goes_on(scene, monkeypatch):
    first = task(scene)
    train(first, 3)
    state = first.state()
    monkeypatch.setattr(nerf, "RESOLUTION", 64)
    state["training.generator"] = torch.zeros(16, dtype=torch.uint8)
    second, third = task(scene), task(scene)
    for each in (second, third):
        each.load_state({name: value.clone() for name, value in state.items()})
    assert second.grid.occupied.shape == (32, 32, 32)
    assert train(second, 20) == train(third, 20)
    second.grid.update(second.field.density, 100, torch.Generator())


def test_a_state_before_the_first_step_can_be_loaded(scene):
    loaded = task(scene)
    loaded.load_state(task(scene).state())
    assert train(loaded, 3) == train(task(scene), 3)


def test_a_state_of_other_settings_is_refused(scene):
    state = task(scene).state()
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        task(scene, dataclasses.replace(SMALL, encoding="basic")).load_state(state)
    with pytest.raises((KeyError, ValueError, RuntimeError)):
        task(scene).load_state({})


def test_views_that_will_not_make_a_field_are_told(scene, tmp_path):
    events = []
    pose = looking_at(CENTRE, CENTRE + 3.0)
    same = [dataclasses.replace(view, world_from_camera=pose) for view in scene.views]
    task(dataclasses.replace(scene, views=tuple(same)), events=events)
    assert "from one place" in events[0].message
    away = []
    for view in scene.views:
        pose = view.world_from_camera.copy()
        pose[:3, [0, 2]] *= -1.0
        away.append(dataclasses.replace(view, world_from_camera=pose))
    events.clear()
    task(dataclasses.replace(scene, views=tuple(away)), events=events)
    assert "no training view sees" in events[0].message
    for view in scene.views:
        imageio.v3.imwrite(tmp_path / view.file, np.zeros((SIZE, SIZE, 4), np.uint8))
    with pytest.raises(BadInput, match="transparent"):
        task(dataclasses.replace(scene, folder=tmp_path))


def test_samples_are_as_long_as_pixels_are_wide(scene):
    # 3 units away, a focal length of 40 pixels: far coarser than the longest step
    cameras = Cameras(scene.views, scene.field_from_world, CPU)
    assert nerf.step_length(cameras, SMALL) == nerf.LONGEST_STEP
    cameras.intrinsics[:, 0] = 600.0
    pixel = 3.0 * scene.field_from_world[0, 0] / 600.0
    assert nerf.step_length(cameras, SMALL) == pytest.approx(nerf.PIXELS_A_STEP * pixel, rel=1e-4)
    cameras.intrinsics[:, 0] = 1e5
    assert nerf.step_length(cameras, SMALL) == nerf.SHORTEST_STEP


def test_samples_of_smooth_features_are_longer(scene):
    cameras = Cameras(scene.views, scene.field_from_world, CPU)
    cameras.intrinsics[:, 0] = 1e5

    def length(sigma):
        settings = dataclasses.replace(SMALL, encoding="gaussian", sigma=sigma)
        return nerf.step_length(cameras, settings)

    # eight in a wave of 36 cycles a box
    assert length(12.0) == pytest.approx(1 / 36 / 8)
    assert length(1.0) == nerf.LONGEST_STEP
    assert length(100.0) == nerf.SHORTEST_STEP


def test_where_memory_is_full_the_batch_is_halved(scene, monkeypatch):
    events, tried = [], []
    settings = dataclasses.replace(SMALL, batch=2**15)
    trained = task(scene, settings, events)
    kernels, gathered = trained._kernels, trained.field.encoding.gradient
    render = kernels.render

    def little(field, origins, *arguments):
        tried.append(len(origins))
        if len(tried) in (2, 3):
            gathered.fill_(1e30)  # as a backward pass that fails half-way leaves it
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return render(field, origins, *arguments)

    monkeypatch.setattr(kernels, "render", little)
    train(trained, 5)
    assert len(tried) == 7
    assert tried[2] == tried[1] // 2
    assert tried[3] == tried[2] // 2
    assert trained.field.encoding.table.isfinite().all()
    assert trained.step(1.0).samples == pytest.approx(2**13, rel=0.3)
    (event,) = events
    assert isinstance(event, protocol.Warning)
    assert "the device's memory is full with 32768 samples a step" in event.message


def test_other_errors_and_the_least_batch_end_the_training(scene, monkeypatch):
    trained = task(scene, dataclasses.replace(SMALL, batch=1024))
    for error in (RuntimeError("size mismatch"), torch.OutOfMemoryError("CUDA out of memory")):
        monkeypatch.setattr(trained._kernels, "render", Mock(side_effect=error))
        with pytest.raises(RuntimeError, match=str(error)):
            trained.step(0.0)


def test_missing_images_are_a_warning(scene):
    events = []
    task(dataclasses.replace(scene, missing=("gone.png", "too.png")), events=events)
    assert [type(event) for event in events] == [protocol.Warning]
    assert "2 images" in events[0].message
    assert "gone.png" in events[0].message


def test_nothing_to_train_on(scene):
    views = tuple(dataclasses.replace(view, split="test") for view in scene.views)
    with pytest.raises(BadInput, match="none is for training"):
        task(dataclasses.replace(scene, views=views))


def test_nothing_to_evaluate(scene):
    only = dataclasses.replace(scene, views=scene.split("train"))
    field, grid, kernels = load_field(fit(SMALL, CPU), task(scene).state(), CPU)
    with pytest.raises(BadInput, match="no test views"):
        list(evaluation.compare_views(field, grid, kernels, only, only.field_from_world))


def test_without_held_out_views_there_is_a_preview_but_no_psnr(scene):
    views = tuple(view for view in scene.views if view.split == "train")
    trained = task(dataclasses.replace(scene, views=views))
    assert trained.validate() == Scores()
    truth = trained.preview()[:, SIZE:]
    image = imageio.v3.imread(scene.folder / views[0].file).astype(np.float64) / 255
    expected = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    np.testing.assert_allclose(truth / 255, expected, atol=0.003)


def test_photos_without_alpha_and_of_several_sizes(scene, tmp_path):
    views = []
    for index, view in enumerate(scene.views):
        wide = dataclasses.replace(view.intrinsics, w=SIZE + 2 * index, cx=SIZE / 2 + index, k1=0.1)
        image = ball(view.world_from_camera, wide)
        image[..., :3][image[..., 3] == 0] = 90
        imageio.v3.imwrite(tmp_path / view.file, image[..., :3])
        views.append(dataclasses.replace(view, intrinsics=wide))
    dataset = Dataset(tmp_path, tuple(views), scene.bounds)
    trained = task(dataset)
    assert trained.grid.contracted
    assert trained.grid.possible.float().mean() > 0.9
    # the ball's box takes the middle of the inner region, the cameras stand around that
    assert trained.field_from_world[0, 0] == pytest.approx(0.45 / 1.6)
    assert math.isfinite(train(trained, 3))
    assert trained.validate().ssim > 0.0
    _, grid, _ = load_field(fit(SMALL, CPU), trained.state(), CPU)
    assert torch.equal(grid.occupied, trained.grid.occupied)
    assert (grid.step, grid.reach) == (trained.grid.step, trained.grid.reach)


def test_the_relative_error_has_its_gradient_by_hand():
    predicted = torch.tensor([[2.0, 0.1, 0.0]], requires_grad=True)
    target = torch.tensor([[5.0, 0.0, 0.3]])
    (loss,) = nerf.relative_l2(predicted, target)
    scale = torch.tensor([4.01, 0.02, 0.01])
    assert loss.item() == pytest.approx(((9.0 / 4.01) + (0.01 / 0.02) + (0.09 / 0.01)) / 3)
    (gradient,) = torch.autograd.grad(loss, predicted)
    # 2 (y' - y) / scale: the scale counts as a constant, so noise of mean zero has no pull
    expected = 2.0 * torch.tensor([[-3.0, 0.1, -0.3]]) / scale / 3
    torch.testing.assert_close(gradient, expected)


def linear(folder, dataset, brightness, noise=0.0):
    """The dataset in linear light, brighter; of its training pixels a share is black for noise."""
    generator = np.random.default_rng(0)
    views = []
    for view in dataset.views:
        image = ball(view.world_from_camera, view.intrinsics).astype(np.float32) / 255
        image[..., :3] *= brightness * image[..., 3:]
        if noise and view.split == "train":
            lit = generator.random(image.shape[:2]) < 1.0 - noise
            image[..., :3] *= lit[..., None] / (1.0 - noise)
        file = f"{view.file}.exr"
        write_exr(folder / file, {name: image[..., i] for i, name in enumerate("RGBA")})
        views.append(dataclasses.replace(view, file=file))
    return dataclasses.replace(dataset, folder=folder, views=tuple(views))


def test_noise_averages_out_in_linear_light(scene, tmp_path):
    """Of the pixels one half is black and the other twice too bright, up to 3."""
    dataset = linear(tmp_path, scene, brightness=1.5, noise=0.5)
    settings = fit(dataclasses.replace(SMALL, batch=8192), CPU)
    trained = task(dataset, settings)
    assert trained.field.linear
    train(trained, 150)
    field, grid, kernels = load_field(settings, trained.state(), CPU)
    (view, _), (truth, _) = dataset.split("test"), load_views(dataset, "test").pixels.split(SIZE**2)
    cameras = Cameras([view], dataset.field_from_world, CPU)
    y, x = torch.meshgrid(*[torch.arange(SIZE) + 0.5] * 2, indexing="ij")
    first = torch.zeros(SIZE**2, dtype=torch.int64)
    rays = cameras.rays(first, x.reshape(-1), y.reshape(-1))
    colour, _ = kernels.render(field, *rays, volume.march(*rays, grid, kernels))
    # neither the dark ones win, as with an absolute error or one relative to the target, nor the
    # bright ones, as with a gradient through the denominator
    inside = truth[:, 3] == 1.0
    mean = float(colour.detach()[inside].mean())
    assert mean == pytest.approx(float(truth[inside, :3].mean()), rel=0.25)
    assert trained.preview().dtype == np.uint8


def test_light_brighter_than_white_is_learned(scene, tmp_path):
    settings = fit(dataclasses.replace(SMALL, batch=8192), CPU)
    trained = task(linear(tmp_path, scene, brightness=20.0), settings)
    train(trained, 500)
    field, grid, kernels = load_field(settings, trained.state(), CPU)
    # the ball's highest point, whose normal is blue, seen from above: 10, 10, 20
    ray = torch.tensor([[0.5, 0.5, 2.0]]), torch.tensor([[0.0, 0.0, -1.0]])
    colour, _ = kernels.render(field, *ray, volume.march(*ray, grid, kernels))
    assert min(colour[0].tolist()) > 5.0
    assert colour[0, 2].item() > 12.0


def test_weights_of_another_light_are_refused(scene, tmp_path):
    state = task(linear(tmp_path, scene, brightness=1.0)).state()
    with pytest.raises(ValueError, match="the images are sRGB, its colours linear light"):
        task(scene).load_state(state)


def test_a_dataset_on_disk(scene):
    transforms.write(scene)
    read = transforms.read(scene.folder)
    trained = task(read)
    assert trained.views == 12
    np.testing.assert_allclose(trained.field_from_world, scene.field_from_world)
