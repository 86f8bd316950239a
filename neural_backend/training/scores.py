"""How alike two pictures are."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

WINDOW = 7
"""Pixels along the edge of the windows that ``ssim`` compares."""

_BRIGHTNESS, _CONTRAST = 0.01**2, 0.03**2


@dataclasses.dataclass(frozen=True)
class Scores:
    """Of a field's own pictures, on white, in sRGB; absent where there is nothing to compare with.

    Attributes:
        psnr: decibels.
        ssim: structural similarity, 1 for what is the same.
    """

    psnr: float | None = None
    ssim: float | None = None


def psnr(pixels: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio, decibels, of values from 0 to 1; at most 100."""
    error = torch.nn.functional.mse_loss(pixels, truth)
    return -10.0 * float(torch.log10(error.clamp(min=1e-10)))


def ssim(pixels: Tensor, truth: Tensor) -> float | None:
    """Mean structural similarity (Wang et al. 2004) of pictures with values from 0 to 1.

    The windows are uniform, of 7x7 pixels or as many as there are, and each lies wholly within
    the picture; channels count alike.

    Args:
        pixels, truth: [B, H, W, C].

    Returns:
        None where a picture is too small to have a structure.
    """
    size = min(WINDOW, (min(pixels.shape[1:3]) - 1) // 2 * 2 + 1)
    if size < 3:
        return None

    def mean(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(values, size, stride=1)

    x, y = (each.permute(0, 3, 1, 2) for each in (pixels, truth))
    unbiased = size**2 / (size**2 - 1)
    of_x, of_y = mean(x), mean(y)
    var_x = unbiased * (mean(x * x) - of_x * of_x)
    var_y = unbiased * (mean(y * y) - of_y * of_y)
    covariance = unbiased * (mean(x * y) - of_x * of_y)
    alike = (2.0 * of_x * of_y + _BRIGHTNESS) * (2.0 * covariance + _CONTRAST)
    spread = (of_x * of_x + of_y * of_y + _BRIGHTNESS) * (var_x + var_y + _CONTRAST)
    return float((alike / spread).mean())
