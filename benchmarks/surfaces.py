"""Surfaces side by side: ours, and the fusion of the same depth maps.

    python benchmarks/surfaces.py --data DATASET --reference MESH [--seconds 60 300]
                                  [--contestants ...] [--pictures FOLDER] [--json FILE]

The dataset has exact passes (``--passes``: it was exported from Blender), the reference is the mesh
that its views show, in world space. Every contestant trains once for each time that is asked for,
through the command line. Prints a table for RESULTS.md: the Chamfer distance as a fraction of the
diagonal of the reference's bounding box, of what the views see of it; and the PSNR of the textured
mesh, rendered by Blender (``pip install bpy``) from the test views' cameras.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import json
import os
import pathlib
import shlex
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

ROOT = pathlib.Path(__file__).resolve().parent.parent
# what is measured is the code beside this file, whatever is installed
sys.path.insert(0, str(ROOT))

from benchmarks.machine import commit, described  # noqa: E402

BASELINE = "tsdf"
CONTESTANTS = (BASELINE, "neus with passes", "neus", "nerf", "sdf")
RESOLUTION = 256


@dataclasses.dataclass(frozen=True)
class Measured:
    """One surface.

    Attributes:
        seconds: of training; of the baseline, that the fusion took.
        chamfer: as a fraction of the reference's diagonal.
        normal_error: degrees.
        mesh_seconds: to extract the mesh with a texture, start-up included; None for the baseline.
        peak_memory: bytes, of the training; None where the system does not say.
        psnr: of the textured mesh from the test cameras, over white, decibels; None without bpy.
    """

    name: str
    seconds: float
    chamfer: float
    normal_error: float
    boundary_edges: int
    components: int
    mesh_seconds: float | None
    peak_memory: int | None
    psnr: float | None


def without_passes(data: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """A dataset that shows the same images and tells nothing of their passes."""
    from neural_backend.dataset import transforms

    source = data / "transforms.json" if data.is_dir() else data
    content = json.loads(source.read_text(encoding="utf-8"))
    for frame in content["frames"]:
        for key in transforms.PASS_KEYS.values():
            frame.pop(key, None)
        image = folder / frame["file_path"]
        image.parent.mkdir(parents=True, exist_ok=True)
        image.symlink_to((source.parent / frame["file_path"]).resolve())
    (folder / "transforms.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def fused(data: pathlib.Path, reference: pathlib.Path, mesh: pathlib.Path) -> Measured:
    """The baseline."""
    import numpy as np
    import trimesh

    from benchmarks.tsdf_fusion import fuse
    from neural_backend.dataset import transforms
    from neural_backend.dataset.images import image_size
    from neural_backend.extraction import comparison, topology
    from neural_backend.training.sdf import Reference

    dataset = transforms.read(data, image_size)
    start = time.perf_counter()
    vertices, faces = fuse(dataset, RESOLUTION)
    seconds = time.perf_counter() - start
    trimesh.Trimesh(vertices, faces, process=False).export(mesh)
    wanted = Reference(reference, np.eye(4))
    eyes = np.array([view.world_from_camera[:3, 3] for view in dataset.views])
    chamfer, angle = comparison.surface_errors(vertices, faces, wanted.vertices, wanted.faces, eyes)
    diagonal = float(np.linalg.norm(np.ptp(wanted.vertices, axis=0)))
    return Measured(
        BASELINE,
        seconds,
        chamfer / diagonal,
        angle,
        topology.boundary_edges(faces),
        topology.components(len(vertices), faces),
        None,
        None,
        None,
    )


def textured_psnr(mesh: pathlib.Path, data: pathlib.Path) -> float | None:
    """Mean PSNR over the test views of a mesh that Blender renders; None without Blender."""
    if importlib.util.find_spec("bpy") is None:
        return None
    from neural_backend.dataset import transforms
    from neural_backend.dataset.images import image_size, load_views
    from neural_backend.training import scores

    images = load_views(transforms.read(data, image_size), "test")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        _blender("mesh_views.py", mesh, data / "transforms.json", folder)
        for index, view in enumerate(images.views):
            rendered = _over_white(pathlib.Path(folder) / pathlib.PurePosixPath(view.file).name)
            found.append(scores.psnr(rendered, images.on_white(images.image(index))))
    return sum(found) / len(found)


def _over_white(path: pathlib.Path) -> torch.Tensor:
    import torch

    from neural_backend.dataset.colour import over_white
    from neural_backend.dataset.images import read_image

    return over_white(torch.from_numpy(read_image(path)) / 255.0)


def _blender(script: str, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, arguments)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def trained(
    name: str,
    source: pathlib.Path,
    data: pathlib.Path,
    reference: pathlib.Path,
    seconds: float,
    mesh: pathlib.Path,
) -> Measured:
    """One of our fields, through the command line; ``data`` has the views to look at it from."""
    with tempfile.TemporaryDirectory() as scratch:
        run = os.path.join(scratch, "run")
        field = name.partition(" ")[0]
        _, memory = _backend(
            "train", str(source), "--run", run, "--field", field, "--max-seconds", str(seconds)
        )
        start = time.perf_counter()
        extract = ["--resolution", str(RESOLUTION)]
        if field != "sdf":
            extract += ["--texture", "2048"]
        _backend("mesh", run, "--output", str(mesh), *extract)
        mesh_seconds = time.perf_counter() - start
        said, _ = _backend("evaluate", run, "--views", "1", "--reference", str(reference), "--json")
    found = json.loads(said)
    return Measured(
        name,
        seconds,
        found["chamfer"],
        found["normal_error"],
        found["boundary_edges"],
        found["components"],
        mesh_seconds,
        memory,
        None if field == "sdf" else textured_psnr(mesh, data),
    )


def _backend(*arguments: str) -> tuple[str, int | None]:
    """What a command prints, and the most memory that it had, bytes; its failure ends this."""
    command = [sys.executable, "-m", "neural_backend", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        if not hasattr(os, "wait4"):
            status, memory = process.wait(), None
        else:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = status
            memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    if status:
        sys.exit(f"{shlex.join(command)}: failed")
    return said, memory


def table(results: list[Measured]) -> str:
    """The markdown table; in brackets the Chamfer distance against the baseline's."""
    base = next((each.chamfer for each in results if each.name == BASELINE), None)
    head = "surface", "seconds", "Chamfer, %", "normals, degrees", "boundary edges", "components"
    lines = [[*head, "mesh and texture, s", "peak memory, GB", "textured, dB"]]
    lines.append(["---"] * len(lines[0]))
    for each in results:
        ratio = f" ({each.chamfer / base:.2f}x)" if base and each.name != BASELINE else ""
        mesh_seconds = "-" if each.mesh_seconds is None else f"{each.mesh_seconds:.0f}"
        memory = "-" if each.peak_memory is None else f"{each.peak_memory / 1e9:.2f}"
        lines.append(
            [
                each.name,
                f"{each.seconds:.0f}",
                f"{100.0 * each.chamfer:.3f}{ratio}",
                f"{each.normal_error:.1f}",
                str(each.boundary_edges),
                str(each.components),
                mesh_seconds,
                memory,
                "-" if each.psnr is None else f"{each.psnr:.1f}",
            ]
        )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="a dataset with passes")
    parser.add_argument("--reference", type=pathlib.Path, required=True, help="the mesh it shows")
    parser.add_argument("--seconds", type=float, nargs="+", default=[60.0, 300.0])
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--pictures", type=pathlib.Path, help="a folder for meshes and pictures")
    parser.add_argument("--json", metavar="FILE", help="write all figures into a file too")
    options = parser.parse_args(arguments)
    import torch

    results: list[Measured] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.pictures or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        bare = pathlib.Path(scratch) / "images alone"
        for name in options.contestants:
            kind = "ply" if name in (BASELINE, "sdf") else "glb"
            for seconds in sorted(options.seconds):
                stem = f"{name.replace(' ', '-')}-{seconds:g}"
                mesh = folder / f"{stem}.{kind}"
                print(f"{name}, {seconds:g} s ...", file=sys.stderr, flush=True)
                if name == BASELINE:
                    results.append(fused(options.data, options.reference, mesh))
                else:
                    source = options.reference if name == "sdf" else options.data
                    if name in ("neus", "nerf"):
                        if not bare.exists():
                            bare.mkdir()
                            without_passes(options.data, bare)
                        source = bare
                    known = source, options.data, options.reference
                    results.append(trained(name, *known, seconds, mesh))
                if options.pictures:
                    _blender("mesh_picture.py", mesh, folder / f"{stem}.png")
                if name == BASELINE:  # it knows no time
                    break
    date, sources = datetime.date.today().isoformat(), commit()
    said = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "benchmarks/surfaces.py", *said])
    machine = described(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(f"## Surfaces, {options.reference.stem} ({date}, {sources})\n")
    print(f"    {command}\n\n{machine}\n\n{table(results)}")
    if options.json:
        figures = [dataclasses.asdict(each) for each in results]
        report = {"date": date, "commit": sources, "command": command, "machine": machine}
        pathlib.Path(options.json).write_text(
            json.dumps(report | {"results": figures}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
