"""The knobs: declared once, in order, within their ranges."""

import dataclasses
import math

import pytest

from neural_backend import config
from neural_backend.config import GROUPS, RigSettings, TrainingSettings


@pytest.mark.parametrize("group", GROUPS.values(), ids=GROUPS)
def test_every_knob_has_a_help_and_a_default_in_its_range(group):
    assert config.check(group()) == ""
    for knob in config.knobs(group):
        assert knob.help[0].isupper() or ":" in knob.help
        assert not knob.help.endswith(".")
        if knob.type in (int, float):
            assert knob.low is not None
            assert knob.high is not None
            assert knob.low < knob.high
        if knob.choices:
            assert knob.default in knob.choices
            assert knob.type is str


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"max_seconds": math.nan}, "max_seconds"),
        ({"max_seconds": math.inf}, "max_seconds"),
        ({"max_seconds": -1.0}, "at least 0"),
        ({"log2_table_size": 40}, "at most 24"),
        ({"levels": 2.5}, "whole number"),
        ({"levels": "8"}, "number"),
        ({"levels": True}, "number"),
        ({"encoding": "hsah"}, "choose one of hash"),
        ({"encoding": []}, "choose one of hash"),
        ({"view_direction": 1}, "bool"),
    ],
)
def test_wrong_values_are_told_in_one_line(change, said):
    problem = config.check(dataclasses.replace(TrainingSettings(), **change))
    assert said in problem
    assert next(iter(change)) in problem
    assert "\n" not in problem


def test_settings_come_back_from_json():
    settings = RigSettings(kind="orbit", views=12)
    assert config.from_dict(RigSettings, dataclasses.asdict(settings)) == settings
    assert config.from_dict(RigSettings, {}) == RigSettings()
    with pytest.raises(ValueError, match="another version"):
        config.from_dict(RigSettings, {"veiws": 3})
    with pytest.raises(ValueError, match="views"):
        config.from_dict(RigSettings, {"views": -1})
