"""The cpu kernels do what the reference does, forwards and backwards."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from neural_backend.config import TrainingSettings
from neural_backend.fields import mlp
from neural_backend.fields.radiance import RadianceField
from neural_backend.fields.surface_radiance import SurfaceRadianceField
from neural_backend.kernels import Samples, cpu_vectors, hash_grid
from neural_backend.kernels.cpu import CpuKernels
from neural_backend.kernels.interface import COLOUR_RANGE
from neural_backend.kernels.reference import ReferenceKernels

DEVICE = torch.device("cpu")
reference, cpu = ReferenceKernels(DEVICE), CpuKernels(DEVICE)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("features", [1, 2, 4])
def test_encode(features: int) -> None:
    grid = hash_grid(levels=5, coarsest=4, finest=300, log2_table_size=12)
    table = (random(grid.entries, features) - 0.5).requires_grad_()
    edges = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-0.1, 0.5, 1.2], [1.0, 0.0, 0.25]])
    x = torch.cat([edges, random(700, 3, seed=1)])
    upstream = random(len(x), grid.levels * features, seed=2)
    results = []
    for kernels in (reference, cpu):
        features_at = kernels.encode(x, table, grid)
        (gradient,) = torch.autograd.grad(features_at, table, upstream)
        results.append((features_at.detach(), gradient))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert results[0][1].abs().max() > 0.1


def rays(count: int) -> tuple[torch.Tensor, ...]:
    """Rays through the unit box, some along its axes, with their spans in it."""
    origins = 0.5 + 1.5 * torch.nn.functional.normalize(random(count, 3) - 0.5, dim=-1)
    directions = torch.nn.functional.normalize(random(count, 3, seed=1) - origins, dim=-1)
    origins[0], directions[0] = torch.tensor([-1.0, 0.3, 0.6]), torch.tensor([1.0, 0.0, 0.0])
    origins[1], directions[1] = torch.tensor([0.3, 0.6, 2.0]), torch.tensor([0.0, 0.0, -1.0])
    first, second = (0.0 - origins) / directions, (1.0 - origins) / directions
    near = torch.minimum(first, second).nan_to_num(-1e9).amax(1).clamp(min=0.0)
    far = torch.maximum(first, second).nan_to_num(1e9).amin(1)
    return origins, directions, near, far


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_march(share: float) -> None:
    origins, directions, near, far = rays(300)
    far[5] = near[5]  # a ray that misses
    occupied = random(32, 32, 32, seed=3) < share
    jitter = random(300, seed=4)
    expected = reference.march(origins, directions, near, far, occupied, 0.01, jitter)
    found = cpu.march(origins, directions, near, far, occupied, 0.01, jitter)
    # a middle on a cell's border may fall to either side
    differing = (expected.offsets.diff() != found.offsets.diff()).sum()
    assert differing <= 3
    if share == 0.0:
        assert len(found) == 0
        return
    assert len(found) > 100
    for ray in range(300):
        mine = found.t_start[found.offsets[ray] : found.offsets[ray + 1]]
        theirs = expected.t_start[expected.offsets[ray] : expected.offsets[ray + 1]]
        if len(mine) == len(theirs):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.ray, torch.repeat_interleave(found.offsets.diff()))


@pytest.mark.parametrize("share", [0.02, 0.3, 1.0])
def test_march_through_contracted_space(share: float) -> None:
    """From cameras within and around the inner region, to far beyond it."""
    origins, directions, near, far = rays(300)
    origins[100:200] = 0.4 + 0.2 * random(100, 3, seed=7)
    near, far = torch.full_like(near, 0.05), torch.full_like(far, 40.0)
    occupied = random(32, 32, 32, seed=3) < share
    arguments = (origins, directions, near, far, occupied, 0.01, random(300, seed=4), 0.9)
    expected, found = reference.march(*arguments), cpu.march(*arguments)
    differing = (expected.offsets.diff() != found.offsets.diff()).nonzero()[:, 0]
    # a middle on a cell's border may fall to either side
    assert len(differing) <= 6
    assert expected.contracted
    assert found.contracted
    alike = [~torch.isin(each.ray, differing) for each in (found, expected)]
    for name in ("t_start", "t_end", "ray"):
        mine, theirs = (
            getattr(each, name)[keep] for each, keep in zip((found, expected), alike, strict=True)
        )
        # the distances of the farthest samples are differences of what is nearly infinite
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)
    lengths = found.t_end - found.t_start
    near_by = found.t_end < 0.9
    torch.testing.assert_close(
        lengths[near_by], torch.full_like(lengths[near_by], 0.01), rtol=1e-3, atol=1e-5
    )
    assert float(found.t_end.max()) > 10.0
    assert float(lengths.max()) > 1.0
    x = found.positions(origins, directions)
    assert float(x.min()) > 0.0
    assert float(x.max()) < 1.0
    cell = (x * 32).long()
    inside = occupied[cell[:, 0], cell[:, 1], cell[:, 2]]
    # the middle of contracted distances is not quite that of the distances
    assert float(inside.float().mean()) > 0.97


def test_composite() -> None:
    counts = torch.tensor([3, 0, 17, 1])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total = int(offsets[-1])
    start = random(total)
    samples = Samples(start, start + 0.1, torch.repeat_interleave(counts), offsets)
    density = (60.0 * random(total, seed=1)).requires_grad_()
    colour = random(total, 3, seed=2).requires_grad_()
    upstream = (random(4, 3, seed=3), random(4, seed=4), random(total, seed=5))
    results = []
    for kernels in (reference, cpu):
        outputs = kernels.composite(density, colour, samples)
        gradients = torch.autograd.grad(outputs, (density, colour), upstream)
        light = kernels.transmittance(density, samples)
        results.append([each.detach() for each in (*outputs, *gradients, light)])
    for mine, theirs in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_same_result_every_time() -> None:
    """Threads do not change the order of any sum."""
    grid = hash_grid(levels=8, coarsest=4, finest=300, log2_table_size=10)
    table = random(grid.entries, 2).requires_grad_()
    x, upstream = random(5000, 3), random(5000, 16, seed=1)
    gradients = [
        torch.autograd.grad(cpu.encode(x, table, grid), table, upstream)[0] for _ in range(3)
    ]
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_known_features_are_not_computed_again() -> None:
    grid = hash_grid(levels=3, coarsest=4, finest=30, log2_table_size=10)
    table = random(grid.entries, 2).requires_grad_()
    x, known = random(50, 3), random(50, 6, seed=1)
    features = cpu.encode(x, table, grid, known)
    assert torch.equal(features, known)
    (gradient,) = torch.autograd.grad(features.sum(), table)
    (expected,) = torch.autograd.grad(reference.encode(x, table, grid).sum(), table)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("kernels", [reference, cpu], ids=lambda kernels: kernels.name)
def test_gradient_is_diverted_and_added(kernels: ReferenceKernels) -> None:
    grid = hash_grid(levels=3, coarsest=4, finest=30, log2_table_size=10)
    table = random(grid.entries, 2).requires_grad_()
    x = random(50, 3)
    (expected,) = torch.autograd.grad(reference.encode(x, table, grid).sum(), table)
    gathered = torch.ones_like(table)
    kernels.encode(x, table, grid, None, gathered).sum().backward()
    assert table.grad is None
    torch.testing.assert_close(gathered, expected + 1.0)


@pytest.mark.parametrize("kernels", [reference, cpu], ids=lambda kernels: kernels.name)
def test_adam_steps_where_there_is_a_gradient(kernels: ReferenceKernels) -> None:
    """The numbers with a gradient move as torch's own Adam moves them; the others not at all."""
    start, touched = random(500, 2), torch.zeros(500, 2, dtype=torch.bool)
    touched[::7] = True
    mine, first, second = start.clone(), torch.zeros(500, 2), torch.zeros(500, 2)
    theirs = start.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.99), eps=1e-15)
    for steps in (1, 2, 3):
        gradient = (random(500, 2, seed=steps) - 0.5) * touched
        theirs.grad = gradient.clone()
        adam.step()
        kernels.adam(mine, gradient, first, second, 0.01, steps, (0.9, 0.99), 1e-15)
        assert not gradient.any()
    torch.testing.assert_close(mine[touched], theirs.detach()[touched])
    assert torch.equal(mine[~touched], start[~touched])


def test_multiply() -> None:
    generator = np.random.default_rng(0)
    for m, n, k in ((8, 16, 1), (16, 80, 24), (64, 112, 7)):
        a, b = generator.random((m, k), np.float32), generator.random((k, n), np.float32)
        start, out = generator.random((m, n), np.float32), np.empty((m, n), np.float32)
        left = a.T.copy().ravel(), 0, 1, m  # transposed in memory
        cpu_vectors.multiply(
            m, n, k, *left, b.ravel(), 0, n, start.ravel(), 0, n, out.ravel(), 0, n
        )
        np.testing.assert_allclose(out, start + a @ b, rtol=1e-5)
        row = generator.random(n, np.float32) - 0.5 * k
        left = a.ravel(), 0, k, 1
        cpu_vectors.multiply_rectified(
            m, n, k, *left, b.ravel(), 0, n, row, 0, 0, out.ravel(), 0, n
        )
        np.testing.assert_allclose(out, np.maximum(row + a @ b, 0.0), rtol=1e-4, atol=1e-5)
        assert (out == 0.0).any()


def spread_colours(field: RadianceField) -> None:
    """Have sRGB colours, before their activation, reach beyond where gradients lead farther out."""
    if field.linear:
        return
    assert field.colour is not None
    with torch.no_grad():
        field.colour.layers()[-1][0].mul_(30.0)
        d = torch.nn.functional.normalize(random(500, 3, seed=12) - 0.5, dim=-1)
        _, colour = field(random(500, 3, seed=11), d)
    for beyond in (colour.logit() < -COLOUR_RANGE, colour.logit() > COLOUR_RANGE):
        assert beyond.any()


@pytest.mark.parametrize(
    ("features", "linear", "reach"), [(2, False, math.inf), (3, False, math.inf), (2, True, 0.9)]
)
def test_render(features: int, linear: bool, reach: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the unit box; and in linear light, in contracted space."""
    monkeypatch.setattr(mlp, "multiplies_bfloat16", lambda device: False)
    settings = TrainingSettings(
        levels=4,
        log2_table_size=10,
        coarsest=4,
        finest=40,
        features=features,
        hidden_layers=1,
        width=40,
    )
    field = RadianceField(settings, cpu, linear)
    generator = torch.Generator().manual_seed(6)
    torch.nn.init.uniform_(field.encoding.table, -3.0, 3.0, generator)
    torch.nn.init.constant_(field.trunk.biases[-1], 2.0)
    spread_colours(field)
    origins, directions, near, far = rays(900)
    if math.isfinite(reach):
        near, far = torch.full_like(near, 0.05), torch.full_like(far, 1.5)
    far[7] = near[7]
    occupied = random(32, 32, 32, seed=3) < 0.4
    jitter = random(900, seed=4)
    samples = cpu.march(origins, directions, near, far, occupied, 0.02, jitter, reach)
    found = []
    for kernels in (reference, cpu):
        field.zero_grad()
        colour, alpha = kernels.render(field, origins, directions, samples)
        loss = (colour - random(900, 3, seed=5)).square().sum() + (alpha * random(900)).sum()
        loss.backward()
        gradients = [each.grad.clone() for each in field.parameters()]
        density = kernels.density(field, random(700, 3, seed=7))
        found.append([colour.detach(), alpha.detach(), density, *gradients])
    for expected, value in zip(*found, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3 * scale)
    alpha = found[0][1]
    # some rays see the end of the light, some do not
    assert (alpha > 0.9998).any()
    assert ((alpha > 0.01) & (alpha < 0.99)).any()


def test_render_fields_whose_levels_differ() -> None:
    """Their networks are laid out alike, so that they share what is kept between passes."""
    origins, directions, near, far = rays(64)
    every = torch.ones(8, 8, 8, dtype=torch.bool)
    samples = cpu.march(origins, directions, near, far, every, 0.05, random(64))

    def gradient(kernels: ReferenceKernels, levels: int) -> torch.Tensor:
        settings = TrainingSettings(
            levels=levels,
            features=8 // levels,
            log2_table_size=8,
            coarsest=4,
            finest=8,
            hidden_layers=1,
            width=64,
        )
        field = RadianceField(settings, kernels)
        torch.nn.init.uniform_(field.encoding.table, -1.0, 1.0, torch.Generator().manual_seed(6))
        kernels.render(field, origins, directions, samples)[0].sum().backward()
        return field.encoding.table.grad

    for levels in (2, 4, 1, 8):
        expected = gradient(reference, levels)
        tolerance = 0.02 * float(expected.abs().max())  # the reference's networks may be bfloat16
        torch.testing.assert_close(gradient(cpu, levels), expected, rtol=0.0, atol=tolerance)


def test_render_twice_before_going_back() -> None:
    """What a forward pass keeps for its backward pass is not the next one's."""
    settings = TrainingSettings(
        levels=2, log2_table_size=8, coarsest=4, finest=8, hidden_layers=1, width=64
    )
    field = RadianceField(settings, cpu)
    torch.nn.init.uniform_(field.encoding.table, -1.0, 1.0, torch.Generator().manual_seed(6))
    origins, directions, near, far = rays(64)
    every = torch.ones(8, 8, 8, dtype=torch.bool)
    samples = cpu.march(origins, directions, near, far, every, 0.05, random(64))
    flipped = cpu.march(origins, -directions, near, far, every, 0.05, random(64))

    def gradient(both: bool) -> torch.Tensor:
        field.zero_grad()
        colour, _ = cpu.render(field, origins, directions, samples)
        if both:
            cpu.render(field, origins, -directions, flipped)
        colour.sum().backward()
        return field.encoding.table.grad.clone()

    torch.testing.assert_close(gradient(True), gradient(False))


@pytest.mark.parametrize(
    ("features", "linear", "view_direction", "opened"),
    [(2, False, True, 4), (3, False, False, 4), (2, True, True, 2)],
)
def test_surfaces(
    features: int,
    linear: bool,
    view_direction: bool,
    opened: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mlp, "multiplies_bfloat16", lambda device: False)
    settings = TrainingSettings(
        field="neus",
        levels=4,
        log2_table_size=10,
        coarsest=4,
        finest=40,
        features=features,
        view_direction=view_direction,
        hidden_layers=1,
        width=40,
    )
    found = []
    for kernels in (reference, cpu):
        field = SurfaceRadianceField(settings, kernels, linear)
        generator = torch.Generator().manual_seed(6)
        torch.nn.init.uniform_(field.encoding.table, -1.0, 1.0, generator)
        field.encoding.open(opened)
        with torch.no_grad():
            # as much inside as outside
            field.trunk.biases[-1][0] = -field.distance(random(1000, 3, seed=8)).mean()
        spread_colours(field)
        origins, directions, near, far = rays(300)
        far[7] = near[7]
        occupied = random(32, 32, 32, seed=3) < 0.8
        samples = cpu.march(origins, directions, near, far, occupied, 0.02, random(300, seed=4))
        outputs = kernels.render_surface(field, origins, directions, samples)
        x = random(200, 3, seed=7)
        distance = field.distance(x)
        loss = sum((each * random(*each.shape, seed=9)).sum() for each in (*outputs, distance))
        loss.backward()
        of_all = [each.grad for each in field.parameters() if each.grad is not None]
        found.append([*(each.detach() for each in (*outputs, distance)), *of_all])
    for expected, value in zip(*found, strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3 * scale)
    alpha = found[0][1]
    assert (alpha > 0.99).sum() > 30
    assert (alpha < 0.5).sum() > 3
