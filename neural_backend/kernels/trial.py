"""One small run of all kernels, which compiles what is compiled and shows whether it is right."""

from __future__ import annotations

import torch
from torch import Tensor

from .interface import Kernels, hash_grid

_RAYS, _POINTS, _CELLS = 8, 64, 8
_TOLERANCE = 1e-3


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
    features = kernels.encode(random(_POINTS, 3), table, grid, None, gathered)
    features.square().sum().backward()
    found = {"encode": features.detach(), "encode's gradient": gathered.clone()}

    moved = table.detach().clone()
    first, second = torch.zeros_like(moved), torch.zeros_like(moved)
    kernels.adam(moved, gathered, first, second, 0.01, 1, (0.9, 0.99), 1e-15)
    found["adam"] = moved

    origins = random(_RAYS, 3) * 0.2 + torch.tensor([-1.0, 0.4, 0.4], device=kernels.device)
    directions = torch.nn.functional.normalize(random(_RAYS, 3) * 0.2 + 0.5 - origins, dim=-1)
    occupied = random(_CELLS, _CELLS, _CELLS) < 0.4
    near, far = torch.full_like(origins[:, 0], 0.8), torch.full_like(origins[:, 0], 2.2)
    samples = kernels.march(origins, directions, near, far, occupied, 0.05, random(_RAYS))
    found["march"] = torch.bincount(samples.ray, samples.t_start, minlength=_RAYS)

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
