"""The file of voxels: the same comes back, and what is damaged is told in one line."""

import numpy as np
import pytest

from neural_backend import voxels
from neural_backend.protocol import BadInput


def some():
    index = np.array([[1, 2, 3], [500, 0, 7]], "u2")
    matrix = np.diag([0.1, 0.1, 0.1, 1.0])
    return voxels.Voxels(index, np.array([0.5, 4.0], "f2"), np.ones((2, 3), "f2"), matrix)


def test_what_is_written_is_read(tmp_path):
    voxels.write(tmp_path / "volume.npz", some())
    assert [path.name for path in tmp_path.iterdir()] == ["volume.npz"]
    read = voxels.read(tmp_path / "volume.npz")
    assert voxels.is_ours(tmp_path / "volume.npz")
    for name in ("index", "density", "color", "world_from_index"):
        np.testing.assert_array_equal(getattr(read, name), getattr(some(), name))


@pytest.mark.parametrize(
    "changes",
    [
        {"index": np.zeros((2, 3))},
        {"index": np.zeros((2, 2), "u2")},
        {"density": np.zeros(3, "f2")},
        {"color": np.array([None, None])},
        {"world_from_index": np.full((4, 4), np.nan)},
    ],
)
def test_a_hostile_file_is_refused(tmp_path, changes):
    path = tmp_path / "volume.npz"
    arrays = {name: getattr(some(), name) for name in some().__dataclass_fields__}
    np.savez(path, **arrays | changes)
    with pytest.raises(BadInput, match=r"volume\.npz: .*not a volume that can be read"):
        voxels.read(path)


def test_another_s_file_is_told_from_ours(tmp_path):
    np.savez(tmp_path / "other.npz", density=np.zeros(3))
    (tmp_path / "text.npz").write_text("mine")
    for name in ("other.npz", "text.npz", "gone.npz"):
        assert not voxels.is_ours(tmp_path / name)


def test_a_damaged_or_absent_file_is_refused(tmp_path):
    path = tmp_path / "volume.npz"
    voxels.write(path, some())
    whole = path.read_bytes()
    for part in (b"", b"nothing of the kind", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(part)
        with pytest.raises(BadInput, match="not a volume that can be read"):
            voxels.read(path)
    with pytest.raises(BadInput, match="not a volume that can be read"):
        voxels.read(tmp_path / "none.npz")
