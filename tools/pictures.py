"""Makes the manual's pictures, into docs/images/: from the window tests and from the demo.

.venv/bin/python tools/demo.py && .venv/bin/python tools/pictures.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from environment import ROOT

IMAGES = ROOT / "docs" / "images"
OF_DEMO = ("comparison.png", "mesh.png")
OF_WINDOW = ("idle", "rig", "training", "finished")


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    test = [sys.executable, "-m", "pytest", "-q", "tests/real_blender/test_window.py"]
    environment = os.environ | {"NEURAL_FIELDS_FINE_PICTURES": "1"}
    subprocess.run(test, cwd=ROOT, env=environment, check=True)
    for folder in sorted((ROOT / "build" / "screenshots").iterdir()):
        for name in OF_WINDOW:
            shutil.copyfile(folder / f"{name}.png", IMAGES / f"{name}-{folder.name}.png")
    for name in OF_DEMO:
        shutil.copyfile(ROOT / "demo_output" / name, IMAGES / name)


if __name__ == "__main__":
    main()
