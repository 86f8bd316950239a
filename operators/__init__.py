"""What a user can do, one module a noun."""

import bpy

from . import (
    backend,
    compare,
    dataset,
    example,
    install,
    job,
    live,
    live_image,
    results,
    rig,
    runs,
    sequence,
    stage,
    train,
    volume,
)

_MODULES = (
    job,
    backend,
    install,
    example,
    rig,
    dataset,
    results,
    sequence,
    volume,
    compare,
    live_image,
    train,
    runs,
)
_CLASSES = tuple(cls for module in _MODULES for cls in module.CLASSES)


def register() -> None:
    for cls in _CLASSES:
        # lines of a docstring are no lines of a tooltip, and indented or not as Python's version is
        cls.bl_description = " ".join((cls.__doc__ or "").split())
        bpy.utils.register_class(cls)
    job.register()
    stage.register()
    live_image.register()
    runs.register()


def unregister() -> None:
    runs.unregister()
    stage.unregister()
    job.unregister()
    live.stop()
    live_image.unregister()
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
