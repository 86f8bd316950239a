"""The kernels for CPUs: numba's loops, which need no compiler on the person's machine."""

from __future__ import annotations

import functools
import math

import numba
import numpy as np
import torch
from torch import Tensor

from . import cpu_loops, cpu_radiance, cpu_surface
from .contraction import contract_distance
from .interface import POOL, HashGrid, Radiance, Samples, Surface
from .reference import ReferenceKernels

_NEVER = 1e9  # field units


@functools.lru_cache(maxsize=16)
def _constants(grid: HashGrid, threads: int) -> tuple[np.ndarray, ...]:
    """Resolutions, factors, masks, offsets, and the order that deals levels out to threads."""
    masks = [2**bits - 1 for bits in grid.bits]
    # numba gives each thread a run of turns: dealt out, each gets coarse and fine levels alike
    order = [level for first in range(threads) for level in range(first, grid.levels, threads)]
    return (
        np.array(grid.resolutions, np.int64),
        np.array(grid.factors, np.uint32),
        np.array(masks, np.uint32),
        np.array(grid.offsets, np.int64),
        np.array(order, np.int64),
    )


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        table: Tensor,
        grid: HashGrid,
        known: Tensor | None,
        gradient: Tensor | None,
    ) -> Tensor:
        constants = _constants(grid, torch.get_num_threads())
        x = x.contiguous()
        if known is None:
            out = torch.empty(len(x), grid.levels * table.shape[1])
            cpu_loops.encode(x.numpy(), table.detach().numpy(), constants[:4], out.numpy())
        else:
            out = known.view_as(known)
        ctx.save_for_backward(x)
        ctx.shape, ctx.constants, ctx.gradient = table.shape, constants, gradient
        return out

    @staticmethod
    def backward(ctx, grad: Tensor):
        (x,) = ctx.saved_tensors
        diverted = ctx.gradient is not None
        out = ctx.gradient if diverted else torch.zeros(ctx.shape)
        grad = grad.contiguous()
        whole = np.array([[0], [len(x)]], np.int64)
        places = grad.view(-1).numpy(), grad.shape[1], out.shape[1]
        grid, order = ctx.constants[:4], ctx.constants[4]
        cpu_loops.encode_backward(x.numpy(), *places, *whole, grid, order, out.numpy())
        return None, None if diverted else out, None, None, None


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, density: Tensor, colour: Tensor, length: Tensor, offsets: Tensor):
        rays, channels = len(offsets) - 1, colour.shape[1]
        total, alpha = torch.empty(rays, channels), torch.empty(rays)
        weights = torch.empty(len(density))
        inputs = [each.contiguous() for each in (density, colour, length, offsets)]
        arrays = [each.detach().numpy() for each in inputs]
        cpu_loops.composite(*arrays, total.numpy(), alpha.numpy(), weights.numpy())
        ctx.save_for_backward(*inputs, weights)
        return total, alpha, weights

    @staticmethod
    def backward(ctx, grad_total: Tensor, grad_alpha: Tensor, grad_weights: Tensor):
        arrays = [each.detach().numpy() for each in ctx.saved_tensors]
        density, colour = ctx.saved_tensors[:2]
        grad_density, grad_colour = torch.empty_like(density), torch.empty_like(colour)
        grads = (grad_total, grad_alpha, grad_weights)
        cpu_loops.composite_backward(
            *arrays,
            *(each.contiguous().numpy() for each in grads),
            grad_density.numpy(),
            grad_colour.numpy(),
        )
        return grad_density, grad_colour, None, None


class CpuKernels(ReferenceKernels):
    """See ``interface.Kernels``; derivatives by the position are the reference's."""

    name = "cpu"

    def __init__(self, device: torch.device):
        super().__init__(device)
        self._places = np.empty(0, np.int32)
        threads = torch.get_num_threads()
        self._renderer = cpu_radiance.Renderer(threads)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        # starting its threads, numba gives torch, with which it may share OpenMP, as many
        torch.set_num_threads(threads)

    def encode(
        self,
        x: Tensor,
        table: Tensor,
        grid: HashGrid,
        known: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> Tensor:
        if x.requires_grad or x.dtype != torch.float32:
            return super().encode(x, table, grid, known, gradient)
        return _Encode.apply(x, table, grid, known, gradient)

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
        tensors = (table, gradient, first, second)
        arrays = [each.detach().view(-1).numpy() for each in tensors]
        arrays.append(arrays[1].view(np.uint32))
        rates = (rate / (1.0 - betas[0] ** steps), 1.0 / (1.0 - betas[1] ** steps))
        cpu_loops.adam(*arrays, *(np.float32(each) for each in (*rates, *betas, epsilon)))

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
        contracted = math.isfinite(reach)
        whole_cells = occupied.shape[0] % (2 * POOL if contracted else POOL) == 0
        if not whole_cells or near.dtype != torch.float32:
            return super().march(origins, directions, near, far, occupied, step, jitter, reach)
        if contracted:
            near, far = contract_distance(near, reach), contract_distance(far, reach)
        cells = occupied.contiguous().numpy()
        coarse = np.empty([size // POOL for size in cells.shape], np.bool_)
        cpu_loops.coarsen(cells, coarse)
        start = near + jitter * step
        longest = float((far - start).max()) if len(near) else 0.0
        places = self._scratch(len(near), max(math.ceil(longest / step), 0) + 1)
        rays = [each.contiguous().numpy() for each in (origins, directions, start, far)]
        offsets = torch.zeros(len(near) + 1, dtype=torch.int64)
        # the loops' arithmetic knows no infinity
        steps = (np.float32(step), np.float32(min(reach, _NEVER)), contracted)
        cpu_loops.march(*rays, cells, coarse, steps, places, offsets.numpy()[1:])
        torch.cumsum(offsets, 0, out=offsets)
        total = int(offsets[-1])
        t_start, t_end = torch.empty(total), torch.empty(total)
        ray = torch.empty(total, dtype=torch.int64)
        into = (offsets.numpy(), t_start.numpy(), t_end.numpy(), ray.numpy())
        cpu_loops.gather_steps(start.numpy(), steps, places, *into)
        return Samples(t_start, t_end, ray, offsets, contracted)

    def _scratch(self, rays: int, steps: int) -> np.ndarray:
        """[rays, steps] kept between calls: new memory would cost more than marching does."""
        if self._places.size < rays * steps:
            self._places = np.empty(rays * steps, np.int32)
        return self._places[: rays * steps].reshape(rays, steps)

    @torch.no_grad()
    def transmittance(self, density: Tensor, samples: Samples) -> Tensor:
        out = torch.empty(len(density))
        length = (samples.t_end - samples.t_start).numpy()
        offsets = samples.offsets.numpy()
        cpu_loops.transmittance(density.detach().contiguous().numpy(), length, offsets, out.numpy())
        return out

    def composite(
        self, density: Tensor, colour: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor, Tensor]:
        if density.dtype != torch.float32:
            return super().composite(density, colour, samples)
        length = samples.t_end - samples.t_start
        return _Composite.apply(density, colour, length, samples.offsets)

    @torch.no_grad()
    def density(self, field: Radiance, x: Tensor) -> Tensor:
        network = field.network()
        if network is None or not cpu_radiance.renders(network):
            return super().density(field, x)
        return self._renderer.density(network, _constants(network.grid, 1), x)

    def render(
        self, field: Radiance, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor]:
        network = field.network()
        if network is None or not cpu_radiance.renders(network):
            return super().render(field, origins, directions, samples)
        constants = _constants(network.grid, self._renderer.threads)
        return self._renderer.render(network, constants, origins, directions, samples)

    def distance(self, field: Surface, x: Tensor) -> Tensor:
        network = field.surface_network()
        if network is None or not cpu_radiance.renders(network) or x.requires_grad:
            return super().distance(field, x)
        constants = _constants(network.grid, self._renderer.threads)
        return cpu_surface.distance(self._renderer, network, constants, x)

    @torch.no_grad()
    def _mattering(
        self, field: Surface, origins: Tensor, directions: Tensor, samples: Samples
    ) -> tuple[Tensor, Tensor | None]:
        network = field.surface_network()
        if network is None or not cpu_radiance.renders(network):
            return super()._mattering(field, origins, directions, samples)
        constants = _constants(network.grid, 1)
        rays, sharpness = (origins, directions), float(field.sharpness)
        kept = cpu_surface.search(self._renderer, network, sharpness, constants, *rays, samples)
        return kept, None

    def _surface_at(
        self,
        field: Surface,
        origins: Tensor,
        directions: Tensor,
        samples: Samples,
        features: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        network = field.surface_network()
        if network is None or not cpu_radiance.renders(network):
            return super()._surface_at(field, origins, directions, samples, features)
        constants = _constants(network.grid, self._renderer.threads)
        x = samples.positions(origins, directions)
        return cpu_surface.evaluate(self._renderer, network, constants, x, samples.ray, directions)
