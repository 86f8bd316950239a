"""What comes back into the scene: the settings of the results, and what can be done with them."""

import bpy

from .panels import SidebarPanel, has_run


class NEURAL_FIELDS_PT_result(SidebarPanel, bpy.types.Panel):
    bl_label = "Result"

    def draw(self, context: bpy.types.Context) -> None:
        result = context.scene.neural_fields.result
        column = self._column()
        column.prop(result, "mesh")
        part = column.column()
        part.active = result.mesh
        for name in ("mesh_resolution", "mesh_faces", "mesh_texture"):
            part.prop(result, name)
        column.prop(result, "sequence")
        part = column.column()
        part.active = result.sequence
        part.prop(result, "sequence_path")
        part.prop(result, "sequence_frames")
        column.prop(result, "volume")
        part = column.column()
        part.active = result.volume
        part.prop(result, "volume_resolution")
        buttons = column.column(align=True)
        buttons.enabled = has_run(context.scene)
        props = buttons.operator(
            "neural_fields.import_mesh", text="Extract Mesh Again", icon="MESH_DATA"
        )
        props.extract = True
        buttons.operator("neural_fields.render_sequence", icon="RENDER_ANIMATION")
        buttons.operator_menu_enum(
            "neural_fields.use_sequence", "where", text="Use Sequence As", icon="SEQUENCE"
        )
        props = buttons.operator(
            "neural_fields.import_volume", text="Extract Volume Again", icon="VOLUME_DATA"
        )
        props.extract = True


CLASSES = (NEURAL_FIELDS_PT_result,)
