"""What the settings leave open follows from the device and the time."""

import dataclasses
import itertools
import typing

import pytest
import torch

from neural_backend import config
from neural_backend.config import PRESET_SECONDS, TrainingSettings
from neural_backend.training import fitting
from neural_backend.training.fitting import fit

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
USED = {
    "hash": {"levels", "log2_table_size", "finest", "coarsest"},
    "gaussian": {"frequencies", "sigma"},
    "positional": {"frequencies"},
    "basic": set(),
    "none": set(),
}


@pytest.mark.parametrize("device", [CPU, CUDA, MPS], ids=str)
@pytest.mark.parametrize("encoding", USED)
def test_nothing_that_is_used_stays_open(device, encoding):
    unused = set().union(*USED.values()) - USED[encoding]
    for field, preset in itertools.product(
        typing.get_args(config.FieldKind), typing.get_args(config.Preset)
    ):
        settings = TrainingSettings(field=field, encoding=encoding, preset=preset)
        fitted = fit(settings, device)
        assert config.check(fitted) == ""
        assert {name for name in fitting.FITTED if not getattr(fitted, name)} == unused
        assert fit(fitted, device) == fitted
        opened = dataclasses.replace(fitted, **dict.fromkeys(fitting.FITTED, 0))
        assert opened == settings, "nothing else is touched"


def test_all_that_say_0_for_what_fits_are_fitted():
    said = {
        knob.name
        for knob in config.knobs(TrainingSettings)
        if "; 0 fits" in knob.help or "; 0 takes" in knob.help
    }
    assert said == set(fitting.FITTED)


def test_what_is_given_wins():
    settings = TrainingSettings(preset="best", max_seconds=7.0, levels=3, batch=100, finest=64)
    fitted = fit(settings, CUDA)
    assert (fitted.max_seconds, fitted.levels, fitted.batch, fitted.finest) == (7.0, 3, 100, 64)


def test_more_time_and_a_faster_device_make_no_smaller_field():
    def size(device, seconds):
        fitted = fit(TrainingSettings(max_seconds=seconds), device)
        return fitted.levels * 2**fitted.log2_table_size

    for device in (CPU, CUDA):
        sizes = [size(device, seconds) for seconds in PRESET_SECONDS[device.type].values()]
        assert sizes == sorted(sizes)
    assert size(CUDA, 60.0) > size(CPU, 60.0)


def test_fourier_features_of_radiance_are_few_on_a_cpu_and_the_paper_s_on_a_gpu():
    def size(device, field):
        fitted = fit(TrainingSettings(field=field, encoding="gaussian"), device)
        return fitted.frequencies, fitted.hidden_layers, fitted.width

    assert size(CPU, "nerf") < size(CUDA, "nerf") == (256, 4, 256)
    assert size(CPU, "sdf") == (256, 4, 256)


def test_the_time_counts_not_the_preset_s_name():
    short = fit(TrainingSettings(preset="best", max_seconds=30.0), CPU)
    preview = fit(TrainingSettings(preset="preview"), CPU)
    assert dataclasses.replace(short, preset="preview") == preview
    assert [PRESET_SECONDS["cpu"][name] for name in ("preview", "standard")] == [30.0, 120.0]


def test_larger_views_have_finer_cells() -> None:
    finest = [fit(TrainingSettings(), CPU, pixels).finest for pixels in (0, 100, 400, 800, 8000)]
    assert finest == [1024, 512, 1024, 2048, 2048]
    assert fit(TrainingSettings(finest=300), CPU, 800).finest == 300
