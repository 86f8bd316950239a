"""The kernels in plain torch, for every device: the definition, and the oracle of the others."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from .contraction import contract, contract_distance, expand_distance
from .interface import FAINT, OPAQUE, POOL, SURFACE_DEPTH, HashGrid, Radiance, Samples, Surface

_FIRST_SAMPLES = 16


class _WeightedSum(torch.autograd.Function):
    """[M, F] sum over corners: ``table[index] * weight``, for index and weight [M, 8].

    Autograd's own backward of a gather is several times slower on a CPU. The backward pass is
    made of differentiable operations, so that second derivatives work too.
    """

    @staticmethod
    def forward(ctx, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weight)
        if table.is_cpu and table.dtype == torch.float32:
            return torch.nn.functional.embedding_bag(
                index, table, mode="sum", per_sample_weights=weight
            )
        return torch.einsum("mcf,mc->mf", table[index.long()], weight)

    @staticmethod
    def backward(ctx, grad: Tensor):
        table, index, weight = ctx.saved_tensors
        grad_table = grad_weight = None
        index = index.long()
        if ctx.needs_input_grad[0]:
            features = table.shape[1]
            flat = (index * features).view(-1)
            grad_table = torch.zeros_like(table).view(-1)
            for feature in range(features):
                source = (weight * grad[:, feature, None]).view(-1)
                if grad.requires_grad or weight.requires_grad:
                    grad_table = grad_table.scatter_add(0, flat + feature, source)
                else:
                    # a feature's entries, seen from its first one, have the same places
                    grad_table[feature:].scatter_add_(0, flat, source)
            grad_table = grad_table.view_as(table)
        if ctx.needs_input_grad[2]:
            grad_weight = torch.einsum("mcf,mf->mc", table[index], grad)
        return grad_table, None, grad_weight


class _Divert(torch.autograd.Function):
    """The identity, whose gradient is added to another tensor."""

    @staticmethod
    def forward(ctx, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor):
        ctx.gradient += grad
        return None, None


def _signed(value: int) -> int:
    """The 32-bit integer with the same bits: torch's products wrap around like unsigned ones."""
    return value - 2**32 if value >= 2**31 else value


@functools.lru_cache(maxsize=16)
def _constants(grid: HashGrid, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
    resolution = torch.tensor(grid.resolutions, dtype=dtype, device=device)[:, None]
    factors = [[_signed(row[axis]) for row in grid.factors] for axis in range(3)]
    factor = torch.tensor(factors, dtype=torch.int32, device=device)[:, :, None]
    mask = torch.tensor([2**bits - 1 for bits in grid.bits], dtype=torch.int32, device=device)
    offset = torch.tensor(grid.offsets, dtype=torch.int32, device=device)
    return resolution, factor, mask[:, None], offset[:, None]


def corners(x: Tensor, grid: HashGrid) -> tuple[Tensor, Tensor]:
    """The table entries around positions and their trilinear weights.

    Args:
        x: [N, 3].

    Returns:
        [L, N, 8] int32 entries and [L, N, 8] weights; corner ``4 z + 2 y + x``.
    """
    resolution, factor, mask, offset = _constants(grid, x.device, x.dtype)
    # N innermost: every operation then runs over long contiguous rows
    scaled = x.clamp(0.0, 1.0).t().contiguous()[:, None] * resolution  # [3, L, N]
    cell = torch.minimum(scaled.detach(), resolution - 1.0).to(torch.int32)
    fraction = scaled - cell
    low = cell * factor
    entry = torch.stack([low, low + factor], 1) & mask  # [3, 2, L, N]
    weight = torch.stack([1.0 - fraction, fraction], 1)
    entry[0] += offset
    entries = (entry[2][:, None] ^ entry[1])[:, :, None] ^ entry[0]  # [2, 2, 2, L, N]
    weights = (weight[2][:, None] * weight[1])[:, :, None] * weight[0]
    shape = (8, grid.levels, len(x))
    return (
        entries.view(shape).permute(1, 2, 0).contiguous(),
        weights.view(shape).permute(1, 2, 0).contiguous(),
    )


class ReferenceKernels:
    """See ``interface.Kernels``."""

    name = "reference"

    def __init__(self, device: torch.device):
        self.device = device

    def encode(
        self,
        x: Tensor,
        table: Tensor,
        grid: HashGrid,
        known: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> Tensor:
        if gradient is not None and torch.is_grad_enabled():
            table = _Divert.apply(table, gradient)
        entries, weights = corners(x, grid)
        features = _WeightedSum.apply(table, entries.view(-1, 8), weights.view(-1, 8))
        features = features.view(grid.levels, len(x), table.shape[1])
        return features.transpose(0, 1).reshape(len(x), grid.levels * table.shape[1])

    @torch.no_grad()
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
        at = gradient.nonzero(as_tuple=True)
        grad = gradient[at]
        average = torch.lerp(grad, first[at], betas[0])
        square = torch.lerp(grad * grad, second[at], betas[1])
        first[at], second[at] = average, square
        spread = (square / (1.0 - betas[1] ** steps)).sqrt_().add_(epsilon)
        table[at] -= rate / (1.0 - betas[0] ** steps) * average / spread
        gradient[at] = 0.0

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
        size = occupied.shape[0]
        contracted = math.isfinite(reach)
        if contracted:
            near, far = contract_distance(near, reach), contract_distance(far, reach)
        start = near + jitter * step
        longest = float((far - start).max()) if len(near) else 0.0
        # First whole blocks of steps against a coarse grid, then the steps of what is left. A
        # coarse cell tells of its neighbours too, so a block may reach one cell to either side;
        # where space is contracted a step's length in cells varies, so there each is a block.
        pool = POOL if size % POOL == 0 else 1
        coarse = _coarse(occupied, pool)
        block = 1 if contracted else max(int(2.0 * pool / size / step), 1)
        blocks = max(math.ceil(longest / (block * step)), 0)
        middle = (torch.arange(blocks, device=near.device) + 0.5) * (block * step)
        distance = start[:, None] + middle
        ahead = distance - 0.5 * block * step < far[:, None]
        near_by = ahead & _look_up(coarse, origins[:, None], directions[:, None], distance, reach)
        ray, number = near_by.nonzero(as_tuple=True)

        steps = torch.arange(block, device=near.device)
        begin = start[ray, None] + (number[:, None] * block + steps) * step
        distance = begin + 0.5 * step
        inside = distance < far[ray, None]
        inside &= _look_up(occupied, origins[ray, None], directions[ray, None], distance, reach)
        t_start = begin[inside]
        t_end = t_start + step
        if contracted:
            t_start, t_end = expand_distance(t_start, reach), expand_distance(t_end, reach)
        ray = ray[:, None].expand(-1, block)[inside]
        offsets = torch.zeros(len(near) + 1, dtype=torch.int64, device=near.device)
        torch.cumsum(torch.bincount(ray, minlength=len(near)), 0, out=offsets[1:])
        return Samples(t_start, t_end, ray, offsets, contracted)

    @torch.no_grad()
    def transmittance(self, density: Tensor, samples: Samples) -> Tensor:
        return torch.exp(-_depth_before(density * (samples.t_end - samples.t_start), samples))

    def composite(
        self, density: Tensor, colour: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor, Tensor]:
        depth = density * (samples.t_end - samples.t_start)
        weights = torch.exp(-_depth_before(depth, samples)) * -torch.expm1(-depth)
        rays = samples.rays
        zeros = torch.zeros(rays, colour.shape[1], dtype=colour.dtype, device=colour.device)
        total = zeros.index_add(0, samples.ray, weights[:, None] * colour)
        alpha = torch.zeros_like(zeros[:, 0]).index_add(0, samples.ray, weights)
        return total, alpha, weights

    @torch.no_grad()
    def density(self, field: Radiance, x: Tensor) -> Tensor:
        return field.density_of(field.encode(x))[0]

    def render(
        self, field: Radiance, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor]:
        samples, features = self._visible(field, origins, directions, samples)
        features = field.encode(samples.positions(origins, directions), features)
        density, geometry = field.density_of(features)
        colour = field.radiance(geometry, directions, samples.ray)
        total, alpha, _ = self.composite(density, colour, samples)
        return total, alpha

    def distance(self, field: Surface, x: Tensor) -> Tensor:
        return field.distance_of(field.encode(x))[0]

    def render_surface(
        self, field: Surface, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor, Tensor]:
        kept, features = self._mattering(field, origins, directions, samples)
        enters = ~_touches(samples).roll(1)[kept]
        samples = samples.select(kept)
        distance, colour = self._surface_at(field, origins, directions, samples, features)
        touches = _touches(samples)
        entry, section = _surface_depths(distance, touches, enters, field.sharpness)
        middle = 0.5 * (samples.t_start + samples.t_end)
        emitted = torch.cat([colour, middle[:, None]], 1)
        emitted = torch.where(touches[:, None], 0.5 * (emitted + emitted.roll(-1, 0)), emitted)
        density = (entry + section) / (samples.t_end - samples.t_start)
        total, alpha, _ = self.composite(density, emitted, samples)
        return total[:, :3], alpha, total[:, 3]

    @torch.no_grad()
    def _mattering(
        self, field: Surface, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor | None]:
        """[N] bool: the ends of sections that matter; and the features of these, if at hand."""
        features = field.encode(samples.positions(origins, directions))
        distance, _ = field.distance_of(features)
        touches = _touches(samples)
        entry, section = _surface_depths(distance, touches, ~touches.roll(1), field.sharpness)
        light = torch.exp(-_depth_before(entry + section, samples))
        crosses = light * torch.exp(-entry) * -torch.expm1(-section) > FAINT
        kept = crosses | (light * -torch.expm1(-entry) > FAINT)
        kept[1:] |= crosses[:-1]
        return kept, features[kept]

    def _surface_at(
        self,
        field: Surface,
        origins: Tensor,
        directions: Tensor,
        samples: Samples,
        features: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """[N] distances and [N, 3] colours at samples, whose features may be at hand."""
        features = field.encode(samples.positions(origins, directions), features)
        distance, geometry = field.distance_of(features)
        return distance, field.radiance(geometry, directions, samples.ray)

    @torch.no_grad()
    def _visible(
        self, field: Radiance, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Samples, Tensor]:
        """The samples that are not hidden behind others, and their [N, F] encoded features.

        Each ray's first samples are looked at first, and the others only where those let light
        through.
        """

        def look(at: Samples) -> tuple[Tensor, Tensor]:
            features = field.encode(at.positions(origins, directions))
            return field.density_of(features)[0], features

        rank = torch.arange(len(samples), device=samples.ray.device) - samples.offsets[samples.ray]
        early = rank < _FIRST_SAMPLES
        first = samples.select(early)
        density, features = look(first)
        depth = torch.zeros(samples.rays, dtype=density.dtype, device=density.device)
        depth.index_add_(0, first.ray, density * (first.t_end - first.t_start))
        late = (depth < -math.log(OPAQUE))[samples.ray] & ~early
        kept = first
        if bool(late.any()):
            behind, behind_features = look(samples.select(late))
            # both parts in the order of the rays again
            order = torch.cat([early.nonzero()[:, 0], late.nonzero()[:, 0]]).argsort()
            density = torch.cat([density, behind]).index_select(0, order)
            features = torch.cat([features, behind_features]).index_select(0, order)
            kept = samples.select(early | late)
        seen = self.transmittance(density, kept) > OPAQUE
        return kept.select(seen), features.index_select(0, seen.nonzero()[:, 0])


def pooled(cells: Tensor, factor: int) -> Tensor:
    """[G / factor, ...] bool: which coarse cells hold any of the cells [G, G, G]."""
    size = cells.shape[0] // factor
    # by hand, because not every torch can pool in three dimensions on mps
    parts = cells.reshape(size, factor, size, factor, size, factor)
    return parts.any(5).any(3).any(1)


def _coarse(occupied: Tensor, pool: int) -> Tensor:
    """[G / pool, ...] bool: whether a coarse cell or one of its neighbours holds anything."""
    coarse = pooled(occupied, pool)
    size = coarse.shape[0]
    for axis in range(3):
        grown = coarse.clone()
        grown.narrow(axis, 1, size - 1).logical_or_(coarse.narrow(axis, 0, size - 1))
        grown.narrow(axis, 0, size - 1).logical_or_(coarse.narrow(axis, 1, size - 1))
        coarse = grown
    return coarse


def _look_up(
    grid: Tensor, origins: Tensor, directions: Tensor, distance: Tensor, reach: float
) -> Tensor:
    """[A, B] the grid's cells at distances [A, B], contracted ones, along rays [A, 1, 3]."""
    size = grid.shape[0]
    flat = None
    if math.isfinite(reach):
        distance = expand_distance(distance, reach)
    axes = [torch.addcmul(origins[..., k], directions[..., k], distance) for k in range(3)]
    if math.isfinite(reach):
        axes = list(contract(torch.stack(axes, -1)).unbind(-1))
    for x in axes:
        cell = (x * size).to(torch.int32).clamp_(0, size - 1)
        flat = cell if flat is None else flat * size + cell
    assert flat is not None
    return grid.view(-1)[flat]


def _touches(samples: Samples) -> Tensor:
    """[N] bool: whether a sample ends where the next one of its ray begins."""
    gap = samples.t_start.roll(-1) - samples.t_end
    near = gap.abs() < 0.25 * (samples.t_end - samples.t_start)
    return near & (samples.ray == samples.ray.roll(-1))


def _surface_depths(
    distance: Tensor, touches: Tensor, enters: Tensor, sharpness: Tensor
) -> tuple[Tensor, Tensor]:
    """[N] optical depths: up to each sample's middle, and from there to the next one's.

    Args:
        touches: [N] bool, whether there is a section to the next one.
        enters: [N] bool, whether there is none before. The light comes from space that was taken
            for empty, and has got as far as a surface at the most.
    """
    passed = torch.nn.functional.softplus(-sharpness * distance)
    section = torch.where(touches, (passed.roll(-1) - passed).clamp(min=0.0), 0.0)
    return torch.where(enters, (passed - SURFACE_DEPTH).clamp(min=0.0), 0.0), section


def _depth_before(depth: Tensor, samples: Samples) -> Tensor:
    """[N] the optical depth in front of each sample, from each sample's own [N]."""
    counts = samples.offsets[1:] - samples.offsets[:-1]
    longest = int(counts.max()) if len(counts) else 0
    place = torch.arange(len(samples), device=depth.device)
    place = place + samples.ray * longest - samples.offsets[samples.ray]
    # One row a ray: a running sum over all rays at once would lose the small differences
    rows = torch.zeros(samples.rays * longest, dtype=depth.dtype, device=depth.device)
    rows = rows.scatter(0, place, depth).view(samples.rays, longest)
    return (rows.cumsum(1) - rows).view(-1)[place]
