import math

import pytest
import torch

from neural_backend.kernels import Samples, choose, hash_grid

CPU = torch.device("cpu")


def reference():
    from neural_backend.kernels.reference import ReferenceKernels

    return ReferenceKernels(CPU)


def samples(*counts: int, length: float = 1.0) -> Samples:
    ray = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    start = torch.cat([torch.arange(count) * length for count in counts])
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return Samples(start, start + length, ray, offsets)


def test_choose_names_its_choice():
    assert choose(CPU).name


# --- hash grid


def test_resolutions_grow_geometrically():
    assert hash_grid(4, 16, 1024, 14).resolutions == (16, 64, 256, 1024)


def test_levels_that_fit_are_dense_and_lie_apart():
    grid = hash_grid(3, 2, 8, 10)
    assert grid.resolutions == (2, 4, 8)
    # 3 corners need 2 bits a coordinate, 5 need 3, 9 would need 4: 12 bits do not fit in 10
    assert grid.bits == (6, 9, 10)
    assert grid.factors[:2] == ((1, 4, 16), (1, 8, 64))
    assert grid.factors[2] == (1, 2_654_435_761, 805_459_861)
    for level in range(2):
        assert grid.offsets[level] + 2 ** grid.bits[level] <= grid.offsets[level + 1]
        assert grid.offsets[level] % 2 ** grid.bits[level] == 0


@pytest.mark.parametrize("corner", [(0, 0, 0), (8, 8, 8), (3, 5, 7), (1, 0, 8)])
def test_at_a_corner_the_feature_is_the_entry_of_the_hash(corner):
    grid = hash_grid(1, 8, 8, 6)
    table = torch.arange(2 * grid.entries, dtype=torch.float32).view(-1, 2)
    x = torch.tensor([corner], dtype=torch.float32) / 8
    by_hand = corner[0] ^ (corner[1] * 2_654_435_761) ^ (corner[2] * 805_459_861)
    entry = by_hand % 2**32 % 2**6
    assert reference().encode(x, table, grid).tolist() == [[2.0 * entry, 2.0 * entry + 1.0]]


def test_between_corners_the_features_are_trilinear():
    grid = hash_grid(1, 2, 2, 12)
    table = torch.randn(grid.entries, 1, generator=torch.Generator().manual_seed(0))
    x = torch.tensor([[0.5 + 0.25 / 2, 0.0 + 0.5 / 2, 0.5 + 1.0 / 2]])
    # cell (1, 0, 1), a quarter along x, a half along y, at the far end along z: corners (., ., 2)
    feature = {(i, j): table[i + 4 * j + 16 * 2, 0].item() for i in (1, 2) for j in (0, 1)}
    expected = 0.75 * 0.5 * (feature[1, 0] + feature[1, 1])
    expected += 0.25 * 0.5 * (feature[2, 0] + feature[2, 1])
    assert reference().encode(x, table, grid).item() == pytest.approx(expected, rel=1e-5)


def test_outside_the_box_the_border_counts():
    grid = hash_grid(2, 4, 8, 8)
    table = torch.randn(grid.entries, 2, generator=torch.Generator().manual_seed(0))
    outside = torch.tensor([[-3.0, 0.4, 1.7]])
    border = torch.tensor([[0.0, 0.4, 1.0]])
    kernels = reference()
    assert torch.equal(kernels.encode(outside, table, grid), kernels.encode(border, table, grid))


def test_gradients_of_the_encoding():
    grid = hash_grid(2, 3, 5, 7)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(grid.entries, 2, dtype=torch.float64, generator=generator)
    x = torch.rand(3, 3, dtype=torch.float64, generator=generator)
    kernels = reference()

    def encode(x, table):
        return kernels.encode(x, table, grid)

    inputs = (x.requires_grad_(), table.requires_grad_())
    assert torch.autograd.gradcheck(encode, inputs)
    assert torch.autograd.gradgradcheck(encode, inputs)


def test_single_precision_agrees_with_double():
    grid = hash_grid(4, 4, 32, 9)
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(grid.entries, 3, generator=generator)
    x = torch.rand(50, 3, generator=generator)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = table.detach().to(dtype, copy=True).requires_grad_()
        features = reference().encode(x.to(dtype), leaf, grid)
        (features**2).sum().backward()
        results.append((features.double(), leaf.grad.double()))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-3, rtol=1e-3)


# --- marching


def march(occupied, origin, direction, near, far, step, jitter=0.0):
    return reference().march(
        torch.tensor([origin]),
        torch.nn.functional.normalize(torch.tensor([direction]), dim=-1),
        torch.tensor([near]),
        torch.tensor([far]),
        occupied,
        step,
        torch.tensor([jitter]),
    )


def test_only_samples_with_their_middle_in_the_occupied_cell():
    occupied = torch.zeros(8, 8, 8, dtype=torch.bool)
    occupied[4, 2, 6] = True
    # along x through the middle of the cells (., 2, 6): inside from x = 4/8 to 5/8
    found = march(occupied, (-1.0, 2.5 / 8, 6.5 / 8), (1.0, 0.0, 0.0), 1.0, 2.0, 1 / 32)
    assert found.offsets.tolist() == [0, 4]
    expected = 1.0 + 0.5 + torch.arange(4) / 32
    torch.testing.assert_close(found.t_start, expected)
    torch.testing.assert_close(found.t_end, expected + 1 / 32)


def test_the_other_axes_are_not_mixed_up():
    occupied = torch.zeros(8, 8, 8, dtype=torch.bool)
    occupied[1, 2, 6] = True
    found = march(occupied, (1.5 / 8, 2.5 / 8, 2.0), (0.0, 0.0, -1.0), 1.0, 2.0, 1 / 16)
    # z falls from 1 at near: the cell 6 to 7 eighths is left 1/4 behind near
    torch.testing.assert_close(found.t_start, torch.tensor([1.125, 1.1875]))


def test_a_ray_that_misses_has_no_samples():
    occupied = torch.ones(4, 4, 4, dtype=torch.bool)
    found = march(occupied, (0.5, 0.5, 0.5), (1.0, 0.0, 0.0), 1.0, 0.5, 0.1)
    assert found.offsets.tolist() == [0, 0]
    assert len(found) == 0


def test_jitter_moves_the_samples():
    occupied = torch.ones(4, 4, 4, dtype=torch.bool)
    plain = march(occupied, (0.5, 0.5, 0.0), (0.0, 0.0, 1.0), 0.0, 1.0, 0.125)
    moved = march(occupied, (0.5, 0.5, 0.0), (0.0, 0.0, 1.0), 0.0, 1.0, 0.125, 0.25)
    assert len(plain) == 8
    torch.testing.assert_close(moved.t_start[:7], plain.t_start[:7] + 0.25 * 0.125)


def test_skipping_empty_space_changes_nothing():
    generator = torch.Generator().manual_seed(1)
    occupied = torch.rand(16, 16, 16, generator=generator) < 0.02
    count, step = 40, 0.011
    origins = torch.rand(count, 3, generator=generator)
    directions = torch.randn(count, 3, generator=generator)
    directions = torch.nn.functional.normalize(directions, dim=-1)
    jitter = torch.rand(count, generator=generator)
    near, far = torch.zeros(count), torch.full((count,), 1.2)
    found = reference().march(origins, directions, near, far, occupied, step, jitter)
    assert found.offsets[-1] == len(found)
    for ray in range(count):
        expected = []
        for k in range(int(1.2 / step) + 1):
            t = float(jitter[ray] + k) * step
            middle = t + 0.5 * step
            cell = ((origins[ray] + middle * directions[ray]) * 16).long().clamp(0, 15)
            if middle < 1.2 and occupied[tuple(cell)]:
                expected.append(t)
        mine = found.t_start[found.offsets[ray] : found.offsets[ray + 1]]
        # a sample on a cell's very border may fall to either side
        assert abs(len(mine) - len(expected)) <= 1
        if len(mine) == len(expected):
            torch.testing.assert_close(mine, torch.tensor(expected), atol=1e-5, rtol=0.0)


def test_samples_of_no_rays():
    occupied = torch.ones(4, 4, 4, dtype=torch.bool)
    none = torch.zeros(0, 3)
    found = reference().march(none, none, none[:, 0], none[:, 0], occupied, 0.1, none[:, 0])
    assert found.rays == 0


# --- packed samples and compositing


def test_select_keeps_the_rays():
    packed = samples(2, 0, 3)
    kept = packed.select(torch.tensor([False, True, True, False, True]))
    assert kept.ray.tolist() == [0, 2, 2]
    assert kept.offsets.tolist() == [0, 1, 1, 3]
    assert kept.t_start.tolist() == [1.0, 0.0, 2.0]


def test_positions_are_the_middles():
    packed = samples(2)
    at = packed.positions(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 0.0, -1.0]]))
    assert at.tolist() == [[1.0, 2.0, 2.5], [1.0, 2.0, 1.5]]


def test_compositing_by_hand():
    # opacities 1/2, 3/4 and, on another ray, 1/4; a ray without samples between them
    packed = samples(2, 0, 1, length=0.5)
    density = torch.tensor([math.log(2.0), math.log(4.0), math.log(4.0 / 3.0)]) / 0.5
    colour = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    total, alpha, weights = reference().composite(density, colour, packed)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5 * 0.75, 0.25]))
    torch.testing.assert_close(alpha, torch.tensor([0.875, 0.0, 0.25]))
    torch.testing.assert_close(total, torch.tensor([[0.5, 0.375], [0.0, 0.0], [0.125, 0.125]]))
    before = reference().transmittance(density, packed)
    torch.testing.assert_close(before, torch.tensor([1.0, 0.5, 1.0]))


def test_a_dense_ray_does_not_spoil_the_next():
    packed = samples(2, 2)
    density = torch.tensor([1e12, 1e12, 1e-3, 1e-3])
    before = reference().transmittance(density, packed)
    torch.testing.assert_close(before, torch.tensor([1.0, 0.0, 1.0, math.exp(-1e-3)]))


def test_gradients_of_compositing():
    packed = samples(3, 1, 0, 2)
    generator = torch.Generator().manual_seed(0)
    density = torch.rand(6, dtype=torch.float64, generator=generator).requires_grad_()
    colour = torch.rand(6, 3, dtype=torch.float64, generator=generator).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda density, colour: reference().composite(density, colour, packed), (density, colour)
    )


# --- surfaces


class Wall:
    """Solid behind x = 0.5 (of samples at x), 1 grey; what is behind a second wall is 0."""

    def __init__(self, sharpness=200.0):
        self.offset = torch.tensor(0.5, requires_grad=True)
        self.log = torch.tensor(math.log(sharpness), requires_grad=True)

    @property
    def sharpness(self):
        return self.log.exp()

    def encode(self, x, known=None):
        return x if known is None else known

    def distance_of(self, x):
        return self.offset - x[:, 0], x

    def radiance(self, geometry, d, ray=None):
        return geometry[:, :1].expand(-1, 3)


def across(rays=1, count=100, start=0.0, slope=0.0):
    """Rays along x, which meet ``Wall`` straight on or at an angle."""
    d = torch.tensor([math.cos(slope), math.sin(slope), 0.0])
    each = samples(*[count] * rays, length=0.01)
    each = Samples(each.t_start + start, each.t_end + start, each.ray, each.offsets)
    return torch.zeros(rays, 3), d.expand(rays, 3), each


def test_the_light_of_a_surface_stops_where_it_is():
    # wherever the samples lie beside it, and at whatever angle
    for start, slope in ((0.0, 0.0), (0.003, 0.0), (0.0, 0.9), (0.007, 0.9)):
        rays = across(start=start, slope=slope)
        colour, alpha, along = reference().render_surface(Wall(), *rays)
        assert alpha.item() == pytest.approx(1.0, abs=1e-3)
        assert along.item() == pytest.approx(0.5 / math.cos(slope), abs=3e-3)
        assert colour[0].tolist() == pytest.approx([0.5] * 3, abs=3e-3)


def test_sections_let_through_what_the_distances_at_their_ends_say():
    field = Wall(sharpness=5.0)
    _, alpha, _ = reference().render_surface(field, *across(count=50, start=0.1))
    first, last = (0.5 - (0.1 + 0.005 + 0.01 * k) for k in (0, 49))
    passed = 1.0 / (1.0 + math.exp(-5.0 * last)) * (1.0 + math.exp(-5.0 * first))
    assert alpha.item() == pytest.approx(1.0 - passed, abs=2e-3)


def test_no_section_spans_a_gap_or_two_rays():
    origins, directions, each = across(rays=2)
    # one sample before the wall, which does not touch the others
    middle = 0.5 * (each.t_start + each.t_end)
    beside = each.select((middle < 0.4) | ((middle - 0.455).abs() < 0.004))
    assert len(beside) == 2 * 41
    _, alpha, _ = reference().render_surface(Wall(), origins, directions, beside)
    assert alpha.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    # nor is the way out of it
    _, alpha, _ = reference().render_surface(Wall(), origins, -directions, each)
    assert alpha.tolist() == [0.0, 0.0]


def test_light_does_not_begin_inside():
    origins, directions, each = across(rays=2)
    middle = 0.5 * (each.t_start + each.t_end)
    # the wall itself is in what was taken for empty
    behind = each.select((middle < 0.4) | (middle > 0.6))
    wall = Wall()
    _, alpha, along = reference().render_surface(wall, origins, directions, behind)
    assert alpha.tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    assert (along / alpha).tolist() == pytest.approx([0.605, 0.605], abs=1e-3)
    # a sample that is just inside lets half of the rest through
    alone = each.select((middle - 0.505).abs() < 0.004)
    passed = 2.0 / (1.0 + math.exp(0.005 * wall.sharpness.item()))
    _, alpha, _ = reference().render_surface(wall, origins, directions, alone)
    assert alpha.tolist() == pytest.approx([1.0 - passed] * 2, abs=1e-3)


def test_without_samples_a_surface_is_not_there():
    origins, directions, each = across(rays=2)
    nothing = each.select(torch.zeros(len(each), dtype=torch.bool))
    for out in reference().render_surface(Wall(), origins, directions, nothing):
        assert not out.any()


def test_gradients_of_a_surface():
    rays = across(count=100, start=0.002)

    def loss(field):
        colour, alpha, along = reference().render_surface(field, *rays)
        return (colour.sum() + 0.7 * alpha.sum() + 0.3 * along.sum()).double()

    field = Wall(sharpness=60.0)
    loss(field).backward()
    for parameter in (field.offset, field.log):
        step = 2e-3
        with torch.no_grad():
            parameter += step
            above = loss(field)
            parameter -= 2 * step
            below = loss(field)
            parameter += step
        expected = (above - below) / (2 * step)
        assert parameter.grad.item() == pytest.approx(expected.item(), rel=0.03, abs=2e-3)
