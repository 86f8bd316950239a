"""What a benchmark ran on, and which sources it measured."""

from __future__ import annotations

import os
import pathlib
import platform
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent


def described(device: torch.device) -> str:
    """Processor, cores, device and versions in a line."""
    import torch

    from neural_backend import devices

    model = platform.processor() or platform.machine()
    about = pathlib.Path("/proc/cpuinfo")
    if about.exists():
        lines = about.read_text().splitlines()
        model = next(
            (each.split(": ")[1] for each in lines if each.startswith("model name")), model
        )
    gpu = "no GPU" if device.type == "cpu" else devices.name(device)
    threads = torch.get_num_threads()
    return (
        f"{model}, {os.cpu_count()} cores, {threads} threads, {gpu}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def commit() -> str:
    """The short hash of the sources; ``+`` behind it where they were changed since."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")
