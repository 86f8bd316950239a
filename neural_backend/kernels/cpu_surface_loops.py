"""A hash grid's signed distance with colour, at points and along rays, in one loop each.

As in ``cpu_radiance_loops`` samples go through encoding and networks in blocks that stay in the
caches. A layout's columns and a network's parts are described there.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .cpu_loops import compiled, encode_rows, inner
from .cpu_radiance_loops import (
    BLOCK,
    G_OUT,
    INPUT,
    OUTPUT,
    PIN,
    POUT,
    SLOTS,
    backward,
    emitted,
    emitted_backward,
    filled,
    forward,
    placed,
    to_colour,
    to_geometry,
    to_levels,
)
from .cpu_vectors import copy_padded
from .interface import SURFACE_DEPTH

_f32, _u64 = np.float32, np.uint64
_ONE, _ZERO, _QUARTER = _f32(1.0), _f32(0.0), _f32(0.25)
_SURFACE_DEPTH = _f32(SURFACE_DEPTH)


@inner
def _softplus(x):
    return max(x, _ZERO) + np.log1p(np.exp(-abs(x)))


@inner
def _search_part(begin, end, rays, samples, table, grid, network, light_ends, scratch, kept):
    t_start, t_end, offsets = samples[:3]
    layout, weights, layers, sharpness = network
    faint, opaque = light_ends
    features, last = layout[0], layout[layers - 1]
    x = np.empty((BLOCK, 3), np.float32)
    ray_of = np.empty(SLOTS, np.int64)
    next_of = np.empty(SLOTS, np.int64)
    light_of = np.empty(SLOTS, np.float32)
    passed_of = np.empty(SLOTS, np.float32)  # of the sample before, to the sharpness' logarithm
    first_of = np.empty(SLOTS + 1, np.int64)
    active, following = 0, begin
    while True:
        active, following = filled(active, following, end, offsets, ray_of, next_of, light_of)
        if active == 0:
            break
        rows = placed(active, rays, samples, ray_of, next_of, first_of, x)
        encode_rows(0, rows, x, table, grid, scratch, features[INPUT], features[PIN])
        forward(0, layers, rows, layout, weights, scratch)

        left = 0
        for slot in range(active):
            r, light, before = ray_of[slot], light_of[slot], passed_of[slot]
            base = next_of[slot] - first_of[slot]
            for row in range(first_of[slot], first_of[slot + 1]):
                i = base + row
                distance = scratch[_u64(last[OUTPUT] + row * last[POUT])]
                passed = _softplus(-sharpness * distance)
                touched = False
                if i > offsets[r]:
                    gap = t_start[i] - t_end[i - 1]
                    touched = abs(gap) < _QUARTER * (t_end[i - 1] - t_start[i - 1])
                depth = passed - (before if touched else _SURFACE_DEPTH)
                through = np.exp(-max(depth, _ZERO))
                if light * (_ONE - through) > faint:
                    kept[i] = True
                    if touched:
                        kept[i - 1] = True
                light *= through
                before = passed
            following_one = base + first_of[slot + 1]
            if light > opaque and following_one < offsets[r + 1]:
                ray_of[left], next_of[left] = r, following_one
                light_of[left], passed_of[left] = light, before
                left += 1
        active = left


@compiled
def search(parts, rays, samples, table, grid, network, light_ends, scratch, kept):
    """Find the samples at the ends of sections that matter; see ``Kernels.render_surface``.

    Args:
        parts: [P + 1] the first ray of each thread's part, and the end.
        rays: origins, directions [R, 3].
        samples: t_start, t_end [N]; offsets [R + 1]; whether space is contracted.
        network: layout, packed weights, number of the distance's layers, sharpness.
        light_ends: the least weight of a section that matters; the light behind which none does.
        kept: [N] bool, False before.
    """
    for part in prange(parts.shape[0] - 1):
        _search_part(
            parts[part],
            parts[part + 1],
            rays,
            samples,
            table,
            grid,
            network,
            light_ends,
            scratch[part],
            kept,
        )


@inner
def _colours(rows, first, ray, harmonics, network, scratch):
    """Evaluate the colour's layers for a block whose distance's layers have been evaluated."""
    layout, weights, layers, _ = network
    geometry, colour = layout[layers - 1], layout[layers]
    for i in range(rows):
        at, to = geometry[OUTPUT] + i * geometry[POUT], colour[INPUT] + i * colour[PIN]
        to_colour(at, harmonics, ray[first + i], scratch, to, geometry[POUT])
    forward(layers, layout.shape[0], rows, layout, weights, scratch)


@compiled
def evaluate(x, ray, harmonics, table, grid, network, scratch, features, distance, colour):
    """Distance [N] and colour [N, 3], or none of the latter, at x [N, 3].

    Args:
        ray, harmonics: which of the harmonics [R, H] a sample's colour takes.
        network: layout, packed weights, number of the distance's layers, whether colours are
            linear light.
        features: [N, F'] that ``evaluate_backward`` wants; none where nothing is to be kept.
    """
    layout, weights, layers, linear = network
    first_layer, geometry = layout[0], layout[layers - 1]
    last = layout[layout.shape[0] - 1]
    wide = first_layer[PIN]
    parts = scratch.shape[0]
    share = (x.shape[0] + parts - 1) // parts
    for part in prange(parts):
        mine = scratch[part]
        end = min((part + 1) * share, x.shape[0])
        for first in range(part * share, end, BLOCK):
            rows = min(BLOCK, end - first)
            encode_rows(first, rows, x, table, grid, mine, first_layer[INPUT], wide)
            if features.shape[0]:
                copy_padded(mine, first_layer[INPUT], features, first * wide, rows * wide)
            forward(0, layers, rows, layout, weights, mine)
            for i in range(rows):
                distance[first + i] = mine[_u64(geometry[OUTPUT] + i * geometry[POUT])]
            if colour.shape[0]:
                _colours(rows, first, ray, harmonics, network, mine)
                for i in range(rows):
                    at = last[OUTPUT] + i * last[POUT]
                    for channel in range(3):
                        colour[first + i, channel] = emitted(mine[_u64(at + channel)], linear)


@compiled
def evaluate_backward(
    ray,
    harmonics,
    network,
    features,
    of_distance,
    of_colour,
    scratch,
    gradients,
    of_features,
):
    """Gradients of ``evaluate``.

    Args:
        of_distance, of_colour: [N], [N, 3] or none of the latter.
        gradients: [P, ...] of the weights, packed, zero before.
        of_features: [L, N, F].
    """
    layout, weights, layers, linear = network
    first_layer, geometry = layout[0], layout[layers - 1]
    last = layout[layout.shape[0] - 1]
    wide = first_layer[PIN]
    parts = scratch.shape[0]
    count = of_distance.shape[0]
    share = (count + parts - 1) // parts
    for part in prange(parts):
        mine, my_gradients = scratch[part], gradients[part]
        end = min((part + 1) * share, count)
        for first in range(part * share, end, BLOCK):
            rows = min(BLOCK, end - first)
            copy_padded(features, first * wide, mine, first_layer[INPUT], rows * wide)
            forward(0, layers, rows, layout, weights, mine)
            if of_colour.shape[0]:
                _colours(rows, first, ray, harmonics, network, mine)
                for i in range(rows):
                    at, to = last[OUTPUT] + i * last[POUT], last[G_OUT] + i * last[POUT]
                    for channel in range(last[POUT]):
                        mine[_u64(to + channel)] = _ZERO
                    for channel in range(3):
                        raw, gradient = mine[_u64(at + channel)], of_colour[first + i, channel]
                        mine[_u64(to + channel)] = emitted_backward(raw, gradient, linear)
                backward(layers, layout.shape[0], rows, layout, weights, mine, my_gradients)
                to_geometry(rows, geometry, layout[layers], mine)
            else:
                for i in range(rows * geometry[POUT]):
                    mine[_u64(geometry[G_OUT] + i)] = _ZERO
            for i in range(rows):
                mine[_u64(geometry[G_OUT] + i * geometry[POUT])] = of_distance[first + i]
            backward(0, layers, rows, layout, weights, mine, my_gradients)
            to_levels(first, rows, first_layer, mine, of_features)
