"""What a kernel implementation must offer; see ``reference`` for the definition of each."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from .contraction import contract

# Teschner et al. 2003, as in Müller et al. 2022; the first is 1 so that neighbours along x stay
# neighbours in memory
_PRIMES = (1, 2_654_435_761, 805_459_861)

OPAQUE = 1e-4
"""Samples behind what lets through less than this are left out."""

FAINT = 1e-4
"""Sections of a surface's rays with less weight than this are left out."""

COLOUR_RANGE = 6.0
"""Before its sigmoid a colour is led no farther from 0. There is no gradient to come back by, and
the first steps, in fog through which the background is seen, would lead it to -100."""

SURFACE_DEPTH = math.log(2.0)
"""Optical depth in front of a surface, where its distance is 0."""

POOL = 4
"""Cells along the edge of a coarse cell, by which marching skips empty space."""


@dataclasses.dataclass(frozen=True)
class HashGrid:
    """The layout of a multiresolution hash grid (Müller et al. 2022).

    Level ``l`` has ``resolutions[l]`` cells along each edge of the unit box. The corner with the
    integer coordinates ``c`` has the table entry

        offsets[l] + ((c_x * f_x  xor  c_y * f_y  xor  c_z * f_z) mod 2 ** bits[l])

    with ``f = factors[l]``: where every corner has room for an entry of its own the factors are
    powers of two, which packs the coordinates' bits without collisions; else they are primes.

    Attributes:
        resolutions, bits, offsets: [L].
        factors: [L][3], below 2**32.
    """

    resolutions: tuple[int, ...]
    bits: tuple[int, ...]
    offsets: tuple[int, ...]
    factors: tuple[tuple[int, int, int], ...]

    @property
    def levels(self) -> int:
        return len(self.resolutions)

    @property
    def entries(self) -> int:
        """Entries of all levels together."""
        return self.offsets[-1] + 2 ** self.bits[-1]

    def coarsest(self, levels: int) -> HashGrid:
        """The first so many levels alone; their entries come first in the table."""
        parts = (self.resolutions, self.bits, self.offsets, self.factors)
        return HashGrid(*(each[:levels] for each in parts))


def hash_grid(levels: int, coarsest: int, finest: int, log2_table_size: int) -> HashGrid:
    """Lay out ``levels`` levels whose resolutions grow geometrically from coarsest to finest."""
    growth = (finest / coarsest) ** (1.0 / max(levels - 1, 1))
    resolutions = tuple(round(coarsest * growth**level) for level in range(levels))
    bits, offsets, factors, offset = [], [], [], 0
    for resolution in resolutions:
        side = resolution.bit_length()  # bits of a corner's coordinate, 0 to resolution
        dense = 3 * side <= log2_table_size
        bits.append(3 * side if dense else log2_table_size)
        factors.append((1, 2**side, 4**side) if dense else _PRIMES)
        # a multiple of the level's size: adding the offset then only sets higher bits
        offset = -(-offset // 2 ** bits[-1]) * 2 ** bits[-1]
        offsets.append(offset)
        offset += 2 ** bits[-1]
    return HashGrid(resolutions, tuple(bits), tuple(offsets), tuple(factors))


@dataclasses.dataclass(frozen=True)
class Samples:
    """Packed samples: those of all rays behind one another, each ray's in order of distance.

    Attributes:
        t_start, t_end: [N] the part of its ray that a sample stands for.
        ray: [N] int64, index of its ray.
        offsets: [R + 1] int64; ray ``r`` has the samples ``offsets[r]`` to ``offsets[r + 1]``.
        contracted: whether the unit box holds all of space (``contraction``).
    """

    t_start: Tensor
    t_end: Tensor
    ray: Tensor
    offsets: Tensor
    contracted: bool = False

    @property
    def rays(self) -> int:
        return len(self.offsets) - 1

    def __len__(self) -> int:
        return len(self.ray)

    def select(self, keep: Tensor) -> Samples:
        """The samples of the mask ``keep`` [N], for the same rays."""
        index = keep.nonzero()[:, 0]
        before = torch.zeros(len(keep) + 1, dtype=torch.int64, device=keep.device)
        torch.cumsum(keep, 0, out=before[1:])
        return dataclasses.replace(
            self,
            t_start=self.t_start[index],
            t_end=self.t_end[index],
            ray=self.ray[index],
            offsets=before[self.offsets],
        )

    def positions(self, origins: Tensor, directions: Tensor) -> Tensor:
        """[N, 3] the middles of the samples in the unit box, for rays [R, 3]."""
        middle = (0.5 * (self.t_start + self.t_end))[:, None]
        x = torch.addcmul(
            origins.index_select(0, self.ray), directions.index_select(0, self.ray), middle
        )
        return contract(x) if self.contracted else x


Layers = Sequence[tuple[Tensor, Tensor]]
"""Weights [outputs, inputs] and biases [outputs] of linear layers with ReLUs between them."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A hash grid's radiance field as tensors, for kernels that evaluate it whole.

    Attributes:
        table, grid: of the hash grid.
        gradient: see ``Kernels.encode``.
        density: from the hash grid's features to the density's logarithm and the geometry features.
        colour: from geometry features and harmonics to the colour, before its activation.
        harmonics: from unit directions [R, 3] to what the colour takes of them, [R, H].
        linear: whether the colour is linear light, through ``exp``; else sRGB, through a sigmoid.
    """

    table: Tensor
    grid: HashGrid
    gradient: Tensor | None
    density: Layers
    colour: Layers
    harmonics: Callable[[Tensor], Tensor]
    linear: bool


class Radiance(Protocol):
    """What volume rendering asks of a field."""

    def encode(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """[N, F] features at [N, 3], or only their gradient where they are known."""
        ...

    def density_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[N] density per field unit of length and [N, G] geometry features."""
        ...

    def radiance(self, geometry: Tensor, d: Tensor, ray: Tensor | None = None) -> Tensor:
        """[N, 3] colour along the directions d [R, 3] of the samples' rays [N]."""
        ...

    def network(self) -> Network | None:
        """The field as tensors, where it is a hash grid's."""
        ...


class Surface(Protocol):
    """What the volume rendering of surfaces asks of a field."""

    @property
    def sharpness(self) -> Tensor:
        """[] how steeply light stops at the surface, per field unit."""
        ...

    def encode(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """See ``Radiance``."""
        ...

    def distance_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """[N] signed distance in field units and [N, G] geometry features."""
        ...

    def radiance(self, geometry: Tensor, d: Tensor, ray: Tensor | None = None) -> Tensor:
        """See ``Radiance``."""
        ...

    def surface_network(self) -> Network | None:
        """The field as tensors, where it is a hash grid's; its density's are the distance's."""
        ...


class Kernels(Protocol):
    """The operations that cost; all tensors lie on ``device``."""

    name: str
    device: torch.device

    def encode(
        self,
        x: Tensor,
        table: Tensor,
        grid: HashGrid,
        known: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> Tensor:
        """Interpolate the hash grid's features; differentiable in both tensors, twice.

        Args:
            x: [N, 3] in the unit box; what is outside is moved to its border.
            table: [entries, F].
            known: [N, L * F] the result, where it was computed before without its gradient.
            gradient: [entries, F] that the backward pass adds the table's gradient to. Autograd
                gets none then: a new tensor of the table's size in every step costs too much.

        Returns:
            [N, L * F], level by level.
        """
        ...

    def adam(
        self,
        table: Tensor,
        gradient: Tensor,
        first: Tensor,
        second: Tensor,
        rate: float,
        steps: int,
        betas: tuple[float, float],
        epsilon: float,
    ) -> None:
        """Take an Adam step (Kingma and Ba 2015) where there is a gradient; clear it there.

        What has none stays as it is, its averages included.

        Args:
            table, gradient, first, second: [entries, F] parameters, gradient, running averages of
                the gradient and of its square; all are changed.
            steps: how many steps were taken, this one included.
        """
        ...

    def march(
        self,
        origins: Tensor,
        directions: Tensor,
        near: Tensor,
        far: Tensor,
        occupied: Tensor,
        step: float,
        jitter: Tensor,
        reach: float = math.inf,
    ) -> Samples:
        """Sample rays in steps of equal length, where the grid is occupied.

        Sample ``k`` of a ray goes from ``near + (k + jitter) * step`` to one step further; it is
        there if the middle between is before ``far`` and in an occupied cell.

        With a finite ``reach`` the unit box holds all of space: points are contracted, and of the
        distances above, ``near`` and ``far`` included, those beyond ``reach`` (``contraction``).

        Args:
            origins, directions: [R, 3] field space, directions of length 1.
            near, far: [R] the part of each ray to look at; none where ``far <= near``.
            occupied: [G, G, G] bool, indexed x, y, z, over the unit box.
            step: field units.
            jitter: [R] in [0, 1).
            reach: field units.
        """
        ...

    def transmittance(self, density: Tensor, samples: Samples) -> Tensor:
        """[N] how much light gets through to the start of each sample; no gradient.

        Args:
            density: [N] per field unit of length.
        """
        ...

    def composite(
        self, density: Tensor, colour: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Volume rendering (Max 1995); differentiable in density and colour.

        Args:
            density: [N] per field unit of length.
            colour: [N, C].

        Returns:
            [R, C] premultiplied colour, [R] alpha, [N] weights.
        """
        ...

    def density(self, field: Radiance, x: Tensor) -> Tensor:
        """[N] a field's density per field unit of length at [N, 3] in the unit box; no gradient."""
        ...

    def render(
        self, field: Radiance, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor]:
        """Volume rendering of a field; differentiable in its parameters.

        Samples that light of less than ``OPAQUE`` reaches are left out.

        Args:
            origins, directions: [R, 3] rays.

        Returns:
            [R, 3] premultiplied colour, in the field's light, and [R] alpha.
        """
        ...

    def distance(self, field: Surface, x: Tensor) -> Tensor:
        """[N] a field's distance at [N, 3] in the unit box; differentiable in its parameters."""
        ...

    def render_surface(
        self, field: Surface, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Volume rendering of a signed distance (Wang et al. 2021); differentiable in its field.

        The section between the middles of two samples that touch lets through what is left of
        ``sigmoid(sharpness * distance)`` at its end beside its start, and all of the light where
        that grows. Its colour is the mean of those at its ends. A sample inside that none before
        touches stops light as if the surface were right before it: where the surface has moved
        into cells that were taken for empty, what is behind is seen instead of nothing, and
        learns. What matters to less than ``FAINT`` of a ray's light is left out.

        Args:
            origins, directions: [R, 3] rays.

        Returns:
            [R, 3] premultiplied colour, in the field's light; [R] alpha; and [R] the distance
            along the ray at which the light stops, premultiplied.
        """
        ...
