"""What can be done with a trained run: measure it, extract its mesh, render it."""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from . import progress
from .dataset import images, transforms
from .dataset.colour import displayed
from .dataset.transforms import Split, View
from .extraction import comparison, marching_cubes, mesh_file, sequence, vertex_colors
from .extraction.marching_cubes import Volume
from .fields.radiance import RadianceField
from .protocol import BadInput
from .rendering import sphere_tracing, volume
from .training import run as runs
from .training.evaluation import evaluate_views
from .training.leash import Leash
from .training.run import OpenRun
from .training.sdf import Reference

_COMPARED_RESOLUTION = 256


@contextlib.contextmanager
def on_leash() -> Iterator[None]:
    """Run what is inside until the leash is pulled, which raises KeyboardInterrupt: no process
    outlives the Blender that started it."""
    Leash(on_pull=_thread.interrupt_main)
    with runs.told_if_out_of_memory():
        yield


def evaluate(run_folder: str, split: Split, views: int) -> dict[str, float | None]:
    """Measure a run's field.

    Args:
        split: of the views to compare with (nerf).
        views: how many of them at most; 0 takes all.

    Returns:
        Names and numbers. nerf: psnr (decibels), ssim, views, seconds_per_view. sdf: iou, chamfer
        (as a fraction of the bounding box's diagonal), normal_error (degrees).

    Raises:
        BadInput: the run, or what it is compared with, cannot be read.
    """
    if views < 0:
        raise BadInput(f"views is {views}: give at least 0")
    run = runs.open_run(run_folder)
    if isinstance(run.field, RadianceField) and run.grid is not None:
        dataset = transforms.read(run.source, images.image_size)
        with progress.CountingBar("evaluating") as bar:
            scores = evaluate_views(
                run.field,
                run.grid,
                run.kernels,
                dataset,
                run.field_from_world,
                split,
                views or None,
                bar,
            )
        return {
            name: value if np.isfinite(value) else None
            for name, value in dataclasses.asdict(scores).items()
        }
    reference = Reference(run.source, run.field_from_world)
    low, high = reference.vertices.min(axis=0), reference.vertices.max(axis=0)
    iou = comparison.intersection_over_union(run.field, reference.distance, low, high, run.device)
    vertices, faces = marching_cubes.extract(
        marching_cubes.from_signed_distance(run.field, run.device), _COMPARED_RESOLUTION
    )
    chamfer, normal_error = comparison.surface_errors(
        vertices, faces, reference.vertices, reference.faces
    )
    diagonal = float(np.linalg.norm(high - low))
    return {"iou": iou, "chamfer": chamfer / diagonal, "normal_error": normal_error}


def mesh(run_folder: str, output: str, resolution: int) -> tuple[int, int]:
    """Extract a run's surface into a file; returns the number of vertices and of faces.

    Raises:
        BadInput: the run cannot be read, has no surface, or the file cannot be written.
    """
    path = mesh_file.check_output(output)
    run = runs.open_run(run_folder)
    try:
        vertices, faces = marching_cubes.extract(_volume(run), resolution)
    except BadInput as error:
        raise BadInput(f"{run_folder}: {error}") from None
    normals = marching_cubes.vertex_normals(vertices, faces)
    colors = None
    if isinstance(run.field, RadianceField):
        colors = vertex_colors.of_radiance(run.field, vertices, normals, resolution, run.device)
    world_from_field = np.linalg.inv(run.field_from_world)
    world = vertices @ world_from_field[:3, :3].T + world_from_field[:3, 3]
    mesh_file.write(path, mesh_file.Mesh(world, faces, normals, colors))
    return len(vertices), len(faces)


def _volume(run: OpenRun) -> Volume:
    if isinstance(run.field, RadianceField) and run.grid is not None:
        density, grid = run.field.density, run.grid
        # what lies around the inner region has no shape in the unit box that is its own; within,
        # cameras may stand in a room, whose walls are a cavity
        return marching_cubes.from_density(density, grid.inner, run.device, grid.contracted)
    return marching_cubes.from_signed_distance(run.field, run.device)


def render(run_folder: str, cameras: str, output: str) -> int:
    """Render a run's field into PNGs with straight alpha; returns their number.

    Raises:
        BadInput: the run or the cameras cannot be read, or the folder cannot be written.
    """
    run = runs.open_run(run_folder)
    views = transforms.read(cameras, images.image_size, images=False).views
    files = sequence.write(output, views, lambda view: _picture(run, view))
    return sum(1 for _ in progress.over(files, len(views), "rendering"))


def _picture(run: OpenRun, view: View) -> npt.NDArray[np.float32]:
    """[H, W, 4] sRGB and straight alpha."""
    if isinstance(run.field, RadianceField) and run.grid is not None:
        rendered = volume.render_image(
            run.field,
            run.grid,
            view.intrinsics,
            view.world_from_camera,
            run.field_from_world,
            run.kernels,
        )
    else:
        rendered = sphere_tracing.render_image(run.field, view, run.field_from_world, run.device)
        rendered = displayed(rendered, linear=False)
    return rendered.cpu().numpy()
