"""Depth and normals of a view, out of the same render as its colour.

Blender keeps a render's passes until the next render. From there they are saved as one multilayer
EXR, which is the same in all versions and needs no compositor: its interface is not the same, and
before 5.0 a scene's own tree could not be replaced.
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from ..neural_backend.config import DatasetSettings
from ..neural_backend.dataset import exr
from ..neural_backend.dataset.transforms import View
from ..neural_backend.protocol import BadInput
from .knobs import Settings

Floats = npt.NDArray[np.floating]

SWITCHES = ("use_pass_z", "use_pass_normal", "use_pass_position")
"""Of the view layer."""

# in this order they can be set; from 5.0 on a layer would else be a part of the file by itself
IMAGE: dict[str, Any] = {
    "media_type": "MULTI_LAYER_IMAGE",
    "file_format": "OPEN_EXR_MULTILAYER",
    "color_depth": "32",
    "exr_codec": "NONE",
    "use_exr_interleave": True,
}

_PASSES = (("Depth", "Z"), ("Normal", "XYZ"), ("Position", "XYZ"))

_NOTHING = 1e9

_ONE_SURFACE = 0.996
"""Cycles averages a pixel's normals. Where the mean is as long as this, they lie within about 5
degrees of it; a shorter one mixes the sides of an edge, or a surface and what is behind it."""

_PRECISION = 1e-5  # of a depth, at the least
_LARGEST_CORRECTION = 0.1


def decided(settings: Settings, engine: str) -> DatasetSettings:
    """The dataset's settings, with what is automatic about the passes decided.

    Args:
        engine: what will render, as Blender names it.
    """
    dataset = settings.dataset
    if dataset.passes != "auto":
        return dataset
    has = engine == "CYCLES" or engine.startswith("BLENDER_EEVEE")
    wanted = has and settings.training.field == "neus"
    return dataclasses.replace(dataset, passes="on" if wanted else "off")


def current_slot() -> int:
    """The render slot that a render which starts now goes to."""
    result = _result()
    return 0 if result is None else result.render_slots.active_index


def save(
    scene: bpy.types.Scene,
    view: View,
    slot: int,
    depth: pathlib.Path,
    normal: pathlib.Path,
) -> None:
    """Write the passes of the scene's last render, whose image settings are ``IMAGE``.

    Args:
        slot: the one that it went to; the person may be looking at another one.
        depth, normal: where to. The first holds all passes for a moment.

    Raises:
        BadInput: the engine has rendered no such passes.
        RuntimeError: Blender has not kept them, or cannot write them.
        OSError: they cannot be written.
    """
    result = _result()
    if result is None:
        raise RuntimeError("Blender has kept no result of it")
    shown = result.render_slots.active_index
    result.render_slots.active_index = slot
    try:
        result.save_render(str(depth), scene=scene)
    finally:
        result.render_slots.active_index = shown
    try:
        channels = exr.read_channels(depth)
        seen = [_pass(channels, name, components) for name, components in _PASSES]
    except (ValueError, KeyError):
        raise BadInput(
            f"{scene.render.engine} gave no depth and normals: choose Cycles or EEVEE (and a view "
            "layer's name of 50 letters at most), or in the Dataset panel Depth and Normals: Off"
        ) from None
    depths, normals = of_view(view, *seen)
    exr.write_depth(depth, depths)
    exr.write_normal(normal, normals)


def _result() -> bpy.types.Image | None:
    return next((image for image in bpy.data.images if image.type == "RENDER_RESULT"), None)


def _pass(channels: dict[str, Floats], name: str, components: str) -> Floats:
    """[H, W] or [H, W, 3] a pass of the file's only layer, whatever that is called."""
    found = {tuple(key.rsplit(".", 2)[-2:]): value for key, value in channels.items()}
    values = [found[name, component].astype(np.float64) for component in components]
    return values[0] if len(values) == 1 else np.stack(values, -1)


def of_view(view: View, depth: Floats, normal: Floats, position: Floats) -> tuple[Floats, Floats]:
    """From a render's passes to what a dataset holds (``neural_backend.dataset.passes``).

    Args:
        view: the camera, without distortion.
        depth: [H, W] planar. Where nothing is, Cycles has 1e10, and EEVEE the clip end with the
            error of its depth buffer, which may be a few per cent.
        normal: [H, W, 3] in world space; a mean of several where it is not of length 1.
        position: [H, W, 3] the point whose depth it is, in world space, exact or in half precision;
            0 where nothing is.

    Returns:
        [H, W] planar depth at the pixels' centres, 0 where there is no surface, and [H, W, 3] unit
        normals, 0 where there is none or no single one.
    """
    hit = (depth > 0.0) & (depth < _NOTHING) & position.any(-1)
    length = np.linalg.norm(normal, axis=-1)
    sure = hit & (length >= _ONE_SURFACE)
    normal = np.where(sure[..., None], normal / np.where(sure, length, 1.0)[..., None], 0.0)
    k, axes = view.intrinsics, view.world_from_camera[:3, :3]
    right = (np.arange(k.w) + 0.5 - k.cx) / k.fl_x
    down = (np.arange(k.h) + 0.5 - k.cy) / k.fl_y
    rays = right[None, :, None] * axes[:, 0] - down[:, None, None] * axes[:, 1] - axes[:, 2]
    # along a pixel's edges
    steps = np.stack([axes[:, 0] / k.fl_x, -axes[:, 1] / k.fl_y], -1)
    seen_at = view.world_from_camera[:3, 3] + depth[hit][:, None] * rays[hit]
    offset = _offset(depth[hit], position[hit], seen_at, steps)
    # the plane through the point that was seen, met by the ray through the centre
    there = ((rays + steps @ offset) * normal).sum(-1)
    here = (rays * normal).sum(-1)
    ratio = there / np.where(here == 0.0, 1.0, here)
    near = sure & (np.abs(ratio - 1.0) < _LARGEST_CORRECTION)
    return np.where(hit, depth * np.where(near, ratio, 1.0), 0.0), normal


def _offset(depth: Floats, position: Floats, seen_at: Floats, steps: Floats) -> Floats:
    """[2] pixels from the centres, to the right and down, at which a render has taken its passes.

    Passes that must not be mixed are of one sample, the same for all pixels: in Cycles it is at the
    centre, in EEVEE it is that of its samples which is nearest to it. The offset is what makes the
    points at such depths the positions, by least squares, each weighted by its precision.

    Args:
        depth: [N].
        position: [N, 3].
        seen_at: [N, 3] the points of such depths on the rays through the centres.
        steps: [3, 2] what a pixel to the right and a pixel down add to a ray of depth 1.
    """
    finite = np.isfinite(position).all(-1)
    depth, position, seen_at = depth[finite, None], position[finite], seen_at[finite]
    if not len(depth):
        return np.zeros(2)
    with np.errstate(over="ignore"):
        half = position.astype(np.float16)
    stored = half if bool((half == position).all()) else position
    error = np.maximum(np.spacing(np.abs(stored)).astype(np.float64), _PRECISION * depth)
    weight = depth / error**2
    amounts = (weight * depth).sum(0)
    inverse = np.linalg.inv(steps.T @ (amounts[:, None] * steps))
    offset = inverse @ (steps.T @ (weight * (position - seen_at)).sum(0))
    # at the worst, all errors point the same way
    worst = np.abs(inverse @ steps.T) @ (weight * error).sum(0)
    return offset if np.linalg.norm(worst) < 0.5 * np.linalg.norm(offset) else np.zeros(2)
