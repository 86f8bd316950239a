"""Dataset export: every view of the rig rendered by the scene's own engine."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt

from ..neural_backend.config import DatasetSettings, RigSettings
from ..neural_backend.dataset import exr, transforms
from ..neural_backend.protocol import BadInput, RunFolder, in_words, write_json
from . import cameras, colour, fingerprint, folders, geometry, knobs, passes
from . import rig as rigs
from .job import Cancelled, JobOperator, Status, Steps, reported
from .place import Place, collection_of, place_of
from .scratch import MARK, RESULT_MARK, Scratch, results_of
from .stage import Stage

STATE = "export.json"
"""In the folder of the images, not beside ``transforms.json``: some readers load every json there.
It lists the images of this export, each with a digest of what it shows."""

_STATE_VERSION = 1
_OURS = re.compile(rf"({transforms.IMAGES}|{transforms.DEPTH}|{transforms.NORMAL})/\d+\.(png|exr)")
_PART = ".part"
_PNG_END = b"IEND\xaeB`\x82"
_POLL = 0.2
_LITTLE_SPACE = 1 << 20


def export_steps(
    context: bpy.types.Context | Place,
    rig: RigSettings,
    dataset: DatasetSettings,
    collection: bpy.types.Collection | None,
    folder: str | os.PathLike[str],
) -> Steps[transforms.Dataset]:
    """Render the rig's views into a dataset folder; what stands there already stays.

    The views show the scene at its current frame, without motion blur, depth of field, compositor
    and sequencer. With a transparent film, what is no part of the subject is not seen by the
    camera (in Cycles it still casts its shadows).

    Args:
        context: whose scene and view layer are rendered; read before the first step ends.
        collection: the subject or the cameras, see ``rig.views_of_rig``.
        folder: made where it is not.

    Raises:
        BadInput: when nothing renders, there is no camera, the folder cannot be written to or
            holds what is not an export's, or a render fails.
    """
    _require_idle()
    collection_name = collection.name_full if collection else None
    store = _Store(pathlib.Path(folder))
    place = place_of(context)
    stage = Stage(place.scene, place.view_layer)
    watch = _Watch(stage)
    try:
        yield Status(iface("Looking at the scene"))
        path: tuple[rigs.Shot, ...] = ()
        if rig.kind == "camera_path":
            frames = rigs.path_frames(place.scene, rig.frame_step)
            path = yield from rigs.path_steps(place, frames, dataset)
        with Scratch(stage.scene, stage.view_layer) as scratch:
            plan = rigs.plan(scratch, rig, dataset, collection_of(collection_name), path)
            _set_up(scratch.scene, dataset)
            hidden = plan.hidden if dataset.transparent else frozenset()
            content = _content(scratch.scene, plan, hidden)
            # what is linear light is not displayed
            display = colour.recorded(scratch.scene) if dataset.format == "png" else None
        keys = {file: _key(content, shot) for shot in plan.shots for file in _files(shot.view)}
        missing = store.begin(keys)
        notes = _notes(stage.scene, plan, hidden)
        if display is not None and colour.is_graded(stage.scene):
            said = iface("look, curves and white balance stay in the colours that come back")
            notes.append(said)
        for note in notes:
            print(f"Neural Fields: {note}", flush=True)
        shots = [shot for shot in plan.shots if not missing.isdisjoint(_files(shot.view))]
        began = time.monotonic()
        for number, shot in enumerate(shots):
            text = _progress(len(plan.shots) - len(shots) + number + 1, len(plan.shots))
            if number:
                left = (time.monotonic() - began) / number * (len(shots) - number)
                text += ", " + iface("{time} left").format(time=in_words(left))
            elif notes:
                text += f" ({'; '.join(notes)})"
            status = Status(text, 1.0 - (len(shots) - number) / len(plan.shots))
            yield status
            _prepare(stage, dataset, hidden)
            watch.check()
            yield from _render_steps(stage, shot, store, status)
        result = transforms.Dataset(store.folder, plan.views, plan.bounds, display=display)
        with store.writing():
            transforms.write(result)
        return result
    finally:
        watch.close()
        _dispose(stage, store)


def _files(view: transforms.View) -> tuple[str, ...]:
    """All that a render of the view writes."""
    return tuple(file for file in (view.depth, view.normal, view.file) if file is not None)


def _progress(number: int, count: int) -> str:
    return iface("View {number} of {count}").format(number=number, count=count)


# --- the scene, set up for views ------------------------------------------------------------------


def _notes(scene: bpy.types.Scene, plan: rigs.Plan, hidden: frozenset[str]) -> list[str]:
    """What differs from the scene's own render, for the person to know."""
    notes = []
    if scene.render.use_motion_blur:
        notes.append(iface("motion blur is off: a field needs sharp views"))
    camera = scene.camera
    if camera is not None and camera.type == "CAMERA" and camera.data.dof.use_dof:
        notes.append(iface("depth of field is off: a field needs sharp views"))
    if hasattr(scene, "compositing_node_group"):  # from 5.0
        composited = scene.compositing_node_group is not None
    else:
        composited = scene.use_nodes
    if scene.render.use_compositing and composited:
        notes.append(iface("the compositor is off: it would change each view on its own"))
    editor = scene.sequence_editor
    # renamed in 4.4
    strips = getattr(editor, "strips_all", None) or getattr(editor, "sequences_all", ())
    if scene.render.use_sequencer and len(strips):
        notes.append(iface("the sequencer is off: it would show its strips in place of the scene"))
    if plan.left_out:
        names = ", ".join(plan.left_out)
        notes.append(iface("too large to be framed: {names}").format(names=names))
    if len(hidden) > len(plan.left_out):
        said = iface("{count} objects that are no part of the subject are not shown")
        notes.append(said.format(count=len(hidden)))
    if scene.render.engine == "CYCLES" and scene.cycles.use_denoising and not _denoises():
        notes.append(iface("the denoiser is off: this Blender was built without it"))
    return notes


def _denoises() -> bool:
    """Whether Cycles' denoiser is there; rendering with one that is not is an error."""
    try:
        import _cycles  # type: ignore[import-not-found]
    except ImportError:
        return True
    return getattr(_cycles, "with_openimagedenoise", True)


# in this order they can be set and put back: a format needs its medium (from 5.0), a depth its
# format
_IMAGE = {
    "png": {
        "media_type": "IMAGE",
        "file_format": "PNG",
        "color_mode": "RGBA",
        "color_depth": "8",
        "color_management": "FOLLOW_SCENE",
    },
    "exr": {
        "media_type": "IMAGE",
        "file_format": "OPEN_EXR",
        "color_mode": "RGBA",
        "color_depth": "16",
        "exr_codec": "ZIP",
        "color_management": "FOLLOW_SCENE",
    },
}
_CHANGED = (
    "camera",
    "cycles.sample_offset",
    "cycles.samples",
    "cycles.use_denoising",
    "eevee.taa_render_samples",
    "render.border_max_x",
    "render.border_max_y",
    "render.border_min_x",
    "render.border_min_y",
    "render.film_transparent",
    "render.filepath",
    *(f"render.image_settings.{name}" for name in dict.fromkeys([*_IMAGE["exr"], *passes.IMAGE])),
    "render.pixel_aspect_x",
    "render.pixel_aspect_y",
    "render.resolution_percentage",
    "render.resolution_x",
    "render.resolution_y",
    "render.use_border",
    "render.use_compositing",
    "render.use_crop_to_border",
    "render.use_file_extension",
    "render.use_lock_interface",
    "render.use_motion_blur",
    "render.use_multiview",
    "render.use_overwrite",
    "render.use_persistent_data",
    "render.use_placeholder",
    "render.use_sequencer",
    "render.use_single_layer",
    "render.use_stamp",
)
_FORMAT = "render.image_settings.file_format"
_RESET = "render.image_settings.linear_colorspace_settings.name"
"""By a change of the format; another one than these has it from that change. Where nobody has
changed it there is none, and Blender warns when it is read."""
_LINEAR = ("OPEN_EXR", "OPEN_EXR_MULTILAYER", "HDR", "CINEON", "DPX")


def _prepare(stage: Stage, dataset: DatasetSettings, hidden: frozenset[str]) -> None:
    """Set the person's scene up for a view. Before each one: an undo may have put it back."""
    scene, layer = stage.scene, stage.view_layer
    _keep(stage)
    _set_up(scene, dataset)
    scene.camera = stage.camera()
    if dataset.passes == "on":
        stage.keep(*passes.SWITCHES, whose=("layer", layer.name))
        for name in passes.SWITCHES:
            setattr(layer, name, True)
    for other in scene.view_layers:
        stage.keep("use", whose=("layer", other.name))
        other.use = other == layer
    for index, marker in enumerate(scene.timeline_markers):
        if marker.camera is not None:
            # it would take the place of the stage's camera
            stage.keep("camera", whose=("marker", index))
            marker.camera = None
    for collection in bpy.data.collections:
        if collection.get(RESULT_MARK) is not None and not collection.hide_render:
            stage.keep("hide_render", whose=("collection", collection.name_full))
            collection.hide_render = True
    for item in results_of(scene.objects):
        if not item.hide_render:
            stage.keep("hide_render", whose=("object", item.name_full))
            item.hide_render = True
    if hidden:
        _hide(stage, hidden)


def _keep(stage: Stage) -> None:
    """Remember what a render of views changes."""
    own = not stage.keeps(_FORMAT) and stage.scene.render.image_settings.file_format in _LINEAR
    stage.keep(*_CHANGED, *([_RESET] if own else []))


def _set_up(scene: bpy.types.Scene, dataset: DatasetSettings) -> None:
    """Set a scene's render up for views; changes ``_CHANGED`` at most."""
    render = scene.render
    render.film_transparent = dataset.transparent
    render.use_persistent_data = True
    render.use_motion_blur = False
    render.use_border = render.use_crop_to_border = False
    render.use_multiview = False
    render.use_compositing = render.use_sequencer = False
    render.use_single_layer = False
    render.use_stamp = False
    render.use_file_extension = render.use_overwrite = True
    render.use_placeholder = False
    render.use_lock_interface = False
    _set_image(render.image_settings, _IMAGE[dataset.format])
    if render.engine == "CYCLES":
        if dataset.samples:
            scene.cycles.samples = dataset.samples
        if dataset.passes == "on":
            # depth is of the very first sample
            scene.cycles.sample_offset = 0
        if scene.cycles.use_denoising and not _denoises():
            scene.cycles.use_denoising = False
    elif render.engine.startswith("BLENDER_EEVEE") and dataset.samples:
        scene.eevee.taa_render_samples = dataset.samples


def _set_image(settings: bpy.types.ImageFormatSettings, values: dict[str, Any]) -> None:
    for name, value in values.items():
        # assigning what is there already would still reset what hangs on it
        if getattr(settings, name, value) != value:
            setattr(settings, name, value)


def _hide(stage: Stage, hidden: frozenset[str]) -> None:
    """Keep objects from being seen by the camera."""
    scene, layer = stage.scene, stage.view_layer
    items = [item for item in layer.objects if item.name_full in hidden]
    if scene.render.engine != "CYCLES":
        for item in items:
            stage.keep("hide_render", whose=("object", item.name_full))
            item.hide_render = True
        return
    # only Cycles knows objects that are not seen themselves, but by their shadows
    if stage.owned(bpy.data.collections) is None:
        away = stage.own(bpy.data.collections.new("Neural Fields (indirect)"))
        away.hide_viewport = True
        scene.collection.children.link(away)
        for item in items:
            away.objects.link(item)
        layer.layer_collection.children[away.name].indirect_only = True


class _Watch:
    """Notices when the person changes the scene while its views are being rendered.

    In the window only: in the background nobody does.
    """

    def __init__(self, stage: Stage):
        self._stage = stage
        self._seen = ""
        self._suspects = True
        if not bpy.app.background:
            bpy.app.handlers.depsgraph_update_post.append(self._on_update)

    def check(self) -> None:
        """Call with the stage prepared, before each view. Raises BadInput after a change."""
        if bpy.app.background:
            return
        scene = self._stage.scene
        moment = f"{scene.frame_current_final} {len(scene.objects)}"
        if not self._suspects and self._seen.startswith(f"{moment} "):
            return
        self._suspects = False
        with Scratch(scene, self._stage.view_layer) as scratch:
            found = geometry.evaluated(scratch, lambda graph: geometry.survey(graph, None))
            content = fingerprint.digest_of(scratch.scene, found.materials)
        seen = f"{moment} {content} {found.digest}"
        if self._seen and seen != self._seen:
            raise BadInput(
                "the scene was changed while its views were rendered: export it again, or undo the "
                "change first to go on where it stopped"
            )
        self._seen = seen

    def close(self) -> None:
        # a file that was loaded meanwhile has emptied the list
        with contextlib.suppress(ValueError):
            bpy.app.handlers.depsgraph_update_post.remove(self._on_update)

    def _on_update(self, scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
        for update in depsgraph.updates:
            kind = type(update.id)
            # looking at the scene makes Blender sort it anew, which comes as updates of these
            sorted_anew = kind in (bpy.types.Scene, bpy.types.Collection) or (
                kind is bpy.types.Object
                and not (update.is_updated_geometry or update.is_updated_transform)
            )
            if not sorted_anew and update.id.get(MARK) is None:
                self._suspects = True
                return


# --- rendering ------------------------------------------------------------------------------------


def _require_idle() -> None:
    if bpy.app.is_job_running("RENDER"):
        raise BadInput("Blender is rendering already: wait for it or cancel it (Esc)")


def _render_steps(stage: Stage, shot: rigs.Shot, store: _Store, status: Status) -> Steps[None]:
    scene = stage.scene
    cameras.apply(shot.view, scene.camera, scene.render)
    scene.camera.data.clip_start, scene.camera.data.clip_end = shot.clip
    part = store.part(shot.view.file)
    scene.render.filepath = _without_templates(scene.render, str(part))
    slot = passes.current_slot()
    if bpy.app.background:
        _render_here(scene, shot.view.file)
    else:
        yield from _render_beside_steps(scene, shot.view.file, status)
    _save_passes(stage, shot, slot, store)
    for file in _files(shot.view):
        store.take(file)


def _save_passes(stage: Stage, shot: rigs.Shot, slot: int, store: _Store) -> None:
    view = shot.view
    if view.depth is None or view.normal is None:
        return
    # an undo may have put it back while it was rendered
    _keep(stage)
    _set_image(stage.scene.render.image_settings, passes.IMAGE)
    depth, normal = store.part(view.depth), store.part(view.normal)
    try:
        with store.writing():
            passes.save(stage.scene, view, slot, depth, normal)
    except RuntimeError as error:
        raise _failed(view.file, str(error)) from None


def _without_templates(render: bpy.types.RenderSettings, path: str) -> str:
    """A path as Blender takes it; from 5.0 on, braces in it are templates unless doubled."""
    prop = render.bl_rna.properties["filepath"]
    if getattr(prop, "is_path_supports_templates", False):
        return path.replace("{", "{{").replace("}", "}}")
    return path


def _render_here(scene: bpy.types.Scene, file: str) -> None:
    """Render and wait: nobody looks on in the background."""
    try:
        outcome = bpy.ops.render.render(scene=scene.name, write_still=True)
    except RuntimeError as error:
        raise _failed(file, str(error)) from None
    if "CANCELLED" in outcome:
        raise Cancelled()


def _render_beside_steps(scene: bpy.types.Scene, file: str, status: Status) -> Steps[None]:
    """Render as a job of Blender's, which stays usable meanwhile."""
    outcome: list[str] = []

    def complete(*_: object) -> None:
        outcome.append("complete")

    def cancel(*_: object) -> None:
        outcome.append("cancel")

    handlers = bpy.app.handlers
    cancelled = False
    _require_idle()
    handlers.render_complete.append(complete)
    handlers.render_cancel.append(cancel)
    try:
        with _no_render_window():
            started = bpy.ops.render.render("INVOKE_DEFAULT", scene=scene.name, write_still=True)
        if "CANCELLED" in started:
            raise _failed(file, "Blender did not start the render")
        while bpy.app.is_job_running("RENDER"):
            try:
                yield status
            except Cancelled:
                # Blender ends a render only for its own Esc; this view is the last
                cancelled = True
                text = iface("Cancelling after this view (Esc ends it at once)")
                status = Status(text, status.fraction)
    except RuntimeError as error:
        raise _failed(file, str(error)) from None
    finally:
        # a file that was loaded meanwhile has emptied the lists
        with contextlib.suppress(ValueError):
            handlers.render_complete.remove(complete)
        with contextlib.suppress(ValueError):
            handlers.render_cancel.remove(cancel)
    if cancelled or "cancel" in outcome:
        raise Cancelled()
    if len(outcome) > 1:
        # its result has taken the place of this view's passes
        raise _failed(file, "another render came between; export again to go on")


@contextlib.contextmanager
def _no_render_window() -> Iterator[None]:
    """Renders that start within open no window; the preference is read when they do."""
    preferences = bpy.context.preferences
    before, changed = preferences.view.render_display_type, preferences.is_dirty
    preferences.view.render_display_type = "NONE"
    try:
        yield
    finally:
        preferences.view.render_display_type = before
        preferences.is_dirty = changed


def _failed(file: str, why: str) -> BadInput:
    return BadInput(f"{file} could not be rendered: {reported(why) or 'no reason given'}")


def _dispose(stage: Stage, store: _Store) -> None:
    """Leave nothing behind; a render that cannot be stopped is waited for."""
    if bpy.app.is_job_running("RENDER"):

        def later() -> float | None:
            if bpy.app.is_job_running("RENDER"):
                return _POLL
            _dispose(stage, store)
            return None

        bpy.app.timers.register(later, first_interval=_POLL, persistent=True)
        return
    store.tidy()
    stage.close()


# --- the folder -----------------------------------------------------------------------------------


def _content(scene: bpy.types.Scene, plan: rigs.Plan, hidden: frozenset[str]) -> str:
    """A digest of what the views have in common: everything but the camera."""
    parts = [
        fingerprint.digest_of(scene, plan.survey.materials),
        plan.survey.digest,
        bpy.data.filepath,
        *sorted(hidden),
    ]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _key(content: str, shot: rigs.Shot) -> str:
    """A digest of all that an image shows."""
    camera = [
        shot.view.world_from_camera.round(6).tolist(),
        dataclasses.asdict(shot.view.intrinsics),
        shot.clip,
    ]
    text = content + json.dumps(camera)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class _Store:
    """The images of a dataset folder: which stand, which are stale, which are not ours."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._state = folder / transforms.IMAGES / STATE
        self._parts: set[pathlib.Path] = set()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Errors of the file system as one clear line."""
        try:
            yield
        except OSError as error:
            raise BadInput(self._reason(error)) from None

    def begin(self, keys: dict[str, str]) -> set[str]:
        """Make room for an export; images of an earlier one that show something else go.

        Args:
            keys: by file, a digest of what it will show.

        Returns:
            The files that must be rendered.

        Raises:
            BadInput: when the folder holds what no export wrote, or cannot be written to.
        """
        with self.writing():
            listing = self.folder / transforms.FILE_NAME
            synthetic = transforms.synthetic_files(self.folder).values()
            for path in (listing, self._state, *synthetic):
                if path.exists() and not transforms.is_ours(path):
                    raise folders.strange(path)
            before = self._read()
            for file in keys:
                if file not in before and (self.folder / file).exists():
                    raise folders.strange(self.folder / file)
            for parent in {(self.folder / file).parent for file in keys}:
                parent.mkdir(parents=True, exist_ok=True)
            stale = [file for file in before if before[file] != keys.get(file)]
            missing = {
                file
                for file in keys
                if before.get(file) != keys[file] or not _whole(self.folder / file)
            }
            if stale or missing:
                # where it stands, the dataset is whole
                for path in (listing, *synthetic):
                    path.unlink(missing_ok=True)
            for file in stale:
                (self.folder / file).unlink(missing_ok=True)
            write_json(self._state, {transforms.OWN: _STATE_VERSION, "views": keys})
        return missing

    def part(self, file: str) -> pathlib.Path:
        """Where an image is rendered to, before ``take`` moves it into its place."""
        part = self._part(file)
        self._parts.add(part)
        with self.writing():
            part.unlink(missing_ok=True)
        return part

    def take(self, file: str) -> None:
        """Move a rendered image into its place. Raises BadInput when it is not whole."""
        part = self._part(file)
        if not _whole(part):
            raise BadInput(self._reason(None, file))
        with self.writing():
            os.replace(part, self.folder / file)

    def _part(self, file: str) -> pathlib.Path:
        final = self.folder / file
        return final.with_name(f".{final.stem}{_PART}{final.suffix}")

    def tidy(self) -> None:
        for part in self._parts:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _read(self) -> dict[str, str]:
        try:
            views = json.loads(self._state.read_text(encoding="utf-8"))["views"]
            return {
                file: key
                for file, key in views.items()
                if _OURS.fullmatch(file) and isinstance(key, str)
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}

    def _reason(self, error: OSError | None, file: str = "") -> str:
        place = self.folder / file if file else self.folder
        mend = "choose another Output folder"
        with contextlib.suppress(OSError):
            full = shutil.disk_usage(self.folder).free < _LITTLE_SPACE
            if full or (error is not None and error.errno == errno.ENOSPC):
                return f"{place}: the disk is full; free some space or {mend}"
        reason = error.strerror if error is not None else "no whole image was written"
        return f"{place}: cannot be written ({reason}); {mend}"


def _whole(image: pathlib.Path) -> bool:
    """Whether an image has its end."""
    if image.suffix == ".exr":
        return exr.is_whole(image)
    try:
        with open(image, "rb") as file:
            file.seek(-len(_PNG_END), os.SEEK_END)
            return file.read() == _PNG_END
    except OSError:
        return False


# --- the operator ---------------------------------------------------------------------------------


class NEURAL_FIELDS_OT_export_dataset(JobOperator, bpy.types.Operator):
    """Render the rig's views into the output folder. Views that are rendered already stay"""

    bl_idname = "neural_fields.export_dataset"
    bl_label = "Export Dataset"

    output: knobs.output_property("Folder in which the dataset's folder lies.")

    def steps(self, context: bpy.types.Context) -> Steps[Any]:
        settings = knobs.settings_of(context.scene)
        output = folders.output_folder(context.scene, self.output)
        folder = output / folders.DATASET
        decided = passes.decided(settings, context.scene.render.engine)
        with folders.alone(output, RunFolder(output / folders.RUN)):
            exported = yield from export_steps(
                context, settings.rig, decided, settings.collection, folder
            )
        said = rpt("{count} views in {folder}")
        return said.format(count=len(exported.views), folder=folder)


CLASSES = (NEURAL_FIELDS_OT_export_dataset,)
