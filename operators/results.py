"""What comes back: how anything does, and the field's mesh."""

import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import bpy
import numpy as np
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt

from ..neural_backend import config
from ..neural_backend.protocol import BadInput
from . import backend, colour, folders, glb, knobs
from .colour import Display
from .folders import Results
from .job import JobOperator, Status, Steps
from .place import scene_of
from .scratch import RESULT_MARK as MARK
from .scratch import results_of

COLLECTION = "Neural Fields"
COLOUR, LIGHT = "Color", "Light"
"""Colour attributes: as the render was displayed, and the light that it was displayed from."""
BAKED_LIGHT = "Baked Light"
PICTURE = "neural_fields_picture"
"""Custom property of a texture's image: what it shows, ``color``, ``light`` or ``normal``."""

_GRACE = 5.0
_GREY = (0.8, 0.8, 0.8, 1.0)


def extract_steps(
    program: str,
    found: Results,
    command: str,
    arguments: Sequence[str],
    look: Callable[[], Status],
    answer: BinaryIO | None = None,
) -> Steps[None]:
    """Let the backend make something of a run.

    Args:
        command, arguments: the backend's, with the run between them.
        look: gives the status at each tick.
        answer: gets what the backend prints on standard output.

    Raises:
        BadInput: no field has been trained there, or the backend fails.
    """
    require_trained(found)
    yield look()
    arguments = [command, str(found.run), *arguments]
    yield from backend.run_steps(program, arguments, found.log, look, _GRACE, answer)


def mesh_steps(program: str, found: Results, settings: config.ResultSettings) -> Steps[None]:
    """Let the backend extract the run's mesh; raises as ``extract_steps``.

    Raises:
        BadInput: a mesh stands there that is not ours, too.
    """
    require_no_strange_mesh(found)
    arguments = ["--output", str(found.mesh)]
    for name in ("resolution", "texture", "faces"):
        arguments += [f"--{name}", str(getattr(settings, f"mesh_{name}"))]
    extracting = Status(iface("Extracting the mesh"))
    yield from extract_steps(program, found, "mesh", arguments, lambda: extracting)


def require_no_strange_mesh(found: Results) -> None:
    """Raises BadInput where another program's mesh would be replaced."""
    if found.mesh.exists() and not glb.is_ours(found.mesh):
        raise folders.strange(found.mesh)


def import_mesh(
    scene: bpy.types.Scene, file: pathlib.Path, name: str, display: Display = colour.PLAIN
) -> bpy.types.Object:
    """Bring a mesh that the backend wrote into a scene, where its vertices say.

    The object is named ``name`` and stands in the scene's collection "Neural Fields". Where an
    earlier import of the same name is, in whatever collection by now, its mesh is replaced and its
    placement kept.

    Args:
        display: how the views were displayed that its colours are from.

    Raises:
        BadInput: the file is absent or damaged.
    """
    triangles = glb.read(file)
    mesh = _mesh(triangles, name, display)
    found = put(scene, mesh, name, name)
    for image in _images(mesh.materials[0]):
        image.name = f"{name} {image[PICTURE]}"
    _show_colours("TEXTURE" if "color" in triangles.pictures else "VERTEX")
    return found


def put(
    scene: bpy.types.Scene, data: bpy.types.Mesh | bpy.types.Volume, name: str, title: str
) -> bpy.types.Object:
    """Make new data, with a material, the scene's result ``name`` of its kind.

    Where there is one, in whatever collection by now, its data is replaced, and what came with
    that is removed where nothing else uses it. Else an object ``title`` is made in the collection
    "Neural Fields".
    """
    kinds: dict[str, Any] = {"MESH": bpy.data.meshes, "VOLUME": bpy.data.volumes}
    kind = "MESH" if isinstance(data, bpy.types.Mesh) else "VOLUME"
    earlier = (item for item in results_of(scene.objects) if item[MARK] == name)
    found = next((item for item in earlier if item.type == kind), None)
    if found is None:
        found = bpy.data.objects.new(title, data)
        found[MARK] = name
        result_collection(scene).objects.link(found)
    else:
        old: Any = found.data
        found.data = data
        materials = [slot for slot in old.materials if slot is not None]
        if old.users == 0:
            kinds[kind].remove(old)
        for material in materials:
            if material.users == 0 and material.get(MARK):
                _remove_material(material)
    data.name = data.materials[0].name = name
    return found


def _images(material: bpy.types.Material) -> list[bpy.types.Image]:
    """Those of a material that came with it."""
    images = {getattr(node, "image", None) for node in material.node_tree.nodes}
    return [image for image in images if image is not None and image.get(PICTURE)]


def _remove_material(material: bpy.types.Material) -> None:
    images = _images(material)
    bpy.data.materials.remove(material)
    for image in images:
        if image.users == 0:
            bpy.data.images.remove(image)


def _mesh(triangles: glb.Triangles, name: str, display: Display) -> bpy.types.Mesh:
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(triangles.vertices))
    mesh.vertices.foreach_set("co", triangles.vertices.ravel())
    count = len(triangles.faces)
    mesh.loops.add(3 * count)
    mesh.loops.foreach_set("vertex_index", triangles.faces.ravel())
    mesh.polygons.add(count)
    mesh.polygons.foreach_set("loop_start", np.arange(0, 3 * count, 3, dtype=np.int32))
    mesh.polygons.foreach_set("use_smooth", np.ones(count, dtype=bool))
    colours = triangles.colours
    if colours is None:
        colours = np.full((len(triangles.vertices), 4), _GREY, np.float32)
    if "color" not in triangles.pictures:
        _set_colours(mesh, COLOUR, colours)
        if not display.plain and triangles.colours is not None:
            light = np.hstack([display.light(colours[:, :3]), colours[:, 3:]])
            _set_colours(mesh, LIGHT, light)
        # what the solid view shows, which knows no view transform
        mesh.color_attributes.active_color = mesh.color_attributes[COLOUR]
        mesh.color_attributes.render_color_index = 0
    if triangles.uv is not None:
        layer = mesh.uv_layers.new(name="UVMap", do_init=False)
        layer.uv.foreach_set("vector", triangles.uv.ravel())
    mesh.update(calc_edges=True)
    mesh.validate()
    if triangles.normals is not None:
        # it takes any sequence of sequences, and an array without making a list of it
        normals: Any = triangles.normals
        mesh.normals_split_custom_set_from_vertices(normals)
    if triangles.pictures:
        mesh.materials.append(_textured_material(name, triangles.pictures, display))
    else:
        mesh.materials.append(_plain_material(name, mesh, lit=triangles.colours is None))
    return mesh


def _set_colours(mesh: bpy.types.Mesh, name: str, colours: np.ndarray) -> None:
    attribute = mesh.color_attributes.new(name, "FLOAT_COLOR", "POINT")
    attribute.data.foreach_set("color", np.ascontiguousarray(colours, np.float32).ravel())


def empty_material(name: str) -> bpy.types.Material:
    material = bpy.data.materials.new(name)
    material[MARK] = name
    if material.node_tree is None:  # from 5.0 a material always has one
        material.use_nodes = True
    material.node_tree.nodes.clear()
    return material


def _textured_material(
    name: str, pictures: dict[str, bytes], display: Display
) -> bpy.types.Material:
    """Shows the texture as it is: the light of the scene is in it already.

    The node ``BAKED_LIGHT`` fades between that, 1, and a surface of these colours in the light of
    the scene that it stands in now, 0. Without a colour texture only the latter is there.

    What it emits is the light that was displayed as the texture. That has no bound, as a surface's
    own colour has: this is the texture as it is.
    """
    material = empty_material(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    result = nodes.new("ShaderNodeOutputMaterial")
    shader = nodes.new("ShaderNodeBsdfPrincipled")
    result.location, shader.location = (300, 0), (0, 0)
    links.new(shader.outputs["BSDF"], result.inputs["Surface"])
    shader.inputs["Base Color"].default_value = _GREY
    shader.inputs["Roughness"].default_value = 0.9
    # highlights are in the colours; what an object of none reflects nobody knows
    shader.inputs["Specular IOR Level"].default_value = 0.0
    if "normal" in pictures:
        bumps = _picture_node(material, "normal", pictures["normal"])
        bumps.image.colorspace_settings.name = "Non-Color"
        bend = nodes.new("ShaderNodeNormalMap")
        bend.uv_map = "UVMap"
        bumps.location, bend.location = (-600, -400), (-250, -400)
        links.new(bumps.outputs["Color"], bend.inputs["Color"])
        links.new(bend.outputs["Normal"], shader.inputs["Normal"])
    if "color" in pictures:
        picture = _picture_node(material, "color", pictures["color"])
        baked, lit = nodes.new("ShaderNodeValue"), nodes.new("ShaderNodeMix")
        baked.name = baked.label = BAKED_LIGHT
        baked.outputs[0].default_value = 1.0
        lit.data_type = "RGBA"
        sockets = {socket.identifier: socket for socket in lit.inputs}
        sockets["B_Color"].default_value = (0.0, 0.0, 0.0, 1.0)
        picture.location, baked.location, lit.location = (-600, 0), (-600, 150), (-250, 150)
        links.new(baked.outputs[0], sockets["Factor_Float"])
        links.new(picture.outputs["Color"], sockets["A_Color"])
        mixed = next(socket for socket in lit.outputs if socket.identifier == "Result_Color")
        links.new(mixed, shader.inputs["Base Color"])
        emitted, strength = picture, baked
        if display.space != picture.image.colorspace_settings.name:
            emitted = _picture_node(material, "light", pictures["color"])
            emitted.image.colorspace_settings.name = display.space
            emitted.location = (-600, 450)
        if display.gain != 1.0:
            strength = nodes.new("ShaderNodeMath")
            strength.operation = "MULTIPLY"
            strength.inputs[1].default_value = display.gain
            strength.location = (-250, 350)
            links.new(baked.outputs[0], strength.inputs[0])
        links.new(emitted.outputs["Color"], shader.inputs["Emission Color"])
        links.new(strength.outputs[0], shader.inputs["Emission Strength"])
        # the solid view shows the active one
        nodes.active = picture
    return material


def _picture_node(material: bpy.types.Material, kind: str, data: bytes) -> bpy.types.Node:
    """A node with a picture of its own, which is part of the .blend file."""
    image = bpy.data.images.new(f"{material.name} {kind}", 8, 8)
    image.pack(data=data, data_len=len(data))
    image.source = "FILE"
    image[PICTURE] = kind
    node = material.node_tree.nodes.new("ShaderNodeTexImage")
    node.image = image
    return node


def _plain_material(name: str, mesh: bpy.types.Mesh, lit: bool) -> bpy.types.Material:
    """Shows the vertices' colours as they are: the light of the scene is in them already.

    A mesh that brought no colours is ``lit`` by the scene like any other.
    """
    material = empty_material(name)
    shown = mesh.color_attributes[COLOUR].data
    colours = np.empty((len(shown), 4), np.float32)
    shown.foreach_get("color", colours.reshape(-1))
    # the solid view's Material colour
    mean = np.mean(colours[:, :3], axis=0).clip(0.0, 1.0).tolist()
    material.diffuse_color = (*mean, 1.0)  # type: ignore[assignment]
    nodes, links = material.node_tree.nodes, material.node_tree.links
    source = nodes.new("ShaderNodeVertexColor")
    source.layer_name = LIGHT if LIGHT in mesh.color_attributes else COLOUR
    shader = nodes.new("ShaderNodeBsdfDiffuse" if lit else "ShaderNodeEmission")
    result = nodes.new("ShaderNodeOutputMaterial")
    source.location, shader.location, result.location = (-400, 0), (-200, 0), (0, 0)
    links.new(source.outputs["Color"], shader.inputs["Color"])
    links.new(shader.outputs[0], result.inputs["Surface"])
    return material


def result_collection(scene: bpy.types.Scene) -> bpy.types.Collection:
    for collection in scene.collection.children_recursive:
        if collection.name == COLLECTION or collection.get(MARK):
            return collection
    collection = bpy.data.collections.new(COLLECTION)
    collection[MARK] = scene.name
    scene.collection.children.link(collection)
    return collection


def _show_colours(kind: str) -> None:
    """Let solid views show colours of a ``kind``, in the windows that are open.

    Only those whose colour is Material, the default: another one was chosen. It stays so, for the
    mesh has no other colours to show; Solid's Color menu sets it back.
    """
    if bpy.app.background:
        return
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type != "VIEW_3D":
                continue
            shading = area.spaces.active.shading
            if shading.type == "SOLID" and shading.color_type == "MATERIAL":
                shading.color_type = kind


def file_path(file: pathlib.Path) -> str:
    """A file as a data-block names it: relative to the .blend file where that is possible."""
    if bpy.data.filepath:
        try:
            return bpy.path.relpath(str(file))
        except ValueError:  # another drive
            pass
    return str(file)


def require_trained(found: Results) -> None:
    """Raises BadInput where no field has been trained."""
    if not found.checkpoint.is_file():
        raise BadInput(f"{found.run}: no trained field is there yet; train one first")


def is_stale(file: pathlib.Path, found: Results) -> bool:
    """Whether something must be made of a run: it is absent, or older than the trained field."""
    if not file.is_file():
        return True
    checkpoint = found.checkpoint
    return checkpoint.is_file() and checkpoint.stat().st_mtime > file.stat().st_mtime


class NEURAL_FIELDS_OT_import_mesh(JobOperator, bpy.types.Operator):
    """Bring the trained field's mesh into the scene, extracting it first where needed"""

    bl_idname = "neural_fields.import_mesh"
    bl_label = "Import Mesh"
    bl_options = {"UNDO"}

    filepath: bpy.props.StringProperty(
        name="File",
        description="A mesh.glb. Empty: the mesh of the scene's run",
        subtype="FILE_PATH",
        options={"SKIP_SAVE", *knobs.BLEND_RELATIVE},
    )
    output: knobs.output_property("Folder of the run and the results.")
    run: knobs.run_property()
    extract: bpy.props.BoolProperty(
        name="Extract",
        description="Extract the mesh from the run also where one is there already",
        default=False,
        options={"SKIP_SAVE"},
    )

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        scene = context.scene.name
        if self.filepath:
            file = pathlib.Path(os.path.abspath(bpy.path.abspath(self.filepath)))
            name = file.parent.name if file.name == folders.MESH else file.stem
            run = folders.run_of(file)
        else:
            settings = knobs.settings_of(context.scene)
            found = folders.results_of(context.scene, self.output, self.run)
            file, name, run = found.mesh, found.name, found.run
            if self.extract or is_stale(file, found):
                require_trained(found)
                program = yield from backend.check_steps()
                yield from mesh_steps(program, found, settings.result)
        imported = import_mesh(scene_of(scene), file, name, colour.of_run(run))
        said = rpt("Imported {name}: {count} faces")
        return said.format(name=imported.name, count=len(imported.data.polygons))


CLASSES = (NEURAL_FIELDS_OT_import_mesh,)
