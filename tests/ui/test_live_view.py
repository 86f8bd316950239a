"""The live view's numbers, axes and panel; what is drawn is looked at in a real window."""

from __future__ import annotations

from types import SimpleNamespace

import bpy
import numpy as np
import pytest
from neural_fields.neural_backend.protocol import Progress, RunFolder, Started
from neural_fields.operators import live
from neural_fields.ui import live_view

from .test_panels import Layout

pytestmark = pytest.mark.usefixtures("registered")
PROGRESS = Progress(1234, 0, 60.0, 120.0, 0.00123, 80.0, 2.5e6, 27.31, 0.9)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (16.1, 27.9, [20.0, 25.0]),
        (20.0, 23.0, [20.0, 21.0, 22.0, 23.0]),
        (24.98, 25.5, [25.0, 25.2, 25.4]),
        (-3.0, 41.0, [0.0, 20.0, 40.0]),
    ],
)
def test_ticks_are_round(low, high, expected) -> None:
    assert live_view.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1e-4, 0.1, [1e-4, 1e-3, 1e-2, 1e-1]),
        (0.0008, 0.05, [0.001, 0.01]),
        (0.002, 0.05, [0.003, 0.01, 0.03]),
        (0.0018, 0.0055, [0.002, 0.005]),
        (1e-8, 1.0, [1e-8, 1e-5, 1e-2]),
    ],
)
def test_ticks_of_a_logarithm_are_round_too(low, high, expected) -> None:
    found = live_view.log_ticks(np.log10(low), np.log10(high))
    assert [10.0**tick for tick in found] == pytest.approx(expected)


def test_an_axis_shows_all_but_a_few() -> None:
    low, high = live_view.limits(np.r_[np.linspace(0.0, 1.0, 1000), 50.0], 0.5)
    assert (low, high) == pytest.approx((-0.05, 1.05), abs=0.02)
    low, high = live_view.limits(np.array([7.0]), 1.0)
    assert (low, high) == (6.5, 7.5)


def test_a_picture_lies_over_the_viewport_s_colour() -> None:
    pixels = np.zeros((2, 1, 4), np.uint8)
    pixels[0] = 255, 0, 51, 255
    pixels[1] = 255, 0, 51, 102
    found = live_view.over(pixels, (0.5, 0.5, 0.5))
    assert found[1, 0].tolist() == pytest.approx([1.0, 0.0, 0.2, 1.0])
    assert found[0, 0].tolist() == pytest.approx([0.7, 0.3, 0.38, 1.0])


def drawn() -> list[str]:
    layout = Layout()
    layout.use_property_split = layout.use_property_decorate = False
    panel = SimpleNamespace(layout=layout)
    cls = live_view.NEURAL_FIELDS_PT_live
    panel._column = lambda: cls._column(panel)
    context = SimpleNamespace(scene=bpy.context.scene)
    cls.draw_header(panel, context)
    cls.draw(panel, context)
    return layout.drawn


def test_the_panel_has_the_switch_and_the_numbers(scene, tmp_path) -> None:
    settings = ["show_live", "live_opacity", "show_curve", "neural_fields.show_live"]
    assert drawn() == settings
    live.follow(RunFolder(tmp_path))
    assert drawn() == settings
    for event in (Started("nerf", "cpu", "reference", 1), PROGRESS):
        live.following().history.add(event)
    try:
        shown = drawn()
    finally:
        live.stop()
    names = ["Step", "PSNR", "SSIM", "Loss", "Samples a Second", "Time Left"]
    values = ["1,234", "27.31 dB", "0.900", "0.00123", "2.5 M", "1 min 20 s"]
    assert shown[1:13:2] == names
    assert shown[2:14:2] == values
    assert drawn() == settings
