"""Sixteen numbers as one, in a numba kernel: the processor's vector registers, by name.

A compiler only turns a loop over channels into vector instructions when it can prove that nothing overlaps,
and gives up without a word when it cannot. Here a kernel says what it means: `load` takes 16 neighbouring
numbers of an array, `+ - * /` work on all of them at once (a plain float is spread over all), and `store` puts
them back. LLVM maps them to whatever the machine has: AVX-512, AVX2, NEON, or plain scalars.

Products and sums may fuse (one rounding instead of two). Nothing else is relaxed: NaN and infinity spread as
usual.

numba's cache on disk looks at the date of a kernel's own file alone: after a change here or in `scan/rows.py`, save
`scan/kernels.py`, `alignment/kernel_sums_cpu.py` and `alignment/sinkhorn_cpu.py` too.
"""

from __future__ import annotations

import math
import operator

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

WIDTH = 16
LOG2E = math.log2(math.e)
LN2 = math.log(2)


class Lanes(types.Type):
    """WIDTH floats of one type, or a table of `rows` · WIDTH: arithmetic is the same, a row at a time."""

    def __init__(self, dtype: types.Float, rows: int = 1):
        self.dtype, self.rows = dtype, rows
        super().__init__(f"Lanes({dtype}, {rows})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        vector = ir.VectorType(dmm.lookup(fe_type.dtype).get_value_type(), WIDTH)
        super().__init__(dmm, fe_type, vector if fe_type.rows == 1 else ir.ArrayType(vector, fe_type.rows))


def _suffix(dtype):
    """Of the LLVM function for this type of lanes."""
    return f"v{WIDTH}f{dtype.bitwidth}"


# --- Memory -----------------------------------------------------------------------------------------------


def _pointer(context, builder, array_type, array, index_types, index):
    """Address of array[index], whatever the array's strides."""
    struct = context.make_array(array_type)(context, builder, array)
    indices = [
        context.cast(builder, i, t, types.intp)
        for i, t in zip(cgutils.unpack_tuple(builder, index), index_types, strict=True)
    ]
    return cgutils.get_item_pointer(context, builder, array_type, struct, indices, wraparound=False, boundscheck=False)


def _vector_at(context, builder, signature, args):
    """Pointer to array[index] as to a vector, that vector's type, and the alignment that is sure."""
    array_type, index_type = signature.args[:2]
    vector = context.get_value_type(Lanes(array_type.dtype))
    pointer = _pointer(context, builder, array_type, args[0], index_type, args[1])
    return builder.bitcast(pointer, vector.as_pointer()), vector, array_type.dtype.bitwidth // 8


@intrinsic
def load(typingctx, array, index):
    """array[..., i : i + WIDTH] as Lanes; the index names the first number. Neighbours lie side by side."""

    def codegen(context, builder, signature, args):
        pointer, _, align = _vector_at(context, builder, signature, args)
        return builder.load(pointer, align=align)

    return Lanes(array.dtype)(array, index), codegen


@intrinsic
def store(typingctx, array, index, value):
    """array[..., i : i + WIDTH] = value"""

    def codegen(context, builder, signature, args):
        pointer, _, align = _vector_at(context, builder, signature, args)
        builder.store(args[2], pointer, align=align)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def prefetch(typingctx, array, index):
    """Have the memory around array[index] on its way to the second-level cache before it is needed. Only a hint."""

    def codegen(context, builder, signature, args):
        pointer = _pointer(context, builder, array, args[0], index, args[1])
        pointer = builder.bitcast(pointer, cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        builder.call(function, [pointer, number(0), number(2), number(1)])  # to read, second level, data
        return context.get_dummy_value()

    return types.void(array, index), codegen


def _first(builder, count):
    """Lanes below `count`, as LLVM's mask."""
    integers = ir.VectorType(count.type, WIDTH)
    numbers = ir.Constant(integers, list(range(WIDTH)))
    return builder.icmp_signed("<", numbers, _in_every_lane(builder, count))


def _masked(builder, name: str, dtype, result, arguments):
    """LLVM's masked load or store: lanes that the mask leaves out do not touch memory."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.{_suffix(dtype)}.p0")
    return builder.call(function, arguments)


@intrinsic
def load_first(typingctx, array, index, count):
    """`load`, but only the first `count` lanes; the others are zero, and their memory is not touched."""

    def codegen(context, builder, signature, args):
        pointer, vector, align = _vector_at(context, builder, signature, args)
        whole = builder.icmp_signed(">=", args[2], ir.Constant(args[2].type, WIDTH))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                every = builder.load(pointer, align=align)
                from_whole = builder.block
            with otherwise:
                zeros = ir.Constant(vector, [0.0] * WIDTH)
                alignment = ir.Constant(ir.IntType(32), align)
                given = [pointer, alignment, _first(builder, args[2]), zeros]
                some = _masked(builder, "load", array.dtype, vector, given)
                from_part = builder.block
        result = builder.phi(vector)
        result.add_incoming(every, from_whole)
        result.add_incoming(some, from_part)
        return result

    return Lanes(array.dtype)(array, index, count), codegen


@intrinsic
def store_first(typingctx, array, index, count, value):
    """`store`, but only the first `count` lanes."""

    def codegen(context, builder, signature, args):
        pointer, _, align = _vector_at(context, builder, signature, args)
        whole = builder.icmp_signed(">=", args[2], ir.Constant(args[2].type, WIDTH))
        with builder.if_else(whole, likely=True) as (then, otherwise):
            with then:
                builder.store(args[3], pointer, align=align)
            with otherwise:
                alignment = ir.Constant(ir.IntType(32), align)
                mask = _first(builder, args[2])
                _masked(builder, "store", array.dtype, ir.VoidType(), [args[3], pointer, alignment, mask])
        return context.get_dummy_value()

    return types.void(array, index, count, value), codegen


@intrinsic
def spread(typingctx, number):
    """A float in every lane."""

    def codegen(context, builder, signature, args):
        return _spread(context, builder, signature.return_type, signature.args[0], args[0])

    return Lanes(number)(number), codegen


# --- Arithmetic -------------------------------------------------------------------------------------------


def _spread(context, builder, lanes, value_type, value):
    """A value as a vector: itself, or a float in every lane."""
    if isinstance(value_type, Lanes):
        return value
    return _in_every_lane(builder, context.cast(builder, value, value_type, lanes.dtype))


def _rows(context, builder, lanes, value_type, value):
    """A value as the list of its rows, as many as `lanes` has: one row, or a float, stands for all."""
    if not isinstance(value_type, Lanes) or value_type.rows == 1:
        return [_spread(context, builder, lanes, value_type, value)] * lanes.rows
    return [builder.extract_value(value, row) for row in range(lanes.rows)]


def _table(builder, vectors):
    """Rows as one value."""
    if len(vectors) == 1:
        return vectors[0]
    table = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for row, vector in enumerate(vectors):
        table = builder.insert_value(table, vector, row)
    return table


def _in_every_lane(builder, scalar):
    vector_type = ir.VectorType(scalar.type, WIDTH)
    one = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(vector_type, ir.Undefined), zeros)


def _lanes_of(a, b):
    return max((x for x in (a, b) if isinstance(x, Lanes)), key=lambda x: x.rows)


def _binary(emit):
    """An intrinsic of two operands, at least one of them Lanes, from emit(builder, a, b)."""

    @intrinsic
    def operation(typingctx, a, b):
        lanes = _lanes_of(a, b)

        def codegen(context, builder, signature, args):
            a, b = (_rows(context, builder, lanes, t, x) for t, x in zip(signature.args, args, strict=True))
            return _table(builder, [emit(builder, *pair) for pair in zip(a, b, strict=True)])

        return lanes(a, b), codegen

    return operation


def _operator(op, instruction):
    operation = _binary(lambda builder, a, b: getattr(builder, instruction)(a, b, flags=("contract",)))

    @overload(op, inline="always")
    def overloaded(a, b):
        if isinstance(a, Lanes) or isinstance(b, Lanes):
            return lambda a, b: operation(a, b)


for _op, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _operator(_op, _instruction)

# "a if a > b else b" with NaN in a kept: the comparison is false for NaN, and the second choice is a.
at_least = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))
at_most = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), b, a))
# a where it is above b, else 0
above = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, ir.Constant(a.type, None)))


@intrinsic
def chosen(typingctx, test, a, b):
    """a where test > 0, else b; each of a and b Lanes or a float."""

    def codegen(context, builder, signature, args):
        a, b = (_spread(context, builder, test, t, x) for t, x in zip(signature.args[1:], args[1:], strict=True))
        return builder.select(builder.fcmp_ordered(">", args[0], ir.Constant(args[0].type, None)), a, b)

    return test(test, a, b), codegen


def _over_lanes(emit):
    """An intrinsic that makes one number of all lanes by emit(builder, a, b), always in the same order."""

    @intrinsic
    def reduction(typingctx, x):
        def codegen(context, builder, signature, args):
            (vector,) = args
            width = WIDTH
            while width > 1:  # halves on top of each other
                width //= 2
                low, high = (
                    builder.shuffle_vector(
                        vector,
                        vector,
                        ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(start, start + width))),
                    )
                    for start in (0, width)
                )
                vector = emit(builder, low, high)
            return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

        return x.dtype(x), codegen

    return reduction


total = _over_lanes(lambda builder, a, b: builder.fadd(a, b))
largest = _over_lanes(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))


@intrinsic
def totals(typingctx, rows):
    """The sums of the rows of an array (WIDTH, WIDTH) as Lanes: 15 additions instead of 64."""

    def codegen(context, builder, signature, args):
        index_type = types.UniTuple(types.intp, 2)
        vector = context.get_value_type(signature.return_type)
        indices = ir.VectorType(ir.IntType(32), WIDTH)
        even, odd = (ir.Constant(indices, list(range(start, 2 * WIDTH, 2))) for start in (0, 1))
        vectors = []
        for row in range(WIDTH):
            place = [context.get_constant(types.intp, x) for x in (row, 0)]
            index = context.make_tuple(builder, index_type, place)
            pointer = _pointer(context, builder, signature.args[0], args[0], index_type, index)
            pointer = builder.bitcast(pointer, vector.as_pointer())
            vectors.append(builder.load(pointer, align=signature.args[0].dtype.bitwidth // 8))
        while len(vectors) > 1:  # neighbours added: a's sums fill the lower half, b's the upper one
            vectors = [
                builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        return vectors[0]

    return Lanes(rows.dtype)(rows), codegen


@intrinsic
def weighted(typingctx, array, index, weights):
    """Σ_r weights[r] · array[i + r, j : j + WIDTH], over as many rows as there are lanes; index = (i, j)."""

    def codegen(context, builder, signature, args):
        array_type, index_type, _ = signature.args
        vector = args[2].type
        i, j = cgutils.unpack_tuple(builder, args[1])
        i, j = (context.cast(builder, x, t, types.intp) for x, t in zip((i, j), index_type, strict=True))
        pair = types.UniTuple(types.intp, 2)
        sums = [None, None]  # two chains, for an addition waits for the one before
        for row in range(WIDTH):
            at = context.make_tuple(builder, pair, (builder.add(i, ir.Constant(i.type, row)), j))
            pointer = builder.bitcast(_pointer(context, builder, array_type, args[0], pair, at), vector.as_pointer())
            numbers = builder.load(pointer, align=array_type.dtype.bitwidth // 8)
            lane = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [row] * WIDTH)
            term = builder.fmul(numbers, builder.shuffle_vector(args[2], args[2], lane), flags=("contract",))
            chain = sums[row % 2]
            sums[row % 2] = term if chain is None else builder.fadd(chain, term, flags=("contract",))
        return builder.fadd(*sums)

    return weights(array, index, weights), codegen


@intrinsic
def doubled(typingctx, x):
    """The same numbers in double precision."""

    def codegen(context, builder, signature, args):
        return builder.fpext(args[0], context.get_value_type(signature.return_type))

    return Lanes(types.float64)(x), codegen


@intrinsic
def sqrt(typingctx, x):
    """Square roots."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(args[0].type, [args[0].type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.{_suffix(x.dtype)}"), args)

    return x(x), codegen


# --- Functions --------------------------------------------------------------------------------------------


def _raised(builder, p, n):
    """p · 2^k, where the lowest bits of the float n hold the integer k: added to the exponent's bits of p."""
    bits, mantissa = (32, 23) if p.type.element == ir.FloatType() else (64, 52)
    integer = ir.VectorType(ir.IntType(bits), WIDTH)
    shifted = builder.shl(builder.bitcast(n, integer), ir.Constant(integer, [mantissa] * WIDTH))
    return builder.bitcast(builder.add(builder.bitcast(p, integer), shifted), p.type)


_raise_exponent = _binary(_raised)

# 2^f on [-½, ½], highest power first, exactly 1 at 0: minimax (relative error 9e-8), Taylor (2e-16).
_EXP2 = {
    types.float32: (0.00132647, 0.00967151, 0.05550734, 0.24022242, 0.69314698, 1.0),
    types.float64: tuple(LN2**k / math.factorial(k) for k in range(12, -1, -1)),
}
# log(1 + w) = 2 artanh(s), s = w / (2 + w) ≤ ⅓ for w ≤ 1: the series in s², highest power first.
_LOG1P = {
    types.float32: tuple(2 / (2 * k + 1) for k in range(7, -1, -1)),
    types.float64: tuple(2 / (2 * k + 1) for k in range(16, -1, -1)),
}


def _series(table):
    """An intrinsic for the polynomial with the coefficients table[dtype], by Horner's scheme."""

    @intrinsic
    def series(typingctx, x):
        def codegen(context, builder, signature, args):
            vector = context.get_value_type(Lanes(x.dtype))
            first, *rest = (ir.Constant(vector, [c] * WIDTH) for c in table[x.dtype])
            values = []
            for row in _rows(context, builder, x, x, args[0]):
                p = first
                for c in rest:
                    product = builder.fmul(p, row, flags=("contract",))
                    p = builder.fadd(product, c, flags=("contract",))
                values.append(p)
            return _table(builder, values)

        return x(x), codegen

    return series


_exp2_series, _log1p_series = _series(_EXP2), _series(_LOG1P)


def exp2(x):
    """2^x, within two units in the last place; 0 and infinity out of range, NaN for NaN. For kernels only."""
    raise NotImplementedError("exp2: works inside numba kernels only")


@overload(exp2, inline="always")
def _exp2(x):
    single = x.dtype == types.float32
    lowest, highest = (-127.0, 128.0) if single else (-1023.0, 1024.0)
    rounder = 1.5 * 2.0 ** (23 if single else 52)

    def compute(x):
        x = at_most(at_least(x, lowest), highest)
        n = x + rounder  # rounds to a whole number, which then stands in the lowest bits
        f = x - (n - rounder)
        return _raise_exponent(_exp2_series(f), n)

    return compute


@njit(inline="always")
def sigmoid(x):
    """1 / (1 + e^-x)"""
    return 1.0 / (1.0 + exp2(x * -LOG2E))


@njit(inline="always")
def softplus(x):
    """log(1 + e^x) = max(x, 0) + log(1 + w), w = e^-|x|: no overflow, and exact for very negative x."""
    w = exp2(at_most(x, x * -1.0) * LOG2E)
    s = w / (w + 2.0)
    return at_least(x, 0.0) + s * _log1p_series(s * s)
