"""Load Example: a scene to try everything on, in a scene of its own beside those of the file.

It imports nothing of the add-on, so that tools fill an empty file with the same scene.
"""

from __future__ import annotations

import math
from typing import Any

import bmesh
import bpy
from bpy.app.translations import pgettext_rpt as rpt
from mathutils import Euler, Matrix

NAME = "Neural Fields Example"

_Colour = tuple[float, float, float]
_PLACE = (2.0, -1.0)


def fill(scene: bpy.types.Scene) -> None:
    """Put Suzanne, painted, on a chequered pedestal, away from the origin, lit, with a camera."""
    # to bpy's stubs what add-ons and colour configurations bring is unknown
    render: Any = scene.render
    view: Any = scene.view_settings
    if hasattr(scene, "cycles"):  # it may be switched off
        render.engine = "CYCLES"
        scene.cycles.samples = 16
        scene.cycles.use_denoising = False
    view.view_transform = "Standard"
    render.resolution_x, render.resolution_y = 640, 480
    scene.world = bpy.data.worlds.new("World")
    background = _node(scene.world, "ShaderNodeBackground")
    background.inputs["Color"].default_value = (0.35, 0.42, 0.5, 1.0)

    turned = Euler((-0.45, 0.0, 0.6)).to_matrix().to_4x4()
    suzanne = _object(scene, "Suzanne", Matrix.Translation((*_PLACE, 1.28)) @ turned)
    _fill_mesh(suzanne.data, bmesh.ops.create_monkey)
    suzanne.modifiers.new("Smooth", "SUBSURF").render_levels = 2
    suzanne.data.shade_smooth()
    suzanne.data.materials.append(_material("Paint", (0.75, 0.16, 0.05), (0.8, 0.42, 0.12), 3.0))

    pedestal = _object(scene, "Pedestal", Matrix.Translation((*_PLACE, 0.25)))
    size = {"segments": 64, "radius1": 1.2, "radius2": 1.2, "depth": 0.5, "cap_ends": True}
    _fill_mesh(pedestal.data, bmesh.ops.create_cone, **size)
    pedestal.data.materials.append(_material("Stone", (0.05, 0.15, 0.3), (0.7, 0.7, 0.65), 2.0))

    sun = bpy.data.objects.new("Sun", bpy.data.lights.new("Sun", "SUN"))
    sun.data.energy = 3.0
    sun.data.angle = 0.2
    sun.rotation_euler = (0.7, 0.2, 0.5)
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.location = (_PLACE[0] + 3.6, _PLACE[1] - 4.8, 2.7)
    camera.rotation_euler = (math.radians(76), 0.0, math.radians(36.9))
    for item in (sun, camera):
        scene.collection.objects.link(item)
    scene.camera = camera


def _object(scene: bpy.types.Scene, name: str, pose: Matrix) -> bpy.types.Object:
    item = bpy.data.objects.new(name, bpy.data.meshes.new(name))
    item.matrix_world = pose
    scene.collection.objects.link(item)
    return item


def _fill_mesh(mesh: Any, create: Any, **size: Any) -> None:
    shape = bmesh.new()
    create(shape, **size)
    shape.to_mesh(mesh)
    shape.free()


def _material(name: str, first: _Colour, second: _Colour, scale: float) -> bpy.types.Material:
    """A rough material with a chequer pattern in object space."""
    material = bpy.data.materials.new(name)
    shader = _node(material, "ShaderNodeBsdfPrincipled")
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader.inputs["Roughness"].default_value = 0.6
    checker = nodes.new("ShaderNodeTexChecker")
    coordinates = nodes.new("ShaderNodeTexCoord")
    checker.inputs["Scale"].default_value = scale
    checker.inputs["Color1"].default_value = (*first, 1.0)
    checker.inputs["Color2"].default_value = (*second, 1.0)
    links.new(coordinates.outputs["Object"], checker.inputs["Vector"])
    links.new(checker.outputs["Color"], shader.inputs["Base Color"])
    return material


def _node(block: Any, kind: str) -> Any:
    """A node that a new material or world has; from 5.0 it has them without being asked.

    By its kind: its name is one of the person's language.
    """
    if block.node_tree is None:
        block.use_nodes = True
    return next(node for node in block.node_tree.nodes if node.bl_idname == kind)


class NEURAL_FIELDS_OT_load_example(bpy.types.Operator):
    """Add a sample scene to the file, with settings that give a first mesh within minutes"""

    bl_idname = "neural_fields.load_example"
    bl_label = "Load Example"
    bl_options = {"REGISTER", "UNDO"}

    def execute(self, context: bpy.types.Context) -> set[Any]:
        scene = bpy.data.scenes.new(NAME)
        fill(scene)
        settings = scene.neural_fields
        settings.rig.views = 60
        settings.dataset.resolution = 256
        settings.training.preset = "preview"
        if context.window is not None:
            context.window.scene = scene
        said = rpt("{scene}: click Train Neural Field to begin").format(scene=scene.name)
        self.report({"INFO"}, said)
        return {"FINISHED"}


CLASSES = (NEURAL_FIELDS_OT_load_example,)
