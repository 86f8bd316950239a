"""``scene.neural_fields``: the settings that a file keeps; the list of runs as it is shown."""

from typing import Any

import bpy

from ..neural_backend import config
from ..operators import knobs, runs


def _group(name: str, **more: object) -> type:
    group = config.GROUPS[name]
    annotations = knobs.annotations_of(group) | more
    body = {"__doc__": group.__doc__, "__module__": __name__, "__annotations__": annotations}
    return type(f"NEURAL_FIELDS_PG_{name}", (bpy.types.PropertyGroup,), body)


NEURAL_FIELDS_PG_rig = _group(
    "rig",
    collection=bpy.props.PointerProperty(
        name="Collection",
        description="What a generated rig frames (Subject: Collection), or whose cameras are used "
        "(Rig: Scene Cameras)",
        type=bpy.types.Collection,
    ),
)
NEURAL_FIELDS_PG_dataset = _group("dataset")
NEURAL_FIELDS_PG_training = _group("training")
_TEXTURE_SIZE = 1024


def _get_colours(group: Any) -> int:
    return int(group.mesh_texture > 0)


def _set_colours(group: Any, textured: int) -> None:
    if textured != _get_colours(group):
        group.mesh_texture = _TEXTURE_SIZE if textured else 0


NEURAL_FIELDS_PG_result = _group(
    "result",
    mesh_colours=bpy.props.EnumProperty(
        name="Colors",
        description="What carries the mesh's colours; a texture is made where its size is not 0",
        items=[
            ("VERTICES", "Vertices", "Each vertex has a colour: many faces, done sooner"),
            (
                "TEXTURE",
                "Texture",
                "A texture with a normal map: few faces that look like many. It takes longer",
            ),
        ],
        get=_get_colours,
        set=_set_colours,
    ),
)


class NEURAL_FIELDS_PG_settings(bpy.types.PropertyGroup):
    """All settings of a scene."""

    rig: bpy.props.PointerProperty(type=NEURAL_FIELDS_PG_rig)
    dataset: bpy.props.PointerProperty(type=NEURAL_FIELDS_PG_dataset)
    training: bpy.props.PointerProperty(type=NEURAL_FIELDS_PG_training)
    result: bpy.props.PointerProperty(type=NEURAL_FIELDS_PG_result)
    output: bpy.props.StringProperty(
        name="Output",
        description="Folder of the dataset, the run and the results. Empty: "
        "neural_fields/<file's name> beside the .blend file",
        subtype="DIR_PATH",
        options=knobs.BLEND_RELATIVE,
    )
    keep_running: bpy.props.BoolProperty(
        name="Keep Running",
        description="Let a training go on when Blender closes or opens another file: it is found "
        "again in the list of runs, and its results are brought back from there. Otherwise it is "
        "paused, with a checkpoint. Views that are being rendered, and results that are being "
        "extracted, always end with Blender",
        default=False,
    )
    show_rig: bpy.props.BoolProperty(
        name="Show Rig",
        description="Draw the rig's cameras in the 3D view",
        default=False,
    )
    show_live: bpy.props.BoolProperty(
        name="Live View",
        description="While a training runs, show its field in the 3D viewport: in the camera's "
        "frame, or all over a view of one's own",
        default=True,
    )
    live_opacity: bpy.props.FloatProperty(
        name="Opacity",
        description="How much the field covers the scene",
        subtype="FACTOR",
        min=0.0,
        max=1.0,
        default=1.0,
    )
    show_curve: bpy.props.BoolProperty(
        name="Curve",
        description="Draw PSNR and loss over the time in the corner of the 3D viewport",
        default=True,
    )


class NEURAL_FIELDS_PG_run(bpy.types.PropertyGroup):
    """One run of the list; its name is the key of ``runs.shown``."""


def _filter(listed: bpy.types.PropertyGroup, context: bpy.types.Context) -> None:
    runs.refresh(context)


class NEURAL_FIELDS_PG_runs(bpy.types.PropertyGroup):
    """The list of runs as it is shown."""

    rows: bpy.props.CollectionProperty(type=NEURAL_FIELDS_PG_run)
    active: bpy.props.IntProperty(
        name="Run", description="The run that the buttons are for", options={"SKIP_SAVE"}
    )
    this_file: bpy.props.BoolProperty(
        name="This File Only",
        description="List only the runs that belong to the file that is open",
        default=True,
        update=_filter,
        options={"SKIP_SAVE"},
    )


CLASSES = (
    NEURAL_FIELDS_PG_rig,
    NEURAL_FIELDS_PG_dataset,
    NEURAL_FIELDS_PG_training,
    NEURAL_FIELDS_PG_result,
    NEURAL_FIELDS_PG_settings,
    NEURAL_FIELDS_PG_run,
    NEURAL_FIELDS_PG_runs,
)


_OWNERS: tuple[tuple[Any, type], ...] = (
    (bpy.types.Scene, NEURAL_FIELDS_PG_settings),
    (bpy.types.WindowManager, NEURAL_FIELDS_PG_runs),
)


def register() -> None:
    for owner, group in _OWNERS:
        owner.neural_fields = bpy.props.PointerProperty(type=group, name="Neural Fields")


def unregister() -> None:
    for owner, _ in _OWNERS:
        del owner.neural_fields
