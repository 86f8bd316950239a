"""Makes the virtual environments that the demo and the tests run in. Standard library only.

    python3 tools/environment.py            .venv: the backend, the tools, bpy 5.0
    python3 tools/environment.py bpy-4.2    .venv-bpy-4.2: bpy 4.2 and pytest
    python3 tools/environment.py bpy-5.2    .venv-bpy-5.2: bpy 5.2 and pytest, on Python 3.13

Each is made once and again when what it holds changes. Prints the environment's Python.
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Environment:
    """A folder beside the sources, the Python version it wants, what each pip call installs."""

    folder: str
    python: str
    installs: tuple[tuple[str, ...], ...]


ENVIRONMENTS = {
    "main": Environment(
        ".venv",
        "3.11",
        # torch by itself and pinned: an open range may pull another build of several gigabytes
        (("torch==2.13.0",), ("numpy<2", "-e", ".[dev]")),
    ),
    "bpy-4.2": Environment(
        ".venv-bpy-4.2", "3.11", (("bpy==4.2.23", "numpy<2", "pytest>=8.2", "trimesh>=4.4"),)
    ),
    "bpy-5.2": Environment(
        ".venv-bpy-5.2", "3.13", (("bpy==5.2.3", "pytest>=8.2", "trimesh>=4.4"),)
    ),
}


class Unavailable(Exception):
    """The environment cannot be made here; one line that says why."""


def find_python(version: str) -> str:
    """An interpreter of a minor version, from the PATH or from pyenv.

    Raises:
        Unavailable: there is none.
    """
    candidates = [sys.executable, shutil.which(f"python{version}"), shutil.which("python3")]
    candidates += sorted(
        map(str, (pathlib.Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python")),
        reverse=True,
    )
    for candidate in filter(None, candidates):
        ask = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(ask, capture_output=True, text=True)
        if answer.stdout.strip() == version:
            return candidate
    raise Unavailable(f"no Python {version} found; install it, then try again")


def ensure(name: str) -> pathlib.Path:
    """Make an environment unless it stands already; returns its Python.

    Raises:
        Unavailable: no such Python, or pip failed.
    """
    environment = ENVIRONMENTS[name]
    folder = ROOT / environment.folder
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    content = repr(environment)
    if any("-e" in packages for packages in environment.installs):
        content += (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = hashlib.sha256(content.encode()).hexdigest()
    stamp = folder / "made-from"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    base = find_python(environment.python)
    print(f"Setting up {folder} with {base}", file=sys.stderr, flush=True)
    commands = [[base, "-m", "venv", "--clear", str(folder)]]
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands += [[*pip, *packages] for packages in environment.installs]
    for command in commands:
        done = subprocess.run(command, cwd=ROOT, stdout=sys.stderr)
        if done.returncode:
            raise Unavailable(f"{' '.join(command)} failed with status {done.returncode}")
    stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    try:
        print(ensure(sys.argv[1] if len(sys.argv) > 1 else "main"))
    except Unavailable as problem:
        sys.exit(f"{problem}")
