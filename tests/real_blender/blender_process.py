"""One real Blender as the tests use it."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build" / "screenshots"
SHADERS = ROOT / "build" / "shaders"
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
            # one Mesa cuts off the index of another one's cache, which a Blender at work has mapped
            "MESA_SHADER_CACHE_DIR": str(SHADERS / self.version),
            "NEURAL_FIELDS_PYTHON": os.environ.get("NEURAL_FIELDS_PYTHON", sys.executable),
        }

    def run(
        self, *arguments: str | pathlib.Path, before: Sequence[str] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; ``before`` is a command that runs it (xvfb-run and its options)."""
        return self._call([*before, self.program, *map(str, arguments)], check)

    def _call(self, command: Sequence[str], check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
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

    def window_command(
        self,
        script: pathlib.Path,
        folder: pathlib.Path,
        *options: str | pathlib.Path,
        simulate: bool = True,
        **arguments: object,
    ) -> list[str]:
        """What plays a script in a window, on a virtual screen; see ``window_tools``.

        Args:
            folder: gets the screen's framebuffer and the script's ``report.json``.
            options: Blender's, and the file that it opens.
            simulate: whether the script clicks. Blender is never idle then: it looks for events
                without a pause.
            arguments: of the script, beside the places of its report and its pictures.
        """
        if shutil.which("xvfb-run") is None:
            pytest.skip("no xvfb-run on the PATH (Debian's package xvfb)")
        pictures = PICTURES / self.version
        pictures.mkdir(parents=True, exist_ok=True)
        given = {
            "report": str(folder / "report.json"),
            "pictures": str(pictures),
            "framebuffer": str(folder / "Xvfb_screen0"),
            **arguments,
        }
        screen = f"-screen 0 1280x800x24 -fbdir {folder}"
        command = ["xvfb-run", "-a", "-s", screen, self.program, *map(str, options)]
        command += ["--enable-event-simulate"] if simulate else []
        command += ["-p", "0", "0", "1280", "800"]
        command += ["--python-exit-code", "1", "--python", str(script), "--", json.dumps(given)]
        return command

    def play(
        self,
        script: pathlib.Path,
        folder: pathlib.Path,
        *options: str | pathlib.Path,
        simulate: bool = True,
        **arguments: object,
    ) -> tuple[dict[str, Any], str]:
        """Play a script in a window to its end: its report, in which nothing has failed, and what
        Blender printed; see ``window_command``."""
        command = self.window_command(script, folder, *options, simulate=simulate, **arguments)
        done = self._call(command)
        report = folder / "report.json"
        assert report.exists(), done.stdout[-4000:]
        said = json.loads(report.read_text(encoding="utf-8"))
        assert "failure" not in said, said["failure"]
        return said, done.stdout
