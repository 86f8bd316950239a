"""Makes the demo's scene with bpy: Suzanne, painted, on a chequered pedestal, away from the origin.

python tools/demo_scene.py FILE.blend
"""

from __future__ import annotations

import math
import sys

import bpy


def _material(name: str, colours: tuple[tuple[float, float, float], ...], scale: float):
    """A rough material; two colours make a chequer pattern in object space."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes, links = material.node_tree.nodes, material.node_tree.links
    shader = nodes["Principled BSDF"]
    shader.inputs["Roughness"].default_value = 0.6
    if len(colours) == 1:
        shader.inputs["Base Color"].default_value = (*colours[0], 1.0)
        return material
    checker = nodes.new("ShaderNodeTexChecker")
    coordinates = nodes.new("ShaderNodeTexCoord")
    checker.inputs["Scale"].default_value = scale
    checker.inputs["Color1"].default_value = (*colours[0], 1.0)
    checker.inputs["Color2"].default_value = (*colours[1], 1.0)
    links.new(coordinates.outputs["Object"], checker.inputs["Vector"])
    links.new(checker.outputs["Color"], shader.inputs["Base Color"])
    return material


def build() -> None:
    """Replace the open file by the demo's scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 16
    scene.cycles.use_denoising = False
    scene.view_settings.view_transform = "Standard"
    scene.world = bpy.data.worlds.new("World")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.35, 0.42, 0.5, 1.0)

    bpy.ops.mesh.primitive_monkey_add(
        size=2.0, location=(2.0, -1.0, 1.28), rotation=(-0.45, 0.0, 0.6)
    )
    suzanne = bpy.context.object
    suzanne.name = "Suzanne"
    suzanne.modifiers.new("Smooth", "SUBSURF").render_levels = 2
    bpy.ops.object.shade_smooth()
    suzanne.data.materials.append(_material("Paint", ((0.75, 0.16, 0.05), (0.8, 0.42, 0.12)), 3.0))

    bpy.ops.mesh.primitive_cylinder_add(
        vertices=64, radius=1.2, depth=0.5, location=(2.0, -1.0, 0.25)
    )
    pedestal = bpy.context.object
    pedestal.name = "Pedestal"
    pedestal.data.materials.append(_material("Stone", ((0.05, 0.15, 0.3), (0.7, 0.7, 0.65)), 2.0))

    sun = bpy.data.objects.new("Sun", bpy.data.lights.new("Sun", "SUN"))
    sun.data.energy = 3.0
    sun.data.angle = 0.2
    sun.rotation_euler = (0.7, 0.2, 0.5)
    scene.collection.objects.link(sun)

    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    camera.location = (2.0 + 3.6, -1.0 - 4.8, 2.7)
    camera.rotation_euler = (math.radians(76), 0.0, math.radians(36.9))
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.render.resolution_x, scene.render.resolution_y = 640, 480


if __name__ == "__main__":
    build()
    bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])
