"""One real Blender as the tests use it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
TIMEOUT = 900.0


@dataclasses.dataclass(frozen=True)
class Blender:
    """One Blender with a profile of its own.

    Attributes:
        program: its command.
        version: as its name says it.
        profile: the folder of its preferences and extensions, used by nothing else.
    """

    program: str
    version: str
    profile: pathlib.Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "BLENDER_USER_RESOURCES": str(self.profile),
            "NEURAL_FIELDS_PYTHON": os.environ.get("NEURAL_FIELDS_PYTHON", sys.executable),
        }

    def run(
        self, *arguments: str | pathlib.Path, before: Sequence[str] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; ``before`` is a command that runs it (xvfb-run and its options)."""
        done = subprocess.run(
            [*before, self.program, *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
        )
        if check:
            assert done.returncode == 0, done.stdout[-6000:]
        return done

    def python(
        self, expression: str, *files: pathlib.Path, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run an expression in the background, after opening the files."""
        last = ("--python-exit-code", "1", "--python-expr", expression)
        return self.run("-b", *files, *last, check=check)
