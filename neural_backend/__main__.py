"""``python -m neural_backend``: see ``command_line`` for what it can do."""

from __future__ import annotations

import os
import sys

# Before torch is loaded: by default its threads spin while they wait for one another, which makes
# training several times slower as soon as anything else, Blender for one, uses a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from . import doctor


def main() -> int:
    """Run the command line; returns the exit status."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        from . import command_line
    except ImportError as error:
        # without the library that reads the command line, only the doctor can speak
        if sys.argv[1:2] == ["doctor"]:
            return doctor.run("--json" in sys.argv)
        return doctor.refuse(error)
    try:
        status = command_line.run(sys.argv[1:])
    except BrokenPipeError:  # who read it has seen enough
        status = 1
    try:
        sys.stdout.flush()
    except OSError:
        # it has been told; at exit nothing more is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


if __name__ == "__main__":
    sys.exit(main())
