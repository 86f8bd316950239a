"""Checkpoints: there and back, and what is not one."""

import pytest
import safetensors.torch
import torch

from neural_backend.protocol import BadInput
from neural_backend.training import checkpoint
from neural_backend.training.checkpoint import Header


def test_there_and_back(tmp_path):
    state = {"field.a": torch.randn(3, 4).t(), "count": torch.tensor([7], dtype=torch.int64)}
    header = Header(12, 3.5, True, 27.0)
    checkpoint.save(tmp_path / "c.safetensors", state, header)
    read, read_header = checkpoint.load(tmp_path / "c.safetensors")
    assert read_header == header
    assert {name: value.tolist() for name, value in read.items()} == {
        name: value.tolist() for name, value in state.items()
    }


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"neural_fields": "no json"},
        {"neural_fields": "[" * 100_000},
        {"neural_fields": "[]"},
        {"neural_fields": '{"version": 1}'},
        {"neural_fields": '{"version": 1, "step": 1, "seconds": "x", "finished": true}'},
        {"neural_fields": '{"version": 1, "step": -1, "seconds": 0, "finished": true}'},
        {"neural_fields": '{"version": 1, "step": 1, "seconds": NaN, "finished": true}'},
    ],
)
def test_files_of_others_are_refused(tmp_path, metadata):
    path = tmp_path / "c.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(2)}, path, metadata)
    with pytest.raises(BadInput, match="not a checkpoint of Neural Fields"):
        checkpoint.load(path)


@pytest.mark.parametrize("data", [b"", b"\x80\x04K\x01.", b"\xff" * 64, b"\x08" + b"\0" * 40])
def test_damaged_files_are_refused(tmp_path, data):
    path = tmp_path / "c.safetensors"
    path.write_bytes(data)
    with pytest.raises(BadInput, match="damaged"):
        checkpoint.load(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": torch.zeros(1000)}, Header(1, 1.0, False))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="damaged"):
        checkpoint.load(path)


def test_a_failed_save_keeps_the_last_one(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": torch.zeros(2)}, Header(1, 1.0, False))

    def full(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(BadInput, match="No space left"):
        checkpoint.save(path, {"a": torch.ones(2)}, Header(2, 2.0, False))
    assert checkpoint.load(path)[1].step == 1
    assert [each.name for each in tmp_path.iterdir()] == ["c.safetensors"]
