"""The density at which a radiance field's surfaces begin, from the density's own histogram."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch

from ..fields.radiance import RadianceField
from ..kernels import Kernels
from ..rendering.volume import march
from ..sampling.occupancy import OccupancyGrid
from ..sampling.rays import Cameras
from . import depth

_DECADES, _PER_DECADE = 7, 8
_THINNEST = 1e-4
"""Optical depth of a sample, up to which it is as good as empty."""
_SMOOTH = 2.0  # bins
_PEAK = 0.02  # of the highest one: how much empty space rays pass tells nothing
_VALLEY = 0.95  # of the lower peak
_FLOOR = 0.05
"""How far the floor of a valley reaches up the lower peak: the level is in its middle."""
_APART = 1.0 / 64.0  # field units; surfaces further apart than this are simply not the same
_MOST_APART = 0.35
"""Of trained fields with a valley, those below .25 had a better surface at the level than by depth
(Suzanne: Chamfer distance .128 % in place of .162 %), those above .5 a worse one (a toy car: .48 %
in place of .38 %)."""


def clear_level(
    field: RadianceField, grid: OccupancyGrid, kernels: Kernels, cameras: Cameras
) -> float | None:
    """The density that tells empty space from surfaces, per field unit of length.

    Where rays get, a field that has surfaces has densities of two kinds, small and large. The
    level lies in the valley of the histogram of their logarithms (the mode method, Prewitt and
    Mendelsohn 1966).

    Returns:
        None where the level is not clear: there is no valley, or light stops elsewhere than the
        level is first met. Both is so in haze.
    """
    level = valley(*histogram(field, grid, kernels, cameras))
    if level is None or apart(field, grid, kernels, cameras, level) > _MOST_APART:
        return None
    return level


def histogram(
    field: RadianceField, grid: OccupancyGrid, kernels: Kernels, cameras: Cameras
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How often each density is met by light.

    Returns:
        [B] the share of the bins: samples count as much as light gets to them, so that nothing
        counts that is hidden; and [B] the bins' densities, a geometric series.
    """
    bins = _DECADES * _PER_DECADE
    total = torch.zeros(bins, dtype=torch.float64)
    for view in range(len(cameras.origins)):
        origins, directions = cameras.pixel_rays(view)
        with torch.no_grad():
            samples = march(origins, directions, grid, kernels)
            density = field.density(samples.positions(origins, directions))
            light = kernels.transmittance(density, samples)
        thick = (density * (grid.step / _THINNEST)).clamp(min=1.0)
        index = (thick.log10() * _PER_DECADE).long().clamp(max=bins - 1)
        total += torch.bincount(index.cpu(), light.double().cpu(), minlength=bins)
    densities = _THINNEST / grid.step * 10.0 ** ((np.arange(bins) + 0.5) / _PER_DECADE)
    return total.numpy() / max(float(total.sum()), 1e-30), densities


def valley(shares: npt.NDArray[np.float64], densities: npt.NDArray[np.float64]) -> float | None:
    """The density in the deepest valley between two peaks of a histogram; None without one.

    Args:
        shares, densities: [B] of its bins, see ``histogram``.
    """
    reach = np.arange(-np.ceil(3.0 * _SMOOTH), np.ceil(3.0 * _SMOOTH) + 1.0)
    kernel = np.exp(-0.5 * (reach / _SMOOTH) ** 2)
    smooth = np.convolve(shares, kernel / kernel.sum(), "same")
    around = np.pad(smooth, 1, constant_values=-1.0)
    peak = (smooth > around[:-2]) & (smooth >= around[2:]) & (smooth > _PEAK * smooth.max())
    deepest, level = _VALLEY, None
    peaks = np.flatnonzero(peak)
    for first, last in itertools.pairwise(peaks):
        between = smooth[first : last + 1]
        lower = min(between[0], between[-1])
        if between.min() < deepest * lower:
            deepest = between.min() / lower
            floor = np.flatnonzero(between <= between.min() + _FLOOR * (lower - between.min()))
            middle = first + 0.5 * (floor[0] + floor[-1])
            level = float(np.exp(np.interp(middle, np.arange(len(densities)), np.log(densities))))
    return level


def apart(
    field: RadianceField, grid: OccupancyGrid, kernels: Kernels, cameras: Cameras, level: float
) -> float:
    """How far from where light stops a level is first met, mean over the rays: from 0, where both
    are the same, to 1, where they are more than ``_APART`` apart."""
    found = []
    for view in range(len(cameras.origins)):
        rays = cameras.pixel_rays(view)
        found.append(depth.stops(field, grid, kernels, rays, level))
    stopped, reached = (torch.cat(each) for each in zip(*found, strict=True))
    away = ((reached - stopped).abs() / _APART).nan_to_num(0.0, posinf=1.0).clamp(max=1.0)
    either = stopped.isfinite() | reached.isfinite()
    return float(away[either].mean()) if either.any() else 1.0
