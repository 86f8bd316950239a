"""The loops behind the ``cpu`` kernels, compiled by numba; arrays in, arrays out.

Every index is unsigned, because numba otherwise guards each access against negative ones, and
every loop over samples runs in blocks that stay in the first cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib

import numba
import numpy as np
from numba import prange

from ..dataset.transforms import INNER
from . import cache
from .cpu_vectors import interpolate_pair, spread_pair
from .interface import POOL


def _keep_compiled() -> None:
    """Have numba keep what it compiles in the user's cache."""
    # numba sees that a loop's own file has changed, but not what it calls or what it read
    sources = sorted(pathlib.Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(repr(INNER).encode())
    for source in sources:
        digest.update(source.read_bytes())
    folder = cache.folder("numba", digest.hexdigest()[:16])
    if os.access(folder, os.W_OK) and not numba.config.CACHE_DIR:
        numba.config.CACHE_DIR = str(folder)
        numba.config.CACHE_LOCATOR_CLASSES = f"{__package__}.cpu_locator.Locator"


# before the first loop; where there is no such folder, numba chooses
with contextlib.suppress(OSError, RuntimeError):
    _keep_compiled()

_u32, _u64, _f32 = np.uint32, np.uint64, np.float32
_HALF, _ONE, _TWO = _f32(0.5), _f32(1.0), _f32(2.0)
_OF_INNER = _f32(2.0 / INNER)
_BLOCK = 256  # samples: their features of one level and their coordinates fit the first cache
_RAYS = 64
_NUMBERS, _GROUP = 16384, 32  # table numbers a thread takes at a time, and looks at together
_TINY, _HUGE = _f32(1e-9), _f32(1e9)
_PER = _u32(POOL)

compiled = numba.njit(
    parallel=True, fastmath=True, error_model="numpy", boundscheck=False, cache=True, nogil=True
)
inner = numba.njit(fastmath=True, error_model="numpy", boundscheck=False, nogil=True)
_inlined = numba.njit(fastmath=True, error_model="numpy", boundscheck=False, inline="always")


@_inlined
def _corners(x, i, resolution, top, f0, f1, f2, mask, offset):
    """The eight corners' entries, x first, the weights across y and z, and those along x."""
    px = min(max(x[i, _u64(0)], _f32(0.0)), _ONE) * resolution
    py = min(max(x[i, _u64(1)], _f32(0.0)), _ONE) * resolution
    pz = min(max(x[i, _u64(2)], _f32(0.0)), _ONE) * resolution
    ix = min(np.int32(px), top)
    iy = min(np.int32(py), top)
    iz = min(np.int32(pz), top)
    x0, y0, z0 = _u32(ix) * f0, _u32(iy) * f1, _u32(iz) * f2
    u, v, w = px - _f32(ix), py - _f32(iy), pz - _f32(iz)
    x1, y1, z1 = x0 + f0, y0 + f1, z0 + f2
    a00, a10, a01, a11 = y0 ^ z0, y1 ^ z0, y0 ^ z1, y1 ^ z1
    t, r = _ONE - v, _ONE - w
    return (
        offset + _u64((x0 ^ a00) & mask),
        offset + _u64((x1 ^ a00) & mask),
        offset + _u64((x0 ^ a10) & mask),
        offset + _u64((x1 ^ a10) & mask),
        offset + _u64((x0 ^ a01) & mask),
        offset + _u64((x1 ^ a01) & mask),
        offset + _u64((x0 ^ a11) & mask),
        offset + _u64((x1 ^ a11) & mask),
        t * r,
        v * r,
        t * w,
        v * w,
        _ONE - u,
        u,
    )


@inner
def encode_rows(first, rows, x, table, grid, out, at, wide):
    """The features of the positions x[first:first+rows], into rows of ``wide`` numbers of ``out``.

    Args:
        grid: resolutions, factors, masks, offsets.
        out: flat; the first row begins at ``at``.
    """
    resolutions, factors, masks, offsets = grid
    features = table.shape[1]
    for level in range(resolutions.shape[0]):
        resolution = _f32(resolutions[level])
        top = np.int32(resolutions[level] - 1)
        f0, f1, f2 = factors[level, 0], factors[level, 1], factors[level, 2]
        mask, offset = masks[level], _u64(offsets[level])
        column = at + level * features
        for row in range(rows):
            i = _u64(first + row)
            corners = _corners(x, i, resolution, top, f0, f1, f2, mask, offset)
            c0, c1, c2, c3, c4, c5, c6, c7, w00, w10, w01, w11, s, u = corners
            if features == 2:
                entries, across = (c0, c1, c2, c3, c4, c5, c6, c7), (w00, w10, w01, w11)
                interpolate_pair(table, entries, across, (s, u), out, column + row * wide)
                continue
            place = _u64(column + row * wide)
            for feature in range(features):
                f = _u64(feature)
                out[place + f] = (
                    w00 * (s * table[c0, f] + u * table[c1, f])
                    + w10 * (s * table[c2, f] + u * table[c3, f])
                    + w01 * (s * table[c4, f] + u * table[c5, f])
                    + w11 * (s * table[c6, f] + u * table[c7, f])
                )


@compiled
def encode(x, table, grid, out):
    """out [N, L * F] = the hash grid's features at x [N, 3]; ``grid`` as in ``encode_rows``."""
    flat, wide = out.ravel(), out.shape[1]
    for block in prange((x.shape[0] + _BLOCK - 1) // _BLOCK):
        first = block * _BLOCK
        rows = min(_BLOCK, x.shape[0] - first)
        encode_rows(first, rows, x, table, grid, flat, first * wide, wide)


@compiled
def encode_backward(x, gradient, row, column, starts, counts, grid, order, out):
    """out [entries, F] += the table's gradient, from the features'.

    Each level belongs to one thread, so no two threads write to one entry and the sum is always in
    the same order.

    Args:
        gradient: flat; sample ``n`` has that of level ``l`` at ``n * row + l * column``.
        starts, counts: [P] the samples that there are, in parts.
        order: [L] deals the levels out so that the threads' loads are even.
    """
    resolutions, factors, masks, offsets = grid
    features = out.shape[1]
    for turn in prange(order.shape[0]):
        level = order[turn]
        resolution = _f32(resolutions[level])
        top = np.int32(resolutions[level] - 1)
        f0, f1, f2 = factors[level, 0], factors[level, 1], factors[level, 2]
        mask, offset = masks[level], _u64(offsets[level])
        for part in range(starts.shape[0]):
            for sample in range(starts[part], starts[part] + counts[part]):
                corners = _corners(x, _u64(sample), resolution, top, f0, f1, f2, mask, offset)
                c0, c1, c2, c3, c4, c5, c6, c7, w00, w10, w01, w11, s, u = corners
                at = sample * row + level * column
                if features == 2:
                    entries, across = (c0, c1, c2, c3, c4, c5, c6, c7), (w00, w10, w01, w11)
                    spread_pair(gradient, at, entries, across, (s, u), out)
                    continue
                for feature in range(features):
                    f = _u64(feature)
                    g = gradient[_u64(at) + f]
                    g00, g10, g01, g11 = w00 * g, w10 * g, w01 * g, w11 * g
                    out[c0, f] += s * g00
                    out[c1, f] += u * g00
                    out[c2, f] += s * g10
                    out[c3, f] += u * g10
                    out[c4, f] += s * g01
                    out[c5, f] += u * g01
                    out[c6, f] += s * g11
                    out[c7, f] += u * g11


@compiled
def adam(table, gradient, first, second, bits, rate, correction, beta1, beta2, epsilon):
    """An Adam step where there is a gradient, which is cleared there.

    All arrays are flat. ``bits`` is the gradient seen as integers: whether any number of a group
    differs from zero is then one vector operation. ``rate`` and ``correction`` hold the
    corrections of the averages' start at zero.
    """
    count = table.shape[0]
    for block in prange((count + _NUMBERS - 1) // _NUMBERS):
        end = min((block + 1) * _NUMBERS, count)
        for begin in range(block * _NUMBERS, end, _GROUP):
            stop = min(begin + _GROUP, end)
            seen = _u32(0)
            for place in range(begin, stop):
                seen |= bits[_u64(place)]
            if seen == _u32(0):
                continue
            # without branches, which makes it vectors
            for place in range(begin, stop):
                i = _u64(place)
                g, average, square, value = gradient[i], first[i], second[i], table[i]
                moved = beta1 * average + (_ONE - beta1) * g
                spread = beta2 * square + (_ONE - beta2) * g * g
                lowered = value - rate * moved / (np.sqrt(spread * correction) + epsilon)
                has = g != _f32(0.0)
                first[i] = moved if has else average
                second[i] = spread if has else square
                table[i] = lowered if has else value
                gradient[i] = _f32(0.0)


@compiled
def coarsen(occupied, out):
    """out [G / pool]^3 = whether any of a coarse cell's cells is occupied."""
    for x in prange(out.shape[0]):
        for y in range(out.shape[1]):
            for z in range(out.shape[2]):
                found = False
                for i in range(x * POOL, (x + 1) * POOL):
                    for j in range(y * POOL, (y + 1) * POOL):
                        for k in range(z * POOL, (z + 1) * POOL):
                            found |= occupied[i, j, k]
                out[x, y, z] = found


@_inlined
def _cell(position, size):
    return _u32(min(max(np.int32(position), np.int32(0)), np.int32(size - 1)))


@_inlined
def _exit(position, inverse, cell):
    """How far, along its ray, a position is from the border of its coarse cell, on one axis."""
    first = _f32(cell & ~_u32(POOL - 1))
    border = first + _f32(POOL) if inverse > _f32(0.0) else first
    return (border - position) * inverse


@_inlined
def _distance(s, reach):
    """The distance along its ray of a contracted one."""
    return s if s <= reach else reach * reach / (_TWO * reach - s)


@_inlined
def contracting(x, y, z, edge):
    """By what factor a point, seen from the middle of a unit box with that edge, comes nearer."""
    norm = max(max(max(abs(x), abs(y)), abs(z)) * (_OF_INNER / edge), _ONE)
    return (_TWO - _ONE / norm) / norm


@compiled
def march(origins, directions, start, far, occupied, coarse, steps, places, counts):
    """Find each ray's samples.

    places [R, K] = which steps they are; counts [R] = how many. ``steps`` is their length, the
    distance beyond which it grows, and whether space is contracted; ``start`` and ``far`` [R] are
    contracted distances then.
    """
    step, reach, contracted = steps
    size, pooled = _u32(occupied.shape[0]), _u32(coarse.shape[0])
    cells, cells_above = occupied.ravel(), coarse.ravel()
    scale = _f32(size)
    half, middle = _HALF * step, _HALF * scale
    for block in prange((start.shape[0] + _RAYS - 1) // _RAYS):
        for r in range(block * _RAYS, min((block + 1) * _RAYS, start.shape[0])):
            # in cells of the grid, from its middle
            ox = origins[r, 0] * scale - middle
            oy = origins[r, 1] * scale - middle
            oz = origins[r, 2] * scale - middle
            dx, dy, dz = (
                directions[r, 0] * scale,
                directions[r, 1] * scale,
                directions[r, 2] * scale,
            )
            ix = _ONE / dx if abs(dx) > _TINY else _HUGE
            iy = _ONE / dy if abs(dy) > _TINY else _HUGE
            iz = _ONE / dz if abs(dz) > _TINY else _HUGE
            begin, end = start[r] + half, far[r]
            found = 0
            k = 0
            while True:
                s = begin + _f32(k) * step
                if not s < end:
                    break
                t = _distance(s, reach)
                px, py, pz = ox + dx * t, oy + dy * t, oz + dz * t
                nearer = contracting(px, py, pz, scale) if contracted else _ONE
                px, py, pz = px * nearer + middle, py * nearer + middle, pz * nearer + middle
                x, y, z = _cell(px, size), _cell(py, size), _cell(pz, size)
                if cells[_u64((x * size + y) * size + z)]:
                    places[r, found] = k
                    found += 1
                    k += 1
                    continue
                k += 1
                # around the inner region rays are no straight lines in the box
                if nearer < _ONE or s > reach:
                    continue
                above = ((x // _PER) * pooled + y // _PER) * pooled + z // _PER
                if not cells_above[_u64(above)]:
                    leave = min(min(_exit(px, ix, x), _exit(py, iy, y)), _exit(pz, iz, z))
                    leave = min(leave, reach - s)
                    # a step short of the border: what rounding does there is for the look-up
                    k = max(k, k + np.int64(leave / step) - 1)
            counts[r] = found


@compiled
def gather_steps(start, steps, places, offsets, t_start, t_end, ray):
    """t_start, t_end, ray [N] of the samples in ``places``; ``offsets`` [R + 1] tells where."""
    step, reach, _ = steps
    for block in prange((start.shape[0] + _RAYS - 1) // _RAYS):
        for r in range(block * _RAYS, min((block + 1) * _RAYS, start.shape[0])):
            first = offsets[r]
            for i in range(offsets[r + 1] - first):
                s = start[r] + _f32(places[r, i]) * step
                t_start[first + i] = _distance(s, reach)
                t_end[first + i] = _distance(s + step, reach)
                ray[first + i] = r


@compiled
def transmittance(density, length, offsets, out):
    """out [N] = the light that reaches the start of each sample."""
    for block in prange((offsets.shape[0] - 2 + _RAYS) // _RAYS):
        for r in range(block * _RAYS, min((block + 1) * _RAYS, offsets.shape[0] - 1)):
            depth = _f32(0.0)
            for i in range(offsets[r], offsets[r + 1]):
                out[i] = np.exp(-depth)
                depth += density[i] * length[i]


@compiled
def composite(density, colour, length, offsets, total, alpha, weights):
    """Premultiplied colour [R, C], alpha [R] and weights [N] of volume rendering."""
    channels = colour.shape[1]
    for block in prange((offsets.shape[0] - 2 + _RAYS) // _RAYS):
        for r in range(block * _RAYS, min((block + 1) * _RAYS, offsets.shape[0] - 1)):
            light = _ONE
            for c in range(channels):
                total[r, c] = _f32(0.0)
            for i in range(offsets[r], offsets[r + 1]):
                through = np.exp(-density[i] * length[i])
                weight = light * (_ONE - through)
                light *= through
                weights[i] = weight
                for c in range(channels):
                    total[r, c] += weight * colour[i, c]
            alpha[r] = _ONE - light


@compiled
def composite_backward(
    density,
    colour,
    length,
    offsets,
    weights,
    grad_total,
    grad_alpha,
    grad_weights,
    grad_density,
    grad_colour,
):
    """Gradients of ``composite``.

    With p_i = dL/d(weight_i), the derivative by the optical depth of sample i is
    T_{i+1} p_i - sum_{j > i} weight_j p_j, where T_{i+1} is the light behind it.
    """
    channels = colour.shape[1]
    for block in prange((offsets.shape[0] - 2 + _RAYS) // _RAYS):
        for r in range(block * _RAYS, min((block + 1) * _RAYS, offsets.shape[0] - 1)):
            behind = _f32(0.0)
            for i in range(offsets[r], offsets[r + 1]):
                pull = grad_alpha[r] + grad_weights[i]
                for c in range(channels):
                    pull += grad_total[r, c] * colour[i, c]
                behind += weights[i] * pull
            light = _ONE
            for i in range(offsets[r], offsets[r + 1]):
                pull = grad_alpha[r] + grad_weights[i]
                for c in range(channels):
                    pull += grad_total[r, c] * colour[i, c]
                    grad_colour[i, c] = grad_total[r, c] * weights[i]
                behind -= weights[i] * pull
                light *= np.exp(-density[i] * length[i])
                grad_density[i] = length[i] * (light * pull - behind)
