"""The add-on's preferences: the backend's environment, or a Python of one's own instead."""

from __future__ import annotations

import os

import bpy
from bpy.app.translations import pgettext_iface as iface

from .. import __package__ as base_package
from ..neural_backend.protocol import BadInput
from ..operators import backend, environment, install, job
from .panels import draw_lines, draw_progress


class NEURAL_FIELDS_AP_preferences(bpy.types.AddonPreferences):
    bl_idname = base_package

    variant: bpy.props.EnumProperty(
        name="PyTorch Build",
        description="Which build of PyTorch Install Backend takes",
        items=environment.VARIANTS,
    )
    python: bpy.props.StringProperty(
        name="Other Python",
        description="The python program of another environment that has what the backend needs, "
        "used instead of the installed one. "
        f"The environment variable {backend.VARIABLE} wins over it",
        subtype="FILE_PATH",
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        box = layout.box()
        box.label(text="Backend", icon="SYSTEM")
        if job.owner.running:
            _draw_job(box, context)
        else:
            _draw_state(box, context)
            column = box.column()
            column.prop(self, "variant")
            _draw_buttons(box, self.variant)
            if install.offline_reason() and backend.chosen() is None:
                _draw_commands(box, context, self.variant)
            if job.owner.error:
                draw_lines(box, context, job.owner.error, "ERROR")
            elif job.owner.message:
                draw_lines(box, context, job.owner.message, "CHECKMARK")
        column = layout.column()
        column.enabled = not os.environ.get(backend.VARIABLE)
        column.prop(self, "python")


def _draw_state(box: bpy.types.UILayout, context: bpy.types.Context) -> None:
    chosen = backend.chosen()
    if chosen is not None:
        text = iface("{source} is used: {program}")
        draw_lines(box, context, text.format(program=chosen[0], source=iface(chosen[1])), "INFO")
        return
    found = environment.installed()
    if found is None:
        text = iface("Not installed. Everything that needs no training works without it.")
        draw_lines(box, context, text, "INFO")
        return
    if not found.works:
        text = iface("The Python that it was made of is gone: press Repair.")
        draw_lines(box, context, text, "ERROR")
        return
    if not found.variant:
        text = iface("Made by hand: {folder}")
        draw_lines(box, context, text.format(folder=found.folder), "CHECKMARK")
        return
    text = iface("{build}: torch {torch}, Python {python}, trains on {device}, {size}").format(
        build=found.build,
        torch=found.torch,
        python=found.python,
        device=found.device.upper(),
        size=environment.megabytes(found.size),
    )
    draw_lines(box, context, text, "CHECKMARK")
    if environment.is_old(found):
        text = iface("This version of the add-on asks for other versions: press Update.")
        draw_lines(box, context, text, "ERROR")


def _draw_job(box: bpy.types.UILayout, context: bpy.types.Context) -> None:
    owner = job.owner
    # above the bar: see NEURAL_FIELDS_PT_job
    draw_lines(box, context, owner.status.text)
    row = box.split(factor=0.8, align=True)
    draw_progress(row, owner.label, owner.status)
    row.operator("neural_fields.cancel", text="Cancel", icon="CANCEL")


def _draw_buttons(box: bpy.types.UILayout, variant: str) -> None:
    found = environment.installed()
    row = box.row(align=True)
    if found is None:
        row.operator("neural_fields.install_backend", icon="IMPORT")
    else:
        if found.works and found.variant:
            props = row.operator(
                "neural_fields.install_backend", text="Update", icon="FILE_REFRESH"
            )
            props.variant = variant
        props = row.operator("neural_fields.install_backend", text="Repair", icon="TOOL_SETTINGS")
        props.variant, props.afresh = variant, True
    if environment.is_there():
        row.operator("neural_fields.remove_backend", text="Remove", icon="TRASH")
    row.operator("neural_fields.check_backend", text="Check", icon="CHECKMARK")


def _draw_commands(box: bpy.types.UILayout, context: bpy.types.Context, variant: str) -> None:
    text = iface("{reason}. These commands do the same in a terminal:")
    draw_lines(
        box, context, text.format(reason=iface(install.offline_reason())), "INTERNET_OFFLINE"
    )
    try:
        commands = environment.commands(environment.build_of(variant))
    except BadInput as error:
        draw_lines(box, context, str(error), "ERROR")
        return
    inner = box.box()
    for command in commands:
        draw_lines(inner, context, command)
    box.operator("neural_fields.copy_backend_commands", icon="COPYDOWN")


CLASSES = (NEURAL_FIELDS_AP_preferences,)
