"""The type Lanes and its values in LLVM: vectors, tables of them, addresses of them in arrays."""

from __future__ import annotations

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import models, register_model

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


def suffix(dtype):
    """Of the LLVM function for this type of lanes."""
    return f"v{WIDTH}f{dtype.bitwidth}"


def pointer_to(context, builder, array_type, array, index_types, index):
    """Address of array[index], whatever the array's strides."""
    struct = context.make_array(array_type)(context, builder, array)
    indices = [
        context.cast(builder, i, t, types.intp)
        for i, t in zip(cgutils.unpack_tuple(builder, index), index_types, strict=True)
    ]
    return cgutils.get_item_pointer(context, builder, array_type, struct, indices, wraparound=False, boundscheck=False)


def vector_at(context, builder, signature, args):
    """Pointer to array[index] as to a vector, that vector's type, and the alignment that is sure."""
    array_type, index_type = signature.args[:2]
    vector = context.get_value_type(Lanes(array_type.dtype))
    pointer = pointer_to(context, builder, array_type, args[0], index_type, args[1])
    return builder.bitcast(pointer, vector.as_pointer()), vector, array_type.dtype.bitwidth // 8


def in_every_lane(builder, scalar):
    """A scalar as a vector."""
    vector_type = ir.VectorType(scalar.type, WIDTH)
    one = builder.insert_element(ir.Constant(vector_type, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH)
    return builder.shuffle_vector(one, ir.Constant(vector_type, ir.Undefined), zeros)


def vector_of(context, builder, lanes, value_type, value):
    """A value as a vector: itself, or a float in every lane."""
    if isinstance(value_type, Lanes):
        return value
    return in_every_lane(builder, context.cast(builder, value, value_type, lanes.dtype))


def rows_of(context, builder, lanes, value_type, value):
    """A value as the list of its rows, as many as `lanes` has: one row, or a float, stands for all."""
    if not isinstance(value_type, Lanes) or value_type.rows == 1:
        return [vector_of(context, builder, lanes, value_type, value)] * lanes.rows
    return [builder.extract_value(value, row) for row in range(lanes.rows)]


def table_of(builder, vectors):
    """Rows as one value."""
    if len(vectors) == 1:
        return vectors[0]
    table = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for row, vector in enumerate(vectors):
        table = builder.insert_value(table, vector, row)
    return table
