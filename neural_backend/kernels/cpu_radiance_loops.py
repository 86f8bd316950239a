"""A hash grid's radiance field rendered along rays, forward and backward, in one loop each.

Samples go through encoding, networks and compositing in blocks that stay in the caches; each ray's
samples are looked at a few at a time, until no light is left, so that what is hidden costs nothing.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .cpu_loops import compiled, contracting, encode_rows, inner
from .cpu_vectors import PADDED, ROWS, copy_padded, multiply, multiply_rectified
from .interface import COLOUR_RANGE

SLOTS, RUN = 16, 8
"""Rays looked at together, and samples of each."""
BLOCK = SLOTS * RUN

# What a layer's row in a layout holds: inputs and outputs, and both rounded up to whole vectors;
# where its weights are, as [inputs, outputs] and as [outputs, inputs], and its bias; where its
# gradients go; where a block's input and output are, and their gradients; where there are zeros.
(
    IN,
    PIN,
    OUT,
    POUT,
    WEIGHT,
    BACK,
    BIAS,
    GRADIENT,
    BIAS_GRADIENT,
    INPUT,
    OUTPUT,
    G_IN,
    G_OUT,
    ZEROS,
) = range(14)
COLUMNS = 14

_f32, _u64 = np.float32, np.uint64
_ONE, _ZERO = _f32(1.0), _f32(0.0)
_EXPONENT = _f32(15.0)
_COLOUR_RANGE = _f32(COLOUR_RANGE)


@inner
def forward(first, last, rows, layout, weights, scratch):
    """Linear layers with ReLUs between them, from the first's input to the last's output."""
    full = (rows + ROWS - 1) // ROWS * ROWS
    for layer in range(first, last):
        deep, wide = layout[layer, PIN], layout[layer, POUT]
        a_at, c_at = layout[layer, INPUT], layout[layer, OUTPUT]
        b_at, bias = layout[layer, WEIGHT], layout[layer, BIAS]
        k = layout[layer, IN]
        a, b, start = (scratch, a_at, deep, 1), (weights, b_at, wide), (weights, bias, 0)
        if layer < last - 1:
            multiply_rectified(full, wide, k, *a, *b, *start, scratch, c_at, wide)
        else:
            multiply(full, wide, k, *a, *b, *start, scratch, c_at, wide)


@inner
def backward(first, last, rows, layout, weights, scratch, gradients):
    """From the gradient of the last layer's output to those of all parameters and the input."""
    full = (rows + ROWS - 1) // ROWS * ROWS
    for layer in range(last - 1, first - 1, -1):
        deep, wide, k = layout[layer, PIN], layout[layer, POUT], layout[layer, OUT]
        x_at, of_x = layout[layer, INPUT], layout[layer, G_IN]
        of_y, of_weight = layout[layer, G_OUT], layout[layer, GRADIENT]
        of_bias, back, zeros = (
            layout[layer, BIAS_GRADIENT],
            layout[layer, BACK],
            layout[layer, ZEROS],
        )
        a, b, c = (scratch, of_y, 1, wide), (scratch, x_at, deep), (gradients, of_weight, deep)
        multiply(wide, deep, rows, *a, *b, *c, *c)
        for i in range(rows):
            for j in range(wide):
                gradients[_u64(of_bias + j)] += scratch[_u64(of_y + i * wide + j)]
        a, b, c = (scratch, of_y, wide, 1), (weights, back, deep), (scratch, of_x, deep)
        multiply(full, deep, k, *a, *b, weights, zeros, 0, *c)
        if layer > first:
            for i in range(rows * deep):
                passes = scratch[_u64(x_at + i)] > _ZERO
                at = _u64(of_x + i)
                scratch[at] = scratch[at] if passes else _ZERO


@compiled
def density(x, table, grid, network, scratch, out):
    """out [N] = the density at x [N, 3]; the arguments are those of ``render``."""
    layout, weights, layers, _ = network
    features, last = layout[0], layout[layers - 1]
    parts = scratch.shape[0]
    share = (x.shape[0] + parts - 1) // parts
    for part in prange(parts):
        mine = scratch[part]
        end = min((part + 1) * share, x.shape[0])
        for first in range(part * share, end, BLOCK):
            rows = min(BLOCK, end - first)
            encode_rows(first, rows, x, table, grid, mine, features[INPUT], features[PIN])
            forward(0, layers, rows, layout, weights, mine)
            for row in range(rows):
                raw = mine[_u64(last[OUTPUT] + row * last[POUT])]
                out[first + row] = np.exp(min(raw, _f32(2.0) * _EXPONENT))


@inner
def _contract(x, row):
    """Put a point of field space into the unit box; see ``contraction``."""
    middle = _f32(0.5)
    nearer = contracting(x[row, 0] - middle, x[row, 1] - middle, x[row, 2] - middle, _ONE)
    for axis in range(3):
        x[row, axis] = (x[row, axis] - middle) * nearer + middle


@inner
def emitted(x, linear):
    """A colour, from the network's output."""
    if linear:
        return np.exp(min(x, _f32(2.0) * _EXPONENT))
    return _ONE / (_ONE + np.exp(-x))


@inner
def emitted_backward(x, gradient, linear):
    """The gradient of the network's output, from a colour's; see ``fields.radiance.emitted``."""
    bound = _EXPONENT if linear else _COLOUR_RANGE
    if (x < -bound and gradient > _ZERO) or (x > bound and gradient < _ZERO):
        return _ZERO
    value = emitted(min(max(x, -bound), bound), linear)
    return gradient * value * (_ONE if linear else _ONE - value)


@inner
def to_colour(at, harmonics, ray, scratch, to, wide):
    """Put a colour network's input together: the density network's output, and harmonics."""
    copy_padded(scratch, at, scratch, to, wide)
    count = harmonics.shape[1]
    if count % PADDED == 0:
        copy_padded(harmonics, ray * count, scratch, to + wide, count)
        return
    for j in range(count):
        scratch[_u64(to + wide + j)] = harmonics[ray, j]


@inner
def filled(active, following, end, offsets, ray_of, next_of, light_of):
    """Put the rays from ``following`` on that have samples into the free slots.

    Returns how many slots are taken then, and the ray that follows.
    """
    while active < SLOTS and following < end:
        if offsets[following + 1] > offsets[following]:
            ray_of[active] = following
            next_of[active] = offsets[following]
            light_of[active] = _ONE
            active += 1
        following += 1
    return active, following


@inner
def placed(active, rays, samples, ray_of, next_of, first_of, x):
    """Put the positions of the next samples of the slots' rays into a block; returns how many.

    Those of a slot are the rows from ``first_of`` it to ``first_of`` the next.
    """
    origins, directions = rays[:2]
    t_start, t_end, offsets, contracted = samples
    rows = 0
    for slot in range(active):
        r, first = ray_of[slot], next_of[slot]
        first_of[slot] = rows
        for i in range(first, min(first + RUN, offsets[r + 1])):
            t = _f32(0.5) * (t_start[i] + t_end[i])
            for axis in range(3):
                x[rows, axis] = origins[r, axis] + directions[r, axis] * t
            if contracted:
                _contract(x, rows)
            rows += 1
    first_of[active] = rows
    return rows


@inner
def to_geometry(rows, geometry, colour, scratch):
    """Hand the gradient of the colour's input on to the geometry's output, but for its first
    number, which is not the colour's."""
    for i in range(rows):
        at, to = colour[G_IN] + i * colour[PIN], geometry[G_OUT] + i * geometry[POUT]
        for j in range(1, geometry[POUT]):
            scratch[_u64(to + j)] = scratch[_u64(at + j)]


@inner
def to_levels(first, rows, features, scratch, of_features):
    """Deal the gradient of a block's features out to the levels: into [L, N, F] from ``first``."""
    for i in range(rows):
        at = features[G_IN] + i * features[PIN]
        for level in range(of_features.shape[0]):
            for j in range(of_features.shape[2]):
                of_features[level, first + i, j] = scratch[_u64(at + j)]
            at += of_features.shape[2]


@inner
def _render_part(
    begin, end, rays, samples, table, grid, network, opaque, scratch, total, alpha, keep, kept
):
    """Render the rays ``begin`` to ``end``; returns how many samples were kept.

    Those are written from the place of the part's first sample on.
    """
    harmonics = rays[2]
    t_start, t_end, offsets = samples[:3]
    layout, weights, density, linear = network
    kept_x, kept_features, kept_ray, kept_length, kept_weight, kept_light = kept
    features = layout[0]
    geometry, colour, last = layout[density - 1], layout[density], layout[layout.shape[0] - 1]
    x = np.empty((BLOCK, 3), np.float32)
    ray_of = np.empty(SLOTS, np.int64)
    next_of = np.empty(SLOTS, np.int64)
    light_of = np.empty(SLOTS, np.float32)
    first_of = np.empty(SLOTS + 1, np.int64)
    seen = np.empty(BLOCK, np.int64)  # rays
    weight = np.empty(BLOCK, np.float32)
    active, following, place = 0, begin, offsets[begin]
    while True:
        active, following = filled(active, following, end, offsets, ray_of, next_of, light_of)
        if active == 0:
            break
        rows = placed(active, rays, samples, ray_of, next_of, first_of, x)
        encode_rows(0, rows, x, table, grid, scratch, features[INPUT], features[PIN])
        forward(0, density, rows, layout, weights, scratch)

        found = 0
        for slot in range(active):
            r, light = ray_of[slot], light_of[slot]
            base = next_of[slot] - first_of[slot]
            for row in range(first_of[slot], first_of[slot + 1]):
                if light <= opaque:
                    break
                at = geometry[OUTPUT] + row * geometry[POUT]
                sigma = np.exp(min(scratch[_u64(at)], _f32(2.0) * _EXPONENT))
                length = t_end[base + row] - t_start[base + row]
                through = np.exp(-sigma * length)
                weight[found] = light * (_ONE - through)
                light *= through
                seen[found] = r
                to = colour[INPUT] + found * colour[PIN]
                to_colour(at, harmonics, r, scratch, to, geometry[POUT])
                if keep:
                    for axis in range(3):
                        kept_x[place, axis] = x[row, axis]
                    source = features[INPUT] + row * features[PIN]
                    copy_padded(
                        scratch, source, kept_features, place * features[PIN], features[PIN]
                    )
                    kept_ray[place] = r
                    kept_length[place] = length
                    kept_weight[place] = weight[found]
                    kept_light[place] = light
                    place += 1
                found += 1
            light_of[slot] = light
            next_of[slot] = base + first_of[slot + 1]

        forward(density, layout.shape[0], found, layout, weights, scratch)
        for i in range(found):
            r = seen[i]
            at = last[OUTPUT] + i * last[POUT]
            for channel in range(total.shape[1]):
                total[r, channel] += weight[i] * emitted(scratch[_u64(at + channel)], linear)

        left = 0
        for slot in range(active):
            r = ray_of[slot]
            if light_of[slot] > opaque and next_of[slot] < offsets[r + 1]:
                ray_of[left], next_of[left], light_of[left] = r, next_of[slot], light_of[slot]
                left += 1
            else:
                alpha[r] = _ONE - light_of[slot]
        active = left
    return place - offsets[begin]


@compiled
def render(
    parts, rays, samples, table, grid, network, opaque, scratch, total, alpha, keep, kept, counts
):
    """Premultiplied colour [R, C] and alpha [R], which are zero before.

    Args:
        parts: [P + 1] the first ray of each thread's part, and the end.
        rays: origins, directions [R, 3]; harmonics [R, H] of the directions.
        samples: t_start, t_end [N]; offsets [R + 1]; whether space is contracted.
        grid: resolutions, factors, masks, offsets of the hash grid.
        network: layout, packed weights, number of the density's layers, whether colours are linear
            light.
        opaque: samples behind what lets through less than this are left out.
        scratch: [P, ...] for the layers' inputs and outputs.
        keep: whether ``kept`` is written, for ``render_backward``: positions [N, 3], features
            [N, F'], rays, lengths, weights, light behind each sample [N].
        counts: [P] how many samples each part kept.
    """
    for part in prange(parts.shape[0] - 1):
        counts[part] = _render_part(
            parts[part],
            parts[part + 1],
            rays,
            samples,
            table,
            grid,
            network,
            opaque,
            scratch[part],
            total,
            alpha,
            keep,
            kept,
        )


@inner
def _backward_part(
    begin,
    count,
    harmonics,
    network,
    kept,
    grad_total,
    grad_alpha,
    left,
    scratch,
    gradients,
    grad_features,
):
    layout, weights, density, linear = network
    _, kept_features, kept_ray, kept_length, kept_weight, kept_light = kept
    layers = layout.shape[0]
    features, geometry, colour, last = (
        layout[0],
        layout[density - 1],
        layout[density],
        layout[layers - 1],
    )
    channels = grad_total.shape[1]
    for block in range(begin, begin + count, BLOCK):
        rows = min(BLOCK, begin + count - block)
        wide = features[PIN]
        copy_padded(kept_features, block * wide, scratch, features[INPUT], rows * wide)
        forward(0, density, rows, layout, weights, scratch)
        for i in range(rows):
            r = kept_ray[block + i]
            at, to = geometry[OUTPUT] + i * geometry[POUT], colour[INPUT] + i * colour[PIN]
            to_colour(at, harmonics, r, scratch, to, geometry[POUT])
        forward(density, layers, rows, layout, weights, scratch)

        for i in range(rows):
            r, weight = kept_ray[block + i], kept_weight[block + i]
            at, to = last[OUTPUT] + i * last[POUT], last[G_OUT] + i * last[POUT]
            pull = grad_alpha[r]
            for channel in range(last[POUT]):
                scratch[_u64(to + channel)] = _ZERO
            for channel in range(channels):
                raw, gradient = scratch[_u64(at + channel)], grad_total[r, channel]
                pull += gradient * emitted(raw, linear)
                scratch[_u64(to + channel)] = emitted_backward(raw, gradient * weight, linear)
            left[r] -= weight * pull
            raw = scratch[_u64(geometry[OUTPUT] + i * geometry[POUT])]
            slope = np.exp(min(max(raw, -_EXPONENT), _EXPONENT))
            by_density = kept_length[block + i] * (kept_light[block + i] * pull - left[r])
            scratch[_u64(geometry[G_OUT] + i * geometry[POUT])] = slope * by_density
        backward(density, layers, rows, layout, weights, scratch, gradients)
        to_geometry(rows, geometry, colour, scratch)
        backward(0, density, rows, layout, weights, scratch, gradients)
        to_levels(block, rows, features, scratch, grad_features)


@compiled
def render_backward(
    starts,
    counts,
    harmonics,
    network,
    kept,
    grad_total,
    grad_alpha,
    left,
    scratch,
    gradients,
    grad_features,
):
    """Gradients of ``render``.

    With p_i = dL/d(weight_i), the derivative by the optical depth of sample i is
    T_{i+1} p_i - sum_{j > i} weight_j p_j, where T_{i+1} is the light behind it.

    Args:
        starts, counts: [P] where each part's kept samples are.
        left: [R] sum of weight_j p_j over a ray's samples, which is used up.
        gradients: [P, ...] of the weights, packed, zero before.
        grad_features: [L, N, F] at the places of the kept samples.
    """
    for part in prange(starts.shape[0]):
        _backward_part(
            starts[part],
            counts[part],
            harmonics,
            network,
            kept,
            grad_total,
            grad_alpha,
            left,
            scratch[part],
            gradients[part],
            grad_features,
        )
