"""Runs every check and test that this machine can run, and says what was skipped and why.

    .venv/bin/python tools/test.py

Style and types first. Then, as many parts at a time as there are processors, what may take as
long as it takes: the add-on's tests with bpy 4.2, 5.0 and 5.2, each in an environment of its own,
the backend's, and of the real Blenders on the PATH those that show no window. A part's output is
printed when it has ended. The windows come last and alone: their tests have limits of seconds.
"""

from __future__ import annotations

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from environment import ROOT, Unavailable, ensure

ADD_ON = ("tests/operators", "tests/ui")
REAL = "tests/real_blender"
SLOW = ("extraction", "kernels", "training")
"""Folders of the backend's tests that are parts by themselves."""
NO_WINDOW = ("colours", "headless", "passes", "scripting", "translations")
"""Tests of the real Blenders that show no window and have no limits of seconds."""


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


def pytest(*arguments: str, python: str = sys.executable) -> list[str]:
    return [python, "-m", "pytest", "-q", "--durations=10", *arguments]


def together(parts: dict[str, list[str]]) -> bool:
    """Run commands by their titles, the first begun first; each prints when it has ended."""

    def timed(command: list[str]) -> tuple[subprocess.CompletedProcess[str], float]:
        since = time.monotonic()
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        return done, time.monotonic() - since

    print(f"\n== at a time: {', '.join(parts)}", flush=True)
    failed = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        begun = {pool.submit(timed, command): title for title, command in parts.items()}
        for future in concurrent.futures.as_completed(begun):
            done, seconds = future.result()
            title = begun[future]
            print(f"\n== {title} ({seconds:.0f} s)\n{done.stdout.rstrip()}", flush=True)
            if done.returncode:
                failed.append(f"{title} (status {done.returncode})")
    if failed:
        print(f"\n== FAILED: {', '.join(failed)}", flush=True)
    return not failed


def add_on(name: str) -> list[str] | None:
    """The command of the add-on's tests in an environment; None where there is none."""
    try:
        return pytest(*ADD_ON, python=str(ensure(name)))
    except Unavailable as problem:
        print(f"\n== add-on with {name}\nSKIPPED: {problem}", flush=True)
        return None


def main() -> int:
    # tests train on one core each; the other is Blender's
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["NEURAL_FIELDS_PYTHON"] = sys.executable
    passed = [
        run("style", [sys.executable, "-m", "ruff", "check", "."]),
        run("format", [sys.executable, "-m", "ruff", "format", "--check", "."]),
        check_types(),
    ]

    # nothing is left out: what is no part by itself is among the others
    background = [f"{REAL}/test_{name}.py" for name in NO_WINDOW]
    slow = {f"backend: {name}": f"tests/neural_backend/{name}" for name in SLOW}
    elsewhere = [f"--ignore={place}" for place in (*ADD_ON, REAL, *slow.values())]
    parts = {
        "Blender 5.2 without a window": pytest(*background, "-k", "[5.2"),
        "Blender 4.3 without a window": pytest(*background, "-k", "not [5.2"),
        "add-on with bpy-4.2": add_on("bpy-4.2"),
        "add-on with bpy-5.0": pytest(*ADD_ON),
        "add-on with bpy-5.2": add_on("bpy-5.2"),
        **{title: pytest(place) for title, place in slow.items()},
        "everything else": pytest("tests", *elsewhere),
    }
    passed.append(together({title: command for title, command in parts.items() if command}))
    windows = pytest(REAL, *(f"--ignore={place}" for place in background))
    passed.append(run("Blenders' windows", windows))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
