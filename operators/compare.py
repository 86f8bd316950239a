"""The field beside the original renders."""

import json
import pathlib
import tempfile
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt

from ..neural_backend.dataset import transforms
from ..neural_backend.protocol import BadInput
from . import backend, folders, knobs, results
from .folders import Results
from .job import JobOperator, Status, Steps

COMPARISON = "neural_fields_comparison"
"""Custom property of the image that shows one: the name of its results."""


def compare_steps(program: str, found: Results, views: int) -> Steps[dict[str, Any]]:
    """Let the backend write a picture of views and the field; returns its scores (psnr, views).

    Raises:
        BadInput: see ``results.extract_steps``.
    """
    arguments = ["--output", str(found.comparison), "--views", str(views), "--json"]
    dataset = found.output / folders.DATASET
    if (dataset / transforms.FILE_NAME).is_file():  # where it lay in training may be another place
        arguments += ["--source", str(dataset)]
    comparing = Status(iface("Rendering the views to compare"))
    with tempfile.TemporaryFile() as answer:
        yield from results.extract_steps(
            program, found, "compare", arguments, lambda: comparing, answer
        )
        answer.seek(0)
        try:
            return dict(json.load(answer))
        except (ValueError, TypeError):
            raise BadInput(f"{program}: gives no readable answer; see {found.log}") from None


def import_comparison(found: Results) -> bpy.types.Image:
    """Load the picture that ``compare_steps`` has written, in the place of the run's last one."""
    file: pathlib.Path = found.comparison
    images = (image for image in bpy.data.images if image.get(COMPARISON) == found.name)
    image = next(images, None)
    if image is None:
        image = bpy.data.images.load(results.file_path(file))
        image.name = f"{found.name} compared"
        image[COMPARISON] = found.name
    else:
        image.filepath = results.file_path(file)
        image.reload()
    return image


def show(image: bpy.types.Image) -> None:
    """Show an image in an image editor, in a new window where none is open.

    One that is pinned to its image, or in which somebody paints, is left alone.
    """
    if bpy.app.background:
        return
    manager = bpy.context.window_manager
    free = [
        (window, area)
        for window in manager.windows
        for area in window.screen.areas
        if area.ui_type == "IMAGE_EDITOR" and _is_free(area.spaces.active)
    ]
    # the one that shows it already, else one that shows nothing
    free.sort(key=lambda each: each[1].spaces.active.image not in (image, None))
    free.sort(key=lambda each: each[1].spaces.active.image != image)
    if free:
        window, area = free[0]
    else:
        with bpy.context.temp_override(window=manager.windows[0]):
            bpy.ops.wm.window_new()
        window = manager.windows[-1]
        area = window.screen.areas[0]
        area.ui_type = "IMAGE_EDITOR"
    space: Any = area.spaces.active
    space.image = image
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.image.view_all(fit_view=True)


def _is_free(space: Any) -> bool:
    return space.mode == "VIEW" and not space.use_image_pin


class NEURAL_FIELDS_OT_compare(JobOperator, bpy.types.Operator):
    """Render the trained field from test views of the dataset and show, in an image editor, the
    original render, the field and the difference side by side"""

    bl_idname = "neural_fields.compare"
    bl_label = "Compare with Renders"
    bl_options = {"UNDO"}

    output: knobs.output_property("Folder of the dataset, the run and the results.")
    run: knobs.run_property()
    views: bpy.props.IntProperty(
        name="Views",
        description="How many test views at most, evenly spread; where the dataset has none, "
        "validation or training views",
        default=3,
        soft_min=1,
        soft_max=20,
        options={"SKIP_SAVE"},
    )

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        found, views = folders.results_of(context.scene, self.output, self.run), self.views
        if views < 1:
            raise BadInput(f"views is {views}: give at least 1")
        results.require_trained(found)
        program = yield from backend.check_steps()
        scores = yield from compare_steps(program, found, views)
        image = import_comparison(found)
        show(image)
        psnr = scores.get("psnr")
        measured = "" if psnr is None else f", {psnr:.1f} dB"
        said = rpt("{name}: {count} views").format(name=image.name, count=scores.get("views"))
        return said + measured


CLASSES = (NEURAL_FIELDS_OT_compare,)
