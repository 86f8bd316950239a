"""Cameras, exactly: Blender's own to pinhole intrinsics and poses, and back.

Blender's rules, which hold for every render engine: the sensor's size spans the pixels of the side
that the sensor fit names, lens shift is measured in that same span, and the camera's axes are those
of its world matrix made unit length, one by one.
"""

from __future__ import annotations

import math
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt
from mathutils import Matrix

from ..neural_backend.dataset.transforms import Intrinsics, View
from ..neural_backend.protocol import BadInput

SMALLEST_SIDE = 4
"""Pixels: Blender renders nothing narrower."""

_SENSOR = 36.0
_LONGEST_LENS = 5000.0
_KINDS = {"ORTHO": "orthographic", "PANO": "panoramic", "CUSTOM": "custom"}


def pinhole(
    *,
    lens: float,
    sensor_width: float,
    sensor_height: float,
    sensor_fit: str,
    shift: tuple[float, float],
    width: int,
    height: int,
    pixel_aspect: float = 1.0,
) -> Intrinsics:
    """Intrinsics of Blender's perspective camera.

    Args:
        lens, sensor_width, sensor_height: millimetres.
        sensor_fit: ``AUTO``, ``HORIZONTAL`` or ``VERTICAL``.
        shift: to the right and up, as a fraction of the side that the sensor fit names.
        width, height: the image's, pixels.
        pixel_aspect: a pixel's height by its width.
    """
    if sensor_fit == "AUTO":
        horizontal, sensor = width >= height * pixel_aspect, sensor_width
    else:
        horizontal = sensor_fit == "HORIZONTAL"
        sensor = sensor_width if horizontal else sensor_height
    span = width if horizontal else height * pixel_aspect
    focal = lens / sensor * span
    return Intrinsics(
        w=width,
        h=height,
        fl_x=focal,
        fl_y=focal / pixel_aspect,
        cx=width / 2 - shift[0] * span,
        cy=height / 2 + shift[1] * span / pixel_aspect,
    )


def intrinsics_of(
    camera: bpy.types.Camera, width: int, height: int, pixel_aspect: float = 1.0
) -> Intrinsics:
    """Intrinsics of a camera for an image of ``width`` x ``height`` pixels.

    Args:
        camera: perspective; evaluated, where its lens is animated.
        pixel_aspect: a pixel's height by its width (``pixel_aspect_y / pixel_aspect_x``).

    Raises:
        BadInput: when the camera is not a perspective one.
    """
    require_perspective(camera)
    return pinhole(
        lens=camera.lens,
        sensor_width=camera.sensor_width,
        sensor_height=camera.sensor_height,
        sensor_fit=camera.sensor_fit,
        shift=(camera.shift_x, camera.shift_y),
        width=width,
        height=height,
        pixel_aspect=pixel_aspect,
    )


def require_perspective(camera: bpy.types.Camera, name: str = "") -> None:
    """Raise BadInput when the camera has no pinhole; ``name`` is its object's."""
    if camera.type != "PERSP":
        kind = _KINDS.get(camera.type, camera.type.lower())
        raise BadInput(
            f"Camera {name or camera.name} is {kind}, which a neural field cannot learn from: "
            "set its lens type to Perspective or choose another rig"
        )


def world_from_camera(matrix_world: Any) -> npt.NDArray[np.float64]:
    """[4, 4] the pose that Blender renders from: the axes of ``matrix_world`` at unit length.

    A camera under an unevenly scaled parent may be sheared or mirrored. Blender renders it so, and
    the pose says so; of every other camera it is a rotation.

    Raises:
        BadInput: when the camera is scaled to nothing.
    """
    pose = np.array(matrix_world, dtype=np.float64)
    lengths = np.linalg.norm(pose[:3, :3], axis=0)
    if not np.isfinite(pose).all() or lengths.min() < 1e-12:
        raise BadInput("a camera is scaled to nothing: clear its scale or its parent's (Alt S)")
    pose[:3, :3] /= lengths
    return pose


def size_of(render: bpy.types.RenderSettings, longer: int) -> tuple[int, int]:
    """Width and height, pixels, of an image in the shape of the scene's render."""
    scale = longer / max(render.resolution_x, render.resolution_y)
    width, height = (
        max(round(side * scale), SMALLEST_SIDE)
        for side in (render.resolution_x, render.resolution_y)
    )
    return width, height


def pixel_aspect_of(render: bpy.types.RenderSettings) -> float:
    """A pixel's height by its width."""
    return render.pixel_aspect_y / render.pixel_aspect_x


def set_lens(camera: bpy.types.Camera, intrinsics: Intrinsics) -> None:
    """Make a camera's data reproduce the intrinsics, at their image size and pixel aspect."""
    if intrinsics.distorted:
        raise BadInput("Blender's cameras have no lens distortion: undistort the views first")
    lens = min(max(_SENSOR * intrinsics.fl_x / intrinsics.w, 1.0), _LONGEST_LENS)
    camera.type = "PERSP"
    camera.lens_unit = "MILLIMETERS"
    camera.lens = lens
    camera.sensor_fit = "HORIZONTAL"
    camera.sensor_width = lens * intrinsics.w / intrinsics.fl_x
    aspect = intrinsics.fl_x / intrinsics.fl_y
    camera.shift_x = 0.5 - intrinsics.cx / intrinsics.w
    camera.shift_y = (intrinsics.cy - intrinsics.h / 2) * aspect / intrinsics.w


def apply(view: View, camera: bpy.types.Object, render: bpy.types.RenderSettings) -> None:
    """Make a camera object and the render's size reproduce a view exactly.

    A pose that is sheared needs a camera with a parent: an object holds no shear of its own.
    """
    intrinsics = view.intrinsics
    data: Any = camera.data
    set_lens(data, intrinsics)
    pose = Matrix(view.world_from_camera.tolist())
    if camera.parent is None:
        camera.matrix_world = pose
    else:
        camera.matrix_parent_inverse = camera.parent.matrix_world.inverted() @ pose
        camera.matrix_basis = Matrix()
    render.resolution_x = intrinsics.w
    render.resolution_y = intrinsics.h
    render.resolution_percentage = 100
    aspect = intrinsics.fl_x / intrinsics.fl_y
    if math.isclose(aspect, 1.0, rel_tol=1e-6):
        aspect = 1.0
    # Blender keeps both at 1 or more
    render.pixel_aspect_x = max(1.0, 1.0 / aspect)
    render.pixel_aspect_y = max(1.0, aspect)
