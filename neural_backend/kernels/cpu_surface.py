"""The ``cpu`` kernels' signed distance and colour of a hash grid's surface, fused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import cpu_surface_loops as loops
from .cpu_radiance import Renderer, gradients, layout_of, pack, parameters, sizes
from .interface import FAINT, OPAQUE, Network, Samples

_Constants = Sequence[npt.NDArray]
_NO_COLOUR = np.empty((0, 3), np.float32)
_NO_FEATURES = np.empty((0, 0), np.float32)
_NO_RAY = np.empty(0, np.int64)
_NO_HARMONICS = np.empty((0, 0), np.float32)


def search(
    renderer: Renderer,
    network: Network,
    sharpness: float,
    constants: _Constants,
    origins: Tensor,
    directions: Tensor,
    samples: Samples,
) -> Tensor:
    """[N] bool: the samples at the ends of sections that matter to their rays."""
    weights, biases = zip(*network.density, strict=True)
    layout = layout_of(sizes(weights), ())
    buffers = renderer.borrow(layout)
    offsets = samples.offsets.numpy()
    kept = torch.zeros(len(samples), dtype=torch.bool)
    loops.search(
        renderer.parts(offsets),
        (origins.contiguous().numpy(), directions.contiguous().numpy()),
        (samples.t_start.numpy(), samples.t_end.numpy(), offsets, samples.contracted),
        network.table.detach().numpy(),
        constants[:4],
        (layout.table, pack(layout, weights, biases), len(weights), np.float32(sharpness)),
        (np.float32(FAINT), np.float32(OPAQUE)),
        buffers.scratch,
        kept.numpy(),
    )
    renderer.give_back(layout, buffers)
    return kept


def distance(renderer: Renderer, network: Network, constants: _Constants, x: Tensor) -> Tensor:
    """[N] distances at [N, 3]; differentiable in the network's parameters."""
    context = (renderer, network, constants, x, None, None)
    weights, biases = zip(*network.density, strict=True)
    keep = torch.is_grad_enabled()
    return _Evaluate.apply(context, keep, network.table, *weights, *biases)[0]


def evaluate(
    renderer: Renderer,
    network: Network,
    constants: _Constants,
    x: Tensor,
    ray: Tensor,
    directions: Tensor,
) -> tuple[Tensor, Tensor]:
    """[N] distances and [N, 3] colours at [N, 3], seen along the directions [R, 3] of rays [N]."""
    context = (renderer, network, constants, x, ray, network.harmonics(directions))
    weights, biases = parameters(network)
    keep = torch.is_grad_enabled()
    return _Evaluate.apply(context, keep, network.table, *weights, *biases)


class _Evaluate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, context, keep: bool, table: Tensor, *layers: Tensor):
        renderer, network, constants, x, ray, harmonics = context
        count, density = len(layers) // 2, len(network.density)
        weights, biases = layers[:count], layers[count:]
        layout = layout_of(sizes(weights[:density]), sizes(weights[density:]))
        net = (layout.table, pack(layout, weights, biases), density, network.linear)
        buffers = renderer.borrow(layout)
        features = _NO_FEATURES
        if keep:
            buffers.fit(len(x), layout, network.grid.levels)
            features = buffers.kept[1]
        x = x.contiguous()
        distance = torch.empty(len(x))
        colour, seen = torch.empty(0, 3), (_NO_RAY, _NO_HARMONICS)
        if ray is not None:
            colour = torch.empty(len(x), 3)
            seen = (ray.numpy(), harmonics.contiguous().numpy())
        loops.evaluate(
            x.numpy(),
            *seen,
            table.detach().numpy(),
            constants[:4],
            net,
            buffers.scratch,
            features,
            distance.numpy(),
            colour.numpy(),
        )
        if keep:
            ctx.used = (layout, net, buffers, seen, x)
            ctx.context = context
        else:
            renderer.give_back(layout, buffers)
        return distance, colour

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_distance: Tensor, of_colour: Tensor):
        renderer, network, constants, _, ray, _ = ctx.context
        layout, net, buffers, seen, x = ctx.used
        del ctx.used  # a second backward pass would find the next step's numbers
        buffers.gradients[:] = 0.0
        loops.evaluate_backward(
            *seen,
            net,
            buffers.kept[1],
            of_distance.contiguous().numpy(),
            _NO_COLOUR if ray is None else of_colour.contiguous().numpy(),
            buffers.scratch,
            buffers.gradients,
            buffers.of_features,
        )
        whole = np.array([[0], [len(x)]], np.int64)
        found = gradients(network, constants, layout, buffers, x.numpy(), *whole)
        renderer.give_back(layout, buffers)
        return None, None, *found
