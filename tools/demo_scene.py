"""Makes the demo's scene with bpy: the add-on's example in a file of its own.

python tools/demo_scene.py FILE.blend
"""

from __future__ import annotations

import pathlib
import runpy
import sys

import bpy

EXAMPLE = pathlib.Path(__file__).resolve().parent.parent / "operators" / "example.py"


def build() -> None:
    """Replace the open file by the demo's scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    runpy.run_path(str(EXAMPLE))["fill"](bpy.context.scene)


if __name__ == "__main__":
    build()
    bpy.ops.wm.save_as_mainfile(filepath=sys.argv[-1])
