"""Trains a field on each of some .blend files in turn and prints a table of how it went.

    blender -b --python docs/examples/train_files.py -- --output FOLDER [--preset best]
            [--results MESH,SEQUENCE] FILE.blend ...

Every file gets a folder of its own in FOLDER, with its dataset, run and results and a copy of the
file that they are brought into; the files themselves are not written. What is not given comes from
each file's own settings. One that fails does not stop the others. The exit status is 0 when all
went well, else 1.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time

import bpy


def main() -> int:
    parser = argparse.ArgumentParser(prog="train_files.py", description=__doc__.splitlines()[0])
    parser.add_argument("files", type=pathlib.Path, nargs="+", metavar="FILE.blend")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--preset", choices=("preview", "standard", "best"))
    parser.add_argument("--results", metavar="MESH,SEQUENCE,VOLUME")
    options = parser.parse_args(sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else [])
    rows = [("file", "field", "PSNR, dB", "minutes", "faces", "outcome")]
    taken: set[str] = set()
    for file in options.files:
        folder = options.output.resolve() / unused(file.stem, taken)
        began = time.monotonic()
        outcome = train(file.resolve(), folder, options)
        minutes = f"{(time.monotonic() - began) / 60:.1f}"
        rows.append(
            (file.name, *figures(folder, outcome), minutes, faces(folder, outcome), outcome)
        )
    print()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0 if all(row[-1] == "done" for row in rows[1:]) else 1


def unused(name: str, taken: set[str]) -> str:
    """Two files of one name must not share a folder."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name}.{number}"
    taken.add(found)
    return found


def train(file: pathlib.Path, folder: pathlib.Path, options: argparse.Namespace) -> str:
    try:
        bpy.ops.wm.open_mainfile(filepath=str(file))
        given = {"preset": options.preset} if options.preset else {}
        if options.results:
            given["results"] = set(options.results.split(","))
        bpy.ops.neural_fields.train(output=str(folder), **given)
        copy = folder / file.name
        bpy.ops.wm.save_as_mainfile(filepath=str(copy), copy=True)
    except (RuntimeError, TypeError) as error:  # what an operator reports; a wrong argument
        return " ".join(str(error).split()).removeprefix("Error: ")
    return "done"


def figures(folder: pathlib.Path, outcome: str) -> tuple[str, str]:
    """The field's kind, and its PSNR on validation views."""
    if outcome != "done":
        return "-", "-"
    run = folder / "run"
    kind = json.loads((run / "config.json").read_text(encoding="utf-8"))["settings"]["field"]
    psnr = json.loads((run / "metrics.json").read_text(encoding="utf-8")).get("psnr")
    return kind, "-" if psnr is None else f"{psnr:.1f}"


def faces(folder: pathlib.Path, outcome: str) -> str:
    mesh = bpy.data.objects.get(folder.name) if outcome == "done" else None
    return str(len(mesh.data.polygons)) if mesh is not None and mesh.type == "MESH" else "-"


if __name__ == "__main__":
    sys.exit(main())
