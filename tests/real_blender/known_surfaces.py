"""A ball before a tilted square: built in Blender, and what a camera must see of them."""

from __future__ import annotations

from typing import Any

import numpy as np

BALL, RADIUS = np.array([0.3, -0.2, 0.1]), 0.6
SQUARE, HALF_SIDE = np.array([0.0, 0.2, -0.5]), 1.1
TILT = (0.4, 0.3, 0.2)
"""Euler angles XYZ, radians."""


def build() -> None:
    """In the current scene, with bpy."""
    import bpy

    bpy.ops.mesh.primitive_uv_sphere_add(
        segments=256, ring_count=128, radius=RADIUS, location=BALL.tolist()
    )
    for polygon in bpy.context.object.data.polygons:
        polygon.use_smooth = True
    bpy.ops.mesh.primitive_plane_add(size=2.0 * HALF_SIDE, location=SQUARE.tolist(), rotation=TILT)


def square_axes() -> np.ndarray:
    """[3, 3] its sides and its normal, as columns."""
    (a, b, c), (d, e, f) = np.cos(TILT), np.sin(TILT)
    x = np.array([[1, 0, 0], [0, a, -d], [0, d, a]])
    y = np.array([[b, 0, e], [0, 1, 0], [-e, 0, b]])
    z = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    return z @ y @ x


class Seen:
    """What a view shows at points of its image.

    Attributes:
        depth: [H, W] planar, 0 where nothing is.
        normal: [H, W, 3] towards the camera.
        surface: [H, W] 0 nothing, 1 the ball, 2 the square.
    """

    def __init__(self, view: Any, right: float = 0.0, down: float = 0.0):
        """``view`` as ``transforms.View``; ``right`` and ``down`` of the pixels' centres."""
        k = view.intrinsics
        x, y = np.meshgrid(np.arange(k.w) + 0.5 + right, np.arange(k.h) + 0.5 + down)
        local = np.stack([(x - k.cx) / k.fl_x, -(y - k.cy) / k.fl_y, -np.ones_like(x)], -1)
        rays = local @ view.world_from_camera[:3, :3].T
        origin = view.world_from_camera[:3, 3]

        axes = square_axes()
        flat = (SQUARE - origin) @ axes[:, 2] / (rays @ axes[:, 2])
        on_square = (origin + flat[..., None] * rays - SQUARE) @ axes[:, :2]
        flat[(np.abs(on_square).max(-1) > HALF_SIDE) | (flat < 0.0)] = np.inf

        a, b = (rays**2).sum(-1), rays @ (origin - BALL)
        root = b * b - a * (((origin - BALL) ** 2).sum() - RADIUS**2)
        ball = np.where(root > 0.0, -(b + np.sqrt(np.maximum(root, 0.0))) / a, np.inf)

        nearest = np.minimum(flat, ball)
        self.surface = np.where(np.isinf(nearest), 0, np.where(ball < flat, 1, 2))
        self.depth = np.where(self.surface > 0, nearest, 0.0)
        out = (origin + self.depth[..., None] * rays - BALL) / RADIUS
        side = -np.sign(rays @ axes[:, 2])[..., None] * axes[:, 2]
        self.normal = np.where((self.surface == 1)[..., None], out, side)
        self.normal[self.surface == 0] = 0.0


def check(view: Any, depth: np.ndarray, normal: np.ndarray, off: float = 0.01) -> set[str]:
    """Assert that passes are those of the view's pixels' centres, each of one surface.

    Args:
        view: as ``transforms.View``.
        depth, normal: [H, W] and [H, W, 3].
        off: pixels; where what is seen changes within so much of the centre, nothing is asserted.

    Returns:
        Which surfaces it has told about: ball, square.
    """
    seen = Seen(view)
    clear = np.ones_like(depth, bool)
    slope = np.zeros_like(depth)
    for right, down in ((off, 0.0), (0.0, off)):
        sides = [Seen(view, sign * right, sign * down) for sign in (1, -1)]
        for side in sides:
            clear &= side.surface == seen.surface
        slope += np.abs(sides[0].depth - sides[1].depth)
    assert clear.mean() > 0.9
    known = np.linalg.norm(normal, axis=-1) > 0.0
    nothing = clear & (seen.surface == 0)
    assert not depth[nothing].any(), "depth where nothing is"
    assert not known[nothing].any(), "a normal where nothing is"
    assert (np.abs(np.linalg.norm(normal[known], axis=-1) - 1.0) < 2e-3).all()
    miss = np.abs(depth - seen.depth)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 0.5)
    degrees = np.degrees(np.arccos(np.clip((normal * seen.normal).sum(-1), -1.0, 1.0)))
    told = set()
    # the ball's mesh has flat faces, which lie up to 1.5e-4 of its radius within it
    for number, name, tolerance, share, turn in (
        (1, "ball", 3e-4, 1.0, 12.0),
        (2, "square", 5e-5, 0.1, 6.0),
    ):
        here = clear & (seen.surface == number)
        assert (miss[here] < tolerance + share * slope[here]).all(), f"not the {name}'s depth"
        assert (degrees[here & known] < turn).all(), f"not the {name}'s normal"
        if here.sum() > 200:
            assert np.median(degrees[here & known]) < 1.0
            assert known[here].mean() > 0.6
            told.add(name)
    return told
