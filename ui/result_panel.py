"""What comes back into the scene: the settings of the results, and what can be done with them."""

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as iface

from ..neural_backend import config
from ..operators import folders
from .panels import SidebarPanel


class NEURAL_FIELDS_PT_result(SidebarPanel, bpy.types.Panel):
    bl_label = "Result"

    def draw(self, context: bpy.types.Context) -> None:
        result = context.scene.neural_fields.result
        column = self._column()
        column.prop(result, "mesh")
        part = column.column()
        part.active = result.mesh
        _draw_mesh(part, result)
        column.prop(result, "sequence")
        part = column.column()
        part.active = result.sequence
        part.prop(result, "sequence_path")
        part.prop(result, "sequence_frames")
        column.prop(result, "volume")
        part = column.column()
        part.active = result.volume
        part.prop(result, "volume_resolution")


def _draw_mesh(column: bpy.types.UILayout, result: Any) -> None:
    column.prop(result, "mesh_resolution")
    column.row().prop(result, "mesh_colours", expand=True)
    if result.mesh_texture:
        column.prop(result, "mesh_texture")
    column.prop(result, "mesh_faces")
    if not result.mesh_faces:
        faces = config.TEXTURED_MESH_FACES if result.mesh_texture else config.MESH_FACES
        row = column.row()
        row.alignment = "RIGHT"
        row.active = False
        row.label(text=iface("0: at most {faces}").format(faces=f"{faces:,}"))


class NEURAL_FIELDS_PT_result_again(SidebarPanel, bpy.types.Panel):
    """What a trained field can give without being trained again."""

    bl_label = "From the Trained Field"
    bl_parent_id = "NEURAL_FIELDS_PT_result"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.scene is not None and folders.trained_of(context.scene) is not None

    def draw(self, context: bpy.types.Context) -> None:
        found = folders.trained_of(context.scene)
        column = self._column().column(align=True)
        props = column.operator(
            "neural_fields.import_mesh", text="Extract Mesh Again", icon="MESH_DATA"
        )
        props.extract = True
        props = column.operator(
            "neural_fields.import_volume", text="Extract Volume Again", icon="VOLUME_DATA"
        )
        props.extract = True
        column.operator("neural_fields.render_sequence", icon="RENDER_ANIMATION")
        row = column.row(align=True)
        row.enabled = found is not None and found.cameras.is_file()
        row.operator_menu_enum(
            "neural_fields.use_sequence", "where", text="Use Sequence As", icon="SEQUENCE"
        )
        column.operator("neural_fields.compare", icon="IMAGE_DATA")


CLASSES = (NEURAL_FIELDS_PT_result, NEURAL_FIELDS_PT_result_again)
