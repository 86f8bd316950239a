"""The kernels for GPUs: CUDA C++ in the ``.cu`` files, compiled on the user's machine.

What they compute is tested without a GPU. How fast they are is not measured on any GPU yet: the
shapes of the launches, the half-precision table and the gathering of gradients follow what is
known of such devices.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakIdKeyDictionary

from .cuda_launcher import DeviceLauncher, Launcher
from .interface import OPAQUE, POOL, HashGrid, Radiance, Samples
from .reference import ReferenceKernels

# as the .cu files have them
_LEVELS_A_BLOCK, _RUN = 4, 8
_FEATURES = (1, 2, 4, 8)
_NUMBERS = 4
_NEVER = 1e9  # field units
_WARP, _MOST_CHANNELS = 32, 8

_THREADS = 256
_RAY_THREADS = 128  # rays differ in length: small blocks end sooner


@functools.lru_cache(maxsize=16)
def _levels(grid: HashGrid, device: torch.device) -> Tensor:
    """[L, 8] int32, as the kernels' ``Level``: resolution, factors, mask, offset and padding."""
    masks, padding = [2**bits - 1 for bits in grid.bits], [0] * grid.levels
    factors = zip(*grid.factors, strict=True)
    columns = (grid.resolutions, *factors, masks, grid.offsets, padding, padding)
    return torch.tensor(columns, device=device).t().to(torch.int32).contiguous()


def _aligned(*tensors: Tensor) -> bool:
    """Whether kernels can read and write several numbers of each at once."""
    return all(each.is_contiguous() and each.data_ptr() % 16 == 0 for each in tensors)


def _readable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that kernels can read."""
    return tensor if _aligned(tensor) else tensor.clone(memory_format=torch.contiguous_format)


def _parts(count: int, size: int) -> int:
    """How many parts of a size cover a count."""
    return -(-count // size)


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        table: Tensor,
        half: Tensor | None,
        grid: HashGrid,
        known: Tensor | None,
        gradient: Tensor | None,
        launch: Launcher,
    ) -> Tensor:
        x, features = x.contiguous(), table.shape[1]
        levels = _levels(grid, x.device)
        groups = _parts(grid.levels, _LEVELS_A_BLOCK)
        if known is None:
            out = torch.empty(len(x), grid.levels * features, device=x.device)
            blocks = (_parts(len(x) * _LEVELS_A_BLOCK, _THREADS), groups)
            name, read = ("encode", table) if half is None else ("encode_half", half)
            sizes = (len(x), grid.levels)
            launch(f"{name}_{features}", blocks, _THREADS, x, read, levels, out, *sizes)
        else:
            out = known.view_as(known)
        ctx.save_for_backward(x)
        ctx.shape, ctx.levels, ctx.gradient, ctx.launch = table.shape, levels, gradient, launch
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        out = torch.zeros(ctx.shape, device=x.device) if ctx.gradient is None else ctx.gradient
        features, levels = ctx.shape[1], ctx.levels
        runs = _parts(len(x), _RUN)
        blocks = (
            _parts(runs * _LEVELS_A_BLOCK, _THREADS),
            _parts(len(levels), _LEVELS_A_BLOCK),
        )
        inputs = (x, _readable(grad), levels)
        sizes = (len(x), len(levels))
        ctx.launch(f"encode_backward_{features}", blocks, _THREADS, *inputs, out, *sizes)
        own = out if ctx.gradient is None else None
        return None, own, None, None, None, None, None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        density: Tensor,
        colour: Tensor,
        t_start: Tensor,
        t_end: Tensor,
        offsets: Tensor,
        launch: Launcher,
    ):
        rays, channels = len(offsets) - 1, colour.shape[1]
        given = (density, colour, t_start, t_end, offsets)
        inputs = [each.contiguous() for each in given]
        total, alpha = density.new_empty(rays, channels), density.new_empty(rays)
        weights = density.new_empty(len(density))
        outputs = (total, alpha, weights)
        launch("composite", *_warps(rays), *inputs, *outputs, rays, channels)
        ctx.save_for_backward(*inputs, weights)
        ctx.launch = launch
        ctx.set_materialize_grads(False)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads: Tensor | None):
        inputs = ctx.saved_tensors
        density, colour, offsets = inputs[0], inputs[1], inputs[4]
        grad_density, grad_colour = torch.empty_like(density), torch.empty_like(colour)
        given = [None if each is None else each.contiguous() for each in grads]
        into = (grad_density, grad_colour)
        rays = len(offsets) - 1
        launch = ctx.launch
        launch("composite_backward", *_warps(rays), *inputs, *given, *into, rays, colour.shape[1])
        return grad_density, grad_colour, None, None, None, None


def _warps(rays: int) -> tuple[tuple[int, int], int]:
    """The launch of a warp a ray."""
    return (_parts(rays * _WARP, _RAY_THREADS), 1), _RAY_THREADS


def _offsets(counts: Tensor) -> tuple[Tensor, int]:
    """[R + 1] where each ray's samples begin, from how many there are, and how many in all.

    The one wait for the device: it must be known how much memory is needed.
    """
    offsets = counts.new_zeros(len(counts) + 1)
    torch.cumsum(counts, 0, out=offsets[1:])
    return offsets, int(offsets[-1])


class _HalfTable(NamedTuple):
    """A table's copy in half precision, and what the table was when they were alike."""

    numbers: Tensor
    address: int
    version: int


class CudaKernels(ReferenceKernels):
    """See ``interface.Kernels``; derivatives by the position are the reference's.

    A table that ``adam`` changes has a copy in half precision, which ``encode`` reads: only a
    half as many bytes have to be found in the caches. The table itself, its gradient and its
    averages stay in single precision, as small steps would be lost otherwise.

    Args:
        launch: runs the kernels, by default on the device.

    Raises:
        OSError, RuntimeError: they cannot be compiled or loaded.
    """

    name = "cuda"

    def __init__(self, device: torch.device, launch: Launcher | None = None):
        super().__init__(device)
        self._launch = launch or DeviceLauncher(device)
        self._halves: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def _half(self, table: Tensor) -> Tensor | None:
        """The table's copy in half precision, where nothing but ``adam`` has changed it since."""
        half = self._halves.get(table)
        if half is None or (half.address, half.version) != (table.data_ptr(), table._version):
            return None
        return half.numbers

    def encode(
        self,
        x: Tensor,
        table: Tensor,
        grid: HashGrid,
        known: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> Tensor:
        fits = x.dtype == table.dtype == torch.float32 and table.shape[1] in _FEATURES
        fits = fits and _aligned(table, table if gradient is None else gradient)
        if x.requires_grad or not fits:
            return super().encode(x, table, grid, known, gradient)
        half = self._half(table)
        return _Encode.apply(x, table, half, grid, known, gradient, self._launch)

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
        fits = table.dtype == torch.float32 and table.numel() % _NUMBERS == 0
        if not fits or not _aligned(table, gradient, first, second):
            super().adam(table, gradient, first, second, rate, steps, betas, epsilon)
            return
        half = self._half(table)
        if half is None:
            half = table.to(torch.float16)
            self._halves[table] = _HalfTable(half, table.data_ptr(), table._version)
        count = table.numel()
        blocks = (_parts(count // _NUMBERS, _THREADS), 1)
        tensors = (table, gradient, first, second, half)
        rates = (rate / (1.0 - betas[0] ** steps), 1.0 / (1.0 - betas[1] ** steps))
        self._launch("adam", blocks, _THREADS, *tensors, count, *rates, *betas, epsilon)

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
        size, rays = occupied.shape[0], len(near)
        if size % POOL or near.dtype != torch.float32:
            return super().march(origins, directions, near, far, occupied, step, jitter, reach)
        coarse = (size // POOL) ** 3
        words = torch.empty(coarse, dtype=torch.int64, device=near.device)
        cells = _readable(occupied)
        self._launch("pack", (_parts(coarse, _THREADS), 1), _THREADS, cells, words, size)
        given = (origins, directions, near, far, jitter)
        inputs = [*(each.contiguous() for each in given), words]
        blocks = (_parts(rays, _RAY_THREADS), 1)
        counts = torch.empty(rays, dtype=torch.int64, device=near.device)
        numbers = (rays, size, step, min(reach, _NEVER))
        self._launch("march_count", blocks, _RAY_THREADS, *inputs, counts, *numbers)
        offsets, total = _offsets(counts)
        t_start, t_end = near.new_empty(total), near.new_empty(total)
        ray = counts.new_empty(total)
        outputs = (offsets, t_start, t_end, ray)
        self._launch("march_write", blocks, _RAY_THREADS, *inputs, *outputs, *numbers)
        return Samples(t_start, t_end, ray, offsets, math.isfinite(reach))

    @torch.no_grad()
    def transmittance(self, density: Tensor, samples: Samples) -> Tensor:
        if density.dtype != torch.float32:
            return super().transmittance(density, samples)
        out = density.new_empty(len(density))
        given = (density, samples.t_start, samples.t_end, samples.offsets)
        inputs = (each.contiguous() for each in given)
        self._launch("transmittance", *_warps(samples.rays), *inputs, out, samples.rays)
        return out

    def composite(
        self, density: Tensor, colour: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor, Tensor]:
        fits = density.dtype == colour.dtype == torch.float32
        if not fits or colour.shape[1] > _MOST_CHANNELS:
            return super().composite(density, colour, samples)
        spans = (samples.t_start, samples.t_end, samples.offsets)
        return _Composite.apply(density, colour, *spans, self._launch)

    @torch.no_grad()
    def _visible(
        self, field: Radiance, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Samples, Tensor]:
        # All at once: looking at some first would save work, but wait for the device thrice more.
        # Light only gets less along a ray, so the visible samples are the first ones.
        features = field.encode(samples.positions(origins, directions))
        density = field.density_of(features)[0].contiguous()
        if density.dtype != torch.float32:
            return super()._visible(field, origins, directions, samples)
        rays = samples.rays
        spans = (samples.t_start, samples.t_end, samples.offsets)
        counts = torch.empty(rays, dtype=torch.int64, device=density.device)
        self._launch("count_visible", *_warps(rays), density, *spans, counts, rays, OPAQUE)
        offsets, total = _offsets(counts)
        t_start, t_end = density.new_empty(total), density.new_empty(total)
        ray, place = counts.new_empty(total), counts.new_empty(total)
        outputs = (t_start, t_end, ray, place)
        self._launch("take_first", *_warps(rays), *spans, offsets, *outputs, rays)
        kept = Samples(t_start, t_end, ray, offsets, samples.contracted)
        return kept, features.index_select(0, place)
