import struct
import zlib

import numpy as np
import pytest

from neural_backend.dataset import exr


def write(path, channels, compression=3, line_chunk=16):
    """An OpenEXR file of channels {name: [H, W]}, float16 or not, by the format's description."""
    names = sorted(channels)
    height, width = channels[names[0]].shape

    def attribute(name, kind, value):
        return name.encode() + b"\0" + kind.encode() + b"\0" + struct.pack("<i", len(value)) + value

    kinds = {name: 1 if channels[name].dtype == np.float16 else 2 for name in names}
    listed = b"".join(n.encode() + b"\0" + struct.pack("<iiii", kinds[n], 0, 1, 1) for n in names)
    listed += b"\0"
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    header = struct.pack("<ii", 20000630, 2)
    header += attribute("channels", "chlist", listed)
    header += attribute("compression", "compression", bytes([compression]))
    header += attribute("dataWindow", "box2i", box) + attribute("displayWindow", "box2i", box)
    header += attribute("lineOrder", "lineOrder", b"\0") + b"\0"
    chunks = []
    for first in range(0, height, line_chunk):
        raw = b"".join(
            channels[n][row].astype("<f2" if kinds[n] == 1 else "<f4").tobytes()
            for row in range(first, min(first + line_chunk, height))
            for n in names
        )
        packed = raw
        if compression:
            flat = np.frombuffer(raw, np.uint8)
            halves = np.concatenate([flat[0::2], flat[1::2]])
            delta = halves.copy()
            delta[1:] = halves[1:] - halves[:-1] + np.uint8(128)
            packed = zlib.compress(delta.tobytes())
            packed = raw if len(packed) >= len(raw) else packed
        chunks.append(struct.pack("<ii", first, len(packed)) + packed)
    at = len(header) + 8 * len(chunks)
    offsets = b""
    for chunk in chunks:
        offsets += struct.pack("<Q", at)
        at += len(chunk)
    path.write_bytes(header + offsets + b"".join(chunks))


def channels(height=21, width=5, names="RGBA"):
    x = np.linspace(0, 2, height * width).reshape(height, width)
    return {name: (x + index).astype(np.float32) for index, name in enumerate(names)}


@pytest.mark.parametrize(("compression", "lines"), [(0, 1), (2, 1), (3, 16)])
def test_reads_what_was_written(tmp_path, compression, lines):
    pixels = channels()
    write(tmp_path / "a.exr", pixels, compression, lines)
    image = exr.read(tmp_path / "a.exr")
    np.testing.assert_array_equal(image, np.stack([pixels[name] for name in "RGBA"], -1))


def test_halves_stay_halves(tmp_path):
    pixels = {name: value.astype(np.float16) for name, value in channels().items()}
    write(tmp_path / "a.exr", pixels)
    image = exr.read(tmp_path / "a.exr")
    assert image.dtype == np.float16
    np.testing.assert_array_equal(image, np.stack([pixels[name] for name in "RGBA"], -1))
    write(tmp_path / "a.exr", pixels | {"A": channels()["A"]})
    assert exr.read(tmp_path / "a.exr").dtype == np.float32


@pytest.mark.parametrize("height", [1, 16, 21])
def test_writes_what_it_reads(tmp_path, height):
    pixels = channels(height)
    pixels["G"] = pixels["G"].astype(np.float16)
    noise = np.random.default_rng(0).integers(0, 2**31, (height, 5))
    pixels["R"] = noise.astype(np.uint32).view(np.float32)[:, :5]  # does not become shorter
    exr.write(tmp_path / "a.exr", pixels)
    assert exr.is_whole(tmp_path / "a.exr")
    assert exr.size(tmp_path / "a.exr") == (5, height)
    found = exr.read_channels(tmp_path / "a.exr")
    assert list(found) == ["A", "B", "G", "R"]
    for name, value in pixels.items():
        assert found[name].dtype == value.dtype
        assert found[name].tobytes() == np.ascontiguousarray(value).tobytes()


def test_says_who_wrote_it(tmp_path):
    pixels = channels()
    for name, said in (("a.exr", ()), ("b.exr", ("Näme 1.0",))):
        exr.write(tmp_path / name, pixels, *said)
        assert exr.software(tmp_path / name) == "".join(said)
        assert exr.is_whole(tmp_path / name)
    (tmp_path / "c.exr").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match="not an OpenEXR image"):
        exr.software(tmp_path / "c.exr")


def test_takes_the_layer_with_colours(tmp_path):
    pixels = channels(names="RGB")
    layers = {f"ViewLayer.Combined.{name}": value for name, value in pixels.items()}
    write(tmp_path / "a.exr", layers | {"Depth.Z": pixels["R"]})
    image = exr.read(tmp_path / "a.exr")
    np.testing.assert_array_equal(image, np.stack([pixels[name] for name in "RGB"], -1))


def test_refuses_in_one_line(tmp_path):
    path = tmp_path / "a.exr"
    write(path, channels())
    whole = path.read_bytes()
    for damaged in (b"", b"png", whole[:40], whole[:200], whole[:-10], whole[:8] + b"\xff" * 90):
        path.write_bytes(damaged)
        assert not exr.is_whole(path)
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            exr.read(path)
    path.write_bytes(whole)
    assert exr.is_whole(path)
    assert exr.size(path) == (5, 21)
    path.unlink()
    assert not exr.is_whole(path)
    write(path, {"X": channels()["R"], "Y": channels()["G"]})
    with pytest.raises(ValueError, match="no channels"):
        exr.read(path)
