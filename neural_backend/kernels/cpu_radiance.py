"""The ``cpu`` kernels' volume rendering of a hash grid's radiance field, as one operation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from . import cpu_loops
from . import cpu_radiance_loops as loops
from .cpu_vectors import PADDED, padded
from .interface import OPAQUE, Network, Samples

Floats = npt.NDArray[np.float32]
Whole = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """Where the layers' numbers are in flat arrays.

    Attributes:
        table: [layers, ...] see the columns in ``cpu_radiance_loops``.
        density: how many of the layers are the density's.
        weights, gradients, scratch: lengths of the arrays.
    """

    table: Whole
    density: int
    weights: int
    gradients: int
    scratch: int


@functools.lru_cache(maxsize=16)
def layout_of(density: tuple[tuple[int, int], ...], colour: tuple[tuple[int, int], ...]) -> Layout:
    """Lay out layers given as inputs and outputs; there may be none for the colour."""
    weights = gradients = scratch = 0
    rows = []
    for network in (density, colour):
        output = of_output = -1
        for inputs, outputs in network:
            deep, wide = padded(inputs), padded(outputs)
            if output < 0:
                output, of_output, scratch = scratch, scratch + deep, scratch + 2 * deep
            row = np.zeros(loops.COLUMNS, np.int64)
            row[[loops.IN, loops.PIN, loops.OUT, loops.POUT]] = inputs, deep, outputs, wide
            row[[loops.INPUT, loops.G_IN]] = output, of_output
            output, of_output, scratch = scratch, scratch + wide, scratch + 2 * wide
            row[[loops.OUTPUT, loops.G_OUT]] = output, of_output
            row[loops.WEIGHT] = weights
            row[loops.BACK] = row[loops.WEIGHT] + inputs * wide
            row[loops.BIAS] = row[loops.BACK] + outputs * deep
            weights = int(row[loops.BIAS]) + wide
            row[loops.GRADIENT] = gradients
            row[loops.BIAS_GRADIENT] = gradients + wide * deep
            gradients += wide * deep + wide
            rows.append(row)
    table = np.array(rows)
    table[:, [loops.INPUT, loops.G_IN, loops.OUTPUT, loops.G_OUT]] *= loops.BLOCK
    table[:, loops.ZEROS] = weights
    weights += int(table[:, loops.PIN].max())
    return Layout(table, len(density), weights, gradients, scratch * loops.BLOCK)


def pack(layout: Layout, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Floats:
    packed = np.zeros(layout.weights, np.float32)
    for row, weight, bias in zip(layout.table, weights, biases, strict=True):
        inputs, deep, outputs, wide = row[:4]
        values = weight.detach().numpy()
        at, back, start = row[loops.WEIGHT], row[loops.BACK], row[loops.BIAS]
        packed[at:back].reshape(inputs, wide)[:, :outputs] = values.T
        packed[back:start].reshape(outputs, deep)[:, :inputs] = values
        packed[start : start + outputs] = bias.detach().numpy()
    return packed


def unpack(layout: Layout, gradients: Tensor) -> list[Tensor]:
    """The gradients of all weights, then of all biases."""
    weights, biases = [], []
    for row in layout.table:
        inputs, deep, outputs, wide = row[:4].tolist()
        at, bias = row[[loops.GRADIENT, loops.BIAS_GRADIENT]].tolist()
        weights.append(gradients[at:bias].view(wide, deep)[:outputs, :inputs])
        biases.append(gradients[bias : bias + outputs])
    return weights + biases


class Buffers:
    """Memory that lasts from a forward to its backward pass, and then for the next step.

    New memory would cost more than what is done with it: the system hands it out page by page.
    """

    def __init__(self, threads: int, layout: Layout):
        self.scratch = np.zeros((threads, layout.scratch), np.float32)
        self.gradients = np.zeros((threads, layout.gradients), np.float32)
        self.kept: tuple[npt.NDArray, ...] = ()
        self.of_features = np.empty((0, 0, 0), np.float32)

    def fit(self, samples: int, layout: Layout, levels: int) -> None:
        """Make room for so many samples to be kept, with the features of so many levels."""
        # networks that are laid out alike may split their features into other levels
        if self.kept and len(self.kept[0]) >= samples and len(self.of_features) == levels:
            return
        samples += samples // 4
        row = layout.table[0]
        single = [np.empty(samples, np.float32) for _ in range(3)]
        self.kept = (
            np.empty((samples, 3), np.float32),
            np.empty((samples, row[loops.PIN]), np.float32),
            np.empty(samples, np.int64),
            *single,
        )
        self.of_features = np.empty((levels, samples, row[loops.IN] // levels), np.float32)


class Renderer:
    """See ``render``; keeps its memory between calls."""

    def __init__(self, threads: int):
        self.threads = threads
        self._free: dict[Layout, list[Buffers]] = {}

    def borrow(self, layout: Layout) -> Buffers:
        free = self._free.get(layout)
        return free.pop() if free else Buffers(self.threads, layout)

    def give_back(self, layout: Layout, buffers: Buffers) -> None:
        self._free.setdefault(layout, []).append(buffers)

    def parts(self, offsets: Whole) -> Whole:
        """[threads + 1] the first ray of each thread's part, and the end.

        Args:
            offsets: [R + 1] of the rays' samples.
        """
        # as many samples for each thread; the last part takes what is left
        shares = np.linspace(0, offsets[-1], self.threads + 1)[1:-1]
        return np.array([0, *np.searchsorted(offsets, shares), len(offsets) - 1], np.int64)

    def render(
        self,
        network: Network,
        constants: Sequence[npt.NDArray],
        origins: Tensor,
        directions: Tensor,
        samples: Samples,
    ) -> tuple[Tensor, Tensor]:
        """See ``interface.Kernels.render``.

        Args:
            constants: the hash grid's resolutions, factors, masks and offsets, and the order that
                deals the levels out to threads.
        """
        weights, biases = parameters(network)
        rays = (origins, directions, network.harmonics(directions))
        context = (self, network, constants, rays, samples)
        return _Render.apply(context, torch.is_grad_enabled(), network.table, *weights, *biases)

    def density(self, network: Network, constants: Sequence[npt.NDArray], x: Tensor) -> Tensor:
        """See ``interface.Kernels.density`` and ``render``."""
        weights, biases = parameters(network)
        count = len(network.density)
        layout = layout_of(sizes(weights[:count]), sizes(weights[count:]))
        buffers = self.borrow(layout)
        out = torch.empty(len(x))
        loops.density(
            x.contiguous().numpy(),
            network.table.detach().numpy(),
            constants[:4],
            (layout.table, pack(layout, weights, biases), count, network.linear),
            buffers.scratch,
            out.numpy(),
        )
        self.give_back(layout, buffers)
        return out


def renders(network: Network) -> bool:
    """Whether the loops are made for a network."""
    tensors = [network.table, *(each for layer in network.density for each in layer)]
    whole = network.density[-1][0].shape[0] % PADDED == 0
    return whole and all(each.dtype == torch.float32 for each in tensors)


def parameters(network: Network) -> tuple[list[Tensor], list[Tensor]]:
    """All layers' weights and biases, the density's first, as the loops take them."""
    # the density goes along with the geometry features, so that rows are copied whole
    first = torch.nn.functional.pad(network.colour[0][0], (1, 0))
    weights = [weight for weight, _ in network.density]
    weights += [first, *(weight for weight, _ in network.colour[1:])]
    return weights, [bias for _, bias in (*network.density, *network.colour)]


def sizes(weights: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((weight.shape[1], weight.shape[0]) for weight in weights)


def gradients(
    network: Network,
    constants: Sequence[npt.NDArray],
    layout: Layout,
    buffers: Buffers,
    x: Floats,
    starts: Whole,
    counts: Whole,
) -> list[Tensor | None]:
    """What a backward pass has gathered: the gradients of the table, all weights and all biases.

    The table's is None where the network has it put elsewhere.

    Args:
        x: [N, 3] samples, in the order of the features' gradients.
        starts, counts: [P] parts of them that have gradients.
    """
    diverted = network.gradient is not None
    of_table = network.gradient if diverted else torch.zeros(network.table.shape)
    of_features = buffers.of_features
    places = of_features.reshape(-1), of_features.shape[2], of_features[0].size
    cpu_loops.encode_backward(
        x, *places, starts, counts, constants[:4], constants[4], of_table.numpy()
    )
    of_layers = unpack(layout, torch.from_numpy(buffers.gradients.sum(0)))
    return [None if diverted else of_table, *of_layers]


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx, context, keep: bool, table: Tensor, *parameters: Tensor):
        renderer, network, constants, rays, samples = context
        layers, density = len(parameters) // 2, len(network.density)
        weights, biases = parameters[:layers], parameters[layers:]
        layout = layout_of(sizes(weights[:density]), sizes(weights[density:]))
        net = (layout.table, pack(layout, weights, biases), density)
        buffers = renderer.borrow(layout)
        buffers.fit(len(samples) if keep else 0, layout, network.grid.levels)
        count = samples.rays
        offsets = samples.offsets.numpy()
        parts = renderer.parts(offsets)
        counts = np.zeros(renderer.threads, np.int64)
        total, alpha = torch.zeros(count, 3), torch.zeros(count)
        loops.render(
            parts,
            tuple(each.contiguous().numpy() for each in rays),
            (samples.t_start.numpy(), samples.t_end.numpy(), offsets, samples.contracted),
            table.detach().numpy(),
            constants[:4],
            (*net, network.linear),
            np.float32(OPAQUE),
            buffers.scratch,
            total.numpy(),
            alpha.numpy(),
            keep,
            buffers.kept,
            counts,
        )
        if keep:
            ctx.used = (layout, net, buffers, rays[2], offsets[parts[:-1]], counts, total, alpha)
            ctx.context = context
        else:
            renderer.give_back(layout, buffers)
        return total, alpha

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_total: Tensor, grad_alpha: Tensor):
        renderer, network, constants, _, _ = ctx.context
        layout, net, buffers, harmonics, starts, counts, total, alpha = ctx.used
        del ctx.used  # a second backward pass would find the next step's numbers
        behind = (grad_total * total).sum(1) + grad_alpha * alpha
        buffers.gradients[:] = 0.0
        loops.render_backward(
            starts,
            counts,
            harmonics.contiguous().numpy(),
            (*net, network.linear),
            buffers.kept,
            grad_total.contiguous().numpy(),
            grad_alpha.contiguous().numpy(),
            behind.numpy(),
            buffers.scratch,
            buffers.gradients,
            buffers.of_features,
        )
        found = gradients(network, constants, layout, buffers, buffers.kept[0], starts, counts)
        renderer.give_back(layout, buffers)
        return None, None, *found
