"""Neural Fields: renders the scene, trains a neural field on the renders, brings the field back."""


def register() -> None:
    # imported here: whatever only walks over this folder, such as a test runner, needs no bpy
    from . import operators, ui

    operators.register()
    ui.register()


def unregister() -> None:
    from . import operators, ui

    ui.unregister()
    operators.unregister()
