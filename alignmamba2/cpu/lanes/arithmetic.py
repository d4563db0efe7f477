"""Arithmetic of Lanes and tables: with each other, with floats, and over all lanes or rows."""

import operator

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from .vectors import WIDTH, Lanes, constants, rows_of, table_of

CONTRACT = ("contract",)  # a product and a sum may fuse


@intrinsic
def spread(typingctx, number):
    """Return Lanes with a float in every lane."""

    def codegen(context, builder, signature, args):
        return rows_of(context, builder, signature.return_type, number, args[0])[0]

    return Lanes(number)(number), codegen


def _binary(emit):
    """Return an intrinsic of two operands, at least one of them Lanes, from emit(builder, a, b)."""

    @intrinsic
    def operation(typingctx, a, b):
        lanes = max((x for x in (a, b) if isinstance(x, Lanes)), key=lambda x: x.rows)

        def codegen(context, builder, signature, args):
            a, b = (rows_of(context, builder, lanes, t, x) for t, x in zip(signature.args, args, strict=True))
            return table_of(builder, [emit(builder, *pair) for pair in zip(a, b, strict=True)])

        return lanes(a, b), codegen

    return operation


def unary(emit):
    """Return an intrinsic that does emit(builder, vector, dtype) to every row."""

    @intrinsic
    def function(typingctx, x):
        def codegen(context, builder, signature, args):
            return table_of(builder, [emit(builder, row, x.dtype) for row in rows_of(context, builder, x, x, args[0])])

        return x(x), codegen

    return function


def _overload(op, instruction: str) -> None:
    operation = _binary(lambda builder, a, b: getattr(builder, instruction)(a, b, flags=CONTRACT))

    @overload(op, inline="always")
    def overloaded(a, b):
        if isinstance(a, Lanes) or isinstance(b, Lanes):
            return lambda a, b: operation(a, b)


_overload(operator.add, "fadd")
_overload(operator.sub, "fsub")
_overload(operator.mul, "fmul")
_overload(operator.truediv, "fdiv")


# NaN in a is kept: the comparison is false for NaN, and the second choice is a.
def larger(builder, a, b):
    return builder.select(builder.fcmp_ordered("<", a, b), b, a)


def smaller(builder, a, b):
    return builder.select(builder.fcmp_ordered(">", a, b), b, a)


at_least, at_most = _binary(larger), _binary(smaller)
# a where it is above b, else 0
above = _binary(lambda builder, a, b: builder.select(builder.fcmp_ordered(">", a, b), a, ir.Constant(a.type, None)))


@intrinsic
def chosen(typingctx, test, a, b):
    """Return a where test > 0, else b; each of a and b is Lanes or a float."""

    def codegen(context, builder, signature, args):
        (a,), (b,) = (rows_of(context, builder, test, *x) for x in zip(signature.args[1:], args[1:], strict=True))
        return builder.select(builder.fcmp_ordered(">", args[0], ir.Constant(args[0].type, None)), a, b)

    return test(test, a, b), codegen


@intrinsic
def doubled(typingctx, x):
    """Return the same numbers in double precision."""

    def codegen(context, builder, signature, args):
        return builder.fpext(args[0], context.get_value_type(signature.return_type))

    return Lanes(types.float64)(x), codegen


# --- Over lanes and rows ------------------------------------------------------------------------------------


def _over_lanes(emit):
    """Return an intrinsic that makes one number of all lanes by emit(builder, a, b), always in the same order."""

    @intrinsic
    def reduction(typingctx, x):
        def codegen(context, builder, signature, args):
            (vector,) = args
            width = WIDTH
            while width > 1:  # halves on top of each other
                width //= 2
                halves = (list(range(start, start + width)) for start in (0, width))
                vector = emit(builder, *(builder.shuffle_vector(vector, vector, constants(half)) for half in halves))
            return builder.extract_element(vector, ir.Constant(ir.IntType(32), 0))

        return x.dtype(x), codegen

    return reduction


total = _over_lanes(lambda builder, a, b: builder.fadd(a, b))
largest = _over_lanes(larger)


@intrinsic
def totals(typingctx, table):
    """Return the sums of a table's WIDTH rows as Lanes: 15 additions instead of 64."""

    def codegen(context, builder, signature, args):
        even, odd = (constants(list(range(start, 2 * WIDTH, 2))) for start in (0, 1))
        vectors = rows_of(context, builder, table, table, args[0])
        while len(vectors) > 1:  # neighbours added: a's sums fill the lower half, b's the upper one
            vectors = [
                builder.fadd(builder.shuffle_vector(a, b, even), builder.shuffle_vector(a, b, odd))
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
        return vectors[0]

    return Lanes(table.dtype)(table), codegen


@intrinsic
def weighted(typingctx, table, weights):
    """Return Σ_r weights[r] · table[r], for a table of WIDTH rows, as Lanes."""

    def codegen(context, builder, signature, args):
        sums = [None, None]  # two chains, for an addition waits for the one before
        for row, numbers in enumerate(rows_of(context, builder, table, table, args[0])):
            weight = builder.shuffle_vector(args[1], args[1], constants([row] * WIDTH))
            term, chain = builder.fmul(numbers, weight, flags=CONTRACT), sums[row % 2]
            sums[row % 2] = term if chain is None else builder.fadd(chain, term, flags=CONTRACT)
        return builder.fadd(*sums)

    return weights(table, weights), codegen


@intrinsic
def add_products(typingctx, start, a, b):
    """Return start + Σ_r a_r · b_r over the rows of two tables, as Lanes."""

    def codegen(context, builder, signature, args):
        result = args[0]
        for x, y in zip(*(rows_of(context, builder, a, a, table) for table in args[1:]), strict=True):
            result = builder.fadd(result, builder.fmul(x, y, flags=CONTRACT), flags=CONTRACT)
        return result

    return start(start, a, b), codegen
