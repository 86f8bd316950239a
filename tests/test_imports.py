"""Who may import whom, as the design has it: read off the sources, and off running processes."""

from __future__ import annotations

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONTRACT = {f"neural_backend{module}" for module in ("", ".config", ".png", ".protocol", ".voxels")}
CONTRACT |= {f"neural_backend.dataset{module}" for module in ("", ".exr", ".transforms")}
# from the highest layer to the lowest; a module imports from its own layer and from those below
LAYERS = (
    "training",
    "extraction",
    "rendering",
    "sampling",
    "fields",
    "kernels",
    "dataset",
)
REJECTED_IN_ADD_ON = {"threading", "socket", "pickle", "marshal", "shelve", "torch"}


def modules(folder: str) -> list[str]:
    files = sorted((ROOT / folder).rglob("*.py"))
    return [file.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for file in files]


def path_of(module: str) -> pathlib.Path:
    return ROOT / (module.replace(".", "/") + ".py")


def imports(module: str) -> set[str]:
    """Every module that ``module`` imports anywhere, by its full name within the project."""
    tree = ast.parse(path_of(module).read_text(encoding="utf-8"))
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join(parents + ([node.module] if node.module else []))
            inner = {f"{base}.{alias.name}".lstrip(".") for alias in node.names}
            names = {name for name in inner if is_module(name)}
            found |= names or {base}
    return found


def is_module(name: str) -> bool:
    return path_of(name).is_file() or (ROOT / name.replace(".", "/")).is_dir()


@pytest.mark.parametrize("module", [*modules("operators"), *modules("ui"), "__init__"])
def test_add_on_imports_only_the_contract(module: str) -> None:
    for name in imports(module):
        assert name.split(".")[0] not in REJECTED_IN_ADD_ON, name
        if name.startswith("neural_backend"):
            assert name in CONTRACT, f"{module} imports {name}"
        if module.startswith("operators"):
            assert not name.startswith("ui"), f"{module} imports {name}: upwards"


@pytest.mark.parametrize("module", [*modules("operators"), *modules("ui"), "__init__"])
def test_add_on_never_evaluates_text(module: str) -> None:
    tree = ast.parse(path_of(module).read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {call.id for call in calls if isinstance(call, ast.Name)}
    assert not names & {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("module", modules("neural_backend"))
def test_backend_never_imports_blender(module: str) -> None:
    roots = {name.split(".")[0] for name in imports(module)}
    assert not roots & {"bpy", "bpy_extras", "mathutils", "gpu", "operators", "ui"}


@pytest.mark.parametrize("module", sorted(name for name in CONTRACT if path_of(name).is_file()))
def test_contract_needs_only_the_standard_library_and_numpy(module: str) -> None:
    for name in imports(module):
        root = name.split(".")[0]
        known = root in sys.stdlib_module_names or root == "numpy" or name in CONTRACT
        assert known, f"{module} imports {name}"


IN_LAYERS = [name for name in modules("neural_backend") if name.count(".") > 1]


@pytest.mark.parametrize("module", IN_LAYERS)
def test_backend_imports_downwards(module: str) -> None:
    own = LAYERS.index(module.split(".")[1])
    for name in imports(module):
        target = name.split(".")
        if target[0] == "neural_backend" and len(target) > 1 and target[1] in LAYERS:
            assert LAYERS.index(target[1]) >= own, f"{module} imports {name}: upwards"


def test_contract_loads_no_torch() -> None:
    names = ", ".join(sorted(CONTRACT))
    code = f"import sys, {names}; sys.exit(any(m in sys.modules for m in ('torch', 'imageio')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
