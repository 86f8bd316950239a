"""Image sequences: one picture a camera."""

from __future__ import annotations

import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import PIL.Image
import PIL.PngImagePlugin

from ..dataset import exr
from ..dataset.transforms import View
from ..protocol import BadInput, write_whole

_MAKER = ("Software", "Neural Fields")
"""What our pictures say of themselves."""

Render = Callable[[View], npt.NDArray]
RenderPasses = Callable[[View], tuple[npt.NDArray, npt.NDArray]]


def names(views: Iterable[View]) -> list[str]:
    """File names for the views' pictures: their own if these are plain and
    differ, else numbers."""
    views = list(views)
    stems = [pathlib.PurePosixPath(view.file.replace("\\", "/")).stem for view in views]
    plain = all(re.fullmatch(r"\w[\w .-]*", stem) for stem in stems)
    if not plain or len({stem.lower() for stem in stems}) < len(stems):
        stems = [f"{index + 1:04d}" for index in range(len(views))]
    return [f"{stem}.png" for stem in stems]


def write(
    folder: str | os.PathLike[str],
    views: Iterable[View],
    render: Render,
    passes: RenderPasses | None = None,
) -> Iterator[pathlib.Path]:
    """Render each view into a PNG of ``folder``; yields each file once it stands there.

    Args:
        render: maps a view to [H, W, 4] sRGB and straight alpha in [0, 1].
        passes: maps a view to [H, W] depth and [H, W, 3] normals, which stand before the picture
            does in the folders ``depth`` and ``normal``, as in a dataset (``dataset.passes``).

    Raises:
        BadInput: the folder or a file cannot be written, or a picture stands in the way that is
            not of our making.
    """
    views = list(views)
    folder = pathlib.Path(folder)
    _refuse_strangers(folder, names(views))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("depth", "normal") if passes else ():
            (folder / kind).mkdir(exist_ok=True)
        for view, name in zip(views, names(views), strict=True):
            picture = render(view)
            if passes:
                file = pathlib.Path(name).with_suffix(".exr")
                depth, normal = passes(view)
                write_whole(
                    folder / "depth" / file, functools.partial(exr.write_depth, depth=depth)
                )
                write_whole(
                    folder / "normal" / file, functools.partial(exr.write_normal, normal=normal)
                )
            pixels = np.round(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
            write_whole(folder / name, _writer(pixels))
            yield folder / name
    except OSError as error:
        raise BadInput(
            f"{folder}: cannot be written ({error}); free some space or choose another folder"
        ) from None


def _writer(pixels: npt.NDArray[np.uint8]) -> Callable[[pathlib.Path], None]:
    said = PIL.PngImagePlugin.PngInfo()
    said.add_text(*_MAKER)
    return lambda beside: PIL.Image.fromarray(pixels).save(beside, pnginfo=said)


def _refuse_strangers(folder: pathlib.Path, pictures: Iterable[str]) -> None:
    """Make sure that only pictures which ``write`` has made are replaced.

    Raises:
        BadInput: there are others.
    """
    key, maker = _MAKER
    for name in pictures:
        if not (folder / name).exists():
            continue
        try:
            with PIL.Image.open(folder / name) as image:
                ours = image.info.get(key) == maker
        except Exception:  # whatever it is, it is not ours
            ours = False
        if not ours:
            raise BadInput(
                f"{folder}: holds {name}, which Neural Fields did not write and would replace; "
                "choose another folder"
            )
