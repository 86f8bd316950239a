"""How well a radiance field shows views that it was not trained on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt
import torch

from ..dataset.colour import over_white
from ..dataset.images import load_views
from ..dataset.transforms import Dataset, Split, View
from ..fields.radiance import RadianceField
from ..kernels import Kernels
from ..protocol import BadInput
from ..rendering.volume import render_image
from ..sampling.occupancy import OccupancyGrid
from . import scores


@dataclasses.dataclass(frozen=True)
class ViewScores:
    """Means over the views, on white, in sRGB, without rounding.

    Attributes:
        psnr: decibels.
        ssim: structural similarity.
        views: how many.
        seconds_per_view: to render one.
    """

    psnr: float
    ssim: float
    views: int
    seconds_per_view: float


@dataclasses.dataclass(frozen=True)
class ComparedView:
    """A view as the field shows it beside the dataset's image, both on white, in sRGB.

    Attributes:
        rendered, truth: [H, W, 3] float64 in [0, 1].
        psnr: decibels.
        ssim: structural similarity; None where the image is too small for it.
        seconds: to render it.
    """

    view: View
    rendered: torch.Tensor
    truth: torch.Tensor
    psnr: float
    ssim: float | None
    seconds: float


def compare_views(
    field: RadianceField,
    grid: OccupancyGrid,
    kernels: Kernels,
    dataset: Dataset,
    field_from_world: npt.NDArray[np.float64],
    split: Split = "test",
    count: int | None = None,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[ComparedView]:
    """Render a split's views and compare them with its images.

    Args:
        field_from_world: [4, 4] that the field was trained with.
        count: at most so many views, evenly spread; all where None.
        report: called after each view with the number done and the number of all.

    Raises:
        BadInput: the split has no views, or an image is at fault.
    """
    if not dataset.split(split):
        raise BadInput(f"{dataset.folder}: split: no {split} views; choose another split")
    images = load_views(dataset, split, count)
    for index, view in enumerate(images.views):
        start = time.perf_counter()
        picture = render_image(
            field,
            grid,
            view.intrinsics,
            view.world_from_camera,
            field_from_world,
            kernels,
        )
        rendered = over_white(picture).cpu().to(torch.float64)
        seconds = time.perf_counter() - start
        truth = images.on_white(images.image(index)).to(torch.float64)
        psnr, ssim = scores.psnr(rendered, truth), scores.ssim(rendered[None], truth[None])
        yield ComparedView(view, rendered, truth, psnr, ssim, seconds)
        report(index + 1, len(images.views))


def mean_scores(views: Iterable[ComparedView]) -> ViewScores:
    """The means over compared views."""
    psnr, ssim, seconds = [], [], []
    for view in views:
        psnr.append(view.psnr)
        seconds.append(view.seconds)
        if view.ssim is not None:
            ssim.append(view.ssim)
    mean_ssim = float(np.mean(ssim)) if ssim else float("nan")
    return ViewScores(float(np.mean(psnr)), mean_ssim, len(psnr), float(np.mean(seconds)))
