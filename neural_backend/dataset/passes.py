"""What a view may have beside its image: depth, normals and a mask, pixel by pixel."""

from __future__ import annotations

import pathlib

import imageio.v3
import numpy as np
import numpy.typing as npt

from ..protocol import BadInput
from . import exr
from .images import read_image, unreadable
from .transforms import Dataset, View

Floats = npt.NDArray[np.float32]


def read_depth(dataset: Dataset, view: View) -> Floats:
    """[H, W] planar depth in scene units: how far along the camera's axis (its -Z) a surface lies.

    It is the depth of one surface, seen through the pixel's centre; 0 where there is none, NaN or
    infinite where the file has that. A pixel whose ray has the camera-space direction (x, y, -1)
    sees the point depth * (x, y, -1).

    Args:
        view: one with ``depth``.

    Raises:
        BadInput: the file cannot be read, or is not of the view's size.
    """
    path = dataset.folder / str(view.depth)
    depth = _pixels(path, view, channels=1)[..., 0] * np.float32(dataset.depth_unit)
    return np.where(depth <= 0.0, np.float32(0.0), depth)


def read_normal(dataset: Dataset, view: View) -> Floats:
    """[H, W, 3] unit normals in world space, towards the camera; 0 where none is known for sure,
    NaN where the file has NaN or infinity.

    Args:
        view: one with ``normal``.

    Raises:
        BadInput: the file cannot be read, or is not of the view's size.
    """
    normal = _pixels(dataset.folder / str(view.normal), view, channels=3)
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    finite = np.isfinite(length)
    known = finite & (length > 0.5)
    unknown = np.where(finite, np.float32(0.0), np.float32(np.nan))
    return np.where(known, np.where(known, normal, 0.0) / np.where(known, length, 1.0), unknown)


def read_mask(dataset: Dataset, view: View) -> npt.NDArray[np.bool_]:
    """[H, W] whether a pixel counts: nerfstudio's masks, which are 0 where it must be ignored.

    Args:
        view: one with ``mask``.

    Raises:
        BadInput: the file cannot be read, or is not of the view's size.
    """
    path = dataset.folder / str(view.mask)
    return _of_size(path, read_image(path), view)[..., 0] > 0


def _pixels(path: pathlib.Path, view: View, channels: int) -> Floats:
    """[H, W, channels] the numbers of a file as they are."""
    try:
        if path.suffix.lower() == ".exr":
            pixels = exr.read(path)
        else:
            pixels = np.atleast_3d(imageio.v3.imread(path, plugin="pillow", index=0))
    except Exception as error:
        # the readers raise whatever they please at a damaged file
        raise unreadable(path, error) from None
    if pixels.shape[2] < channels:
        raise BadInput(f"{path}: {pixels.shape[2]} channels; {channels} are needed")
    return _of_size(path, pixels, view)[..., :channels].astype(np.float32)


def _of_size(path: pathlib.Path, pixels: npt.NDArray, view: View) -> npt.NDArray:
    height, width = pixels.shape[:2]
    w, h = view.intrinsics.w, view.intrinsics.h
    if (width, height) != (w, h):
        raise BadInput(
            f"{path}: {width} x {height} pixels, but the view has {w} x {h}; render it again"
        )
    return pixels
