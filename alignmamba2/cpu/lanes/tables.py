"""Tables of Lanes in a numba kernel: a few rows of WIDTH numbers that are one value, and so stay in registers.

A loop over the rows of an array loads and stores every row each time. A table is a value like a float: what the
kernel computes with again and again (states, rates, sums) is loaded once, before the loop over steps, and stored
once, after it. `+`, `*` and `exp2` work on tables as on Lanes; Lanes and floats stand for every row.

The number of rows is a constant of the kernel. A processor with AVX-512 has 32 registers for 16 float32 each.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import Lanes, in_every_lane, pointer_to, rows_of, table_of


def _row_pointers(context, builder, array_type, array, index_type, index, rows, inner):
    """Addresses of `index` and its successors along the axis that has `inner` axes after it."""
    index = [
        context.cast(builder, x, t, types.intp)
        for x, t in zip(cgutils.unpack_tuple(builder, index), index_type, strict=True)
    ]
    place = types.UniTuple(types.intp, len(index))
    axis = len(index) - 1 - inner
    for row in range(rows):
        at = list(index)
        at[axis] = builder.add(at[axis], ir.Constant(at[axis].type, row))
        yield pointer_to(context, builder, array_type, array, place, context.make_tuple(builder, place, at))


def _vector_pointers(context, builder, array_type, array, index_type, index, rows):
    """Addresses of array[..., i + r, j : j + WIDTH] as of vectors, and the alignment that is sure."""
    vector = context.get_value_type(Lanes(array_type.dtype)).as_pointer()
    pointers = _row_pointers(context, builder, array_type, array, index_type, index, rows, inner=1)
    return [builder.bitcast(p, vector) for p in pointers], array_type.dtype.bitwidth // 8


@intrinsic(prefer_literal=True)
def load_rows(typingctx, array, index, rows):
    """array[..., i : i + rows, j : j + WIDTH] as a table; index = (..., i, j), `rows` a constant."""

    def codegen(context, builder, signature, args):
        array_type, index_type, _ = signature.args
        count = signature.return_type.rows
        pointers, align = _vector_pointers(context, builder, array_type, args[0], index_type, args[1], count)
        return table_of(builder, [builder.load(p, align=align) for p in pointers])

    return Lanes(array.dtype, rows.literal_value)(array, index, rows), codegen


@intrinsic
def store_rows(typingctx, array, index, table):
    """array[..., i : i + rows, j : j + WIDTH] = table"""

    def codegen(context, builder, signature, args):
        array_type, index_type, lanes = signature.args
        pointers, align = _vector_pointers(context, builder, array_type, args[0], index_type, args[1], lanes.rows)
        for pointer, vector in zip(pointers, rows_of(context, builder, lanes, lanes, args[2]), strict=True):
            builder.store(vector, pointer, align=align)
        return context.get_dummy_value()

    return types.void(array, index, table), codegen


@intrinsic(prefer_literal=True)
def spread_rows(typingctx, array, index, rows):
    """The table whose row r holds array[..., i + r] in every lane; index = (..., i), `rows` a constant."""

    def codegen(context, builder, signature, args):
        array_type, index_type, _ = signature.args
        count = signature.return_type.rows
        pointers = _row_pointers(context, builder, array_type, args[0], index_type, args[1], count, inner=0)
        return table_of(builder, [in_every_lane(builder, builder.load(p)) for p in pointers])

    return Lanes(array.dtype, rows.literal_value)(array, index, rows), codegen


@intrinsic
def add_products(typingctx, start, a, b):
    """start + Σ_r a_r · b_r over the rows of two tables: Lanes."""

    def codegen(context, builder, signature, args):
        lanes = signature.args[1]
        rows = (rows_of(context, builder, lanes, lanes, x) for x in args[1:])
        result = args[0]
        for x, y in zip(*rows, strict=True):
            product = builder.fmul(x, y, flags=("contract",))
            result = builder.fadd(result, product, flags=("contract",))
        return result

    return start(start, a, b), codegen
