"""Help: what to try first."""

import bpy

from .panels import SidebarPanel


class NEURAL_FIELDS_PT_help(SidebarPanel, bpy.types.Panel):
    bl_label = "Help"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.operator("neural_fields.load_example", icon="MONKEY")


CLASSES = (NEURAL_FIELDS_PT_help,)
