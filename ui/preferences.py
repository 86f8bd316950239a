"""The add-on's preferences: where the backend's Python lies."""

import os

import bpy

from .. import __package__ as base_package
from ..operators import backend, job
from .panels import draw_lines


class NEURAL_FIELDS_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = base_package

    python: bpy.props.StringProperty(
        name="Backend's Python",
        description="The python program of an environment in which the backend is installed. "
        f"The environment variable {backend.VARIABLE} wins over it",
        subtype="FILE_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        variable = os.environ.get(backend.VARIABLE)
        row = layout.row()
        row.enabled = not variable
        row.prop(self, "python")
        if variable:
            draw_lines(layout, context, f"{backend.VARIABLE} is set: {variable}", "INFO")
        elif not self.python:
            draw_lines(layout, context, f"To do once: {backend.how_to_install()}", "INFO")
        layout.operator("neural_fields.check_backend", icon="CHECKMARK")
        if job.owner.error:
            draw_lines(layout, context, job.owner.error, "ERROR")
        elif job.owner.message:
            draw_lines(layout, context, job.owner.message, "CHECKMARK")


CLASSES = (NEURAL_FIELDS_AP_preferences,)
