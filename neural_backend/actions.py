"""What can be done with a trained run: measure it, extract its mesh, render it."""

from __future__ import annotations

import _thread
import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from . import progress, protocol, voxels
from .config import ResultSettings
from .dataset import images, transforms
from .dataset.colour import displayed
from .dataset.transforms import Split, View
from .extraction import (
    comparison,
    depth,
    marching_cubes,
    mesh_file,
    meshing,
    own_files,
    radiance_surface,
    radiance_volume,
    sequence,
    side_by_side,
    surface,
    surface_colors,
    topology,
)
from .extraction.meshing import Report
from .extraction.surface import Volume
from .fields.radiance import RadianceField
from .fields.surface_radiance import SurfaceRadianceField
from .protocol import BadInput
from .rendering import sphere_tracing, volume
from .sampling import occupancy
from .training import run as runs
from .training.evaluation import ComparedView, ViewScores, compare_views, mean_scores
from .training.leash import Leash
from .training.run import OpenRun
from .training.sdf import Reference

_COMPARED_RESOLUTION = 256
_TIMES = 4
"""How much larger than it is a difference of pictures is shown."""
_OTHER_SIZE = 20.0
"""A reference is so many times larger or smaller than what a run holds only by mistake."""


@contextlib.contextmanager
def on_leash() -> Iterator[None]:
    """Run what is inside until the leash is pulled, which raises KeyboardInterrupt: no process
    outlives the Blender that started it."""
    Leash(on_pull=_thread.interrupt_main)
    with runs.told_if_out_of_memory():
        yield


def evaluate(
    run_folder: str, split: Split, views: int, reference: str | None = None
) -> dict[str, float | None]:
    """Measure a run's field.

    Args:
        split: of the views to compare with (nerf, neus).
        views: how many of them at most; 0 takes all.
        reference: the mesh to compare with; sdf takes the one that it was trained on.

    Returns:
        Names and numbers. nerf, neus: psnr (decibels), ssim, views, seconds_per_view. sdf, and the
        others with a reference: chamfer (as a fraction of the bounding box's diagonal),
        normal_error (degrees), boundary_edges and components of the extracted mesh, and where the
        field is a signed distance, iou. Of a reference only what the views see counts for the
        former two.

    Raises:
        BadInput: the run, or what it is compared with, cannot be read, or the reference is of
            another place or scale.
    """
    if views < 0:
        raise BadInput(f"views is {views}: give at least 0")
    run = runs.open_run(run_folder)
    if not isinstance(run.field, RadianceField) or run.grid is None:
        return _surface_scores(run, pathlib.Path(reference) if reference else run.source)
    dataset = transforms.read(run.source, images.image_size)
    with progress.CountingBar("evaluating") as bar:
        compared = compare_views(
            run.field,
            run.grid,
            run.kernels,
            dataset,
            run.field_from_world,
            split,
            views or None,
            bar,
        )
        values = _finite(mean_scores(compared))
    if reference is not None:
        values |= _surface_scores(run, pathlib.Path(reference), dataset.views)
    return values


def _finite(scores: ViewScores) -> dict[str, float | None]:
    return {
        name: value if np.isfinite(value) else None
        for name, value in dataclasses.asdict(scores).items()
    }


def compare(
    run_folder: str, output: str, split: Split | None, views: int, source: str | None = None
) -> dict[str, float | None]:
    """Write a picture of views: the dataset's image, the field, and how they differ, in a row each.

    Args:
        output: a PNG; only one of our making is replaced.
        split: of the views; None takes the first of test, val and train that has some.
        views: how many of them at most, evenly spread; 0 takes all.
        source: the dataset, where it is not where it was when the field was trained.

    Returns:
        Names and numbers as ``evaluate`` has them.

    Raises:
        BadInput: the run or the dataset cannot be read, there are no views to compare with, or the
            picture cannot be written.
    """
    if views < 0:
        raise BadInput(f"views is {views}: give at least 0")
    path = protocol.output_file(output, (".png",))
    own_files.refuse_strangers([path])
    run = runs.open_run(run_folder)
    if not isinstance(run.field, RadianceField) or run.grid is None:
        raise BadInput(
            f"{run_folder}: a signed distance was trained on geometry and has no views to compare "
            "with; evaluate compares it with its mesh"
        )
    dataset = transforms.read(source or run.source, images.image_size)
    for other in ("test", "val", "train"):
        split = split or (other if dataset.split(other) else None)
    with progress.CountingBar("comparing") as bar:
        compared = list(
            compare_views(
                run.field,
                run.grid,
                run.kernels,
                dataset,
                run.field_from_world,
                split or "test",
                views or None,
                bar,
            )
        )
    picture = side_by_side.sheet([_panels(each) for each in compared])
    try:
        protocol.write_whole(path, lambda beside: own_files.save_png(beside, picture))
    except OSError as error:
        raise BadInput(
            f"{path}: cannot be written ({error}); free some space or choose another folder"
        ) from None
    return _finite(mean_scores(compared))


def _panels(compared: ComparedView) -> list[side_by_side.Panel]:
    rendered, truth = compared.rendered.numpy(), compared.truth.numpy()
    said = f"field: {compared.psnr:.1f} dB"
    if compared.ssim is not None:
        said += f", SSIM {compared.ssim:.3f}"
    view = compared.view
    return [
        side_by_side.Panel(f"{pathlib.PurePath(view.file).stem} ({view.split}): original", truth),
        side_by_side.Panel(said, rendered),
        side_by_side.Panel(f"difference, {_TIMES} times", _TIMES * np.abs(rendered - truth)),
    ]


def _surface_scores(
    run: OpenRun, path: pathlib.Path, views: Sequence[View] = ()
) -> dict[str, float]:
    """How far a run's surface is from a mesh's; of that, where views are given, what they see."""
    reference = Reference(path, run.field_from_world)
    low, high = reference.vertices.min(axis=0), reference.vertices.max(axis=0)
    _check_place(run, path, np.stack([low, high]))
    volume = _volume(run, _COMPARED_RESOLUTION)
    vertices, faces, _ = marching_cubes.extract(volume, _COMPARED_RESOLUTION)
    eyes = [(run.field_from_world @ view.world_from_camera)[:3, 3] for view in views]
    chamfer, normal_error = comparison.surface_errors(
        vertices, faces, reference.vertices, reference.faces, np.array(eyes).reshape(-1, 3)
    )
    diagonal = float(np.linalg.norm(high - low))
    values = {
        "chamfer": chamfer / diagonal,
        "normal_error": normal_error,
        "boundary_edges": topology.boundary_edges(faces),
        "components": topology.components(len(vertices), faces),
    }
    signed = _signed_distance(run)
    if signed is None:
        return values
    iou = comparison.intersection_over_union(signed, reference.distance, low, high, run.device)
    return {"iou": iou, **values}


def _check_place(run: OpenRun, path: pathlib.Path, box: npt.NDArray) -> None:
    """Make sure that a mesh may be what a run's field stands for.

    Args:
        box: [2, 3] its lowest and highest corner in field space.

    Raises:
        BadInput: it lies elsewhere, or is of quite another size.
    """
    around = run.grid is not None and run.grid.contracted
    half = 0.5 * (transforms.INNER if around else 1.0)
    field = np.array([[0.5 - half] * 3, [0.5 + half] * 3])
    apart = (box[0] > field[1]).any() or (box[1] < field[0]).any()
    size = float((box[1] - box[0]).max()) / (2.0 * half)
    if apart or not 1.0 / _OTHER_SIZE < size < _OTHER_SIZE:
        world_from_field = np.linalg.inv(run.field_from_world)
        spans = []
        for corners in (box, field):
            moved = corners @ world_from_field[:3, :3].T + world_from_field[:3, 3]
            spans.append(" to ".join(f"({', '.join(f'{x:.3g}' for x in each)})" for each in moved))
        raise BadInput(
            f"{path}: reaches from {spans[0]}, but what the run holds is from {spans[1]}; give a "
            "reference of the same place and scale"
        )


def _signed_distance(run: OpenRun) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """[N, 3] points to [N] signed distances, or None where the field has a density instead."""
    if isinstance(run.field, SurfaceRadianceField):
        return run.field.distance
    return None if isinstance(run.field, RadianceField) else run.field


def mesh(run_folder: str, output: str, settings: ResultSettings) -> dict[str, int]:
    """Extract a run's surface into a file.

    Args:
        settings: resolution, faces and texture of the mesh.

    Returns:
        Names and numbers: vertices, faces, boundary_edges, components.

    Raises:
        BadInput: the run or the views of its field cannot be read, it has no surface, or the file
            cannot be written.
    """
    folder = pathlib.Path(output).parent
    with protocol.no_folder_left(folder), progress.StagesBar() as bar:
        path = mesh_file.check_output(output, settings.mesh_texture > 0)
        run = runs.open_run(run_folder)
        try:
            volume = _volume(run, settings.mesh_resolution, bar)
            found = meshing.meshed(volume, settings, bar)
        except BadInput as error:
            raise BadInput(f"{run_folder}: {error}") from None
        mesh_file.write(path, found.moved(np.linalg.inv(run.field_from_world)))
    return {
        "vertices": len(found.vertices),
        "faces": len(found.faces),
        "boundary_edges": topology.boundary_edges(found.faces),
        "components": topology.components(len(found.vertices), found.faces),
    }


def volume_file(run_folder: str, output: str, resolution: int) -> int:
    """Write a run's density and colour as voxels; returns how many hold something or touch it.

    Args:
        resolution: voxels along the longest side.

    Raises:
        BadInput: the run cannot be read, its field has no density or is empty, or the file cannot
            be written.
    """
    with protocol.no_folder_left(pathlib.Path(output).parent):
        path = protocol.output_file(output, voxels.WRITTEN)
        run = runs.open_run(run_folder)
        if not isinstance(run.field, RadianceField) or run.grid is None:
            raise BadInput(
                f"{run_folder}: a signed distance has no density to make a volume of; extract its "
                "mesh"
            )
        try:
            found = radiance_volume.sampled(run.field, run.grid, run.field_from_world, resolution)
        except BadInput as error:
            raise BadInput(f"{run_folder}: {error}") from None
        voxels.write(path, found)
    return len(found.index)


def _volume(run: OpenRun, resolution: int, report: Report = lambda what, done, of: None) -> Volume:
    """A run's field as extraction sees it; for ``report`` see ``meshing.meshed``."""
    colors = None
    if isinstance(run.field, RadianceField):
        colors = surface_colors.of_radiance(run.field, run.kernels)
    signed = _signed_distance(run)
    if signed is not None:
        # no view shows what a closed surface hides
        return surface.from_signed_distance(signed, run.device, run.grid is None, colors)
    assert isinstance(run.field, RadianceField)
    assert run.grid is not None
    views = _views(run)
    volume = radiance_surface.volume(
        run.field,
        run.grid,
        run.kernels,
        views,
        run.field_from_world,
        resolution,
        functools.partial(report, "measuring depth"),
    )
    return dataclasses.replace(volume, colors=colors)


def _views(run: OpenRun) -> tuple[View, ...]:
    """The views that a radiance field was trained on; where they are gone, some from all around."""
    try:
        return transforms.read(run.source, images.image_size).split("train")
    except BadInput:
        # from around its surroundings nothing would be seen of what is in their middle
        if run.grid is not None and run.grid.contracted:
            raise
        return depth.all_around(run.field_from_world)


def render(run_folder: str, cameras: str, output: str, passes: bool = False) -> int:
    """Render a run's field into PNGs with straight alpha; returns their number.

    Args:
        passes: write the surface's depth and normals too.

    Raises:
        BadInput: the run or the cameras cannot be read, the folder cannot be written, or passes
            are asked for of a field that has no surface.
    """
    run = runs.open_run(run_folder)
    render_passes = _passes(run, run_folder) if passes else None
    views = transforms.read(cameras, images.image_size, images=False).views
    with protocol.no_folder_left(pathlib.Path(output)):
        files = sequence.write(output, views, lambda view: _picture(run, view), render_passes)
        return sum(1 for _ in progress.over(files, len(views), "rendering"))


def _passes(run: OpenRun, run_folder: str) -> sequence.RenderPasses:
    surface = _traced(run)
    if surface is None:
        raise BadInput(
            f"{run_folder}: a radiance field has no depth and normals; leave out --passes, or "
            "train --field neus"
        )

    def passes(view: View) -> tuple[npt.NDArray, npt.NDArray]:
        depth, normal = sphere_tracing.render_passes(
            surface, view, run.field_from_world, run.device
        )
        return depth.cpu().numpy(), normal.cpu().numpy()

    return passes


def _traced(run: OpenRun) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """What sphere tracing follows rays through; None where the field has a density instead."""
    signed = _signed_distance(run)
    if signed is None or run.grid is None:
        return signed
    possible = run.grid.possible

    def distance(points: torch.Tensor) -> torch.Tensor:
        found = signed(points)
        # beyond the hull the images have taught the field nothing that would have to be seen
        beyond = found.clamp(min=1.0 / len(possible))
        return torch.where(occupancy.at_points(possible, points), found, beyond)

    return distance


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
