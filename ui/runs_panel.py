"""The list of runs, and what can be done with the one that is active."""

from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_n as marked

from ..neural_backend.protocol import in_words
from ..operators import runs
from .panels import SidebarPanel, draw_lines

_ICONS = {
    runs.WAITING: "SORTTIME",
    runs.RENDERING: "RENDER_STILL",
    runs.TRAINING: "PLAY",
    runs.PAUSED: "PAUSE",
    runs.FINISHED: "CHECKMARK",
    runs.FAILED: "ERROR",
    runs.INTERRUPTED: "CANCEL",
}
_STATES = {
    runs.WAITING: marked("Waiting"),
    runs.RENDERING: marked("Rendering"),
    runs.TRAINING: marked("Training"),
    runs.PAUSED: marked("Paused"),
    runs.FINISHED: marked("Finished"),
    runs.FAILED: marked("Failed"),
    runs.INTERRUPTED: marked("Interrupted"),
}
_FIELDS = {"nerf": "NeRF", "neus": "NeuS", "sdf": "SDF"}


def told(row: runs.Row) -> str:
    """A run in a line: ``NeRF, Finished, 2 min, 27.3 dB``."""
    run = row.run
    parts = [_FIELDS.get(run.field, run.field), iface(_STATES[run.state])]
    if run.seconds:
        parts.append(in_words(run.seconds))
    if run.psnr is not None:
        parts.append(f"{run.psnr:.1f} dB")
    return ", ".join(part for part in parts if part)


class NEURAL_FIELDS_UL_runs(bpy.types.UIList):
    """Name, state, time and PSNR of each run."""

    def draw_item(
        self, context, layout, data, item, icon, active_data, active_property, index=0, flag=0
    ) -> None:
        row = runs.shown(item.name)
        if row is None:
            return
        run = row.run
        line = layout.split(factor=0.4)
        line.label(text=row.name, translate=False, icon=_ICONS[run.state])
        numbers = line.row()
        numbers.alignment = "RIGHT"
        if run.state == runs.TRAINING and run.progress is not None:
            numbers.label(text=f"{run.progress.spent:.0%}", translate=False)
        elif run.state != runs.FINISHED:
            numbers.label(text=_STATES[run.state])
        elif run.seconds:
            numbers.label(text=in_words(run.seconds), translate=False)
        if run.psnr is not None:
            numbers.label(text=f"{run.psnr:.1f} dB", translate=False)


class NEURAL_FIELDS_PT_runs(SidebarPanel, bpy.types.Panel):
    bl_label = "Runs"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return bool(runs.rows)

    def draw(self, context: bpy.types.Context) -> None:
        listed = context.window_manager.neural_fields
        layout = self.layout
        line = layout.row()
        line.template_list(
            "NEURAL_FIELDS_UL_runs", "", listed, "rows", listed, "active", rows=5, maxrows=10
        )
        row = runs.active(context)
        if row is not None:
            self._draw_buttons(line.column(align=True), row)
            self._draw_details(context, row)
        layout.prop(listed, "this_file")

    def _draw_buttons(self, column: bpy.types.UILayout, row: runs.Row) -> None:
        state = row.run.state
        busy = state in (runs.WAITING, runs.RENDERING, runs.TRAINING)

        def button(operator: str, icon: Any, enabled: bool = True) -> None:
            part = column.row(align=True)
            part.enabled = enabled
            part.operator(f"neural_fields.{operator}", text="", icon=icon).run = row.key

        if busy:
            button("pause_run", "PAUSE", state == runs.TRAINING)
            button("cancel_run", "CANCEL")
        elif state == runs.FINISHED:
            button("more_time", "PLAY")
        else:
            button("resume", "PLAY", row.can_go_on)
        button("bring_back", "IMPORT", row.run.can_bring_back and not busy)
        button("duplicate_settings", "DUPLICATE", row.run.can_resume)
        column.separator()
        button("open_run", "FILE_FOLDER")
        button("show_log", "TEXT")
        if not busy:
            button("delete_run", "TRASH")

    def _draw_details(self, context: bpy.types.Context, row: runs.Row) -> None:
        column = self.layout.column(align=True)
        draw_lines(column, context, told(row))
        if row.run.error:
            draw_lines(column, context, row.run.error, "ERROR")
        elif row.run.state == runs.INTERRUPTED and row.can_go_on:
            said = iface("It ended without a word; Resume goes on from its checkpoint")
            draw_lines(column, context, said, "INFO")
        elif row.key in runs.ready:
            draw_lines(column, context, iface("Its results are ready"), "INFO")
        draw_lines(column, context, str(row.folder))
        if not row.is_of_this_file:
            said = iface("Of {file}").format(file=row.blend_file or "-")
            draw_lines(column, context, said)


CLASSES = (NEURAL_FIELDS_UL_runs, NEURAL_FIELDS_PT_runs)
