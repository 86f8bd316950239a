"""Every knob of the program, declared once.

The command line's flags, Blender's property groups and a run's ``config.json`` are built from the
dataclasses below. Adding a knob is adding one field. Standard library only: Blender imports this.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from typing import Any, Literal

FieldKind = Literal["nerf", "sdf", "neus"]
Encoding = Literal["hash", "gaussian", "positional", "basic", "none"]
Activation = Literal["relu", "sigmoid", "sine", "gaussian"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Preset = Literal["preview", "standard", "best"]
Background = Literal["random", "white", "black"]
RigKind = Literal["sphere", "hemisphere", "orbit", "random", "camera_path", "cameras"]
Subject = Literal["scene", "selection", "collection"]
ImageFormat = Literal["png", "exr"]
Passes = Literal["auto", "on", "off"]
SequencePath = Literal["auto", "camera", "orbit"]

PRESET_SECONDS: dict[str, dict[Preset, float]] = {
    "cpu": {"preview": 30.0, "standard": 120.0, "best": 600.0},
    "mps": {"preview": 30.0, "standard": 120.0, "best": 600.0},
    "cuda": {"preview": 10.0, "standard": 60.0, "best": 300.0},
}
"""Seconds of training that a preset stands for, by the kind of device."""


def knob(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Any:
    """Declare one knob.

    Args:
        default: the value when nothing is said.
        help: one line, without a closing full stop.
        unit: ``pixels``, ``seconds``, ``radians``, ``millimetres``, ``fraction``, ... or
            empty.
        low, high: the closed range of numbers, ``None`` where there is no bound.
    """
    metadata = {"help": help, "unit": unit, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class RigSettings:
    """Where the cameras of the views stand."""

    kind: RigKind = knob("sphere", "How the cameras are placed")
    views: int = knob(
        60,
        "Number of views in all: training, validation and test (camera path and scene cameras "
        "have as many views as frames and cameras)",
        unit="views",
        low=3,
        high=10_000,
    )
    subject: Subject = knob("scene", "What a generated rig frames")
    focal_length: float = knob(
        50.0, "Lens of a generated rig, on a 36 mm sensor", unit="millimetres", low=1.0, high=1000.0
    )
    margin: float = knob(
        0.05,
        "Empty border around the subject, as a fraction of the frame",
        unit="fraction",
        low=0.0,
        high=0.45,
    )
    rings: int = knob(3, "Rings of an orbit", unit="rings", low=1, high=100)
    lowest: float = knob(
        math.radians(-20.0),
        "Elevation of an orbit's lowest ring",
        unit="radians",
        low=-math.pi / 2,
        high=math.pi / 2,
    )
    highest: float = knob(
        math.radians(50.0),
        "Elevation of an orbit's highest ring",
        unit="radians",
        low=-math.pi / 2,
        high=math.pi / 2,
    )
    frame_step: int = knob(
        1, "Camera path: use every n-th frame", unit="frames", low=1, high=10_000
    )
    seed: int = knob(0, "Seed of a random rig", low=0, high=2**31 - 1)
    validation: float = knob(
        0.05,
        "Fraction of the views kept for validation while training",
        unit="fraction",
        low=0.0,
        high=0.5,
    )
    test: float = knob(
        0.1, "Fraction of the views kept for the final test", unit="fraction", low=0.0, high=0.5
    )


@dataclasses.dataclass(frozen=True)
class DatasetSettings:
    """How the views are rendered."""

    resolution: int = knob(
        400,
        "Longer side of a view; a generated rig's views are square, a camera's keep the shape of "
        "the scene's render",
        unit="pixels",
        low=8,
        high=16_384,
    )
    samples: int = knob(
        0,
        "Samples a pixel for the views; 0 keeps the scene's own",
        unit="samples",
        low=0,
        high=65_536,
    )
    format: ImageFormat = knob(
        "png",
        "Images of the views: sRGB as on screen, or linear light (best for noisy renders and "
        "bright lights)",
    )
    transparent: bool = knob(
        True,
        "Render the subject alone, with alpha, without the world and what else is there (best for "
        "objects)",
    )
    passes: Passes = knob(
        "auto", "Write depth and normals of each view beside its image, for surfaces to learn from"
    )


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What is trained, on what and for how long."""

    preset: Preset = knob(
        "standard", "How much time the training gets; the field's size follows from it"
    )
    field: FieldKind = knob(
        "nerf",
        "nerf: radiance field from images; neus: surface with colour from images; sdf: signed "
        "distance from geometry",
    )
    encoding: Encoding = knob("hash", "How coordinates become features")
    activation: Activation = knob("relu", "Activation of the hidden layers")
    device: Device = knob("auto", "Where the field trains")
    max_seconds: float = knob(
        0.0,
        "Training time, not counting start-up, loading and compiling; 0 takes the preset's",
        unit="seconds",
        low=0.0,
        high=604_800.0,
    )
    max_steps: int = knob(
        0, "Training steps at most; 0 lets the time decide", unit="steps", low=0, high=100_000_000
    )
    seed: int = knob(0, "Seed of the weights and of the batches", low=0, high=2**31 - 1)
    view_direction: bool = knob(True, "Let colour depend on the direction of view (nerf, neus)")
    background: Background = knob(
        "random", "What lies behind transparent pixels while training (nerf, neus)"
    )
    learning_rate: float = knob(
        0.0, "Adam's first learning rate; 0 takes the encoding's own", low=0.0, high=1.0
    )
    batch: int = knob(
        0, "Samples a step; 0 fits device and time", unit="samples", low=0, high=16_777_216
    )
    levels: int = knob(0, "Hash grid: levels; 0 fits device and time", low=0, high=32)
    features: int = knob(2, "Hash grid: features a level", low=1, high=8)
    log2_table_size: int = knob(
        0, "Hash grid: log2 of the entries a level; 0 fits device and time", low=0, high=24
    )
    coarsest: int = knob(
        0,
        "Hash grid: cells along the coarsest level's edge; 0 takes the field's own",
        low=0,
        high=1024,
    )
    finest: int = knob(
        0,
        "Hash grid: cells along the finest level's edge; 0 fits device and time",
        low=0,
        high=65_536,
    )
    frequencies: int = knob(
        0, "Fourier features: number of frequencies; 0 takes the field's own", low=0, high=4096
    )
    sigma: float = knob(
        0.0,
        "Gaussian features: standard deviation of the frequencies; 0 takes the field's own",
        unit="cycles a box",
        low=0.0,
        high=1000.0,
    )
    hidden_layers: int = knob(
        0, "Hidden layers of the MLP; 0 takes the encoding's own", low=0, high=16
    )
    width: int = knob(0, "Width of the MLP; 0 takes the encoding's own", low=0, high=4096)


@dataclasses.dataclass(frozen=True)
class ResultSettings:
    """What comes back into the scene."""

    mesh: bool = knob(True, "Extract a mesh and bring it into the scene")
    sequence: bool = knob(True, "Render the field as an image sequence and bring it back")
    volume: bool = knob(False, "Bring the field into the scene as an OpenVDB volume (nerf, neus)")
    mesh_resolution: int = knob(
        256, "Cells along the longest side of the extracted mesh", unit="cells", low=8, high=1024
    )
    mesh_faces: int = knob(
        0,
        "Faces of the mesh at most; 0 takes a number that is easy to work with",
        unit="faces",
        low=0,
        high=100_000_000,
    )
    mesh_texture: int = knob(
        0,
        "Texels along the edge of the mesh's texture and normal map; 0 colours the vertices "
        "instead, which is faster",
        unit="texels",
        low=0,
        high=4096,
    )
    volume_resolution: int = knob(
        256, "Voxels along the longest side of the volume", unit="voxels", low=8, high=512
    )
    sequence_path: SequencePath = knob(
        "auto",
        "Camera of the sequence: the active camera's animation, the rig's orbit, or (auto) the "
        "first of the two that exists",
    )
    sequence_frames: int = knob(
        24, "Frames of an orbit's sequence", unit="frames", low=1, high=100_000
    )


MESH_FACES, TEXTURED_MESH_FACES = 300_000, 50_000
"""Faces at most where none are asked for: vertices carry colours, a texture does not need them."""

GROUPS: dict[str, type] = {
    "rig": RigSettings,
    "dataset": DatasetSettings,
    "training": TrainingSettings,
    "result": ResultSettings,
}
"""The groups by the name that they have in Blender: ``scene.neural_fields.<name>``."""


@dataclasses.dataclass(frozen=True)
class Knob:
    """One knob as its faces need it; ``choices`` is empty for a free value."""

    name: str
    type: type
    default: Any
    help: str
    unit: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]


def knobs(group: type) -> list[Knob]:
    """List a group's knobs, in the order of their declaration."""
    hints = typing.get_type_hints(group)
    listed = []
    for field in dataclasses.fields(group):
        hint = hints[field.name]
        choices = typing.get_args(hint)
        kind = str if choices else hint
        listed.append(Knob(field.name, kind, field.default, choices=choices, **field.metadata))
    return listed


def check(settings: Any) -> str:
    """Say in one line what is wrong with a group's values; an empty string if nothing is."""
    for item in knobs(type(settings)):
        value = getattr(settings, item.name)
        if item.choices:
            if value not in item.choices:
                return f"{item.name} is {value!r}: choose one of {', '.join(item.choices)}"
            continue
        if item.type in (int, float):
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return f"{item.name} is {value!r}: give a number"
            if not math.isfinite(value):
                return f"{item.name} is {value}: give a finite number"
            if item.low is not None and value < item.low:
                return f"{item.name} is {value}: give at least {item.low:g}"
            if item.high is not None and value > item.high:
                return f"{item.name} is {value}: give at most {item.high:g}"
            if item.type is int and int(value) != value:
                return f"{item.name} is {value}: give a whole number"
        elif not isinstance(value, item.type):
            return f"{item.name} is {value!r}: give a {item.type.__name__}"
    return ""


def from_dict(group: type, values: dict[str, Any]) -> Any:
    """Build a group from a json object.

    Raises:
        ValueError: one line, when a name is unknown or a value is out of range.
    """
    known = {item.name for item in knobs(group)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown setting {unknown[0]!r}: written by another version")
    settings = group(**values)
    problem = check(settings)
    if problem:
        raise ValueError(problem)
    return settings
