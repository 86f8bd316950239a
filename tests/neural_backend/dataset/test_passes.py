import dataclasses

import imageio.v3
import numpy as np
import pytest

from neural_backend.dataset import exr, passes, transforms
from neural_backend.protocol import BadInput

VIEW = transforms.View(
    "images/0001.png",
    np.eye(4),
    transforms.Intrinsics(5, 3, 4.0, 4.0, 2.5, 1.5),
    depth="depth/0001.exr",
    normal="normal/0001.exr",
    mask="mask/0001.png",
)


@pytest.fixture
def dataset(tmp_path):
    for name in ("images", "depth", "normal", "mask"):
        (tmp_path / name).mkdir()
    imageio.v3.imwrite(tmp_path / VIEW.file, np.zeros((3, 5, 4), np.uint8))
    return transforms.Dataset(tmp_path, (VIEW,), np.array([[0.0] * 3, [1.0] * 3]))


def test_depth_is_read_as_it_was_written(dataset):
    depth = np.linspace(0.0, 7.0, 15, dtype=np.float32).reshape(3, 5)
    exr.write(dataset.folder / VIEW.depth, {"Y": depth})
    np.testing.assert_array_equal(passes.read_depth(dataset, VIEW), depth)
    scaled = dataclasses.replace(dataset, depth_unit=2.0)
    np.testing.assert_array_equal(passes.read_depth(scaled, VIEW), 2.0 * depth)


def test_no_depth_is_zero_and_no_number_stays_none(dataset):
    depth = np.ones((3, 5), np.float32)
    depth[0, :3] = np.inf, -1.0, np.nan
    exr.write(dataset.folder / VIEW.depth, {"Y": depth})
    found = passes.read_depth(dataset, VIEW)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], [np.inf, 0.0, np.nan, 1.0, 1.0])


def test_millimetres_of_others(dataset):
    """nerfstudio's 16-bit images."""
    view = dataclasses.replace(VIEW, depth="depth/0001.png")
    depth = np.arange(15, dtype=np.uint16).reshape(3, 5) * 4000
    imageio.v3.imwrite(dataset.folder / view.depth, depth)
    found = passes.read_depth(dataclasses.replace(dataset, depth_unit=0.001), view)
    np.testing.assert_allclose(found, depth / 1000.0, rtol=1e-6)


def test_normals_are_of_length_one_or_zero(dataset):
    normal = np.zeros((3, 5, 3))
    normal[0] = [0.36, 0.48, 0.8]
    normal[1] = [0.0, -1.001, 0.0]
    normal[2, 0] = [np.inf, 0.0, 0.0]
    channels = dict(zip("RGB", np.moveaxis(normal, -1, 0).astype(np.float16), strict=True))
    exr.write(dataset.folder / VIEW.normal, channels)
    found = passes.read_normal(dataset, VIEW)
    assert found.shape == (3, 5, 3)
    np.testing.assert_allclose(np.linalg.norm(found[:2], axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(found[0], normal[0], atol=1e-3)
    assert np.isnan(found[2, 0]).all()
    assert not found[2, 1:].any()


def test_a_mask_is_where_it_is_not_black(dataset):
    mask = np.zeros((3, 5), np.uint8)
    mask[1, 2] = 255
    imageio.v3.imwrite(dataset.folder / VIEW.mask, mask)
    np.testing.assert_array_equal(passes.read_mask(dataset, VIEW), mask > 0)


def test_refuses_in_one_line(dataset):
    for read in (passes.read_depth, passes.read_normal, passes.read_mask):
        with pytest.raises(BadInput, match=r"0001\.\w+: not a readable image"):
            read(dataset, VIEW)
    exr.write(dataset.folder / VIEW.depth, {"Y": np.ones((2, 5), np.float32)})
    with pytest.raises(BadInput, match=r"depth.0001\.exr: 5 x 2 pixels, but the view has 5 x 3"):
        passes.read_depth(dataset, VIEW)
    exr.write(dataset.folder / VIEW.normal, {"Y": np.ones((3, 5), np.float32)})
    with pytest.raises(BadInput, match="1 channels; 3 are needed"):
        passes.read_normal(dataset, VIEW)


def test_the_json_keeps_them(dataset):
    for name in (VIEW.depth, VIEW.normal, VIEW.mask):
        (dataset.folder / name).touch()
    transforms.write(dataclasses.replace(dataset, depth_unit=0.5))
    found = transforms.read(dataset.folder)
    assert found.depth_unit == 0.5
    (view,) = found.views
    assert (view.depth, view.normal, view.mask) == (VIEW.depth, VIEW.normal, VIEW.mask)
    (dataset.folder / VIEW.normal).unlink()
    (view,) = transforms.read(dataset.folder).views
    assert (view.depth, view.normal, view.mask) == (VIEW.depth, None, VIEW.mask)
