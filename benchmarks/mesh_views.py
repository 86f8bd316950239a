"""A textured mesh as a dataset's test views would show it, by Blender as a Python module.

    python benchmarks/mesh_views.py MESH.glb transforms.json FOLDER

The mesh's colours have the light baked in, so it emits them. The pictures have alpha and the names
of the views' images.
"""

from __future__ import annotations

import json
import pathlib
import sys

import bpy
import mathutils

SAMPLES = 8
_SENSOR = 36.0  # mm


def main(mesh: str, cameras: str, folder: str) -> None:
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.import_scene.gltf(filepath=mesh)
    for material in bpy.data.materials:
        if material.node_tree is not None:
            _emit_texture(material.node_tree)
    content = json.loads(pathlib.Path(cameras).read_text(encoding="utf-8"))
    test = set(content["test_filenames"])
    scene = bpy.context.scene
    scene.world = bpy.data.worlds.new("World")
    scene.render.engine = "CYCLES"
    scene.cycles.samples = SAMPLES
    scene.cycles.use_denoising = False
    scene.render.film_transparent = True
    scene.render.image_settings.color_mode = "RGBA"
    scene.view_settings.view_transform = "Standard"
    scene.render.resolution_x, scene.render.resolution_y = content["w"], content["h"]
    lens = bpy.data.cameras.new("Camera")
    lens.sensor_width, lens.sensor_fit = _SENSOR, "HORIZONTAL"
    lens.lens = content["fl_x"] * _SENSOR / content["w"]
    lens.clip_start, lens.clip_end = 1e-3, 1e4
    scene.camera = bpy.data.objects.new("Camera", lens)
    scene.collection.objects.link(scene.camera)
    for frame in content["frames"]:
        if frame["file_path"] in test:
            scene.camera.matrix_world = mathutils.Matrix(frame["transform_matrix"])
            name = pathlib.PurePosixPath(frame["file_path"]).name
            scene.render.filepath = str(pathlib.Path(folder) / name)
            bpy.ops.render.render(write_still=True)


def _emit_texture(tree: bpy.types.NodeTree) -> None:
    texture = next(
        link.from_node
        for link in tree.links
        if link.to_socket.name == "Base Color" and link.from_node.type == "TEX_IMAGE"
    )
    output = next(node for node in tree.nodes if node.type == "OUTPUT_MATERIAL")
    emission = tree.nodes.new("ShaderNodeEmission")
    tree.links.new(texture.outputs["Color"], emission.inputs["Color"])
    tree.links.new(emission.outputs[0], output.inputs["Surface"])


if __name__ == "__main__":
    main(*sys.argv[1:])
