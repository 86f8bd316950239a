"""The tab "Neural Fields" of the 3D view's sidebar."""

import textwrap
from typing import TYPE_CHECKING, Any

import bpy
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_n as marked

from .. import __package__ as base_package
from ..neural_backend.protocol import BadInput
from ..operators import backend, environment, folders, runs, train
from ..operators.job import Status, owner
from ..operators.rig import GENERATED

if TYPE_CHECKING:  # what mixes SidebarPanel in is a panel
    _Base = bpy.types.Panel
else:
    _Base = object
_OFTEN = ("max_seconds", "field", "encoding", "device")


def draw_lines(
    layout: bpy.types.UILayout, context: bpy.types.Context, text: str, icon: Any = "NONE"
) -> None:
    """Draw a text, in the person's language, over as many lines as the region's width asks for."""
    letter = 6.2 * context.preferences.system.ui_scale
    width = max(int((context.region.width - 65) / letter), 20)
    column = layout.column(align=True)
    column.scale_y = 0.8
    for line in textwrap.wrap(text, width):
        column.label(text=line, icon=icon, translate=False)
        icon = "BLANK1" if icon != "NONE" else "NONE"


def draw_backend_missing(layout: bpy.types.UILayout, context: bpy.types.Context) -> None:
    """Draw what to do where no backend is found; nothing where one is."""
    try:
        backend.python()
        return
    except BadInput as error:
        problem = str(error)
    box = layout.box()
    if environment.installed() is None and not backend.chosen():
        text = iface(
            "Training needs the backend: PyTorch and other libraries, in a folder of their own."
        )
        draw_lines(box, context, text)
        row = box.row(align=True)
        row.scale_y = 1.4
        row.operator("neural_fields.install_backend", icon="IMPORT")
    else:
        draw_lines(box, context, problem, "ERROR")
        row = box.row(align=True)
    props = row.operator("preferences.addon_show", text="", icon="PREFERENCES")
    props.module = base_package


def draw_progress(row: bpy.types.UILayout, name: str, status: Status) -> None:
    """Draw a bar with the part that is done, or with a name where that is unknown."""
    text = name if status.fraction is None else f"{status.fraction:.0%}"
    row.progress(factor=status.fraction or 0.0, text=text)


def draw_subject(column: bpy.types.UILayout, rig: Any, label: str) -> None:
    """Draw what is framed, and learned by a signed distance: scene, selection or collection."""
    column.prop(rig, "subject", text=label)
    if rig.subject == "collection":
        column.prop(rig, "collection")


class SidebarPanel(_Base):
    bl_space_type: Any = "VIEW_3D"
    bl_region_type: Any = "UI"
    bl_category = "Neural Fields"

    def _column(self) -> bpy.types.UILayout:
        self.layout.use_property_split = True
        self.layout.use_property_decorate = False
        return self.layout.column()


class NEURAL_FIELDS_PT_main(SidebarPanel, bpy.types.Panel):
    bl_label = "Neural Fields"
    bl_options = {"HIDE_HEADER"}

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        if not owner.running:
            draw_backend_missing(layout, context)
        row = layout.row()
        row.scale_y = 1.6
        if owner.running:
            row.operator("neural_fields.train", text="Add to Queue", icon="RENDER_ANIMATION")
        else:
            row.operator("neural_fields.train", icon="RENDER_ANIMATION")
        training = context.scene.neural_fields.training
        row = layout.row(align=True)
        row.active = not training.max_seconds
        row.prop(training, "preset", expand=True)


class NEURAL_FIELDS_PT_job(SidebarPanel, bpy.types.Panel):
    """What runs: the job, or a training that was found again.

    A panel of its own: where a progress bar was that the mouse is over, some versions of Blender
    draw whatever text comes next in the same panel as such a bar.
    """

    bl_label = "Job"
    bl_options = {"HIDE_HEADER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return owner.running or runs.found_again() is not None

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column()
        found = runs.found_again()
        if owner.running:
            self._draw_bar(column, owner.label, owner.status)
            buttons = column.row(align=True)
            if owner.status.training:
                buttons.operator("neural_fields.pause", icon="PAUSE")
            buttons.operator("neural_fields.cancel", icon="CANCEL")
            draw_lines(column, context, owner.status.text)
            if owner.queue:
                said = iface("{count} waiting").format(count=len(owner.queue))
                column.label(text=said, icon="SORTTIME", translate=False)
            if owner.job is not None and owner.job.run is not None:
                column.prop(context.scene.neural_fields, "keep_running")
        elif found is not None:
            status = train.progress_status(found.run.progress) if found.run.progress else None
            self._draw_bar(column, found.name, status or Status(""))
            buttons = column.row(align=True)
            buttons.operator("neural_fields.pause_run", icon="PAUSE").run = found.key
            buttons.operator("neural_fields.cancel_run", icon="CANCEL").run = found.key
            if status is not None:
                draw_lines(column, context, status.text)

    def _draw_bar(self, column: bpy.types.UILayout, name: str, status: Status) -> None:
        bar = column.row()
        bar.scale_y = 1.3
        draw_progress(bar, name, status)


class NEURAL_FIELDS_PT_message(SidebarPanel, bpy.types.Panel):
    """What the last job had to say, and what to do about it."""

    bl_label = "Message"
    bl_options = {"HIDE_HEADER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if NEURAL_FIELDS_PT_job.poll(context):
            return False
        return bool(owner.error or owner.message or runs.ready)

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        if owner.error:
            draw_lines(layout, context, owner.error, "ERROR")
        elif owner.message:
            draw_lines(layout, context, owner.message, "INFO")
        if owner.last is not None and owner.last.run is not None:
            row = runs.shown(str(owner.last.run))
            if row is not None and row.can_go_on and (owner.error or owner.cancelled):
                layout.operator("neural_fields.resume", icon="PLAY").run = row.key
        for key in runs.ready:
            row = runs.shown(key)
            if row is not None:
                said = iface("{name} is trained: its results are ready")
                draw_lines(layout, context, said.format(name=row.name), "INFO")
                layout.operator("neural_fields.bring_back", icon="IMPORT").run = key


class NEURAL_FIELDS_PT_rig(SidebarPanel, bpy.types.Panel):
    bl_label = "Rig"

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.neural_fields
        rig = settings.rig
        column = self._column()
        column.prop(rig, "kind")
        if rig.kind == "camera_path":
            column.prop(rig, "frame_step")
        if rig.kind == "cameras":
            column.prop(rig, "collection")
        if rig.kind in GENERATED:
            column.prop(rig, "views")
            draw_subject(column, rig, marked("Subject"))
        if rig.kind == "orbit":
            column.prop(rig, "rings")
            column.prop(rig, "lowest")
            column.prop(rig, "highest")
        if rig.kind == "random":
            column.prop(rig, "seed")
        column.prop(settings, "show_rig")
        column.operator("neural_fields.create_rig", icon="OUTLINER_OB_CAMERA")


class NEURAL_FIELDS_PT_rig_advanced(SidebarPanel, bpy.types.Panel):
    bl_label = "Advanced"
    bl_parent_id = "NEURAL_FIELDS_PT_rig"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        rig = context.scene.neural_fields.rig
        column = self._column()
        if rig.kind in GENERATED:
            column.prop(rig, "focal_length")
            column.prop(rig, "margin")
        column.prop(rig, "validation")
        column.prop(rig, "test")


class NEURAL_FIELDS_PT_dataset(SidebarPanel, bpy.types.Panel):
    bl_label = "Dataset"

    def draw(self, context: bpy.types.Context) -> None:
        settings = context.scene.neural_fields
        column = self._column()
        for name in settings.dataset.__annotations__:
            column.prop(settings.dataset, name)
        column.prop(settings, "output")
        column.operator("neural_fields.export_dataset", icon="EXPORT")


class NEURAL_FIELDS_PT_training(SidebarPanel, bpy.types.Panel):
    bl_label = "Training"

    def draw(self, context: bpy.types.Context) -> None:
        training = context.scene.neural_fields.training
        column = self._column()
        for name in _OFTEN:
            column.prop(training, name)
        if training.field == "sdf":
            draw_subject(column, context.scene.neural_fields.rig, marked("Source"))
        if has_run(context.scene):
            props = column.operator("neural_fields.train", text="Continue Training", icon="PLAY")
            props.resume = True


class NEURAL_FIELDS_PT_training_advanced(SidebarPanel, bpy.types.Panel):
    bl_label = "Advanced"
    bl_parent_id = "NEURAL_FIELDS_PT_training"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: bpy.types.Context) -> None:
        training = context.scene.neural_fields.training
        column = self._column()
        for name in training.__annotations__:
            if name not in (*_OFTEN, "preset"):
                column.prop(training, name)


def has_run(scene: bpy.types.Scene) -> bool:
    """Whether a trained field lies in the scene's output folder."""
    return folders.trained_of(scene) is not None


FIRST = (NEURAL_FIELDS_PT_main, NEURAL_FIELDS_PT_job, NEURAL_FIELDS_PT_message)
"""What stands above the list of runs."""

CLASSES = (
    NEURAL_FIELDS_PT_rig,
    NEURAL_FIELDS_PT_rig_advanced,
    NEURAL_FIELDS_PT_dataset,
    NEURAL_FIELDS_PT_training,
    NEURAL_FIELDS_PT_training_advanced,
)
