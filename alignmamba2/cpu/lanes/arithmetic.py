"""Arithmetic of Lanes: with each other, with floats, and over all lanes."""

from __future__ import annotations

import operator

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .vectors import WIDTH, Lanes, pointer_to, rows_of, suffix, table_of, vector_of


@intrinsic
def spread(typingctx, number):
    """A float in every lane."""

    def codegen(context, builder, signature, args):
        return vector_of(context, builder, signature.return_type, signature.args[0], args[0])

    return Lanes(number)(number), codegen


def _lanes_of(a, b):
    return max((x for x in (a, b) if isinstance(x, Lanes)), key=lambda x: x.rows)


def binary(emit):
    """An intrinsic of two operands, at least one of them Lanes, from emit(builder, a, b)."""

    @intrinsic
    def operation(typingctx, a, b):
        lanes = _lanes_of(a, b)

        def codegen(context, builder, signature, args):
            a, b = (rows_of(context, builder, lanes, t, x) for t, x in zip(signature.args, args, strict=True))
            return table_of(builder, [emit(builder, *pair) for pair in zip(a, b, strict=True)])

        return lanes(a, b), codegen

    return operation


def _operator(op, instruction):
    operation = binary(lambda builder, a, b: getattr(builder, instruction)(a, b, flags=("contract",)))

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
at_least = binary(lambda builder, a, b: builder.select(builder.fcmp_ordered("<", a, b), b, a))
at_most = binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), b, a))
# a where it is above b, else 0
above = binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, ir.Constant(a.type, None)))


@intrinsic
def chosen(typingctx, test, a, b):
    """a where test > 0, else b; each of a and b Lanes or a float."""

    def codegen(context, builder, signature, args):
        a, b = (vector_of(context, builder, test, t, x) for t, x in zip(signature.args[1:], args[1:], strict=True))
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
            pointer = pointer_to(context, builder, signature.args[0], args[0], index_type, index)
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
            pointer = builder.bitcast(pointer_to(context, builder, array_type, args[0], pair, at), vector.as_pointer())
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
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.sqrt.{suffix(x.dtype)}"), args)

    return x(x), codegen
