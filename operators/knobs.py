"""Blender's face of the knobs: properties built from the dataclasses of ``config``."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from typing import Any

import bpy
import numpy as np

from ..neural_backend import config
from ..neural_backend.protocol import BadInput, first_line, in_words, write_json
from . import place

LABELS = {
    "kind": "Rig",
    "field": "Field",
    "max_seconds": "Time Override",
    "max_steps": "Steps",
    "lowest": "Lowest Elevation",
    "highest": "Highest Elevation",
    "frame_step": "Every n-th Frame",
    "samples": "Samples a Pixel",
    "passes": "Depth and Normals",
    "batch": "Samples a Step",
    "mesh_resolution": "Mesh Resolution",
    "mesh_faces": "Faces",
    "mesh_texture": "Texture Size",
    "volume_resolution": "Volume Resolution",
    "sequence_path": "Camera Path",
    "sequence_frames": "Orbit Frames",
    "log2_table_size": "Table Size (log2)",
    "width": "MLP Width",
}
"""Labels of the knobs whose name alone would not do."""


def _times(preset: config.Preset) -> str:
    """How long a preset trains, for its tooltip."""
    cpu, cuda = (in_words(config.PRESET_SECONDS[device][preset]) for device in ("cpu", "cuda"))
    return f"{cpu} of training, {cuda} on an NVIDIA GPU"


_CHOICE_LABELS = {
    ("preset", "preview"): ("Preview", f"A first look: {_times('preview')}"),
    ("preset", "standard"): ("Standard", f"Good: {_times('standard')}"),
    ("preset", "best"): ("Best", f"As good as it gets: {_times('best')}"),
    ("kind", "camera_path"): ("Camera Path", "The active camera's animation"),
    ("kind", "cameras"): ("Scene Cameras", "All cameras of the scene or of the collection"),
    ("kind", "sphere"): ("Sphere", "Evenly spaced all around the subject"),
    ("kind", "hemisphere"): ("Hemisphere", "Evenly spaced, none from below"),
    ("kind", "orbit"): ("Orbit", "Rings around the subject"),
    ("kind", "random"): ("Random", "Seeded random directions"),
    ("subject", "scene"): (
        "Scene",
        "Everything that renders, but a flat object more than ten times as long as all the rest",
    ),
    ("subject", "selection"): ("Selection", "The selected objects"),
    ("subject", "collection"): ("Collection", "The objects of a collection"),
    ("format", "png"): ("PNG", "8-bit sRGB, through the scene's view transform"),
    ("format", "exr"): (
        "OpenEXR",
        "Linear light in half floats, without view transform: lights brighter than white stay so, "
        "and the noise of a few samples averages out over the views",
    ),
    ("passes", "auto"): ("Automatic", "For a surface (NeuS), where Cycles or EEVEE renders"),
    ("passes", "on"): ("On", "As OpenEXR, out of the same render; Cycles and EEVEE"),
    ("passes", "off"): ("Off", "Images alone"),
    ("field", "nerf"): ("Radiance Field (NeRF)", "Radiance and density, from rendered views"),
    ("field", "neus"): ("Surface (NeuS)", "A closed surface with colour, from rendered views"),
    ("field", "sdf"): ("Signed Distance (SDF)", "Signed distance, from the scene's geometry"),
    ("encoding", "hash"): ("Hash Grid", "Multiresolution hash grid: fast and sharp"),
    ("encoding", "gaussian"): ("Gaussian", "Random Fourier features"),
    ("encoding", "positional"): ("Positional", "Sines and cosines of octave frequencies"),
    ("encoding", "basic"): ("Basic", "One sine and cosine a coordinate"),
    ("encoding", "none"): ("None", "The coordinates themselves"),
    ("activation", "relu"): ("ReLU", ""),
    ("device", "auto"): ("Automatic", "The fastest that is there"),
    ("device", "cpu"): ("CPU", ""),
    ("device", "cuda"): ("CUDA", "NVIDIA GPU, or AMD's through the same name"),
    ("device", "mps"): ("Apple Metal", "Apple's GPU"),
    ("sequence_path", "auto"): (
        "Automatic",
        "The active camera's animation where it has one, else the rig's orbit",
    ),
    ("sequence_path", "camera"): ("Camera", "The active camera's animation"),
    ("sequence_path", "orbit"): ("Orbit", "Once around the subject"),
}

_SUBTYPES = {
    "radians": {"subtype": "ANGLE"},
    "seconds": {"subtype": "TIME_ABSOLUTE", "unit": "TIME_ABSOLUTE"},
    "millimetres": {"subtype": "DISTANCE_CAMERA", "unit": "CAMERA"},
    "pixels": {"subtype": "PIXEL"},
    "fraction": {"subtype": "FACTOR"},
}
# a path property must say that it may begin with "//"
BLEND_RELATIVE: Any = {"PATH_SUPPORTS_BLEND_RELATIVE"} if bpy.app.version >= (4, 5, 0) else set()
_SHOWN_UNITS = {"radians": "degrees"}
_LARGEST_INT = 2**31 - 1
_KEPT, _KEPT_VERSION = ("rig", "dataset", "result"), 1


def property_of(knob: config.Knob, refused: bool = False, **changes: Any) -> Any:
    """The ``bpy.props`` annotation of a knob.

    Args:
        refused: a number out of range is kept as it is given, for ``settings_of`` to refuse.
            Otherwise Blender moves it to the nearest one in range, which a panel shows and a
            script is not told.
        changes: replaces some of its keywords.
    """
    unit = _SHOWN_UNITS.get(knob.unit, knob.unit)
    keywords: dict[str, Any] = {
        "name": LABELS.get(knob.name, knob.name.replace("_", " ").title()),
        "description": f"{knob.help} [{unit}]" if unit else knob.help,
        "default": knob.default,
    }
    if knob.choices:
        items = []
        for choice in knob.choices:
            plain = (choice.replace("_", " ").title(), "")
            items.append((choice, *_CHOICE_LABELS.get((knob.name, choice), plain)))
        return bpy.props.EnumProperty(**(keywords | {"items": items} | changes))
    if knob.type is bool:
        return bpy.props.BoolProperty(**(keywords | changes))
    if knob.type is str:
        return bpy.props.StringProperty(**(keywords | changes))
    low, high = ("soft_min", "soft_max") if refused else ("min", "max")
    if knob.low is not None:
        keywords[low] = knob.low
    if knob.high is not None:
        keywords[high] = knob.high
    keywords |= _SUBTYPES.get(knob.unit, {})
    if knob.type is int:
        keywords[high] = min(keywords.get(high, _LARGEST_INT), _LARGEST_INT)
        return bpy.props.IntProperty(**(keywords | changes))
    if not knob.unit:
        keywords |= {"precision": 4, "step": 1}
    return bpy.props.FloatProperty(**(keywords | changes))


def output_property(holds: str) -> Any:
    """The ``bpy.props`` annotation of an operator's folder; ``holds`` says what lies in it."""
    return bpy.props.StringProperty(
        name="Output",
        description=f"{holds} Empty: the scene's",
        subtype="DIR_PATH",
        options={"SKIP_SAVE", *BLEND_RELATIVE},
    )


def run_property() -> Any:
    """The ``bpy.props`` annotation of an operator's run."""
    return bpy.props.StringProperty(
        name="Run",
        description="The run's folder, such as that of an earlier training. Empty: run in Output",
        subtype="DIR_PATH",
        options={"SKIP_SAVE", *BLEND_RELATIVE},
    )


def annotations_of(group: type) -> dict[str, Any]:
    """Annotations, name to ``bpy.props`` value, of all knobs of a group of ``config``."""
    return {knob.name: property_of(knob) for knob in config.knobs(group)}


def named(group: type, name: str) -> config.Knob:
    """One knob of a group."""
    return next(knob for knob in config.knobs(group) if knob.name == name)


@dataclasses.dataclass(frozen=True)
class Settings:
    """A scene's settings as they were when a job began; the person may go on changing them."""

    rig: config.RigSettings
    dataset: config.DatasetSettings
    training: config.TrainingSettings
    result: config.ResultSettings
    collection_name: str | None

    def keep(self, file: pathlib.Path) -> None:
        """Write all but the training's, which a run keeps itself. Raises OSError."""
        groups = {name: dataclasses.asdict(getattr(self, name)) for name in _KEPT}
        collection = {"collection": self.collection_name}
        write_json(file, {"version": _KEPT_VERSION, **groups, **collection})

    @property
    def collection(self) -> bpy.types.Collection | None:
        """The subject's or the cameras' collection. Raises BadInput when it is gone."""
        return place.collection_of(self.collection_name)


def settings_of(
    scene: bpy.types.Scene, overrides: dict[str, dict[str, Any]] | None = None
) -> Settings:
    """Copy the settings of a scene.

    Args:
        overrides: by group and knob, such as ``{"rig": {"views": 20}}``, what replaces the
            scene's value.

    Raises:
        BadInput: when a value is out of its range, or the scene is another file's.
    """
    place.require_local(scene)
    stored = scene.neural_fields
    copies: dict[str, Any] = {}
    for name, group in config.GROUPS.items():
        source = getattr(stored, name)
        values = {
            knob.name: _plain(knob, getattr(source, knob.name)) for knob in config.knobs(group)
        }
        copies[name] = group(**(values | (overrides or {}).get(name, {})))
        problem = config.check(copies[name])
        if problem:
            raise BadInput(f"{name}: {problem}")
    collection = stored.rig.collection
    return Settings(**copies, collection_name=collection.name_full if collection else None)


def put(scene: bpy.types.Scene, file: pathlib.Path, training: config.TrainingSettings) -> None:
    """Give a scene the settings of a run.

    Args:
        file: what ``Settings.keep`` has written; where it is not there, the run was begun without
            Blender, and only the training's are changed.

    Raises:
        BadInput: the file cannot be read, or the scene is another file's; nothing is changed.
    """
    place.require_local(scene)
    groups: dict[str, Any] = {"training": training}
    collection = scene.neural_fields.rig.collection
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        groups |= {name: config.from_dict(config.GROUPS[name], values[name]) for name in _KEPT}
        named = (each for each in bpy.data.collections if each.name_full == values["collection"])
        collection = next(named, None)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file}: cannot be read ({first_line(error)})") from None
    for name, group in groups.items():
        stored = getattr(scene.neural_fields, name)
        for knob in config.knobs(type(group)):
            setattr(stored, knob.name, getattr(group, knob.name))
    scene.neural_fields.rig.collection = collection


def _plain(knob: config.Knob, value: Any) -> Any:
    """A property's value as the person typed it: Blender holds numbers in single precision."""
    if not isinstance(value, float):
        return value
    if np.float32(knob.default) == np.float32(value):
        return knob.default
    shortest = float(str(np.float32(value)))
    low = -math.inf if knob.low is None else knob.low
    high = math.inf if knob.high is None else knob.high
    return min(max(shortest, low), high)
