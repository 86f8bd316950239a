import dataclasses
import threading
import time

import imageio.v3
import numpy as np
import pytest
import torch

from neural_backend.dataset import images
from neural_backend.dataset.transforms import Dataset, Intrinsics, View
from neural_backend.protocol import BadInput

from .test_exr import write as write_exr


def dataset(folder, *views):
    bounds = np.array([[-1.0] * 3, [1.0] * 3])
    listed = [View(name, np.eye(4), Intrinsics(w, h, 5, 5, w / 2, h / 2)) for name, w, h in views]
    return Dataset(folder, tuple(listed), bounds)


def test_views_of_different_sizes_and_kinds(tmp_path):
    rgba = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    grey = np.full((1, 2), 77, np.uint8)
    imageio.v3.imwrite(tmp_path / "a.png", rgba)
    imageio.v3.imwrite(tmp_path / "b.png", rgba[..., :3])
    imageio.v3.imwrite(tmp_path / "c.png", grey)
    data = dataset(tmp_path, ("a.png", 3, 2), ("b.png", 3, 2), ("c.png", 2, 1))
    loaded = images.load_views(data, "train")
    assert loaded.offsets.tolist() == [0, 6, 12, 14]
    np.testing.assert_array_equal(loaded.image(0), rgba)
    np.testing.assert_array_equal(loaded.image(1)[..., :3], rgba[..., :3])
    assert (loaded.image(1)[..., 3] == 255).all()
    assert loaded.image(2).tolist() == [[[77, 77, 77, 255]] * 2]


def test_a_palette_becomes_its_colours(tmp_path):
    image = pytest.importorskip("PIL.Image").new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png")
    assert images.read_image(tmp_path / "a.png").tolist() == [[[10, 20, 30, 255]] * 2]


def test_sixteen_bits_become_eight(tmp_path):
    grey = np.array([[0, 257 * 100, 65535]], np.uint16)
    imageio.v3.imwrite(tmp_path / "a.png", grey)
    assert images.read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_linear_light_stays_as_it_is_in_the_file(tmp_path, kind):
    """Above 1, below 0, premultiplied; a screen shows it as sRGB on white."""
    colour = np.array([[0.0, 0.0031308, 0.2159, 1.0, 5000.3, -0.01, 0.25, 0.0]], kind)
    alpha = np.array([[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.0]], kind)
    write_exr(tmp_path / "a.exr", {"R": colour, "G": colour, "B": colour, "A": alpha})
    assert images.image_size(tmp_path / "a.exr") == (8, 1)
    loaded = images.load_views(dataset(tmp_path, ("a.exr", 8, 1)), "train")
    assert loaded.linear
    assert not loaded.opaque
    assert loaded.pixels.numpy().dtype == kind
    np.testing.assert_array_equal(loaded.pixels[:, 1], colour[0])
    np.testing.assert_array_equal(loaded.pixels[:, 3], alpha[0])
    np.testing.assert_array_equal(images.premultiplied(loaded.pixels)[:, 2], colour[0])
    shown = loaded.on_white(loaded.image(0))[0, :, 0]
    expected = [0, 12.92 * 0.0031308, 128 / 255, 1, 1, 0, 0.5 * 188 / 255 + 0.5, 1]
    np.testing.assert_allclose(shown, expected, atol=1e-3)


def test_eight_bits_are_srgb_with_straight_alpha(tmp_path):
    rgba = np.array([[[100, 200, 40, 255], [100, 200, 40, 51], [9, 9, 9, 0]]], np.uint8)
    imageio.v3.imwrite(tmp_path / "a.png", rgba)
    loaded = images.load_views(dataset(tmp_path, ("a.png", 3, 1)), "train")
    assert not loaded.linear
    assert loaded.pixels.dtype == torch.uint8
    alpha = rgba[..., 3:] / 255.0
    premultiplied = images.premultiplied(loaded.image(0))
    np.testing.assert_allclose(premultiplied[..., :3], rgba[..., :3] / 255 * alpha, atol=1e-6)
    shown = loaded.on_white(loaded.image(0))
    np.testing.assert_allclose(shown, rgba[..., :3] / 255 * alpha + 1 - alpha, atol=1e-6)
    opaque = images.Images(loaded.views, loaded.pixels[:1], loaded.offsets)
    assert opaque.opaque
    assert not loaded.opaque


def test_one_split_is_in_one_light(tmp_path):
    channels = {name: np.full((1, 1), 0.1, np.float16) for name in "RGB"}
    write_exr(tmp_path / "half.exr", channels)
    write_exr(tmp_path / "full.exr", {n: each.astype(np.float32) for n, each in channels.items()})
    imageio.v3.imwrite(tmp_path / "a.png", np.zeros((1, 1, 3), np.uint8))
    mixed = dataset(tmp_path, ("half.exr", 1, 1), ("a.png", 1, 1))
    with pytest.raises(BadInput, match=r"a\.png: 8-bit sRGB, but the images before it are linear"):
        images.load_views(mixed, "train")
    both = dataset(tmp_path, ("half.exr", 1, 1), ("full.exr", 1, 1), ("half.exr", 1, 1))
    pixels = images.load_views(both, "train").pixels
    assert pixels.dtype == torch.float32
    np.testing.assert_array_equal(pixels[:, 0], np.full(3, np.float16(0.1)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_pixels_are_named(tmp_path, value):
    pixels = np.ones((4, 4), np.float32)
    pixels[1, 2] = value
    write_exr(tmp_path / "a.exr", {"R": pixels, "G": pixels, "B": pixels})
    with pytest.raises(BadInput, match=r"a\.exr: holds NaN"):
        images.load_views(dataset(tmp_path, ("a.exr", 4, 4)), "train")


def test_fireflies_are_no_brighter_than_a_half_float(tmp_path):
    pixels = np.full((4, 4), 1e30, np.float32)
    write_exr(tmp_path / "a.exr", {"R": pixels, "G": pixels, "B": pixels})
    loaded = images.load_views(dataset(tmp_path, ("a.exr", 4, 4)), "train")
    assert loaded.pixels[..., :3].float().max() == 65504.0


def test_damaged_images_are_named(tmp_path):
    path = tmp_path / "a.png"
    imageio.v3.imwrite(path, np.zeros((40, 40, 3), np.uint8))
    whole = path.read_bytes()
    for damage in (b"", b"no image", whole[: len(whole) // 2]):
        path.write_bytes(damage)
        with pytest.raises(BadInput, match=r"a\.png: [^\n]+;[^\n]+$"):
            images.load_views(dataset(tmp_path, ("a.png", 40, 40)), "train")
    path.write_bytes(b"")
    with pytest.raises(BadInput, match="empty image"):
        images.read_image(path)
    with pytest.raises(BadInput, match=r"a\.png"):
        images.image_size(path)


def test_another_size_than_the_json_says(tmp_path):
    imageio.v3.imwrite(tmp_path / "a.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(BadInput, match=r"a\.png: 6 x 4 pixels, but the json's w, h say 4 x 6"):
        images.load_views(dataset(tmp_path, ("a.png", 4, 6)), "train")
    assert images.image_size(tmp_path / "a.png") == (6, 4)


def test_few_views_are_spread_evenly(tmp_path):
    for index in range(9):
        imageio.v3.imwrite(tmp_path / f"{index}.png", np.full((1, 1), index, np.uint8))
    data = dataset(tmp_path, *((f"{index}.png", 1, 1) for index in range(9)))
    few = images.load_views(data, "train", 3)
    assert few.pixels[:, 0].tolist() == [1, 4, 7]
    assert len(images.load_views(data, "train", 20).views) == 9
    assert len(images.load_views(data, "val").views) == 0


def test_images_are_read_side_by_side_and_an_error_ends_it(tmp_path, monkeypatch):
    names = [f"{index}.png" for index in range(300)]
    data = dataset(tmp_path, *((name, 1, 1) for name in names))
    read, together = [], []

    def one(path):
        read.append(path.stem)
        together.append(threading.active_count())
        time.sleep(0.002)
        if path.stem == "3":
            raise BadInput("3.png: broken; mend it")
        return np.full((1, 1, 4), int(path.stem) % 200, np.uint8)

    monkeypatch.setattr(images, "read_image", one)
    with pytest.raises(BadInput, match="broken"):
        images.load_views(data, "train")
    assert len(read) < 250
    few = dataclasses.replace(data, views=data.views[4:104])
    assert images.load_views(few, "train").pixels[:, 0].tolist() == list(range(4, 104))
    assert max(together) > threading.active_count()
