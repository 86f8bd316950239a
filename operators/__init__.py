"""What a user can do, one module a noun."""

import bpy

from . import backend, dataset, example, job, results, rig, sequence, stage, train, volume

_MODULES = (job, backend, example, rig, dataset, results, sequence, volume, train)
_CLASSES = tuple(cls for module in _MODULES for cls in module.CLASSES)


def register() -> None:
    for cls in _CLASSES:
        bpy.utils.register_class(cls)
    job.register()
    stage.register()


def unregister() -> None:
    stage.unregister()
    job.unregister()
    for cls in reversed(_CLASSES):
        bpy.utils.unregister_class(cls)
