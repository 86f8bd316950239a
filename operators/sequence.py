"""The field as an image sequence: rendered, brought back, and put to use in the scene."""

import dataclasses
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import bpy
from bpy.app.translations import pgettext_iface as iface
from bpy.app.translations import pgettext_rpt as rpt

from ..neural_backend.dataset import transforms
from ..neural_backend.dataset.transforms import View
from ..neural_backend.protocol import BadInput
from . import backend, colour, folders, knobs, results, rig
from .folders import Results
from .job import JobOperator, Status, Steps, one_line
from .place import Place, place_of, require_local, scene_of
from .results import MARK

FIRST_FRAME, FRAMES = "neural_fields_first_frame", "neural_fields_frames"
"""Custom properties of a sequence's image: the frame of its first picture, and how many it has."""

SPACE = "neural_fields_space"
"""Custom property of a sequence's image: the colour space that its frames were displayed in."""
LIGHT = "neural_fields_light"
"""Custom property of an image that shows the sequence's light, for the compositor: another image is
as the sequence was displayed."""

_FRAME = re.compile(r"\d{4,}\.png")
_GAP = 300.0  # between nodes


# --- rendered -------------------------------------------------------------------------------------


def views_steps(place: Place, settings: knobs.Settings) -> Steps[tuple[View, ...]]:
    """The cameras of the sequence that the settings ask for, named after the scene's frames.

    Raises:
        BadInput: when the scene has no such camera or nothing to orbit.
    """
    path = settings.result.sequence_path
    if path == "auto":
        path = "camera" if rig.camera_is_animated(place.scene) else "orbit"
    if path == "camera":
        return (yield from rig.camera_path_steps(place, settings.dataset))
    frames = settings.result.sequence_frames
    views = rig.orbit_views(place, settings.rig, settings.dataset, frames, settings.collection)
    first = place.scene.frame_start
    return tuple(
        dataclasses.replace(view, file=frame_name(first + index))
        for index, view in enumerate(views)
    )


def frame_name(frame: int) -> str:
    """The file of a frame."""
    return f"{frame:04d}.png"


def sequence_steps(program: str, found: Results, views: tuple[View, ...]) -> Steps[None]:
    """Let the backend render the field from ``views``.

    Frames of an earlier sequence are replaced.

    Raises:
        BadInput: see ``require_no_strange_frames`` and ``results.extract_steps``; or the folder
            cannot be written to.
    """
    require_no_strange_frames(found, views)
    folder, names = found.frames, [view.file for view in views]
    try:
        folder.mkdir(exist_ok=True)
        for name in _listed(found.cameras):
            (folder / name).unlink(missing_ok=True)
        transforms.write_cameras(found.cameras, views)
    except OSError as error:
        raise BadInput(
            f"{folder}: cannot be written ({error.strerror}); choose another Output"
        ) from None

    def look() -> Status:
        done = sum((folder / name).exists() for name in names)
        text = iface("Rendering the field: {number} of {count}")
        return Status(text.format(number=done, count=len(names)), done / len(names))

    arguments = ["--cameras", str(found.cameras), "--output", str(folder)]
    yield from results.extract_steps(program, found, "render", arguments, look)


def require_no_strange_frames(found: Results, views: tuple[View, ...]) -> None:
    """Make sure that a sequence replaces nothing but an earlier one's frames.

    Raises:
        BadInput: files of the frames' names, or of the cameras', stand there that no sequence of
            ours has written.
    """
    if found.cameras.exists() and not transforms.is_ours(found.cameras):
        raise folders.strange(found.cameras)
    ours = set(_listed(found.cameras))
    for view in views:
        if view.file not in ours and (found.frames / view.file).exists():
            raise folders.strange(found.frames / view.file)


def _listed(cameras: pathlib.Path) -> list[str]:
    """The frames of the last sequence, in order: its cameras stand beside it."""
    try:
        content = json.loads(cameras.read_text(encoding="utf-8"))
        names = [frame["file_path"] for frame in content["frames"]]
        return sorted((name for name in names if _FRAME.fullmatch(name)), key=_number)
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _number(name: str) -> int:
    return int(name.removesuffix(".png"))


# --- brought back ---------------------------------------------------------------------------------


def import_sequence(found: Results) -> bpy.types.Image:
    """Load a run's frames as one image sequence; what shows an earlier one of the run follows it.

    It looks as the views did wherever Blender shows images as they are.

    Raises:
        BadInput: when there is no frame.
    """
    listed = _listed(found.cameras)
    frames = [found.frames / name for name in listed if (found.frames / name).is_file()]
    if not frames:
        raise BadInput(f"{found.frames}: holds no frames; render the sequence first")
    path = results.file_path(frames[0])
    before: _Frames | None = None
    image = _image_of(found.name, light=False)
    if image is None:
        image = bpy.data.images.load(path)
        image.name = found.name
        image[MARK] = found.name
    else:
        before = _frames_of(image)
    first, last = (_number(frame.name) for frame in (frames[0], frames[-1]))
    image[SPACE] = colour.of_run(found.run).space
    light = _image_of(found.name, light=True)
    for each in [image] if light is None else [image, light]:
        each.filepath = path
        each.source = "SEQUENCE"
        each[FIRST_FRAME], each[FRAMES] = first, last - first + 1
        each.reload()
        if before is not None:
            for user in _users(each):
                if _shown(user) == before:
                    _show(user, _frames_of(each))
    # an image that nothing shows yet must survive a save
    image.use_fake_user = True
    if light is not None:
        light.colorspace_settings.name = image[SPACE]
    if before is not None:
        for strip in _own_strips(image):
            if _span(strip) == before:
                _fill(strip, image)
    return image


def _image_of(name: str, light: bool) -> bpy.types.Image | None:
    images = (image for image in bpy.data.images if image.get(MARK) == name)
    return next((image for image in images if bool(image.get(LIGHT)) == light), None)


def _light_of(image: bpy.types.Image) -> bpy.types.Image:
    """The sequence's image for what goes through the scene's view transform once more."""
    if image[SPACE] == image.colorspace_settings.name:
        return image
    light = _image_of(image[MARK], light=True)
    if light is None:
        light = image.copy()
        light.name = f"{image.name} light"
        light[LIGHT], light.use_fake_user = True, False
        light.colorspace_settings.name = image[SPACE]
    return light


_Frames = tuple[int, int]
"""The scene's frame at which a sequence begins, and how many frames it has."""


def _frames_of(image: bpy.types.Image) -> _Frames:
    return image[FIRST_FRAME], image[FRAMES]


# --- put to use -----------------------------------------------------------------------------------


def _users(image: bpy.types.Image) -> Iterator[Any]:
    """What shows an image in cameras' backgrounds and in compositors, and has frames to set."""
    for camera in bpy.data.cameras:
        for background in camera.background_images:
            if background.image == image:
                yield background.image_user
    trees = [tree for tree in bpy.data.node_groups if tree.bl_idname == "CompositorNodeTree"]
    # before 5.0 a scene's own tree is no data-block of its own
    trees += [tree for scene in bpy.data.scenes if (tree := getattr(scene, "node_tree", None))]
    for tree in trees:
        yield from _image_nodes(tree, image)


def _image_nodes(tree: bpy.types.NodeTree, image: bpy.types.Image) -> list[Any]:
    nodes = (node for node in tree.nodes if node.bl_idname == "CompositorNodeImage")
    return [node for node in nodes if node.image == image]


def _shown(user: Any) -> _Frames:
    return user.frame_start, user.frame_duration


def _show(user: Any, frames: _Frames) -> None:
    """Let an image user show at each of the scene's frames the picture of that number."""
    user.frame_start, user.frame_duration = frames
    user.frame_offset = frames[0] - 1
    user.use_auto_refresh, user.use_cyclic = True, False


def _to_camera(scene: bpy.types.Scene, image: bpy.types.Image) -> str:
    camera = scene.camera
    if camera is None or camera.type != "CAMERA":
        raise BadInput("the scene has no camera: add one")
    data: Any = camera.data
    if data.library is not None:
        raise BadInput(f"the camera {data.name} is linked from another file: make it local first")
    background = next((b for b in data.background_images if b.image == image), None)
    if background is None:
        background = data.background_images.new()
        background.image = image
        background.alpha = 1.0
        background.frame_method = "FIT"
    _show(background.image_user, _frames_of(image))
    background.show_background_image = data.show_background_images = True
    return rpt("behind what the camera {name} sees").format(name=camera.name)


def _to_compositor(scene: bpy.types.Scene, image: bpy.types.Image) -> str:
    image = _light_of(image)
    tree = _compositor(scene)
    node = next(iter(_image_nodes(tree, image)), None)
    if node is None:
        left = min((node.location.x for node in tree.nodes), default=0.0)
        lowest = min((node.location.y for node in tree.nodes), default=0.0)
        node = tree.nodes.new("CompositorNodeImage")
        node.label = image.name
        node.location = (left, lowest - _GAP)
        node.image = image
    _show(node, _frames_of(image))
    return rpt("a node of the compositor, to be linked there")


def _compositor(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    """The scene's compositor; one that passes the render on where there is none."""
    if not hasattr(scene, "compositing_node_group"):  # before 5.0
        if scene.node_tree is None:
            scene.use_nodes = True
        return scene.node_tree
    tree = scene.compositing_node_group
    if tree is not None:
        if tree.library is not None:
            raise BadInput(f"the compositor {tree.name} is linked from another file: make it local")
        return tree
    tree = bpy.data.node_groups.new("Compositor", "CompositorNodeTree")
    interface: Any = tree.interface
    interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    layers, output = tree.nodes.new("CompositorNodeRLayers"), tree.nodes.new("NodeGroupOutput")
    output.location.x = _GAP
    tree.links.new(layers.outputs["Image"], output.inputs["Image"])
    scene.compositing_node_group = tree
    return tree


def _to_sequencer(scene: bpy.types.Scene, image: bpy.types.Image) -> str:
    editor = scene.sequence_editor or scene.sequence_editor_create()
    strips = _strips(editor)
    strip = next((strip for strip in _own_strips(image) if strip.id_data == scene), None)
    if strip is None:
        first, count = _frames_of(image)
        taken = {
            other.channel
            for other in strips
            if _edge(other, "left_handle", "frame_final_start") < first + count
            and _edge(other, "right_handle", "frame_final_end") > first
        }
        channel = min(set(range(1, len(taken) + 2)) - taken)
        strip = strips.new_image(image.name, image.filepath, channel, first, fit_method="FIT")
        strip[MARK] = image[MARK]
    _fill(strip, image)
    return rpt("a strip of the sequencer, in channel {number}").format(number=strip.channel)


def _strips(editor: Any) -> Any:
    return editor.strips if hasattr(editor, "strips") else editor.sequences  # from 4.4


def _own_strips(image: bpy.types.Image) -> list[Any]:
    """Those that were made for a sequence's image, in all scenes."""
    editors = [scene.sequence_editor for scene in bpy.data.scenes if scene.sequence_editor]
    found = (strip for editor in editors for strip in _strips(editor))
    return [strip for strip in found if strip.get(MARK) == image[MARK]]


def _edge(strip: Any, name: str, before: str) -> int:
    """A strip's frame by the name that it has from 5.2 on, or had before."""
    return int(getattr(strip, name if hasattr(strip, name) else before))


def _span(strip: Any) -> _Frames:
    first = _edge(strip, "left_handle", "frame_final_start")
    return first, _edge(strip, "right_handle", "frame_final_end") - first


def _fill(strip: Any, image: bpy.types.Image) -> None:
    """Let a strip show all frames of a sequence, each at the frame of its number."""
    first, count = _frames_of(image)
    names = [frame_name(first + index) for index in range(count)]
    strip.colorspace_settings.name = image[SPACE]
    strip.directory = image.filepath.removesuffix(names[0])
    while len(strip.elements) > 1:
        strip.elements.pop(-1)
    strip.elements[0].filename = names[0]
    for name in names[1:]:
        strip.elements.append(name)
    start = "content_start" if hasattr(strip, "content_start") else "frame_start"
    setattr(strip, start, first)


_DESTINATIONS: dict[str, Callable[[bpy.types.Scene, bpy.types.Image], str]] = {
    "CAMERA": _to_camera,
    "COMPOSITOR": _to_compositor,
    "SEQUENCER": _to_sequencer,
}


class NEURAL_FIELDS_OT_render_sequence(JobOperator, bpy.types.Operator):
    """Render the trained field along the camera's path or an orbit, as an image sequence"""

    bl_idname = "neural_fields.render_sequence"
    bl_label = "Render Sequence"
    bl_options = {"UNDO"}

    output: knobs.output_property("Folder of the run and the results.")
    run: knobs.run_property()

    def steps(self, context: bpy.types.Context) -> Steps[str]:
        settings = knobs.settings_of(context.scene)
        found = folders.results_of(context.scene, self.output, self.run)
        results.require_trained(found)
        views = yield from views_steps(place_of(context), settings)
        require_no_strange_frames(found, views)
        program = yield from backend.check_steps()
        yield from sequence_steps(program, found, views)
        image = import_sequence(found)
        said = rpt("Imported {name}: {count} frames")
        return said.format(name=image.name, count=image[FRAMES])


class NEURAL_FIELDS_OT_use_sequence(bpy.types.Operator):
    """Show the rendered sequence in the scene, each picture at the frame of its number. Doing it
    again shows the sequence as it is now; nothing else in the scene is changed"""

    bl_idname = "neural_fields.use_sequence"
    bl_label = "Use Sequence"
    bl_options = {"REGISTER", "UNDO"}

    where: bpy.props.EnumProperty(
        name="Where",
        description="Where the sequence is shown",
        items=[
            ("CAMERA", "Camera Background", "Behind what the active camera sees in the 3D view"),
            ("COMPOSITOR", "Compositor Node", "An image node in the scene's compositor, unlinked"),
            (
                "SEQUENCER",
                "Sequencer Strip",
                "A strip in the scene's sequencer, in the first channel that is free. A render of "
                "the animation shows the sequencer then (Output > Post Processing > Sequencer)",
            ),
        ],
        default="CAMERA",
    )
    output: knobs.output_property("Folder of the run and the results.")
    run: knobs.run_property()

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.scene is not None

    def execute(self, context: bpy.types.Context) -> set[Any]:
        try:
            scene = scene_of(context.scene.name)
            require_local(scene)
            image = import_sequence(folders.results_of(scene, self.output, self.run))
            place = _DESTINATIONS[self.where](scene, image)
        except BadInput as error:
            self.report({"ERROR"}, one_line(error))
            return {"CANCELLED"}
        first, count = _frames_of(image)
        said = rpt("{image} is {place}: frames {first} to {last}").format(
            image=image.name, place=place, first=first, last=first + count - 1
        )
        self.report({"INFO"}, said)
        return {"FINISHED"}


CLASSES = (NEURAL_FIELDS_OT_render_sequence, NEURAL_FIELDS_OT_use_sequence)
