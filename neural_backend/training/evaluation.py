"""How well a radiance field shows views that it was not trained on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from skimage.metrics import structural_similarity

from ..dataset.images import load_views
from ..dataset.transforms import Dataset, Split
from ..fields.radiance import RadianceField
from ..kernels import Kernels
from ..protocol import BadInput
from ..rendering.volume import render_image
from ..sampling.occupancy import OccupancyGrid

_SSIM_WINDOW = 7


@dataclasses.dataclass(frozen=True)
class ViewScores:
    """Means over the views, on white, in sRGB, without rounding.

    Attributes:
        psnr: decibels.
        ssim: structural similarity (Wang et al. 2004), windows of 7x7 pixels.
        views: how many.
        seconds_per_view: to render one.
    """

    psnr: float
    ssim: float
    views: int
    seconds_per_view: float


def evaluate_views(
    field: RadianceField,
    grid: OccupancyGrid,
    kernels: Kernels,
    dataset: Dataset,
    field_from_world: npt.NDArray[np.float64],
    split: Split = "test",
    count: int | None = None,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> ViewScores:
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
    psnr, ssim, seconds = [], [], 0.0
    for index, view in enumerate(images.views):
        start = time.perf_counter()
        rendered = render_image(
            field,
            grid,
            view.intrinsics,
            view.world_from_camera,
            field_from_world,
            kernels,
        )[..., :3]
        rendered = rendered.cpu().numpy().astype(np.float64)
        seconds += time.perf_counter() - start
        rgba = images.image(index).to(torch.float64).numpy() / 255.0
        truth = rgba[..., :3] * rgba[..., 3:] + (1.0 - rgba[..., 3:])
        error = float(np.mean((rendered - truth) ** 2))
        psnr.append(-10.0 * float(np.log10(max(error, 1e-10))))
        window = min(_SSIM_WINDOW, (min(truth.shape[:2]) - 1) // 2 * 2 + 1)
        if window >= 3:
            ssim.append(
                structural_similarity(
                    truth, rendered, win_size=window, channel_axis=2, data_range=1.0
                )
            )
        report(index + 1, len(images.views))
    views = len(images.views)
    mean_ssim = float(np.mean(ssim)) if ssim else float("nan")
    return ViewScores(float(np.mean(psnr)), mean_ssim, views, seconds / views)
