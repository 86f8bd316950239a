"""One small run of all kernels, which compiles what is compiled and shows whether it is right."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .interface import Kernels, Layers, Network, hash_grid

_RAYS, _POINTS, _CELLS = 8, 64, 8
_GEOMETRY, _WIDTH = 15, 24
_SHARPNESS = 20.0
_TOLERANCE = 1e-3


class _Field:
    """A small radiance field, or a surface with colour; see ``interface``."""

    def __init__(self, kernels: Kernels, network: Network):
        self._kernels, self._network = kernels, network

    def encode(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        network = self._network
        return self._kernels.encode(x, network.table, network.grid, known, network.gradient)

    def density_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        out = _through(self._network.density, features)
        return torch.exp(out[:, 0]), out[:, 1:]

    def radiance(self, geometry: Tensor, d: Tensor, ray: Tensor | None = None) -> Tensor:
        harmonics = self._network.harmonics(d)
        harmonics = harmonics if ray is None else harmonics[ray]
        out = _through(self._network.colour, torch.cat([geometry, harmonics], -1))
        return torch.exp(out) if self._network.linear else torch.sigmoid(out)

    def network(self) -> Network:
        return self._network

    @property
    def sharpness(self) -> Tensor:
        return self._network.table.new_tensor(_SHARPNESS)

    def distance_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        out = _through(self._network.density, features)
        return out[:, 0], out[:, 1:]

    def surface_network(self) -> Network:
        return self._network


def _through(layers: Layers, x: Tensor) -> Tensor:
    for weight, bias in layers[:-1]:
        x = torch.relu(torch.nn.functional.linear(x, weight, bias))
    return torch.nn.functional.linear(x, *layers[-1])


@torch.enable_grad()
def results(kernels: Kernels) -> dict[str, Tensor]:
    """What each operation gives for a tiny input, the same in every call, as float32.

    The calls have the types that training has, so nothing is left to compile then.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(kernels.device)

    # one level whose corners all have an entry of their own, one that is hashed
    grid = hash_grid(levels=2, coarsest=3, finest=20, log2_table_size=8)
    table = random(grid.entries, 2).requires_grad_()
    gathered = torch.zeros_like(table.detach())
    points = random(_POINTS, 3)
    features = kernels.encode(points, table, grid, None, gathered)
    features.square().sum().backward()
    found = {"encode": features.detach(), "encode's gradient": gathered.clone()}

    moved = table.detach().clone()
    first, second = torch.zeros_like(moved), torch.zeros_like(moved)
    kernels.adam(moved, gathered, first, second, 0.01, 1, (0.9, 0.99), 1e-15)
    # encoded again, because kernels may keep a copy that is made for reading
    found |= {"adam": moved, "encode after adam": kernels.encode(points, moved, grid)}

    origins = random(_RAYS, 3) * 0.2 + torch.tensor([-1.0, 0.4, 0.4], device=kernels.device)
    directions = torch.nn.functional.normalize(random(_RAYS, 3) * 0.2 + 0.5 - origins, dim=-1)
    occupied = random(_CELLS, _CELLS, _CELLS) < 0.4
    near, far = torch.full_like(origins[:, 0], 0.8), torch.full_like(origins[:, 0], 2.2)
    samples = kernels.march(origins, directions, near, far, occupied, 0.05, random(_RAYS))
    found["march"] = torch.bincount(samples.ray, samples.t_start, minlength=_RAYS)

    around = (torch.full_like(near, 0.05), torch.full_like(far, 9.0), occupied, 0.05, random(_RAYS))
    samples = kernels.march(origins, directions, *around, reach=1.0)
    found["march through contracted space"] = torch.bincount(
        samples.ray, samples.t_start.clamp(max=2.0), minlength=_RAYS
    )

    # of its own, as a middle on a cell's border may fall to either side
    every = torch.ones_like(occupied)
    samples = kernels.march(origins, directions, near, far, every, 0.05, random(_RAYS))
    density = (20.0 * random(len(samples))).requires_grad_()
    colour = random(len(samples), 3).requires_grad_()
    outputs = kernels.composite(density, colour, samples)
    torch.cat([each.flatten() for each in outputs]).square().sum().backward()
    found |= zip(("colour", "alpha", "weights"), outputs, strict=True)
    assert density.grad is not None
    assert colour.grad is not None
    found |= {"density's gradient": density.grad, "colour's gradient": colour.grad}
    found["transmittance"] = kernels.transmittance(density, samples)

    def layers(*sizes: int) -> list[tuple[Tensor, Tensor]]:
        pairs = itertools.pairwise(sizes)
        return [(random(o, i) - 0.5, random(o) - 0.5) for i, o in pairs]

    gathered = torch.zeros_like(gathered)
    network = Network(
        table,
        grid,
        gathered,
        layers(grid.levels * 2, _WIDTH, 1 + _GEOMETRY),
        layers(_GEOMETRY + 3, _WIDTH, _WIDTH, 3),
        torch.clone,
        linear=False,
    )
    parameters = [each for layer in (*network.density, *network.colour) for each in layer]
    for each in parameters:
        each.requires_grad_()
    found["density"] = kernels.density(_Field(kernels, network), random(_POINTS, 3))
    outputs = kernels.render(_Field(kernels, network), origins, directions, samples)
    torch.cat([each.flatten() for each in outputs]).square().sum().backward()
    found |= {"render's colour": outputs[0], "render's alpha": outputs[1]}
    found["render's gradient"] = torch.cat([each.grad.flatten() for each in parameters])
    found["render's gradient of the table"] = gathered.clone()

    for each in (*parameters, gathered):
        each.grad = None
    gathered.zero_()
    field = _Field(kernels, network)
    points = random(_POINTS, 3)
    with torch.no_grad():
        found["distance"] = kernels.distance(field, points)
    outputs = kernels.render_surface(field, origins, directions, samples)
    parts = [*outputs, kernels.distance(field, points)]
    torch.cat([each.flatten() for each in parts]).square().sum().backward()
    found |= zip(("surface's colour", "surface's alpha", "surface's place"), outputs, strict=True)
    found["surface's gradient"] = torch.cat([each.grad.flatten() for each in parameters])
    found["surface's gradient of the table"] = gathered
    return {name: value.detach().float().cpu() for name, value in found.items()}


def difference(kernels: Kernels, reference: Kernels) -> str:
    """The first operation whose result is not the reference's; empty where all are."""
    expected = results(reference)
    for name, value in results(kernels).items():
        if value.shape != expected[name].shape:
            return name
        if not torch.allclose(value, expected[name], rtol=_TOLERANCE, atol=_TOLERANCE):
            return name
    return ""
