"""Builds the extension's zip with Blender's own extension builder, as it comes with bpy.

.venv/bin/python tools/build_zip.py [FOLDER]    into dist/ unless a folder is given; prints the zip
"""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def build(folder: pathlib.Path) -> pathlib.Path:
    """Validate the sources and build the zip into ``folder``; returns its path.

    Raises:
        subprocess.CalledProcessError: the sources are not a valid extension.
    """
    import tomllib

    manifest = tomllib.loads((ROOT / "blender_manifest.toml").read_text(encoding="utf-8"))
    folder.mkdir(parents=True, exist_ok=True)
    package = importlib.util.find_spec("bpy")
    if package is None or package.origin is None:
        sys.exit("bpy is not installed here: call `make zip`")
    # the program behind `blender --command extension`; it runs by itself
    builder = next(pathlib.Path(package.origin).parent.glob("*/scripts/addons_core/bl_pkg/cli"))
    command = [sys.executable, str(builder / "blender_ext.py")]
    out = folder / f"{manifest['id']}-{manifest['version']}.zip"
    arguments = ["build", "--source-dir", str(ROOT), "--output-filepath", str(out)]
    subprocess.run([*command, *arguments], check=True, stdout=sys.stderr)
    subprocess.run([*command, "validate", str(out)], check=True, stdout=sys.stderr)
    return out


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"
    print(build(target.resolve()))
