"""PNGs of the live view: there and back, and as others read them."""

import io

import imageio.v3
import numpy as np
import pytest

from neural_backend import png


def picture(h=5, w=3):
    return np.random.default_rng(0).integers(0, 256, (h, w, 4), np.uint8)


def test_there_and_back():
    for shape in ((5, 3), (1, 1), (270, 480)):
        pixels = picture(*shape)
        data = png.encode(pixels)
        assert np.array_equal(png.decode(data), pixels)
        assert np.array_equal(imageio.v3.imread(io.BytesIO(data)), pixels)


def test_what_is_not_ours_or_damaged_is_refused():
    data = png.encode(picture(64, 64))
    stranger = io.BytesIO()
    imageio.v3.imwrite(stranger, np.tile(np.arange(64, dtype=np.uint8), (64, 1)), extension=".png")
    large = data.replace((64).to_bytes(4, "big") * 2, (1 << 20).to_bytes(4, "big") * 2)
    for wrong in (b"", b"GIF", data[:20], data[:-2000], stranger.getvalue(), large, data[:8] * 9):
        with pytest.raises(ValueError, match="PNG"):
            png.decode(wrong)
