"""The dataset's json: ``transforms.json`` and its dialects, read and written. Numpy only.

Blender writes what the backend reads with the same code. What is written is read as it is by
instant-ngp and nerfstudio, and, from the subfolder ``nerf_synthetic``, by readers of the
NeRF-synthetic form.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..protocol import BadInput, write_json

Matrix = npt.NDArray[np.float64]
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

FILE_NAME = "transforms.json"
SYNTHETIC_FOLDER = "nerf_synthetic"
"""Its jsons have a folder of their own: instant-ngp loads every json that it finds in a folder."""
IMAGES, DEPTH, NORMAL = "images", "depth", "normal"
"""Folders of a dataset of ours: each view's image, and what is told of its pixels beside it."""

VERSION = 1
OWN = "neural_fields"
"""The key of our own part of a json, by which what we wrote is told from others' files."""
_MARK = {OWN: {"version": VERSION}}
FILL = 0.9
"""Fraction of the unit box's edge that the longest side of a dataset's bounds takes."""
INNER = 0.5
"""Edge of the middle of the unit box where it also holds all that lies around the bounds, which
then take as much of that middle as else of the box."""
HELD_OUT = 0.125
"""Fraction of the views held out for the test where a json of photos does not divide them."""
_FEWEST_DIVIDED = 16

_SUFFIXES = (".png", ".jpg", ".jpeg", ".exr", ".tif", ".tiff", ".webp")
_SYNTHETIC_HALF_SIZE = 1.5
_NGP_SCALE = 0.33
_NGP_OFFSET = (0.5, 0.5, 0.5)
_LARGEST_SIDE = 65_536
_PLANAR = "planar"
_WORLD = "world"
PASS_KEYS = {"depth": "depth_file_path", "normal": "normal_file_path", "mask": "mask_path"}
"""A frame's keys: nerfstudio's, and for the normals, of which it knows nothing, one like them."""
_FARTHEST = 1e9  # scene units: single precision still tells the pixels' rays apart
_SMALLEST = 1e-9
_LENS = {"k1": 2, "k2": 4, "k3": 6, "p1": 1, "p2": 1}
"""OpenCV's distortion, and with which power of the distance from the image's middle it grows."""
_MOST_DISTORTED = 10.0


@dataclasses.dataclass(frozen=True)
class Intrinsics:
    """A pinhole camera with OpenCV's radial and tangential distortion.

    Attributes:
        w, h: image size, pixels.
        fl_x, fl_y: focal lengths, pixels.
        cx, cy: principal point, pixels from the left and the top edge; pixel centres are at .5.
        k1, k2, k3, p1, p2: OpenCV's distortion coefficients.
    """

    w: int
    h: int
    fl_x: float
    fl_y: float
    cx: float
    cy: float
    k1: float = 0.0
    k2: float = 0.0
    k3: float = 0.0
    p1: float = 0.0
    p2: float = 0.0

    @property
    def angle_x(self) -> float:
        """Horizontal angle of view, radians."""
        return 2.0 * math.atan(0.5 * self.w / self.fl_x)

    @property
    def angle_y(self) -> float:
        """Vertical angle of view, radians."""
        return 2.0 * math.atan(0.5 * self.h / self.fl_y)

    @property
    def distorted(self) -> bool:
        return any((self.k1, self.k2, self.k3, self.p1, self.p2))

    @property
    def centred_square(self) -> bool:
        """Whether the NeRF-synthetic form, which knows only one angle, can express it."""
        close = math.isclose
        return (
            close(self.fl_x, self.fl_y, rel_tol=1e-6)
            and close(self.cx, self.w / 2, abs_tol=1e-3)
            and close(self.cy, self.h / 2, abs_tol=1e-3)
            and not self.distorted
        )


@dataclasses.dataclass(frozen=True)
class View:
    """One image with its camera.

    Attributes:
        file: the image, relative to the dataset's folder, with its extension.
        world_from_camera: [4, 4], rotation-normalised; looks along -Z with +Y up.
        intrinsics: the camera's.
        split: train, val or test.
        depth, normal, mask: files like ``file``, of the same size, or None (``passes`` reads them).
    """

    file: str
    world_from_camera: Matrix
    intrinsics: Intrinsics
    split: Split = "train"
    depth: str | None = None
    normal: str | None = None
    mask: str | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset as its json describes it; no image has been opened.

    Attributes:
        folder: where ``View.file`` starts from.
        views: the views whose images are there.
        bounds: [2, 3] lowest and highest corner of what the field must hold, world space.
        missing: images that the json lists and the folder lacks.
        focus: [2, 3] the box that deserves the detail where opaque images show all that lies
            around it too; the bounds where None.
        depth_unit: scene units that a depth of 1 in the files stands for.
        missing_passes: like ``missing``, of the views' passes.
        display: how the program that rendered the images displayed light, for whoever brings
            colours back into it; None where they are light itself, or nobody says.
    """

    folder: pathlib.Path
    views: tuple[View, ...]
    bounds: Matrix
    missing: tuple[str, ...] = ()
    focus: Matrix | None = None
    depth_unit: float = 1.0
    missing_passes: tuple[str, ...] = ()
    display: dict[str, Any] | None = None

    @property
    def field_from_world(self) -> Matrix:
        """[4, 4] for a field that holds what lies within the bounds."""
        return field_from_bounds(self.bounds)

    @property
    def field_from_surroundings(self) -> Matrix:
        """[4, 4] for a field that also holds what lies around, see ``INNER``."""
        return field_from_bounds(self.bounds if self.focus is None else self.focus, INNER)

    @property
    def pixels(self) -> int:
        """Along the longer side of the largest view."""
        return max(max(view.intrinsics.w, view.intrinsics.h) for view in self.views)

    def split(self, name: Split) -> tuple[View, ...]:
        return tuple(view for view in self.views if view.split == name)


def field_from_bounds(bounds: Matrix, edge: float = 1.0) -> Matrix:
    """[4, 4] uniform scale and shift that centres ``bounds`` [2, 3] in the unit box.

    The longest side takes ``FILL`` of ``edge``, so that a surface on the bounds has room.
    """
    low, high = np.asarray(bounds, dtype=np.float64)
    longest = max(float((high - low).max()), 1e-9)
    scale = FILL * edge / longest
    matrix = np.eye(4)
    matrix[:3, :3] *= scale
    matrix[:3, 3] = 0.5 - scale * (low + high) / 2.0
    return matrix


def split_of(index: int, count: int, validation: float, test: float) -> Split:
    """The split of view ``index`` of ``count``: held-out views are spread evenly over the rig.

    ``validation`` and ``test`` are fractions; each that is above 0 gets one view at least, and one
    view at least stays for training.
    """
    tests = min(math.ceil(test * count), max(count - 1, 0))
    validations = min(math.ceil(validation * count), max(count - 1 - tests, 0))
    held = tests + validations
    if held == 0:
        return "train"
    # the k-th held-out view stands in the middle of the k-th of `held` equal parts, at
    # (2 k + 1) count / (2 held); the first that does not stand before this view:
    rank = -((count - 2 * held * index) // (2 * count))
    if rank >= held or (2 * rank + 1) * count // (2 * held) != index:
        return "train"
    # test and validation views take turns in the ratio of their numbers
    return "test" if (rank + 1) * tests // held > rank * tests // held else "val"


def write(dataset: Dataset) -> None:
    """Write a dataset's jsons into its folder; the images are the caller's.

    ``transforms.json`` appears last, so that where it stands the dataset is whole.
    """
    views = dataset.views
    synthetic = synthetic_files(dataset.folder)
    angles = {round(view.intrinsics.angle_x, 9) for view in views}
    fits = all(view.intrinsics.centred_square and view.file.endswith(".png") for view in views)
    if len(angles) == 1 and fits:
        (dataset.folder / SYNTHETIC_FOLDER).mkdir(exist_ok=True)
        for name, file in synthetic.items():
            frames = [
                {
                    # the form's readers add ".png" themselves
                    "file_path": "../" + view.file.removesuffix(".png"),
                    "transform_matrix": view.world_from_camera.tolist(),
                }
                for view in dataset.split(name)
            ]
            angle = views[0].intrinsics.angle_x
            write_json(file, {"camera_angle_x": angle, "frames": frames, **_MARK})
    else:
        for file in synthetic.values():
            file.unlink(missing_ok=True)
    write_json(dataset.folder / FILE_NAME, _to_json(dataset))


def write_cameras(path: str | os.PathLike[str], views: tuple[View, ...]) -> None:
    """Write cameras alone, for ``render --cameras``: the files are names for what is rendered."""
    unit = np.array([[0.0] * 3, [1.0] * 3])
    content = _to_json(Dataset(pathlib.Path(path).parent, views, unit))
    for key in ("scale", "offset"):
        del content[key]
    write_json(path, content | _MARK)


def is_ours(path: pathlib.Path) -> bool:
    """Whether a json says that Neural Fields has written it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and OWN in content


def synthetic_files(folder: pathlib.Path) -> dict[Split, pathlib.Path]:
    """The jsons of the NeRF-synthetic form that ``write`` writes into a dataset's folder."""
    return {name: folder / SYNTHETIC_FOLDER / f"transforms_{name}.json" for name in SPLITS}


def _to_json(dataset: Dataset) -> dict[str, Any]:
    field_from_world = dataset.field_from_world
    shared = dataset.views[0].intrinsics if dataset.views else None
    if any(view.intrinsics != shared for view in dataset.views):
        shared = None
    content: dict[str, Any] = {"camera_model": "OPENCV"}
    if shared is not None:
        content |= _intrinsics_to_json(shared)
    content |= {
        # instant-ngp: position * scale + offset lies in its unit cube
        "aabb_scale": 1,
        "scale": field_from_world[0, 0],
        "offset": field_from_world[:3, 3].tolist(),
    }
    for name in SPLITS:
        content[f"{name}_filenames"] = [view.file for view in dataset.split(name)]
    own: dict[str, Any] = {
        "version": VERSION,
        "bounds": np.asarray(dataset.bounds).tolist(),
        "field_from_world": field_from_world.tolist(),
        "alpha": "straight",
    }
    if dataset.display is not None:
        own["display"] = dataset.display
    if any(view.depth for view in dataset.views):
        own["depth"] = {"distance": _PLANAR, "unit": dataset.depth_unit}
    if any(view.normal for view in dataset.views):
        own["normal"] = {"space": _WORLD}
    content[OWN] = own
    content["frames"] = [
        {
            "file_path": view.file,
            **{key: getattr(view, name) for name, key in PASS_KEYS.items() if getattr(view, name)},
            "transform_matrix": np.asarray(view.world_from_camera).tolist(),
            **({} if shared is not None else _intrinsics_to_json(view.intrinsics)),
        }
        for view in dataset.views
    ]
    return content


def _intrinsics_to_json(intrinsics: Intrinsics) -> dict[str, float]:
    angles = {"camera_angle_x": intrinsics.angle_x, "camera_angle_y": intrinsics.angle_y}
    return angles | dataclasses.asdict(intrinsics)


ImageSize = Callable[[pathlib.Path], tuple[int, int]]


def read(
    source: str | os.PathLike[str], image_size: ImageSize | None = None, images: bool = True
) -> Dataset:
    """Read a dataset from its folder or its json, whichever dialect it is in.

    Args:
        source: a folder with ``transforms.json`` or ``transforms_train.json`` (and ``_val``,
            ``_test``), or one such json.
        image_size: gives an image's width and height where the json, as some dialects do, leaves
            them to the image.
        images: look for the images; ``False`` for the cameras of this one json alone, where every
            frame becomes a view.

    Raises:
        BadInput: with the file and the field at fault.
    """
    path = pathlib.Path(source)
    if path.is_dir():
        path = json_of_folder(path)
    siblings: dict[pathlib.Path, Split] = {}
    split = path.stem.removeprefix("transforms_")
    if images and path.name.startswith("transforms_") and split in SPLITS:
        for name in SPLITS:
            file = path.with_name(f"transforms_{name}.json")
            if file.exists():
                siblings[file] = name
    views: list[View] = []
    missing: list[str] = []
    missing_passes: list[str] = []
    contents = {}
    for file in siblings or [path]:
        content = contents[file] = _load(file)
        found, lost = _views(file, content, siblings.get(file), image_size, images, missing_passes)
        views += found
        missing += lost
    if not views:
        why = f"none of its {len(missing)} images exists" if missing else "it lists no frames"
        raise BadInput(f"{path}: frames: {why}; render or copy the images beside the json")
    first = contents[next(iter(contents))]
    if images and not siblings and not _splits_by_file(first):
        views = _divided(views)
    bounds, focus = _bounds(path, first, views)
    return Dataset(
        path.parent,
        tuple(views),
        bounds,
        tuple(missing),
        focus,
        _depth_unit(path, first),
        tuple(missing_passes),
        _own(first, "display") or None,
    )


def _divided(views: list[View]) -> list[View]:
    """Views of a json that does not divide them: every eighth is held out, unless they are few."""
    if len(views) < _FEWEST_DIVIDED:
        return views
    splits = (split_of(index, len(views), 0.0, HELD_OUT) for index in range(len(views)))
    return [dataclasses.replace(v, split=split) for v, split in zip(views, splits, strict=True)]


def json_of_folder(folder: pathlib.Path) -> pathlib.Path:
    """The json that a dataset's folder is read by. Raises BadInput where there is none."""
    for name in (FILE_NAME, "transforms_train.json"):
        if (folder / name).is_file():
            return folder / name
    raise BadInput(f"{folder}: no {FILE_NAME} in this folder; give a dataset's folder or its json")


def _load(path: pathlib.Path) -> dict[str, Any]:
    try:
        # some editors put a byte order mark before it
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such file; give a dataset's folder or its json") from None
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error}); give a readable json file") from None
    except (ValueError, RecursionError) as error:
        if path.suffix.lower() != ".json":
            raise BadInput(
                f"{path}: not a dataset; give its folder or its json, or add --field sdf where it "
                "is a mesh"
            ) from None
        detail = str(error).splitlines()[0]
        raise BadInput(f"{path}: not valid json ({detail}); export the dataset again") from None
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list):
        raise BadInput(f"{path}: frames: not a list; a dataset's json lists its frames")
    return content


def _views(
    path: pathlib.Path,
    content: dict[str, Any],
    split: Split | None,
    image_size: ImageSize | None,
    images: bool,
    missing_passes: list[str],
) -> tuple[list[View], list[str]]:
    splits = _splits_by_file(content)
    views, missing = [], []
    for index, frame in enumerate(content["frames"]):
        where = f"{path}: frames[{index}]"
        if not isinstance(frame, dict):
            raise BadInput(f"{where}: not an object; export the dataset again")
        name = frame.get("file_path", "" if images else f"{index + 1:04d}.png")
        if not isinstance(name, str) or not name or "\0" in name or "://" in name:
            raise BadInput(f"{where}.file_path: {name!r}; give a file beside the json")
        file = _image(path.parent, name)
        if file is None and not images:
            file = name
        pose = _pose(frame.get("transform_matrix"), f"{where}.transform_matrix")
        if file is None:
            missing.append(name)
            continue
        intrinsics = _intrinsics(content, frame, where, path.parent / file, image_size, images)
        told = _passes(content, frame, where) if images else {}
        passes = {kind: file for kind, file in told.items() if _is_there(path.parent, file)}
        missing_passes += [file for kind, file in told.items() if kind not in passes]
        views.append(View(file, pose, intrinsics, split or splits.get(name, "train"), **passes))
    return views, missing


def _splits_by_file(content: dict[str, Any]) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for name in SPLITS:
        files = content.get(f"{name}_filenames", [])
        if isinstance(files, list):
            splits |= {file: name for file in files if isinstance(file, str)}
    return splits


def _image(folder: pathlib.Path, name: str) -> str | None:
    """The image's path with its extension, or None where there is no such file."""
    try:
        for suffix in ("", *_SUFFIXES):
            if (folder / (name + suffix)).is_file():
                return name + suffix
    except OSError:  # a name that no file can have, one too long for instance
        pass
    return None


def _passes(content: dict[str, Any], frame: dict[str, Any], where: str) -> dict[str, Any]:
    """The pass files that a frame lists, by a view's name for them."""
    found = {}
    for name, key in PASS_KEYS.items():
        file = frame.get(key)
        if file is None or not _is_told(name, content):
            continue
        if not isinstance(file, str) or not file or "\0" in file:
            raise BadInput(f"{where}.{key}: {file!r}; give a file beside the json")
        found[name] = file
    return found


def _is_there(folder: pathlib.Path, file: str) -> bool:
    with contextlib.suppress(OSError):  # a name that no file can have
        return (folder / file).is_file()
    return False


def _is_told(name: str, content: dict[str, Any]) -> bool:
    """Whether the json says what a pass holds.

    Another program's depth may be a sensor's or a network's guess, of any size and unit, and its
    normals may be in any space: too little to be taken for exact.
    """
    if name == "normal":
        return _own(content, "normal").get("space") == _WORLD
    return name != "depth" or bool(_own(content, "depth"))


def _depth_unit(path: pathlib.Path, content: dict[str, Any]) -> float:
    """Scene units; 1 where the json does not say it."""
    depth = _own(content, "depth")
    if depth.get("distance", _PLANAR) != _PLANAR:
        raise BadInput(
            f"{path}: neural_fields.depth.distance: {depth['distance']!r} is not supported; give "
            f"{_PLANAR!r} depth, the distance along the camera's axis"
        )
    return _factor(depth, "unit", f"{path}: neural_fields.depth.", 1.0)


def _own(content: dict[str, Any], key: str) -> dict[str, Any]:
    """An object of our own part of a json; empty where it is absent."""
    own = content.get(OWN)
    value = own.get(key) if isinstance(own, dict) else None
    return value if isinstance(value, dict) else {}


def _pose(value: Any, where: str) -> Matrix:
    try:
        pose = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape == (3, 4):
        pose = np.vstack([pose, [0.0, 0.0, 0.0, 1.0]])
    if pose.shape != (4, 4):
        raise BadInput(f"{where}: not a 4x4 matrix; export the dataset again")
    if not np.isfinite(pose).all():
        raise BadInput(f"{where}: holds NaN or infinity; export the dataset again")
    if np.abs(pose).max() > _FARTHEST:
        raise BadInput(f"{where}: a camera beyond {_FARTHEST:g} units; export the dataset again")
    lengths = np.linalg.norm(pose[:3, :3], axis=0)
    if lengths.min() < 1e-12 or abs(np.linalg.det(pose[:3, :3] / lengths)) < 1e-6:
        raise BadInput(f"{where}: its axes span no space; export the dataset again")
    pose[:3, :3] /= lengths
    return pose


def _number(content: dict[str, Any], frame: dict[str, Any], key: str, where: str) -> float | None:
    """A number of the frame, else of the file; None where neither has it.

    Args:
        where: what a complaint names before the key.
    """
    value = frame.get(key, content.get(key))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise BadInput(f"{where}{key}: {value!r} is not a number; export the dataset again")
    return float(value)


def _factor(content: dict[str, Any], key: str, where: str, default: float) -> float:
    """A number that lengths are multiplied by; for ``where`` see ``_number``."""
    value = _number(content, {}, key, where)
    if value is None:
        return default
    if not _SMALLEST <= value <= _FARTHEST:
        raise BadInput(
            f"{where}{key}: {value:g}; give a number from {_SMALLEST:g} to {_FARTHEST:g}, or "
            "export the dataset again"
        )
    return value


def _intrinsics(
    content: dict[str, Any],
    frame: dict[str, Any],
    where: str,
    image: pathlib.Path,
    image_size: ImageSize | None,
    images: bool,
) -> Intrinsics:
    def number(key: str) -> float | None:
        return _number(content, frame, key, f"{where}.")

    model = frame.get("camera_model", content.get("camera_model", "OPENCV"))
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"):
        raise BadInput(f"{where}.camera_model: {model!r} is not supported; undistort to OPENCV")
    w, h = number("w"), number("h")
    if w is None or h is None:
        if image_size is None or not (images or image.exists()):
            raise BadInput(f"{where}.w, h: absent; give the image's size in pixels")
        w, h = image_size(image)
    if not (1 <= w <= _LARGEST_SIDE and 1 <= h <= _LARGEST_SIDE):
        raise BadInput(f"{where}.w, h: {w:g} x {h:g} pixels; give the image's size")
    fl_x, fl_y = number("fl_x"), number("fl_y")
    angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
    if fl_x is None and angle_x is not None and 0.0 < angle_x < math.pi:
        fl_x = 0.5 * w / math.tan(0.5 * angle_x)
    if fl_y is None and angle_y is not None and 0.0 < angle_y < math.pi:
        fl_y = 0.5 * h / math.tan(0.5 * angle_y)
    fl_x = fl_y if fl_x is None else fl_x
    fl_y = fl_x if fl_y is None else fl_y
    if fl_x is None or fl_y is None or fl_x <= 0.0 or fl_y <= 0.0:
        raise BadInput(f"{where}: no focal length; give fl_x (pixels) or camera_angle_x (radians)")
    cx, cy = number("cx"), number("cy")
    lens = {key: number(key) or 0.0 for key in _LENS}
    cx, cy = w / 2 if cx is None else cx, h / 2 if cy is None else cy
    far = math.hypot(max(abs(cx), abs(w - cx)) / fl_x, max(abs(cy), abs(h - cy)) / fl_y)
    far = min(far, _FARTHEST)
    for key, power in _LENS.items():
        if abs(lens[key]) * far**power > _MOST_DISTORTED:
            raise BadInput(
                f"{where}.{key}: {lens[key]:g} moves the image's corner {_MOST_DISTORTED:g} times "
                "as far from its middle or more; calibrate the lens again"
            )
    return Intrinsics(int(w), int(h), fl_x, fl_y, cx, cy, **lens)


def _bounds(
    path: pathlib.Path, content: dict[str, Any], views: list[View]
) -> tuple[Matrix, Matrix | None]:
    """``bounds`` and ``focus`` of a dataset: as written, else by the dialect's convention."""
    own = content.get(OWN)
    if isinstance(own, dict) and "bounds" in own:
        return _box(own["bounds"], f"{path}: neural_fields.bounds"), None
    if "aabb" in content:
        return _box(content["aabb"], f"{path}: aabb"), None
    if "scale" in content or "offset" in content or "aabb_scale" in content:
        where = f"{path}: scale, offset, aabb_scale"
        scale = _factor(content, "scale", f"{path}: ", _NGP_SCALE)
        aabb_scale = _factor(content, "aabb_scale", f"{path}: ", 1.0)
        side = aabb_scale / scale
        offset = _box([content.get("offset", _NGP_OFFSET), [math.inf] * 3], where, finite=False)[0]
        centre = (0.5 - offset) / scale
        # more than the unit cube is asked for where there are surroundings
        focus = bounds_of_cameras(views) if aabb_scale > 1.0 else None
        return _box([centre - side / 2, centre + side / 2], where), focus
    if set(content) <= {"camera_angle_x", "camera_angle_y", "frames", OWN}:
        half = np.full(3, _SYNTHETIC_HALF_SIZE)
        return np.stack([-half, half]), None
    return bounds_of_cameras(views), None


def _box(value: Any, where: str, finite: bool = True) -> Matrix:
    try:
        box = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        box = np.empty(0)
    good = box.shape == (2, 3) and not np.isnan(box).any() and bool((box[1] >= box[0]).all())
    if not good or (finite and not np.isfinite(box).all()):
        raise BadInput(f"{where}: not a box of two corners; export the dataset again")
    if finite and np.abs(box).max() > _FARTHEST:
        raise BadInput(f"{where}: a box beyond {_FARTHEST:g} units; export the dataset again")
    if finite and (box[1] - box[0]).max() < _SMALLEST:
        raise BadInput(f"{where}: a box below {_SMALLEST:g} units; export the dataset again")
    return box


def bounds_of_cameras(views: list[View]) -> Matrix:
    """[2, 3] a cube around the point that the cameras look at, which most of them do not stand in.

    The point is the one nearest to all optical axes in the least squares' sense; the half edge is
    half the median distance of the cameras to it.
    """
    origins = np.stack([view.world_from_camera[:3, 3] for view in views])
    forward = np.stack([-view.world_from_camera[:3, 2] for view in views])
    across = np.eye(3) - forward[:, :, None] * forward[:, None, :]
    # a little weight on the cameras' own middle keeps parallel axes solvable
    weight = 1e-6
    left = across.sum(0) + weight * len(views) * np.eye(3)
    right = (across @ origins[:, :, None]).sum(0)[:, 0] + weight * origins.sum(0)
    centre = np.linalg.solve(left, right)
    half = 0.5 * float(np.median(np.linalg.norm(origins - centre, axis=1)))
    half = max(half, 1e-6)
    return np.stack([centre - half, centre + half])
