"""``scene.neural_fields``: the settings that a file keeps."""

import bpy

from ..neural_backend import config
from ..operators import knobs


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
NEURAL_FIELDS_PG_result = _group("result")


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
    show_rig: bpy.props.BoolProperty(
        name="Show Rig",
        description="Draw the rig's cameras in the 3D view",
        default=False,
    )


CLASSES = (
    NEURAL_FIELDS_PG_rig,
    NEURAL_FIELDS_PG_dataset,
    NEURAL_FIELDS_PG_training,
    NEURAL_FIELDS_PG_result,
    NEURAL_FIELDS_PG_settings,
)


def register() -> None:
    bpy.types.Scene.neural_fields = bpy.props.PointerProperty(
        type=NEURAL_FIELDS_PG_settings, name="Neural Fields"
    )


def unregister() -> None:
    del bpy.types.Scene.neural_fields
