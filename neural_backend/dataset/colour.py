"""From the light that images and fields hold to what a screen shows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_NO_ALPHA = 1e-6


def srgb_from_linear(linear: Tensor) -> Tensor:
    """The sRGB transfer curve (IEC 61966-2-1); values are clipped to [0, 1]."""
    linear = linear.clamp(0.0, 1.0)
    curve = 1.055 * linear.clamp(min=0.0031308) ** (1.0 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)


def linear_from_srgb(srgb: npt.NDArray) -> npt.NDArray:
    """Linear light of sRGB in [0, 1]: ``srgb_from_linear``'s inverse, of arrays."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def displayed(premultiplied: Tensor, linear: bool) -> Tensor:
    """[..., 4] sRGB with straight alpha, as in a PNG, from premultiplied colour and alpha.

    Args:
        linear: whether the colour is linear light; else it is sRGB already.
    """
    alpha = premultiplied[..., 3:]
    colour = premultiplied[..., :3] / alpha.clamp(min=_NO_ALPHA)
    return torch.cat([srgb_from_linear(colour) if linear else colour, alpha], -1)


def over_white(straight: Tensor) -> Tensor:
    """[..., 3] a picture with straight alpha [..., 4] on white."""
    alpha = straight[..., 3:]
    return straight[..., :3] * alpha + (1.0 - alpha)
