"""Image sequences: one picture a camera."""

from __future__ import annotations

import itertools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ..dataset import exr, transforms
from ..dataset.transforms import View
from ..protocol import BadInput, write_whole
from . import own_files

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
        BadInput: the folder or a file cannot be written, or a file stands in the way that is not
            of our making.
    """
    views = list(views)
    folder = pathlib.Path(folder)
    pictures = [folder / name for name in names(views)]
    kinds = (transforms.DEPTH, transforms.NORMAL) if passes else ()
    beside = [[folder / kind / f"{file.stem}.exr" for kind in kinds] for file in pictures]
    try:
        own_files.refuse_strangers([*pictures, *itertools.chain.from_iterable(beside)])
        folder.mkdir(parents=True, exist_ok=True)
        for kind in kinds:
            (folder / kind).mkdir(exist_ok=True)
        for view, file, files in zip(views, pictures, beside, strict=True):
            picture = render(view)
            if passes:
                writers = (exr.write_depth, exr.write_normal)
                for path, save, values in zip(files, writers, passes(view), strict=True):
                    write_whole(path, lambda to, save=save, v=values: save(to, v, own_files.MAKER))
            pixels = np.round(np.clip(picture, 0.0, 1.0) * 255.0).astype(np.uint8)
            write_whole(file, lambda to, pixels=pixels: own_files.save_png(to, pixels))
            yield file
    except OSError as error:
        raise BadInput(
            f"{folder}: cannot be written ({error}); free some space or choose another folder"
        ) from None
