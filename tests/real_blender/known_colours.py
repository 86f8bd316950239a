"""A board of squares in known colours: brought in as a mesh, and rendered from straight above."""

from __future__ import annotations

import dataclasses
import importlib
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

SIDE = 8
"""Squares along a side, each of as many pixels along its own."""
SHOWN = (
    {"view_transform": "AgX"},
    {"view_transform": "AgX", "exposure": 1.0},
    {"view_transform": "Filmic"},
    {"view_transform": "Standard"},
)


def light() -> np.ndarray:
    """[SIDE^2, 3] of greys and of colours, from dark to brighter than white."""
    strength = np.geomspace(0.01, 4.0, SIDE)[:, None, None]
    warm, cold = np.array([1.0, 0.6, 0.35]), np.array([0.45, 0.7, 1.0])
    part = np.linspace(0.0, 1.0, SIDE)[:, None]
    return (strength * (part * warm + (1.0 - part) * cold)).reshape(-1, 3).astype(np.float32)


def displayed(scene: Any, folder: pathlib.Path) -> np.ndarray:
    """[SIDE^2, 3] sRGB: what a scene's display shows of ``light``, in 8 bits."""
    import bpy

    pixels = np.ones((SIDE * SIDE, 4), np.float32)
    pixels[:, :3] = light()
    image = bpy.data.images.new("board", SIDE, SIDE, float_buffer=True)
    image.pixels.foreach_set(pixels.ravel())
    _set_output(scene)
    image.save_render(str(folder / "displayed.png"), scene=scene)
    bpy.data.images.remove(image)
    return _pixels(folder / "displayed.png").reshape(-1, 3)


def bring(package: str, scene: Any, colours: np.ndarray, textured: bool, display: Any) -> None:
    """Bring the board in, as the extension ``package`` does with what the backend has written.

    Args:
        colours: [SIDE^2, 3] sRGB.
        display: how they were displayed.
    """
    glb, results = (importlib.import_module(f"{package}.operators.{n}") for n in ("glb", "results"))
    png = importlib.import_module(f"{package}.neural_backend.png")
    row, column = np.mgrid[:SIDE, :SIDE].reshape(2, -1, 1)
    x, y = column + np.array([0, 1, 1, 0]), row + np.array([0, 0, 1, 1])
    corners = np.stack([x, y, np.zeros_like(x)], -1)
    faces = 4 * np.arange(SIDE**2)[:, None, None] + [[0, 1, 2], [0, 2, 3]]
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    of_vertices = np.ones((4 * SIDE**2, 4), np.float32)
    of_vertices[:, :3] = linear.repeat(4, 0)
    picture = np.full((SIDE, SIDE, 4), 255, np.uint8)
    picture[..., :3] = np.round(255.0 * colours).reshape(SIDE, SIDE, 3)[::-1]
    picture = picture.repeat(SIDE, 0).repeat(SIDE, 1)
    vertices = corners.reshape(-1, 3).astype(np.float32)
    triangles = glb.Triangles(
        vertices,
        faces.reshape(-1, 3).astype(np.int32),
        None,
        None if textured else of_vertices,
        (vertices[faces.ravel(), :2] / SIDE).astype(np.float32) if textured else None,
        {"color": png.encode(picture)} if textured else {},
    )
    read = glb.read
    glb.read = lambda path: triangles
    try:
        results.import_mesh(scene, pathlib.Path("board.glb"), "board", display)
    finally:
        glb.read = read


def seen(scene: Any, engine: str, folder: pathlib.Path) -> np.ndarray:
    """[SIDE^2, 3] sRGB: what the scene renders of the board's squares."""
    import bpy

    scene.render.engine = engine
    scene.cycles.samples = scene.eevee.taa_render_samples = 4
    scene.cycles.use_denoising = False
    scene.render.resolution_x = scene.render.resolution_y = SIDE * SIDE
    scene.render.dither_intensity = 0.0
    scene.render.filepath = str(folder / "seen.png")
    _set_output(scene)
    bpy.ops.render.render(write_still=True, scene=scene.name)
    pixels = _pixels(folder / "seen.png").reshape(SIDE, SIDE, SIDE, SIDE, 3)
    return pixels[:, SIDE // 2, :, SIDE // 2].reshape(-1, 3)


def empty_scene() -> Any:
    """The current scene with nothing in it but a camera above the board."""
    import bpy

    scene = bpy.context.scene
    for item in [item for item in bpy.data.objects if item != scene.camera]:
        bpy.data.objects.remove(item)
    camera = scene.camera
    camera.location, camera.rotation_euler = (SIDE / 2, SIDE / 2, 5.0), (0.0, 0.0, 0.0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", SIDE
    return scene


def errors(
    package: str, engine: str, folder: pathlib.Path, shown: Iterable[dict[str, Any]] = SHOWN
) -> dict[str, list[float]]:
    """For each way of displaying and each kind of colours, the median and the largest difference,
    in levels of 255, between what a render shows of the board and its colours; first where nothing
    is known of how they were displayed, then where it is."""
    colour = importlib.import_module(f"{package}.operators.colour")
    scene = empty_scene()
    found = {}
    for settings in shown:
        scene.view_settings.exposure = 0.0
        for name, value in settings.items():
            setattr(scene.view_settings, name, value)
        colours = displayed(scene, folder)
        told = colour.recorded(scene)
        known = {field.name: told[field.name] for field in dataclasses.fields(colour.Display)}
        for textured in (False, True):
            off = []
            for display in (colour.PLAIN, colour.Display(**known)):
                bring(package, scene, colours, textured, display)
                levels = 255.0 * np.abs(seen(scene, engine, folder) - colours)
                off += [float(np.median(levels)), float(levels.max())]
            kind = "texture" if textured else "vertices"
            found[" ".join(map(str, (*settings.values(), kind)))] = off
    return found


def check(found: dict[str, list[float]]) -> None:
    """That what was displayed looks as it did, and else as it does without."""
    assert found
    for name, (median_before, most_before, median, most) in found.items():
        if name.startswith("Standard"):
            assert most_before < 1.5, name
            assert most < 1.5, name
        else:
            assert median_before > 5.0, name
            assert median < 1.5, name
            assert most < 5.0, name


def _set_output(scene: Any) -> None:
    settings = scene.render.image_settings
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGB", "8"


def _pixels(file: pathlib.Path) -> np.ndarray:
    """[H, W, 3] as the file has them, the lowest row first."""
    import bpy

    image = bpy.data.images.load(str(file), check_existing=False)
    image.colorspace_settings.name = "Non-Color"
    width, height = image.size
    pixels = np.array(image.pixels[:], np.float32).reshape(height, width, 4)[..., :3]
    bpy.data.images.remove(image)
    return pixels
