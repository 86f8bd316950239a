"""Encodings: from coordinates to features that a small network can work with."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..config import TrainingSettings
from ..kernels import Kernels, hash_grid
from ..protocol import BadInput

MOST_OCTAVES = 24
"""Of positional features: coordinates in single precision tell no more apart."""


class Plain(torch.nn.Module):
    """``none``: the coordinates themselves, moved to [-1, 1]."""

    features = 3

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        return 2.0 * x - 1.0


class Fourier(torch.nn.Module):
    """[cos(x B), sin(x B)] (Tancik et al. 2020).

    Args:
        frequencies: [3, K] the matrix B, radians a field unit.
    """

    def __init__(self, frequencies: Tensor):
        super().__init__()
        self.register_buffer("frequencies", frequencies)
        # cos(a) = sin(a + pi / 2): so all features are one pass
        shift = torch.tensor([0.5 * math.pi, 0.0]).repeat_interleave(frequencies.shape[1])
        self.register_buffer("shift", shift, persistent=False)
        self.features = 2 * frequencies.shape[1]

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        if known is not None:
            return known
        return torch.addmm(self.shift, x, self.frequencies.repeat(1, 2)).sin_()


class HashEncoding(torch.nn.Module):
    """Multiresolution hash grid (Müller et al. 2022)."""

    def __init__(self, settings: TrainingSettings, kernels: Kernels, generator: torch.Generator):
        super().__init__()
        finest = max(settings.finest, settings.coarsest)
        self.grid = hash_grid(settings.levels, settings.coarsest, finest, settings.log2_table_size)
        self._kernels = kernels
        self.features = settings.levels * settings.features
        table = torch.empty(self.grid.entries, settings.features)
        self.table = torch.nn.Parameter(table.uniform_(-1e-4, 1e-4, generator=generator))
        # [entries, F] where an optimiser wants the table's gradient, in place of autograd's
        self.gradient: Tensor | None = None
        self.opened = self.grid

    def open(self, levels: int) -> None:
        """From now on only the coarsest ``levels`` have features; those of the others are zero."""
        self.opened = self.grid.coarsest(levels)

    def forward(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        opened = self.opened.levels * self.table.shape[1]
        if known is not None:
            known = known[:, :opened]
        features = self._kernels.encode(x, self.table, self.opened, known, self.gradient)
        closed = self.features - opened
        return torch.nn.functional.pad(features, (0, closed)) if closed else features


def make_encoding(
    settings: TrainingSettings, kernels: Kernels, generator: torch.Generator | None = None
) -> torch.nn.Module:
    """The encoding that the settings, fitted ones, name: [N, 3] in the unit box -> [N, features].

    The module has ``features``, its width, and takes as a second argument its own result where
    that is ``known`` and only the gradient is missing. ``generator`` (default: seeded by the
    settings) gives the random frequencies and the first table.
    """
    generator = generator or torch.Generator().manual_seed(settings.seed)
    if settings.encoding == "hash":
        return HashEncoding(settings, kernels, generator)
    if settings.encoding == "none":
        return Plain()
    if settings.encoding == "basic":
        return Fourier(2.0 * math.pi * torch.eye(3))
    if settings.encoding == "positional":
        count = settings.frequencies
        if count > MOST_OCTAVES:
            raise BadInput(
                f"frequencies: {count} octaves end in waves that no number can tell apart; "
                f"positional features take at most {MOST_OCTAVES}"
            )
        octaves = 2.0 * math.pi * 2.0 ** torch.arange(count)
        return Fourier((torch.eye(3)[:, :, None] * octaves).reshape(3, 3 * count))
    frequencies = torch.randn(3, settings.frequencies, generator=generator)
    return Fourier(frequencies * (2.0 * math.pi * settings.sigma))


SPHERICAL_HARMONICS = 16


def spherical_harmonics(d: Tensor) -> Tensor:
    """Real spherical harmonics of degree 0 to 3 (four bands), for unit directions.

    Args:
        d: [N, 3].

    Returns:
        [N, 16], band by band, order -l to l; orthonormal over the sphere, without the
        Condon-Shortley phase.
    """
    x, y, z = d.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    bands = [
        torch.full_like(x, 0.28209479177387814),
        0.4886025119029199 * y,
        0.4886025119029199 * z,
        0.4886025119029199 * x,
        1.0925484305920792 * x * y,
        1.0925484305920792 * y * z,
        0.31539156525252005 * (3.0 * zz - 1.0),
        1.0925484305920792 * x * z,
        0.5462742152960396 * (xx - yy),
        0.5900435899266435 * y * (3.0 * xx - yy),
        2.890611442640554 * x * y * z,
        0.4570457994644658 * y * (5.0 * zz - 1.0),
        0.3731763325901154 * z * (5.0 * zz - 3.0),
        0.4570457994644658 * x * (5.0 * zz - 1.0),
        1.445305721320277 * z * (xx - yy),
        0.5900435899266435 * x * (xx - 3.0 * yy),
    ]
    return torch.stack(bands, -1)
