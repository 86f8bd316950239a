"""Displayed colours back to the light of the scene.

Views are rendered as a display shows them: through the scene's view transform, AgX unless somebody
has chosen another. So is what a field has learnt from them. To look the same again when the scene
renders it, it must be the light that the view transform made these colours of.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from ..neural_backend.protocol import RunFolder

Colours = npt.NDArray[np.float32]

_SRGB = "sRGB"
_DATA = "Non-Color"
_WIDEST = 4096  # pixels
_MOST_EXPOSED = 32.0  # stops, up and down: Blender allows no more


@dataclasses.dataclass(frozen=True)
class Display:
    """How light was displayed: a scene's colour management, in Blender's names.

    Looks, curves and the white balance are not told: Blender has no inverse of them.
    """

    display_device: str = _SRGB
    view_transform: str = "Standard"
    exposure: float = 0.0
    gamma: float = 1.0

    @property
    def space(self) -> str:
        """The colour space of an image that was displayed so; sRGB where this Blender has none."""
        device, view = self.display_device, self.view_transform
        # in its configuration a view of a display is a colour space of such a name
        wanted = [f"{view} {device}", f"{view} Base {device}", view]
        if view == "Standard":
            wanted = [device]
        elif view == "Raw":
            wanted = [_DATA]
        known: Any = bpy.types.ColorManagedInputColorspaceSettings.bl_rna.properties["name"]
        names = known.enum_items.keys()
        return next((name for name in wanted if name in names), _SRGB)

    @property
    def gain(self) -> float:
        """What light is multiplied with to undo the exposure."""
        return 2.0**-self.exposure

    @property
    def plain(self) -> bool:
        """Whether colours are sRGB, and nothing more is to be done."""
        return self.space == _SRGB and self.exposure == 0.0 and self.gamma == 1.0

    def light(self, colours: Colours) -> Colours:
        """[N, 3] scene linear light of colours [N, 3] that are sRGB with its curve taken off."""
        encoded = _srgb_from_linear(colours.clip(0.0, 1.0)) ** self.gamma
        return self.gain * _scene_linear(encoded.astype(np.float32), self.space)


PLAIN = Display()


def recorded(scene: bpy.types.Scene) -> dict[str, Any]:
    """How a scene displays its light, for its dataset: values that json takes."""
    owners = {"display_device": scene.display_settings}
    names = [field.name for field in dataclasses.fields(Display)]
    found = {name: getattr(owners.get(name, scene.view_settings), name) for name in names}
    return found | {"look": scene.view_settings.look}


def is_graded(scene: bpy.types.Scene) -> bool:
    """Whether a scene's display changes colours in a way that ``Display`` does not tell."""
    view: Any = scene.view_settings
    balanced = getattr(view, "use_white_balance", False)  # from 4.3
    return view.look != "None" or view.use_curve_mapping or balanced


def of_run(run: pathlib.Path | None) -> Display:
    """How what a run was trained on was displayed; sRGB where nobody says it, as of photos."""
    if run is None:
        return PLAIN
    try:
        told = json.loads(RunFolder(run).config.read_text(encoding="utf-8"))["display"]
        found = Display(
            str(told["display_device"]),
            str(told["view_transform"]),
            float(told["exposure"]),
            float(told["gamma"]),
        )
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return PLAIN
    sane = abs(found.exposure) <= _MOST_EXPOSED and 0.0 < found.gamma < math.inf
    return found if sane else PLAIN


def _srgb_from_linear(linear: Colours) -> Colours:
    curve = 1.055 * np.maximum(linear, 0.0031308) ** (1.0 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, curve)


def _scene_linear(values: Colours, space: str) -> Colours:
    """[N, 3] what Blender reads from an image that has values [N, 3] in a colour space."""
    width = max(min(len(values), _WIDEST), 1)
    height = -(-len(values) // width)
    pixels = np.ones((width * height, 4), np.float32)
    pixels[: len(values), :3] = values
    image: Any = bpy.data.images.new("Neural Fields (colours)", width, height, float_buffer=True)
    try:
        image.colorspace_settings.name = _DATA
        image.pixels.foreach_set(pixels.ravel())
        # what is packed is read anew in another colour space
        image.pack()
        image.colorspace_settings.name = space
        image.pixels.foreach_get(pixels.reshape(-1))
    finally:
        bpy.data.images.remove(image)
    return pixels[: len(values), :3]
