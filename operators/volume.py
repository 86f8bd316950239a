"""The field as a volume: an OpenVDB file, and the object that shows it."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import hashlib
import importlib.machinery
import importlib.util
import pathlib
import sys
from typing import Any

import bpy
import numpy as np
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt

from ..neural_backend import config, protocol, voxels
from ..neural_backend.protocol import BadInput
from ..neural_backend.voxels import Voxels
from . import backend, colour, folders, knobs, results
from .colour import Display
from .folders import Results
from .job import JobOperator, Status, Steps
from .place import scene_of

DENSITY, COLOUR = "density", "color"
"""Names of the grids, which renderers know."""

_MODULES = ("openvdb", "pyopenvdb")  # the latter before 4.4
_BLOCK = 64  # voxels along the edge of what is handed over at a time
_BRIGHTEST = 65504.0
_CLIPPING = 1e-3  # per edge of a voxel


def openvdb() -> Any:
    """The module that this Blender brings for writing volumes.

    Raises:
        BadInput: it brings none.
    """
    own = pathlib.Path(bpy.utils.resource_path("LOCAL"), "python")
    for name in _MODULES:
        spec = importlib.util.find_spec(name)
        if spec is None:
            # Blender as a Python module has it in a folder that Python does not look into
            bundled = map(str, own.glob("lib/**/site-packages"))
            spec = importlib.machinery.PathFinder.find_spec(name, [*bundled])
        if name not in sys.modules and spec is not None and spec.loader is not None:
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        if name in sys.modules:
            return sys.modules[name]
    raise BadInput(
        "this build of Blender has no openvdb module for Python, which writes volumes; take one "
        "from blender.org, or leave the volume out"
    )


def volume_steps(program: str, found: Results, settings: config.ResultSettings) -> Steps[None]:
    """Let the backend sample the run's field; raises as ``results.extract_steps``.

    Raises:
        BadInput: a file of another program stands in its place, too.
    """
    require_no_strange_voxels(found)
    arguments = ["--output", str(found.voxels), "--resolution", str(settings.volume_resolution)]
    sampling = Status(iface("Sampling the volume"))
    yield from results.extract_steps(program, found, "volume", arguments, lambda: sampling)


def require_no_strange_voxels(found: Results) -> None:
    """Raises BadInput where another program's file would be replaced."""
    if found.voxels.exists() and not voxels.is_ours(found.voxels):
        raise folders.strange(found.voxels)


def converted(file: pathlib.Path, display: Display = colour.PLAIN) -> pathlib.Path:
    """The OpenVDB file of a file of voxels, beside it; written where it is not there yet.

    Blender reads a file once a session, whatever becomes of it. So other voxels have a file of
    another name; the former one is removed.

    Args:
        display: how the views were displayed that the colours are from.

    Raises:
        BadInput: the voxels cannot be read, this Blender cannot write volumes, or the file cannot
            be written.
    """
    found = voxels.read(file)
    digest = hashlib.sha256(file.read_bytes() + repr(display).encode()).hexdigest()[:8]
    path = file.with_name(f"{file.stem}-{digest}.vdb")
    if not path.is_file():
        if not display.plain:
            light = display.light(found.color.astype(np.float32)).clip(0.0, _BRIGHTEST)
            found = dataclasses.replace(found, color=light.astype(np.float16))
        write(path, found)
    for former in file.parent.glob(f"{glob.escape(file.stem)}-{'[0-9a-f]' * 8}.vdb"):
        if former != path:
            with contextlib.suppress(OSError):  # it may be in use
                former.unlink()
    return path


def write(path: pathlib.Path, found: Voxels) -> None:
    """Write voxels as OpenVDB grids: ``density`` per scene unit, and ``color``.

    Raises:
        BadInput: this Blender cannot write volumes, or the file cannot be written.
    """
    vdb = openvdb()
    density, color = vdb.FloatGrid(), vdb.Vec3SGrid()
    density.name, color.name = DENSITY, COLOUR
    density.gridClass = vdb.GridClass.FOG_VOLUME
    for grid in (density, color):
        # OpenVDB's points are rows
        grid.transform = vdb.createLinearTransform(found.world_from_index.T.tolist())
    edge = float(np.linalg.norm(found.world_from_index[:3, 0]))
    block = found.index // _BLOCK
    order = np.lexsort(block.T)
    changes = np.diff(block[order], axis=0).any(1).nonzero()[0] + 1
    for part in np.split(order, changes):
        first = block[part[0]].astype(int) * _BLOCK
        place = tuple((found.index[part] - first).T)
        for grid, values in ((density, found.density / np.float32(edge)), (color, found.color)):
            dense = np.zeros((_BLOCK, _BLOCK, _BLOCK, *values.shape[1:]), np.float32)
            dense[place] = values[part]
            grid.copyFromArray(dense, ijk=tuple(first.tolist()))
    try:
        protocol.write_whole(path, lambda beside: vdb.write(str(beside), grids=[density, color]))
    except (OSError, RuntimeError) as error:
        reason = protocol.first_line(error)
        raise BadInput(f"{path}: cannot be written ({reason}); choose another Output") from None


def import_volume(
    scene: bpy.types.Scene, file: pathlib.Path, name: str, display: Display = colour.PLAIN
) -> bpy.types.Object:
    """Bring voxels that the backend wrote into a scene, where these say.

    The object is named after ``name`` and stands in the scene's collection "Neural Fields". Where
    an earlier import of the same name is, its volume is replaced and its placement kept.

    Args:
        display: how the views were displayed that its colours are from.

    Raises:
        BadInput: see ``converted``.
    """
    data = bpy.data.volumes.new(name)
    try:
        path = converted(file, display)
        data.filepath = results.file_path(path)
        if not data.grids.load() or not {DENSITY, COLOUR} <= {grid.name for grid in data.grids}:
            raise BadInput(f"{path}: Blender cannot read it; remove it and import the volume again")
    except BadInput:
        bpy.data.volumes.remove(data)
        raise
    edge = float(np.linalg.norm(np.array(data.grids[DENSITY].matrix_object)[:3, 0]))
    # by default what is thin in a scene unit is left out, and half floats end at 65504
    data.render.clipping = min(_CLIPPING / edge, 1.0)
    data.render.precision = "FULL"
    data.materials.append(_material(name))
    return results.put(scene, data, name, f"{name} volume")


def _material(name: str) -> bpy.types.Material:
    """Absorbs light by the density, and emits the colour as much: the field's own rendering.

    The light of the scene is in the colours already.
    """
    material = results.empty_material(name)
    nodes, links = material.node_tree.nodes, material.node_tree.links
    density, color = (nodes.new("ShaderNodeAttribute") for _ in range(2))
    density.attribute_name, color.attribute_name = DENSITY, COLOUR
    absorption, emission = (
        nodes.new("ShaderNodeVolumeAbsorption"),
        nodes.new("ShaderNodeEmission"),
    )
    absorption.inputs["Color"].default_value = (0.0, 0.0, 0.0, 1.0)
    both = nodes.new("ShaderNodeAddShader")
    result = nodes.new("ShaderNodeOutputMaterial")
    links.new(density.outputs["Fac"], absorption.inputs["Density"])
    links.new(density.outputs["Fac"], emission.inputs["Strength"])
    links.new(color.outputs["Color"], emission.inputs["Color"])
    links.new(absorption.outputs[0], both.inputs[0])
    links.new(emission.outputs[0], both.inputs[1])
    links.new(both.outputs[0], result.inputs["Volume"])
    for column, rows in enumerate(((density, color), (absorption, emission), (both,), (result,))):
        for row, node in enumerate(rows):
            node.location = (250 * column, -250 * row)
    return material


class NEURAL_FIELDS_OT_import_volume(JobOperator, bpy.types.Operator):
    """Bring the trained field's volume into the scene, sampling it first where needed"""

    bl_idname = "neural_fields.import_volume"
    bl_label = "Import Volume"
    bl_options = {"UNDO"}

    output: knobs.output_property("Folder of the run and the results.")
    run: knobs.run_property()
    extract: bpy.props.BoolProperty(
        name="Extract",
        description="Sample the volume from the run also where one is there already",
        default=False,
        options={"SKIP_SAVE"},
    )

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        scene = context.scene.name
        settings = knobs.settings_of(context.scene)
        found = folders.results_of(context.scene, self.output, self.run)
        openvdb()
        if self.extract or results.is_stale(found.voxels, found):
            results.require_trained(found)
            program = yield from backend.check_steps()
            yield from volume_steps(program, found, settings.result)
        display = colour.of_run(found.run)
        imported = import_volume(scene_of(scene), found.voxels, found.name, display)
        return rpt("Imported {names}").format(names=imported.name)


CLASSES = (NEURAL_FIELDS_OT_import_volume,)
