"""Vector instructions for the ``cpu`` kernels, called from within numba's loops.

numba can call a BLAS only for whole matrices, but what a network needs between two look-ups in a
hash grid is a product of a hundred rows whose operands stay in the first cache; nor does it find
that a table's two features are one load. Both are written here as instructions of LLVM, which
splits them where a processor's registers are shorter.
"""

from __future__ import annotations

import numba
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

PADDED = 16
"""Columns are a multiple of this, whatever the processor: rows then always hold whole vectors."""
ROWS = 8
"""Rows of a product are a multiple of this."""

_features = binding.get_host_cpu_features()
_LANES = 16 if _features.get("avx512f") else 8 if _features.get("avx") else 4
# rows of a tile by its columns in vectors: as many sums as there are registers for
_TILES = {16: {4: 4, 2: 8, 1: 8}, 8: {2: 4}, 4: {4: 2}}[_LANES]

_SINGLE, _INDEX, _SHORT = ir.FloatType(), ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_SINGLE, _LANES)


def padded(width: int) -> int:
    """The width, rounded up to whole vectors."""
    return -(-width // PADDED) * PADDED


def _data(context, builder, signature, arguments, place: int):
    array = context.make_array(signature.args[place])
    return array(context, builder, arguments[place]).data


def _number(value: int):
    return ir.Constant(_INDEX, value)


def _vector_at(builder, pointer, at, vector):
    return builder.bitcast(builder.gep(pointer, [at]), vector.as_pointer())


def _load(builder, pointer, at, vector):
    value = builder.load(_vector_at(builder, pointer, at, vector))
    value.align = 4
    return value


def _store(builder, value, pointer, at):
    builder.store(value, _vector_at(builder, pointer, at, value.type)).align = 4


def _multiply_add(builder, vector):
    function = ir.FunctionType(vector, [vector] * 3)
    name = f"llvm.fmuladd.v{vector.count}f32"
    return cgutils.get_or_insert_function(builder.module, function, name)


def _filled(builder, value, vector):
    """A vector that holds one number everywhere."""
    nothing = ir.Constant(vector, ir.Undefined)
    one = builder.insert_element(nothing, value, ir.Constant(_SHORT, 0))
    places = ir.Constant(ir.VectorType(_SHORT, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, nothing, places)


def _tile(vectors: int, rectified: bool):
    """An intrinsic for ``c = start + a b``, with ``count`` columns of ``a``.

    All are flat float32 arrays. Their elements are ``a[a_at + row * a_row + k * a_k]``,
    ``b[b_at + k * b_k + column]`` and ``c[c_at + row * c_row + column]``, ``start`` like ``c``.
    The sums stay in registers; if ``rectified``, negative ones become zero.
    """
    rows, vector = _TILES[vectors], _VECTOR

    def generate(context, builder, signature, arguments):
        a, b, start, c = (
            _data(context, builder, signature, arguments, place) for place in (0, 4, 7, 10)
        )
        a_at, a_row, a_k = arguments[1:4]
        b_at, b_k = arguments[5:7]
        start_at, start_row, c_at, c_row, count = *arguments[8:10], *arguments[11:14]
        multiply_add = _multiply_add(builder, vector)

        def places(at, row_length):
            for row in range(rows):
                first = builder.add(at, builder.mul(row_length, _number(row)))
                yield from (builder.add(first, _number(v * _LANES)) for v in range(vectors))

        before = [_load(builder, start, at, vector) for at in places(start_at, start_row)]
        above = builder.block
        loop = builder.append_basic_block("tile.loop")
        done = builder.append_basic_block("tile.done")
        # there is no empty product: a layer has inputs, a block has samples
        builder.branch(loop)
        builder.position_at_end(loop)
        k, at_a, at_b = (builder.phi(_INDEX) for _ in range(3))
        sums = [builder.phi(vector) for _ in before]
        columns = [
            _load(builder, b, builder.add(at_b, _number(v * _LANES)), vector)
            for v in range(vectors)
        ]
        after = []
        for row in range(rows):
            place = builder.add(at_a, builder.mul(a_row, _number(row)))
            factor = _filled(builder, builder.load(builder.gep(a, [place])), vector)
            for v in range(vectors):
                terms = [factor, columns[v], sums[row * vectors + v]]
                after.append(builder.call(multiply_add, terms))
        following = builder.add(k, _number(1))
        steps = (
            (k, _number(0), following),
            (at_a, a_at, builder.add(at_a, a_k)),
            (at_b, b_at, builder.add(at_b, b_k)),
            *zip(sums, before, after, strict=True),
        )
        for phi, initial, next_one in steps:
            phi.add_incoming(initial, above)
            phi.add_incoming(next_one, loop)
        builder.cbranch(builder.icmp_signed("<", following, count), loop, done)

        builder.position_at_end(done)
        zero = ir.Constant(vector, [0.0] * _LANES)
        for place, value in zip(places(c_at, c_row), after, strict=True):
            if rectified:
                value = builder.select(builder.fcmp_ordered(">", value, zero), value, zero)
            _store(builder, value, c, place)

    @intrinsic
    def tile(
        context,
        a,
        a_at,
        a_row,
        a_k,
        b,
        b_at,
        b_k,
        start,
        start_at,
        start_row,
        c,
        c_at,
        c_row,
        count,
    ):
        whole = types.int64
        signature = types.void(
            *(a, whole, whole, whole, b, whole, whole),
            *(start, whole, whole, c, whole, whole, whole),
        )
        return signature, generate

    return tile


def _product(rectified: bool):
    tiles = [(_tile(vectors, rectified), _TILES[vectors], vectors * _LANES) for vectors in _TILES]
    # numba compiles what names stand for: these are constants to it
    (first, first_rows, first_wide) = tiles[0]
    (second, second_rows, second_wide) = tiles[1 % len(tiles)]
    (third, third_rows, third_wide) = tiles[2 % len(tiles)]

    @numba.njit(error_model="numpy", boundscheck=False, nogil=True)
    def multiply(
        m, n, k, a, a_at, a_row, a_k, b, b_at, b_k, start, start_at, start_row, c, c_at, c_row
    ):
        j = 0
        while j + first_wide <= n:
            for i in range(0, m, first_rows):
                first(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_k,
                    b,
                    b_at + j,
                    b_k,
                    start,
                    start_at + i * start_row + j,
                    start_row,
                    c,
                    c_at + i * c_row + j,
                    c_row,
                    k,
                )
            j += first_wide
        while j + second_wide <= n:
            for i in range(0, m, second_rows):
                second(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_k,
                    b,
                    b_at + j,
                    b_k,
                    start,
                    start_at + i * start_row + j,
                    start_row,
                    c,
                    c_at + i * c_row + j,
                    c_row,
                    k,
                )
            j += second_wide
        while j + third_wide <= n:
            for i in range(0, m, third_rows):
                third(
                    a,
                    a_at + i * a_row,
                    a_row,
                    a_k,
                    b,
                    b_at + j,
                    b_k,
                    start,
                    start_at + i * start_row + j,
                    start_row,
                    c,
                    c_at + i * c_row + j,
                    c_row,
                    k,
                )
            j += third_wide

    return multiply


multiply, multiply_rectified = _product(False), _product(True)
"""``c[m, n] = start[m, n] + a[m, k] b[k, n]``, and the same without what is negative.

``m`` is a multiple of ``ROWS``, ``n`` of ``PADDED``, ``k`` at least 1. The arrays are flat, see
``_tile`` for where their elements are: with ``a_row`` 1 and ``a_k`` the length of a row, ``a`` is
transposed; with ``start_row`` 0 every row starts from the same one. ``start`` may be ``c``.
"""


@intrinsic
def copy_padded(context, source, at, target, to, count):
    """``target[to:to+count] = source[at:at+count]`` of flat arrays; ``count`` is padded."""

    def generate(context, builder, signature, arguments):
        source = _data(context, builder, signature, arguments, 0)
        target = _data(context, builder, signature, arguments, 2)
        at, to, count = arguments[1], arguments[3], arguments[4]
        with cgutils.for_range_slice(builder, _number(0), count, _number(PADDED)) as (place, _):
            for first in range(0, PADDED, _LANES):
                place_in = builder.add(place, _number(first))
                value = _load(builder, source, builder.add(at, place_in), _VECTOR)
                _store(builder, value, target, builder.add(to, place_in))

    whole = types.int64
    return types.void(source, whole, target, whole, whole), generate


_PAIR = ir.VectorType(_SINGLE, 2)


def _corner_places(builder, arguments):
    """Where the pairs of eight entries begin in a flat table."""
    return [builder.mul(entry, _number(2)) for entry in arguments]


@intrinsic
def interpolate_pair(context, table, entries, across, along, out, at):
    """``out[at:at+2]`` = the features of a cell's corners, weighted; see ``cpu_loops._corners``.

    Args:
        table: [entries, 2].
        entries: eight of them, x first.
        across: four weights; along: two.
    """

    def generate(context, builder, signature, arguments):
        table = _data(context, builder, signature, arguments, 0)
        out = _data(context, builder, signature, arguments, 4)
        entries, across, along = (
            cgutils.unpack_tuple(builder, arguments[place]) for place in (1, 2, 3)
        )
        multiply_add = _multiply_add(builder, _PAIR)
        low, high = (_filled(builder, weight, _PAIR) for weight in along)
        total = ir.Constant(_PAIR, [0.0, 0.0])
        places = _corner_places(builder, entries)
        for line, weight in enumerate(across):
            first = _load(builder, table, places[2 * line], _PAIR)
            second = _load(builder, table, places[2 * line + 1], _PAIR)
            value = builder.fmul(first, low)
            value = builder.call(multiply_add, [second, high, value])
            total = builder.call(multiply_add, [value, _filled(builder, weight, _PAIR), total])
        _store(builder, total, out, arguments[5])

    return types.void(table, entries, across, along, out, types.int64), generate


@intrinsic
def spread_pair(context, gradient, at, entries, across, along, table):
    """``table[entries]`` += ``gradient[at:at+2]``, weighted: ``interpolate_pair``'s transpose."""

    def generate(context, builder, signature, arguments):
        gradient = _data(context, builder, signature, arguments, 0)
        table = _data(context, builder, signature, arguments, 5)
        entries, across, along = (
            cgutils.unpack_tuple(builder, arguments[place]) for place in (2, 3, 4)
        )
        multiply_add = _multiply_add(builder, _PAIR)
        value = _load(builder, gradient, arguments[1], _PAIR)
        sides = [builder.fmul(value, _filled(builder, weight, _PAIR)) for weight in along]
        places = _corner_places(builder, entries)
        for line, weight in enumerate(across):
            factor = _filled(builder, weight, _PAIR)
            for side, part in enumerate(sides):
                place = places[2 * line + side]
                before = _load(builder, table, place, _PAIR)
                _store(builder, builder.call(multiply_add, [part, factor, before]), table, place)

    return types.void(gradient, types.int64, entries, across, along, table), generate
