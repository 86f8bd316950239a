"""Says whether this Python can train, and what is missing; needs no library itself."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import sys
from typing import Any

from . import __version__
from .protocol import EXIT_BAD_INPUT, EXIT_DONE, first_line

LEAST_PYTHON = (3, 11)
NEEDED = {
    "PIL": "pillow",
    "fast_simplification": "fast-simplification",
    "igl": "libigl",
    "imageio": "imageio",
    "numpy": "numpy",
    "safetensors": "safetensors",
    "skimage": "scikit-image",
    "torch": "torch",
    "tqdm": "tqdm",
    "trimesh": "trimesh",
    "tyro": "tyro",
    "xatlas": "xatlas",
}
"""The modules that the backend imports, and the packages that bring them."""
WANTED = {"numba": "numba"}
"""Without these training works, but slowly."""


def examine() -> dict[str, Any]:
    """What this Python has: ``ok``, and ``problem`` and ``fix`` where it cannot train.

    There is a ``warning`` where it can, but slowly.
    """
    report: dict[str, Any] = {
        "ok": False,
        "version": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
    }
    if sys.version_info < LEAST_PYTHON:
        wanted = ".".join(map(str, LEAST_PYTHON))
        problem = f"Python {platform.python_version()} is too old"
        return report | {"problem": problem, "fix": f"use Python {wanted} or newer"}
    missing = [package for module, package in NEEDED.items() if not _found(module)]
    report["packages"] = {
        package: _version(package)
        for module, package in (NEEDED | WANTED).items()
        if _found(module)
    }
    if missing:
        return report | {"problem": _missing(missing), "fix": _install(missing)}
    try:
        import torch

        from . import devices, kernels
        from .training import distributed

        device = devices.choose("auto")
        report |= {
            "device": device.type,
            "device_name": devices.name(device),
            "kernels": kernels.choose(device).name,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torchrun": distributed.backends() or "not with this torch",
        }
        slow = kernels.why_not_fast(device)
    # a torch for another system or driver fails in many ways
    except Exception as error:
        fix = f'"{sys.executable}" -m pip install --force-reinstall torch'
        return report | {"problem": f"torch does not work ({first_line(error)})", "fix": fix}
    report["ok"] = True
    lacking = [package for module, package in WANTED.items() if not _found(module)]
    if lacking and slow:
        report["warning"] = f"{_missing(lacking)}, training is slower; {_install(lacking)}"
    elif slow:
        report["warning"] = slow
    memory = _free_memory()
    return report if memory is None else report | {"free_memory": memory}


def run(as_json: bool) -> int:
    """Print the report; returns the exit status."""
    report = examine()
    if as_json:
        print(json.dumps(report))
    elif report["ok"]:
        for name, value in report.items():
            if name == "packages":
                value = ", ".join(f"{package} {version}" for package, version in value.items())
            elif name == "free_memory":
                value = f"{value / 2**30:.1f} GiB"
            print(f"{name.replace('_', ' '):<12} {value}")
    if not report["ok"]:
        print(f"{report['problem']}; {report['fix']}", file=sys.stderr)
    return EXIT_DONE if report["ok"] else EXIT_BAD_INPUT


def refuse(error: ImportError) -> int:
    """Print in one line what is not installed and how to mend it; returns the exit status."""
    package = NEEDED.get((error.name or "").partition(".")[0])
    problem = _missing([package]) if package else f"this Python lacks something ({error})"
    lacking = [each for module, each in NEEDED.items() if not _found(module)]
    print(f"{problem}; {_install(lacking or list(NEEDED.values()))}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _missing(packages: list[str]) -> str:
    return f"{', '.join(packages)}: not installed in this Python"


def _install(packages: list[str]) -> str:
    return f'run "{sys.executable}" -m pip install {" ".join(packages)}'


def _free_memory() -> int | None:
    """Bytes that new processes can have; None where the system does not say."""
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    values = dict(line.split(":", 1) for line in lines)
    return int(values["MemAvailable"].split()[0]) * 1024
