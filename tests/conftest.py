"""The add-on for tests: the repository's root as the package ``neural_fields``."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
import types
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "neural_fields"
NEEDS_BLENDER = ("operators", "ui")
"""Folders of tests that run in Blender as a module."""

HAS_BLENDER = importlib.util.find_spec("bpy") is not None


def _load() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(
        PACKAGE, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    spec.loader.exec_module(package)
    return package


# the root's own module imports nothing until it registers the add-on
_package = _load()


class _NeedsBlender(pytest.Directory):
    def collect(self) -> list[pytest.Item]:
        pytest.skip("needs Blender as a module: pip install bpy", allow_module_level=True)


def pytest_collect_directory(path: pathlib.Path, parent: pytest.Collector) -> object:
    if not HAS_BLENDER and path.parent == ROOT / "tests" and path.name in NEEDS_BLENDER:
        return _NeedsBlender.from_parent(parent, path=path)
    return None


def pytest_unconfigure() -> None:
    """Let Blender end, or the process of bpy 4.2 crashes at its end.

    It ends when no module has it any more, and it keeps the functions of properties, which keep
    theirs.
    """
    for module in [each for name, each in sys.modules.items() if name.startswith(PACKAGE)]:
        vars(module).clear()


@pytest.fixture(scope="session")
def registered() -> Iterator[types.ModuleType]:
    """The add-on, registered as Blender does it when it is enabled."""
    _package.register()
    yield _package
    _package.unregister()


@pytest.fixture
def scene(registered: types.ModuleType) -> Iterator[object]:
    """An empty scene of Blender's factory settings: no object, no camera."""
    import bpy

    bpy.ops.wm.read_factory_settings(use_empty=True)
    yield bpy.context.scene
    bpy.ops.wm.read_factory_settings(use_empty=True)
