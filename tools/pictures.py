"""Makes the manual's pictures, into docs/images/: from the window tests and from the demo.

.venv/bin/python tools/demo.py && .venv/bin/python tools/pictures.py
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys

from environment import ROOT

IMAGES = ROOT / "docs" / "images"
OF_DEMO = ("comparison.png", "mesh.png")
OF_WINDOW = {
    "test_environment.py": ("install", "install-dialog"),
    "test_window.py": ("idle", "rig", "export", "training", "finished"),
    "test_faults.py": ("list after a restart",),
    "test_results.py": ("result_panel", "compare"),
}


def main() -> None:
    IMAGES.mkdir(parents=True, exist_ok=True)
    files = [f"tests/real_blender/{file}" for file in OF_WINDOW]
    test = [sys.executable, "-m", "pytest", "-q", *files]
    environment = os.environ | {"NEURAL_FIELDS_FINE_PICTURES": "1"}
    subprocess.run(test, cwd=ROOT, env=environment, check=True)
    for folder in sorted((ROOT / "build" / "screenshots").iterdir()):
        for name in itertools.chain(*OF_WINDOW.values()):
            copy = IMAGES / f"{name}-{folder.name}.png".replace(" ", "-")
            shutil.copyfile(folder / f"{name}.png", copy)
    for name in OF_DEMO:
        shutil.copyfile(ROOT / "demo_output" / name, IMAGES / name)


if __name__ == "__main__":
    main()
