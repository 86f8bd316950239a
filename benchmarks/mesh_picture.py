"""A picture of a mesh, by Blender as a Python module (``pip install bpy``).

python benchmarks/mesh_picture.py MESH.(ply|glb|obj) PICTURE.png
"""

from __future__ import annotations

import math
import sys

import bpy
import mathutils

SIZE, SAMPLES = 480, 16


def main(mesh: str, picture: str) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    read = {
        "ply": bpy.ops.wm.ply_import,
        "obj": bpy.ops.wm.obj_import,
        "glb": bpy.ops.import_scene.gltf,
    }
    read[mesh.rpartition(".")[2]](filepath=mesh)
    scene = bpy.context.scene
    shown = [item for item in scene.objects if item.type == "MESH"]
    corners = [item.matrix_world @ mathutils.Vector(c) for item in shown for c in item.bound_box]
    low, high = (mathutils.Vector(map(choose, zip(*corners, strict=True))) for choose in (min, max))
    middle, radius = (low + high) / 2, (high - low).length / 2
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    scene.camera = camera
    direction = mathutils.Vector((1.0, -1.6, 0.9)).normalized()
    camera.location = middle + direction * radius / math.sin(camera.data.angle / 2)
    camera.rotation_euler = direction.to_track_quat("Z", "Y").to_euler()
    camera.data.clip_end = 100.0 * radius
    camera.data.clip_start = 1e-3 * radius
    sun = bpy.data.objects.new("Sun", bpy.data.lights.new("Sun", "SUN"))
    sun.data.energy = 3.0
    sun.rotation_euler = (0.7, 0.2, 0.4)
    scene.collection.objects.link(sun)
    scene.world = bpy.data.worlds.new("World")
    scene.render.engine = "CYCLES"
    scene.cycles.samples = SAMPLES
    scene.render.resolution_x = scene.render.resolution_y = SIZE
    scene.view_settings.view_transform = "Standard"
    scene.render.filepath = picture
    bpy.ops.render.render(write_still=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
