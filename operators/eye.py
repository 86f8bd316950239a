"""What a viewport shows, as the pinhole camera that shows the same in the same pixels."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import bpy
import numpy as np
import numpy.typing as npt

from ..neural_backend.dataset.transforms import Intrinsics, View

FAR = 500.0
"""An orthographic view is seen from so many diagonals of the field's box away: nothing of the field
is then a thousandth of the picture's width off."""

_SAME_LENS = 1e-4  # of a picture's side

Matrix = npt.NDArray[np.float64]
Rectangle = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True)
class Eye:
    """A camera, and where in a region its picture belongs.

    Attributes:
        rectangle: left, bottom, width and height, pixels of the region.
        world_from_camera: [4, 4].
        lens: horizontal and vertical focal length and principal point (from the left and the top),
            as parts of the rectangle's width and height.
    """

    rectangle: Rectangle
    world_from_camera: Matrix
    lens: tuple[float, float, float, float]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, whole pixels."""
        return max(round(self.rectangle[2]), 1), max(round(self.rectangle[3]), 1)

    def sees_as(self, other: Eye) -> bool:
        """Whether another eye's picture, stretched over the rectangle, is this one's."""
        return np.array_equal(self.world_from_camera, other.world_from_camera) and np.allclose(
            self.lens, other.lens, rtol=0.0, atol=_SAME_LENS
        )

    def view(self, name: str) -> View:
        """The camera with the rectangle's whole pixels."""
        w, h = self.size
        fl_x, fl_y, cx, cy = self.lens
        intrinsics = Intrinsics(w, h, fl_x * w, fl_y * h, cx * w, cy * h)
        return View(name, self.world_from_camera, intrinsics)


def through(
    projection: Any,
    view_matrix: Any,
    region: tuple[int, int],
    rectangle: Rectangle,
    field_from_world: Matrix,
) -> Eye:
    """The eye of a view by Blender's matrices.

    Args:
        projection: [4, 4] clip space from camera, perspective or orthographic.
        view_matrix: [4, 4] camera from world.
        region: width and height that clip space spans, pixels.
        rectangle: what of it is to be seen.
        field_from_world: [4, 4]; an orthographic view is exact in the plane through the middle of
            the field's box.
    """
    p = np.array(projection, dtype=np.float64)
    pose = np.linalg.inv(np.array(view_matrix, dtype=np.float64))
    width, height = region
    left, bottom, w, h = rectangle
    fl_x, fl_y = p[0, 0] * width / 2.0, p[1, 1] * height / 2.0
    across, up = p[0, 3], p[1, 3]
    if p[3, 3] == 0.0:
        across, up = -p[0, 2], -p[1, 2]
    else:
        world_from_field = np.linalg.inv(field_from_world)
        middle = world_from_field @ [0.5, 0.5, 0.5, 1.0]
        distance = FAR * math.sqrt(3.0) * float(np.linalg.norm(world_from_field[:3, 0]))
        along = pose[:3, 2] / np.linalg.norm(pose[:3, 2])
        depth = float(along @ (middle[:3] - pose[:3, 3]))
        pose[:3, 3] += (depth + distance) * along
        fl_x, fl_y = fl_x * distance, fl_y * distance
    cx = width / 2.0 * (1.0 + across) - left
    cy = bottom + h - height / 2.0 * (1.0 + up)
    return Eye(rectangle, pose, (fl_x / w, fl_y / h, cx / w, cy / h))


def of_viewport(
    scene: bpy.types.Scene,
    space: bpy.types.SpaceView3D,
    data: bpy.types.RegionView3D,
    region: tuple[int, int],
    field_from_world: Matrix,
) -> Eye | None:
    """The eye of a region of a 3D view: the camera's frame where that looks through a camera.

    Args:
        region: its width and height, pixels.

    Returns:
        None where nothing is to be seen.
    """
    width, height = region
    projection = data.window_matrix
    rectangle = (0.0, 0.0, float(width), float(height))
    if data.view_perspective == "CAMERA":
        camera = space.camera if space.use_local_camera else scene.camera
        if camera is not None and camera.type == "CAMERA":
            corners = np.array(camera.data.view_frame(scene=scene))
            rectangle = _shown_at(corners, np.array(projection, dtype=np.float64), region)
    if min(width, height, rectangle[2], rectangle[3]) < 1.0:
        return None
    return through(projection, data.view_matrix, region, rectangle, field_from_world)


def _shown_at(points: Matrix, projection: Matrix, region: tuple[int, int]) -> Rectangle:
    """The rectangle, pixels, around where points [N, 3] in camera space are shown."""
    clip = np.c_[points, np.ones(len(points))] @ projection.T
    pixels = (clip[:, :2] / clip[:, 3:] + 1.0) / 2.0 * np.array(region)
    low, high = pixels.min(0), pixels.max(0)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])


def of_camera(depsgraph: bpy.types.Depsgraph, longer: int, field_from_world: Matrix) -> Eye | None:
    """The eye of the scene's camera, where no viewport shows anything; None where there is none.

    Args:
        longer: pixels of the longer side.
    """
    scene = depsgraph.scene
    if scene.camera is None or scene.camera.type != "CAMERA":
        return None
    render = scene.render
    sides = np.array(
        [
            render.resolution_x * render.pixel_aspect_x,
            render.resolution_y * render.pixel_aspect_y,
        ]
    )
    w, h = (max(round(side), 1) for side in sides * (longer / sides.max()))
    camera = scene.camera.evaluated_get(depsgraph)
    projection = camera.calc_matrix_camera(depsgraph, x=w, y=h)
    view_matrix = camera.matrix_world.normalized().inverted()
    rectangle = (0.0, 0.0, float(w), float(h))
    return through(projection, view_matrix, (w, h), rectangle, field_from_world)
