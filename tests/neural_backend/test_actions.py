"""What runs of each kind are asked, on fields that were not trained."""

import dataclasses
import pathlib

import numpy as np
import pytest
import torch

from neural_backend import actions, kernels, voxels
from neural_backend.config import TrainingSettings
from neural_backend.fields.radiance import RadianceField
from neural_backend.protocol import BadInput
from neural_backend.sampling.occupancy import full_grid
from neural_backend.training import run as runs
from neural_backend.training.fitting import fit
from neural_backend.training.run import OpenRun

CPU = torch.device("cpu")


@pytest.fixture
def nerf(monkeypatch):
    """An untrained radiance field's run, in a world ten times the unit box."""
    settings = TrainingSettings(levels=2, coarsest=4, finest=8, log2_table_size=8, device="cpu")
    settings = fit(settings, CPU)
    used = kernels.choose(CPU)
    field_from_world = np.diag([0.1, 0.1, 0.1, 1.0])
    field_from_world[:3, 3] = 0.5
    opened = OpenRun(
        settings,
        pathlib.Path("nowhere"),
        field_from_world,
        RadianceField(settings, used),
        full_grid(8, 1e-2, CPU),
        used,
        CPU,
    )
    monkeypatch.setattr(runs, "open_run", lambda folder: opened)
    return opened


def test_a_radiance_field_has_no_passes(nerf, tmp_path):
    with pytest.raises(BadInput, match="no depth and normals; leave out --passes"):
        actions.render("the run", "cameras.json", str(tmp_path / "out"), passes=True)
    assert not (tmp_path / "out").exists()


def test_a_radiance_field_becomes_a_volume(nerf, tmp_path):
    file = tmp_path / "made" / "volume.npz"
    # all of it is thin fog
    count = actions.volume_file("the run", str(file), 16)
    found = voxels.read(file)
    assert len(found.index) == count == 16**3
    middle = found.world_from_index @ [7.5, 7.5, 7.5, 1.0]
    np.testing.assert_allclose(middle, [0.0, 0.0, 0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(found.world_from_index[0, 0], 10.0 / 16.0)


def test_a_signed_distance_has_no_volume(nerf, tmp_path, monkeypatch):
    opened = dataclasses.replace(nerf, field=torch.nn.Identity(), grid=None)
    monkeypatch.setattr(runs, "open_run", lambda folder: opened)
    with pytest.raises(BadInput, match="no density to make a volume of; extract its mesh"):
        actions.volume_file("the run", str(tmp_path / "volume.npz"), 16)
