"""Runs every check and test that this machine can run, and says what was skipped and why.

    .venv/bin/python tools/test.py

Style and types first, then the tests with bpy 5.0 and the real Blenders that are on the PATH, then
the add-on's tests once more with bpy 4.2 and bpy 5.2, each in an environment of its own.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile

from environment import ROOT, Unavailable, ensure

ADD_ON_TESTS = ("tests/operators", "tests/ui")


def run(title: str, command: list[str], folder: pathlib.Path = ROOT) -> bool:
    print(f"\n== {title}", flush=True)
    return subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL).returncode == 0


def check_types() -> bool:
    # the sources' folder is the package as Blender sees it, whatever a clone's folder is called
    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        (folder / "neural_fields").symlink_to(ROOT, target_is_directory=True)
        contract = ("config", "png", "protocol", "voxels", "dataset.transforms")
        packages = [f"-mneural_fields.neural_backend.{module}" for module in contract]
        packages += ["-pneural_fields.operators", "-pneural_fields.ui"]
        options = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir"]
        options.append(str(ROOT / ".mypy_cache"))
        command = [sys.executable, "-m", "mypy", *options, *packages]
        return run("types", command, folder)


def main() -> int:
    # tests train on one core each; the other is Blender's
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["NEURAL_FIELDS_PYTHON"] = sys.executable
    pytest = ["-m", "pytest", "-q"]
    passed = [
        run("style", [sys.executable, "-m", "ruff", "check", "."]),
        run("format", [sys.executable, "-m", "ruff", "format", "--check", "."]),
        check_types(),
    ]
    for name in ("bpy-4.2", "bpy-5.2"):
        try:
            python = str(ensure(name))
        except Unavailable as problem:
            print(f"\n== add-on with {name}\nSKIPPED: {problem}", flush=True)
            continue
        passed.append(run(f"add-on with {name}", [python, *pytest, *ADD_ON_TESTS]))
    passed.append(run("all tests", [sys.executable, *pytest, "--durations=10"]))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
