"""Panels, preferences, properties and previews."""

import bpy

from . import (
    help_panel,
    live_view,
    panels,
    preferences,
    properties,
    result_panel,
    rig_preview,
    runs_panel,
    translations,
)

_CLASSES = (
    *preferences.CLASSES,
    *properties.CLASSES,
    *panels.FIRST,
    *runs_panel.CLASSES,
    *panels.CLASSES,
    *live_view.CLASSES,
    *result_panel.CLASSES,
    *help_panel.CLASSES,
)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    properties.register()
    translations.register()
    rig_preview.register()
    live_view.register()


def unregister() -> None:
    live_view.unregister()
    rig_preview.unregister()
    translations.unregister()
    properties.unregister()
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
