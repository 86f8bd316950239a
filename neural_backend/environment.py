"""What Blender asks a Python that is to become, or has become, the backend's environment.

    python -m neural_backend.environment about            says in json what this Python is
    python -m neural_backend.environment run MODULE ...   runs a module, pip for one, on the leash

Standard library only: nothing is installed yet.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import runpy
import signal
import subprocess
import sys

from .protocol import EXIT_FAILED
from .training.leash import Leash


def about() -> dict[str, object]:
    """This Python's version, its machine, and what it brings for making an environment."""
    return {
        "version": platform.python_version(),
        "machine": platform.machine(),
        "wide": sys.maxsize > 2**32,
        "free_threaded": not getattr(sys, "_is_gil_enabled", lambda: True)(),
        "venv": _has("venv"),
        "ensurepip": _has("ensurepip"),
        "pip": _has("pip"),
    }


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _end_all() -> None:
    """End this process and those that it has started: venv lets another Python install pip."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(os.getpid())], check=False)
    else:
        os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_FAILED)


def main() -> None:
    if sys.argv[1:2] == ["about"]:
        print(json.dumps(about()))
    elif sys.argv[1:2] == ["run"] and len(sys.argv) > 2:
        if sys.platform != "win32":
            os.setpgid(0, 0)
        # pip has nothing to wind down that its folder's removal does not
        leash = Leash(on_pull=_end_all)
        del sys.argv[:2]
        assert not leash.pulled
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
