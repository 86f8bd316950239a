"""The live view as an image data-block, for image editors. It holds a path, no pixels."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import bpy
from bpy.app.handlers import persistent
from bpy.app.translations import pgettext_tip as tip

from . import job

NAME = "Neural Fields Live"

_path: pathlib.Path | None = None
_stale = False
_editors: set[int] = set()
"""Areas that show the image: an undo to before it was there takes it away from them."""


def _areas() -> Iterator[bpy.types.Area]:
    for window in bpy.context.window_manager.windows:
        yield from (area for area in window.screen.areas if area.type == "IMAGE_EDITOR")


def _image() -> bpy.types.Image | None:
    return next((item for item in bpy.data.images if item.name == NAME and not item.library), None)


def _made(path: pathlib.Path) -> bpy.types.Image:
    global _stale
    image = _image()
    if image is None:
        image = bpy.data.images.load(str(path))
        image.name = NAME
    elif bpy.path.abspath(image.filepath) != str(path):
        image.filepath = str(path)
        _stale = True
    return image


def shown() -> bool:
    """Whether an image editor shows the live view."""
    image = _image()
    return image is not None and any(area.spaces.active.image == image for area in _areas())


def changed(path: pathlib.Path) -> None:
    """A new live view stands in a file. The data-block is made when somebody asks for it."""
    global _path, _stale
    _path, _stale = path, True
    refresh()


def refresh() -> None:
    """Have the new live view read, where somebody sees it.

    Reading it anew is a change of the scene to Blender, which starts renders in viewports over.
    """
    global _stale
    # what is being rendered must not change
    if _path is None or bpy.app.is_job_running("RENDER") or _image() is None:
        return
    image = _made(_path)
    seen = [area for area in _areas() if area.spaces.active.image == image]
    _editors.clear()
    _editors.update(area.as_pointer() for area in seen)
    if _stale and (seen or image.users):
        _stale = False
        image.reload()
        for area in seen:
            area.tag_redraw()


def show(context: bpy.types.Context) -> None:
    """Show it in an image editor of the window, in a new window where that has none.

    Raises:
        OSError, RuntimeError: the picture cannot be read.
    """
    assert _path is not None
    image = _made(_path)
    screen = context.window.screen
    area = next((area for area in screen.areas if area.type == "IMAGE_EDITOR"), None)
    if area is None:
        bpy.ops.wm.window_new()
        area = context.window_manager.windows[-1].screen.areas[0]
        area.type = "IMAGE_EDITOR"
    area.spaces.active.image = image
    refresh()


@persistent
def _on_return(*_: object) -> None:
    """Undo and redo have replaced all data-blocks."""
    if _path is None or not _path.exists():
        return
    for area in _areas():
        if area.as_pointer() in _editors and area.spaces.active.image is None:
            area.spaces.active.image = _made(_path)


@persistent
def _on_load(*_: object) -> None:
    _editors.clear()


class NEURAL_FIELDS_OT_show_live(bpy.types.Operator):
    """Show the live view of the training in an image editor, of this window or of a new one"""

    bl_idname = "neural_fields.show_live"
    bl_label = "Show in Image Editor"
    bl_options = {"UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if _path is None or not _path.is_file():
            cls.poll_message_set(tip("No training has shown anything yet"))
            return False
        return context.window is not None

    def execute(self, context: bpy.types.Context) -> set[Any]:
        try:
            show(context)
        except (OSError, RuntimeError) as error:
            self.report({"ERROR"}, job.one_line(error))
            return {"CANCELLED"}
        return {"FINISHED"}


def register() -> None:
    bpy.app.handlers.undo_post.append(_on_return)
    bpy.app.handlers.redo_post.append(_on_return)
    bpy.app.handlers.load_post.append(_on_load)


def unregister() -> None:
    global _path, _stale
    bpy.app.handlers.undo_post.remove(_on_return)
    bpy.app.handlers.redo_post.remove(_on_return)
    bpy.app.handlers.load_post.remove(_on_load)
    _path, _stale = None, False
    _editors.clear()


CLASSES = (NEURAL_FIELDS_OT_show_live,)
