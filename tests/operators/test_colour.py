"""Colours that a scene has displayed become its light again."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import bpy
import numpy as np
import pytest
from neural_fields.operators import colour
from neural_fields.operators.colour import Display


def displayed(light: np.ndarray, scene: bpy.types.Scene, folder: pathlib.Path) -> np.ndarray:
    """[N, 3] what a scene's display shows of light [N, 3], as a PNG has it."""
    pixels = np.ones((len(light), 4), np.float32)
    pixels[:, :3] = light
    image = bpy.data.images.new("light", len(light), 1, float_buffer=True)
    image.pixels.foreach_set(pixels.ravel())
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "16"
    image.save_render(str(folder / "shown.png"), scene=scene)
    shown = bpy.data.images.load(str(folder / "shown.png"), check_existing=False)
    shown.colorspace_settings.name = "Non-Color"
    return np.array(shown.pixels[:]).reshape(-1, 4)[:, :3]


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


LIGHT = np.array(
    [
        *([0.18] * 3, [0.02] * 3, [1.0] * 3, [4.0] * 3),
        *([0.5, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3], [2.0, 1.0, 0.4]),
    ],
    np.float32,
)
SHOWN = [
    {"view_transform": "AgX"},
    {"view_transform": "AgX", "exposure": 1.5},
    {"view_transform": "AgX", "gamma": 1.3},
    {"view_transform": "Filmic"},
    {"view_transform": "Standard", "exposure": -2.5},
    {"view_transform": "Standard", "exposure": -2.5, "gamma": 0.8},
    {"view_transform": "Raw", "exposure": -2.5},
]


@pytest.mark.parametrize("settings", SHOWN, ids=lambda each: " ".join(map(str, each.values())))
def test_light_is_displayed_as_the_same_colours(start_scene, tmp_path, settings) -> None:
    for name, value in settings.items():
        setattr(start_scene.view_settings, name, value)
    before = displayed(LIGHT, start_scene, tmp_path)
    told = colour.recorded(start_scene)
    display = Display(**{field.name: told[field.name] for field in dataclasses.fields(Display)})
    assert not display.plain
    images = len(bpy.data.images)
    light = display.light(linear(before).astype(np.float32))
    assert len(bpy.data.images) == images
    after = displayed(light, start_scene, tmp_path)
    assert np.abs(after - before).max() < 3.5 / 255.0
    np.testing.assert_allclose(light, LIGHT, rtol=0.1, atol=0.005)


def test_nothing_is_done_to_what_is_plain(start_scene) -> None:
    assert Display() == colour.PLAIN
    assert colour.PLAIN.plain
    assert colour.PLAIN.space == "sRGB"
    colours = np.random.default_rng(0).uniform(size=(5000, 3)).astype(np.float32)
    np.testing.assert_allclose(colour.PLAIN.light(colours), colours, atol=1e-4)


def test_what_this_blender_does_not_know_is_srgb(registered) -> None:
    assert Display(view_transform="Some Film").space == "sRGB"
    assert Display(view_transform="False Color").space == "sRGB"
    assert Display(view_transform="AgX", display_device="Some Screen").space == "sRGB"
    assert Display(view_transform="Filmic Log").space == "Filmic Log"
    assert Display(display_device="Display P3").space == "Display P3"


def test_a_run_says_how_its_views_were_displayed(registered, tmp_path) -> None:
    def of(display: object) -> Display:
        (tmp_path / "config.json").write_text(json.dumps({"display": display}))
        return colour.of_run(tmp_path)

    told = {"display_device": "sRGB", "view_transform": "AgX", "exposure": 1, "gamma": 2.0}
    assert of(told) == Display("sRGB", "AgX", 1.0, 2.0)
    wrong = [None, 3, [], {}, "AgX", told | {"exposure": "bright"}, told | {"gamma": 0.0}]
    for value in [*wrong, told | {"exposure": 1e400}, {"view_transform": "AgX"}]:
        assert of(value) == colour.PLAIN
    for run in (None, tmp_path / "none"):
        assert colour.of_run(run) == colour.PLAIN
