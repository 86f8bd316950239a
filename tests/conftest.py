"""The add-on for tests: the repository's root as the package that Blender loads."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import sys
import types
from collections.abc import Callable, Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "neural_fields"
HAS_BLENDER = importlib.util.find_spec("bpy") is not None
collect_ignore = [] if HAS_BLENDER else ["operators", "ui"]

if HAS_BLENDER:
    # the root's own module imports nothing until it registers the add-on
    _spec = importlib.util.spec_from_file_location(
        PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert _spec is not None
    assert _spec.loader is not None
    sys.modules[PACKAGE] = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[PACKAGE])


@pytest.fixture(scope="session")
def registered() -> Iterator[types.ModuleType]:
    """The add-on, registered as Blender does it when it is enabled."""
    package = sys.modules[PACKAGE]
    package.register()
    yield package
    package.unregister()


@pytest.fixture(scope="session")
def addon() -> Callable[[str], types.ModuleType]:
    """Imports a module of the add-on by its name in the repository: ``addon("operators.rig")``.

    The root's own ``__init__`` does not run: modules are tested without registering the add-on.
    """
    pytest.importorskip("bpy", reason="needs Blender as a module: pip install bpy")
    if f"{PACKAGE}.operators" not in sys.modules:
        spec = importlib.util.spec_from_loader(f"{PACKAGE}.operators", loader=None, is_package=True)
        assert spec is not None
        operators = importlib.util.module_from_spec(spec)
        operators.__path__ = [str(ROOT / "operators")]
        sys.modules[f"{PACKAGE}.operators"] = operators

    def load(name: str) -> types.ModuleType:
        return importlib.import_module(f"{PACKAGE}.{name}")

    return load


@pytest.fixture
def scene(addon: Callable[[str], types.ModuleType]) -> Iterator[object]:
    """An empty scene of Blender's factory settings: no object, no camera."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    yield bpy.context.scene
    bpy.ops.wm.read_factory_settings(use_empty=True)
