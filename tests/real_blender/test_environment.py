"""Install Backend in the real Blenders, up to where gigabytes would be downloaded."""

from __future__ import annotations

import json
import pathlib

from blender_process import Blender

SCRIPT = pathlib.Path(__file__).with_name("environment_script.py")
BEFORE = """
import bpy, importlib, json, os, pathlib, sys
os.environ.pop("NEURAL_FIELDS_PYTHON")
module = "bl_ext.user_default.neural_fields.operators."
environment = importlib.import_module(module + "environment")
install = importlib.import_module(module + "install")
root = environment.root()
"""
INSTALL = (
    BEFORE
    + """
# pip runs, and finds no index
os.environ.update(PIP_NO_INDEX="1", PIP_FIND_LINKS={empty!r})
found = dict(root=str(root), online=bpy.app.online_access, error="")
try:
    bpy.ops.neural_fields.install_backend(variant="cpu")
except RuntimeError as error:
    found["error"] = str(error)
found["log"] = (root / "install.log").read_text(encoding="utf-8")
found["left"] = sorted(path.name for path in root.iterdir())
json.dump(found, open({report!r}, "w"))
"""
)
OFFLINE = (
    BEFORE
    + """
found = dict(reason=install.offline_reason(), error="", exists=root.exists())
try:
    bpy.ops.neural_fields.install_backend(variant="cpu")
except RuntimeError as error:
    found["error"] = str(error)
found["commands"] = environment.commands(environment.build_of("cpu"))
found["lock"] = environment.LOCK.is_file() and environment.TORCH_LOCK.is_file()
found["started"] = root.exists()
json.dump(found, open({report!r}, "w"))
"""
)


def said(blender: Blender, script: str, folder: pathlib.Path, *options: str) -> dict:
    report = folder / "report.json"
    script = script.format(report=str(report), empty=str(folder))
    last = ("--python-exit-code", "1", "--python-expr", script)
    blender.run("-b", *options, *last)
    return json.loads(report.read_text(encoding="utf-8"))


def test_the_environment_is_made_and_its_pip_runs(blender: Blender, tmp_path: pathlib.Path) -> None:
    found = said(blender, INSTALL, tmp_path, "--online-mode")
    assert found["online"]
    root = pathlib.Path(found["root"])
    assert blender.profile in root.parents, "it lies among the extension's own files"
    assert "pip finds no docstring-parser==" in found["error"], found["error"]
    assert f"from {root}/cpu-1/lib/" in found["log"], "the pip of the new environment ran"
    assert [name for name in found["left"] if name != "cache"] == ["install.log"]


def test_offline_it_refuses_and_names_the_commands(
    blender: Blender, tmp_path: pathlib.Path
) -> None:
    found = said(blender, OFFLINE, tmp_path, "--offline-mode")
    assert found["reason"] == "Blender was started with --offline-mode: start it without"
    assert found["error"].startswith(f"Error: {found['reason']}, or run the commands that")
    assert "\n" not in found["error"].strip()
    venv, packages, torch = found["commands"]
    assert "-m venv" in venv
    assert "/neural_fields/neural_backend/requirements.lock" in packages
    assert "torch==2.13.0+cpu --extra-index-url https://download.pytorch.org/whl/cpu" in torch
    assert found["lock"], "the lock files are in the zip"
    assert found["started"] == found["exists"], "nothing was begun"


def test_two_clicks_begin_it(blender: Blender, tmp_path: pathlib.Path) -> None:
    """The panel's button and the dialog's; it goes on when the preferences are closed."""
    found, _ = blender.play(SCRIPT, tmp_path, "--online-mode")
    assert found == {
        "asked": True,
        "started": True,
        "closed": True,
        "cancelled": True,
        "left": [],
    }
