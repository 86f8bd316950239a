"""The whole loop in the real Blender's background, on scenes that nobody here made."""

from __future__ import annotations

import json
import pathlib

import igl
import numpy as np
import pytest
import trimesh
from blender_process import Blender

SETTINGS = 'views=8, resolution=48, max_seconds=6.0, results={"MESH", "SEQUENCE"}'
REPORT = """
import bpy, json, sys
scene = bpy.context.scene
scene.neural_fields.dataset.samples = 2
scene.neural_fields.result.mesh_resolution = 48
scene.neural_fields.result.sequence_frames = 3
scene.neural_fields.result.sequence_path = "orbit"

def values():
    # all plain values of the render, its files and its colours, and where the camera stands
    found = {{}}
    owners = dict(
        render=scene.render,
        image=scene.render.image_settings,
        view=scene.view_settings,
        cycles=getattr(scene, "cycles", None),
        eevee=scene.eevee,
    )
    for name, owner in owners.items():
        for prop in owner.bl_rna.properties if owner else ():
            if prop.type in ("BOOLEAN", "INT", "FLOAT", "STRING", "ENUM"):
                value = getattr(owner, prop.identifier)
                plain = isinstance(value, (bool, int, float, str))
                found[name + "." + prop.identifier] = value if plain else repr(list(value))
    found["camera"] = scene.camera.name
    found["matrix"] = [list(row) for row in scene.camera.matrix_world]
    found["frame"] = scene.frame_current
    found["layers"] = [layer.use for layer in scene.view_layers]
    return found

before = values()
result = bpy.ops.neural_fields.train(output={output!r}, {settings})
after = values()
mesh = bpy.data.collections["Neural Fields"].objects[0]
json.dump({{
    "result": sorted(result),
    "values": len(before),
    "changed": [name for name in before if before[name] != after[name]],
    "torch": "torch" in sys.modules,
    "name": mesh.name,
    "vertices": len(mesh.data.vertices),
    "faces": len(mesh.data.polygons),
    "corners": [list(mesh.matrix_world @ v.co) for v in mesh.data.vertices],
    "colours": [layer.name for layer in mesh.data.color_attributes],
    "sequences": [image.name for image in bpy.data.images if image.source == "SEQUENCE"],
}}, open({report!r}, "w"))
"""


@pytest.mark.parametrize(
    ("name", "colours"),
    [("armory_logic_toy_car.blend", ["Color"]), ("24_vertex_colors.blend", ["Color", "Light"])],
)
def test_train(
    blender: Blender, data: pathlib.Path, tmp_path: pathlib.Path, name: str, colours: list[str]
) -> None:
    output, report = tmp_path / "résult of it", tmp_path / "report.json"
    script = REPORT.format(output=str(output), settings=SETTINGS, report=str(report))
    done = blender.python(script, data / "blend" / name)
    said = json.loads(report.read_text())
    assert said["result"] == ["FINISHED"]
    assert said["values"] > 50
    assert said["changed"] == []
    assert not said["torch"], "torch was loaded in Blender's process"
    assert said["name"] == output.name
    assert said["faces"] > 100
    assert said["colours"] == colours
    assert len(said["sequences"]) == 1
    assert len(list((output / "sequence").glob("*.png"))) == 3
    assert (output / "mesh.glb").stat().st_size > 1000
    written = json.loads((output / "dataset" / "transforms.json").read_text())
    low, high = written["neural_fields"]["bounds"]
    size = max(b - a for a, b in zip(low, high, strict=True))
    for corner in said["corners"]:
        for value, a, b in zip(corner, low, high, strict=True):
            assert a - 0.1 * size <= value <= b + 0.1 * size, "the mesh stands elsewhere"
    assert "8 of 8" in done.stdout, "the export's progress was not printed"


KNOWN_OBJECT = """
import bpy, numpy as np
for item in list(bpy.data.objects):
    if item.type == "MESH":
        bpy.data.objects.remove(item)
bpy.ops.mesh.primitive_monkey_add(location=(7.0, -4.0, 2.5), rotation=(0.4, 0.3, 1.1))
suzanne = bpy.context.object
suzanne.scale = (0.6, 0.5, 0.7)
suzanne.modifiers.new("Smooth", "SUBSURF").render_levels = 2
scene = bpy.context.scene
scene.render.engine = "CYCLES"
scene.cycles.use_denoising = False
scene.neural_fields.dataset.samples = 8
scene.neural_fields.result.mesh_resolution = 128
bpy.ops.neural_fields.train(
    output={output!r}, field={field!r}, source="selection", views=40, resolution=128,
    max_seconds=20.0, results={{"MESH"}})

def arrays(item):
    mesh = item.to_mesh()
    mesh.calc_loop_triangles()
    points = np.array([item.matrix_world @ vertex.co for vertex in mesh.vertices])
    return points, np.array([triangle.vertices[:] for triangle in mesh.loop_triangles])

suzanne.modifiers["Smooth"].levels = 2
found = bpy.data.collections["Neural Fields"].objects[0]
depsgraph = bpy.context.evaluated_depsgraph_get()
points, faces = arrays(suzanne.evaluated_get(depsgraph))
found_points, found_faces = arrays(found.evaluated_get(depsgraph))
np.savez({arrays!r}, points=points, faces=faces, found_points=found_points, found_faces=found_faces)
"""


@pytest.mark.parametrize(("field", "most"), [("nerf", 0.01), ("sdf", 0.002)])
def test_mesh_stands_where_the_object_stands(
    blender: Blender, tmp_path: pathlib.Path, field: str, most: float
) -> None:
    """Suzanne off-centre, rotated and scaled: within a part of her diagonal (Chamfer distance)."""
    arrays = tmp_path / "arrays.npz"
    script = KNOWN_OBJECT.format(output=str(tmp_path / "suzanne"), arrays=str(arrays), field=field)
    blender.python(script)
    meshes = np.load(arrays)
    truth = trimesh.Trimesh(meshes["points"], meshes["faces"], process=False)
    found = trimesh.Trimesh(meshes["found_points"], meshes["found_faces"], process=False)
    means = []
    for mine, other in ((truth, found), (found, truth)):
        points = np.asarray(trimesh.sample.sample_surface(mine, 20_000, seed=0)[0])
        vertices, faces = np.asarray(other.vertices), np.asarray(other.faces)
        squared = igl.point_mesh_squared_distance(points, vertices, faces.astype(np.int64))[0]
        means.append(np.sqrt(squared).mean())
    diagonal = np.linalg.norm(np.ptp(meshes["points"], axis=0))
    chamfer = np.mean(means) / diagonal
    print(f"Chamfer distance: {chamfer:.3%} of the diagonal")
    assert chamfer < most


def test_refusal_is_one_line_and_a_status(blender: Blender, tmp_path: pathlib.Path) -> None:
    script = (
        "import bpy; bpy.ops.wm.read_factory_settings(use_empty=True);"
        "bpy.ops.preferences.addon_enable(module='bl_ext.user_default.neural_fields');"
        "bpy.ops.neural_fields.train("
        f"output={str(tmp_path / 'out')!r}, rig='cameras', results=set())"
    )
    done = blender.python(script, check=False)
    assert done.returncode == 1
    line = "the scene has no camera: add one, or choose another rig"
    lines = [text for text in done.stdout.splitlines() if "Error: " in text]
    said = [text for text in lines if not text.startswith("Error: script failed")]
    assert sorted(said) == [f"Error: {line}", f"RuntimeError: Error: {line}"], done.stdout
