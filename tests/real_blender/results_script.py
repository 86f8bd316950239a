"""Runs inside a real Blender's window, on a scene whose field is trained: uses what it has given.

Its arguments, after ``--``, are a json object: output, report, pictures (a folder), framebuffer
(Xvfb's file). The report says what was seen, the test judges it.
"""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
from typing import Any

import bpy
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import window_tools
from window_tools import MODULE, Scenario, show_tab, view

ARGUMENTS = json.loads(sys.argv[sys.argv.index("--") + 1])
OUTPUT = pathlib.Path(ARGUMENTS["output"])
COLOURS = {101: (1.0, 0.0, 0.0), 102: (0.0, 1.0, 0.0), 103: (0.0, 0.0, 1.0)}
job = importlib.import_module(f"{MODULE}.operators.job")
ops = bpy.ops.neural_fields
report: dict[str, Any] = {}


def picture(name: str) -> Scenario:
    yield 0.8
    path = pathlib.Path(ARGUMENTS["pictures"]) / f"{name}.png"
    window_tools.picture(ARGUMENTS["framebuffer"], path)


def areas(kind: str) -> list[tuple[bpy.types.Window, bpy.types.Area]]:
    windows = bpy.context.window_manager.windows
    return [(w, area) for w in windows for area in w.screen.areas if area.ui_type == kind]


def colour(frame: int) -> list[float]:
    """What the scene renders at a frame."""
    scene = bpy.context.scene
    scene.frame_set(frame)
    scene.render.filepath = str(OUTPUT / "seen.png")
    bpy.ops.render.render(write_still=True)
    image = bpy.data.images.load(scene.render.filepath)
    pixels = np.array(image.pixels[:]).reshape(-1, image.channels)
    bpy.data.images.remove(image)
    return pixels[:, :3].mean(0).tolist()


def compare() -> Scenario:
    ops.compare("INVOKE_DEFAULT", views=2)
    assert job.owner.running
    while job.owner.running:
        yield 0.2
    assert not job.owner.error, job.owner.error
    report.setdefault("compared", []).append(job.owner.message)


def scenario() -> Scenario:
    scene = bpy.context.scene
    yield from show_tab()
    window, area, region = view()
    with bpy.context.temp_override(window=window, area=area, region=region):
        for _ in range(60):
            bpy.ops.view2d.scroll_down(deltay=40)
    yield 2.0  # the list of runs is looked up now and then
    yield from picture("result_panel")
    report["runs"] = [item.name for item in bpy.context.window_manager.neural_fields.rows]

    ops.use_sequence(where="CAMERA")
    area.spaces.active.region_3d.view_perspective = "CAMERA"
    area.spaces.active.show_region_ui = False
    for item in scene.objects:
        item.hide_set(item.type == "MESH")
    scene.frame_set(102)
    yield from picture("camera_background")
    for frame, value in COLOURS.items():
        image = bpy.data.images.new("flat", 16, 16)
        image.pixels.foreach_set(np.tile(np.array([*value, 1.0], np.float32), 256))
        image.filepath_raw = str(OUTPUT / "sequence" / f"{frame:04d}.png")
        image.file_format = "PNG"
        image.save()
        bpy.data.images.remove(image)
    ops.use_sequence(where="CAMERA")
    report["backgrounds"] = len(scene.camera.data.background_images)
    # a little above the middle of the picture, where nothing else is drawn
    report["middle"] = [area.x + area.width // 2, 800 - (area.y + area.height // 2 + 40)]
    for frame in COLOURS:
        scene.frame_set(frame)
        yield from picture(f"background_{frame}")

    # what renders is the sequence's colour at the frame, wherever it is used
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    scene.render.resolution_x = scene.render.resolution_y = 16
    scene.view_settings.view_transform = "Standard"
    scene.render.image_settings.file_format = "PNG"
    for _ in range(2):
        ops.use_sequence(where="COMPOSITOR")
    tree = getattr(scene, "compositing_node_group", None) or scene.node_tree
    (node,) = [node for node in tree.nodes if node.bl_idname == "CompositorNodeImage"]
    ends = ("CompositorNodeComposite", "NodeGroupOutput")
    (end,) = [node for node in tree.nodes if node.bl_idname in ends]
    report["before"] = end.inputs[0].links[0].from_node.bl_idname
    tree.links.new(node.outputs["Image"], end.inputs[0])
    report["composited"] = [colour(frame) for frame in COLOURS]
    area.ui_type = "CompositorNodeTree"
    if hasattr(scene, "compositing_node_group"):
        area.spaces.active.node_tree = tree
    yield from picture("compositor")

    for _ in range(2):
        ops.use_sequence(where="SEQUENCER")
    report["sequenced"] = [colour(frame) for frame in COLOURS]
    area.ui_type = "SEQUENCE_EDITOR"
    if hasattr(window.workspace, "sequencer_scene"):
        window.workspace.sequencer_scene = scene
    yield 1.0
    with bpy.context.temp_override(
        window=window,
        area=area,
        region=next(region for region in area.regions if region.type == "WINDOW"),
    ):
        bpy.ops.sequencer.view_all()
    yield from picture("sequencer")
    area.ui_type = "VIEW_3D"

    assert not areas("IMAGE_EDITOR")
    before = len(bpy.context.window_manager.windows)
    yield from compare()
    report["opened"] = len(bpy.context.window_manager.windows) - before
    yield from picture("compare_window")
    ((opened, shown),) = areas("IMAGE_EDITOR")
    report["shown"] = [shown.spaces.active.image.name]
    with bpy.context.temp_override(window=opened):
        bpy.ops.wm.window_close()
    yield 1.0
    area = view()[1]
    area.ui_type = "IMAGE_EDITOR"
    yield from compare()
    report["opened_again"] = len(bpy.context.window_manager.windows) - before
    report["shown"].append(area.spaces.active.image.name)
    yield from picture("compare")


def failed() -> None:
    path = pathlib.Path(ARGUMENTS["pictures"]) / "results_failure.png"
    window_tools.picture(ARGUMENTS["framebuffer"], path)


window_tools.play(scenario(), report, ARGUMENTS["report"], failed)
