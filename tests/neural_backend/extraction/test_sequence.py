"""Image sequences: names, pixels, and folders that cannot be written."""

import imageio.v3
import numpy as np
import pytest

from neural_backend.dataset import exr
from neural_backend.dataset.transforms import Intrinsics, View
from neural_backend.extraction import sequence
from neural_backend.protocol import BadInput

INTRINSICS = Intrinsics(4, 3, 4.0, 4.0, 2.0, 1.5)


def views(*files):
    return [View(file, np.eye(4), INTRINSICS) for file in files]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a/0007.png", "b/0009.png"], ["0007.png", "0009.png"]),
        (["shot", "shot.v2"], ["0001.png", "0002.png"]),
        (["one/a.png", "two/A.png"], ["0001.png", "0002.png"]),
        (["../../..", "x"], ["0001.png", "0002.png"]),
        (["c:evil", "x"], ["0001.png", "0002.png"]),
    ],
)
def test_names_come_from_the_frames_where_they_are_plain_and_differ(files, names):
    assert sequence.names(views(*files)) == names


def test_pictures_are_straight_alpha_in_8_bits(tmp_path):
    picture = np.zeros((3, 4, 4), np.float32)
    picture[0, 0] = (1.0, 0.5, 0.0, 0.25)
    picture[1, 1] = (2.0, -1.0, 0.0, 1.0)
    done = list(sequence.write(tmp_path / "out", views("a.png"), lambda view: picture))
    assert done == [tmp_path / "out" / "a.png"]
    read = imageio.v3.imread(done[0])
    assert read.shape == (3, 4, 4)
    assert read[0, 0].tolist() == [255, 128, 0, 64]
    assert read[1, 1].tolist() == [255, 0, 0, 255]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(BadInput, match="out: cannot be written"):
        list(sequence.write(tmp_path / "out", views("a.png"), lambda view: np.zeros((3, 4, 4))))


def test_only_pictures_of_our_making_are_replaced(tmp_path):
    def write(value):
        picture = np.full((3, 4, 4), value, np.float32)
        return list(sequence.write(tmp_path, views("a.png", "b.png"), lambda view: picture))

    write(0.0)
    done = write(1.0)
    assert imageio.v3.imread(done[0]).min() == 255
    imageio.v3.imwrite(tmp_path / "b.png", np.zeros((3, 4, 3), np.uint8))
    before = (tmp_path / "b.png").read_bytes()
    with pytest.raises(BadInput, match=r"holds b\.png, which Neural Fields did not write"):
        write(0.5)
    assert (tmp_path / "b.png").read_bytes() == before
    assert imageio.v3.imread(done[0]).min() == 255


def test_passes_of_others_are_not_replaced(tmp_path):
    """A dataset has its depth where a sequence in its folder would have its own."""
    depth, normal = np.ones((3, 4), np.float32), np.ones((3, 4, 3), np.float32)

    def write(folder):
        picture = np.zeros((3, 4, 4), np.float32)
        passes = lambda view: (depth, normal)  # noqa: E731
        return list(sequence.write(folder, views("a.png"), lambda view: picture, passes))

    for kind, save, values in (
        ("depth", exr.write_depth, depth),
        ("normal", exr.write_normal, normal),
    ):
        folder = tmp_path / kind
        write(folder)
        write(folder)
        file = folder / kind / "a.exr"
        save(file, values * 2)
        (folder / "a.png").unlink()
        before = file.read_bytes()
        with pytest.raises(BadInput, match=r"holds a\.exr, which Neural Fields did not write"):
            write(folder)
        assert file.read_bytes() == before
        assert not (folder / "a.png").exists()
        file.write_bytes(b"no image at all")
        with pytest.raises(BadInput, match=r"holds a\.exr"):
            write(folder)
