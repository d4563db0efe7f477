"""The type Lanes and its values in LLVM: a vector, or a table of several."""

import math

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

WIDTH = 16
LOG2E = math.log2(math.e)
LN2 = math.log(2)


class Lanes(types.Type):
    """Lanes are WIDTH floats of one type, or a table of `rows` · WIDTH: arithmetic is the same, row by row."""

    def __init__(self, dtype: types.Float, rows: int = 1):
        self.dtype, self.rows = dtype, rows
        super().__init__(f"Lanes({dtype}, {rows})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        vector = ir.VectorType(dmm.lookup(fe_type.dtype).get_value_type(), WIDTH)
        super().__init__(dmm, fe_type, vector if fe_type.rows == 1 else ir.ArrayType(vector, fe_type.rows))


def llvm_suffix(dtype: types.Float) -> str:
    """Return the end of the names of LLVM's functions for WIDTH numbers of this type."""
    return f"v{WIDTH}f{dtype.bitwidth}"


def constants(numbers: list[int]) -> ir.Constant:
    """Return int32 numbers as a vector, such as `shuffle_vector` takes."""
    return ir.Constant(ir.VectorType(ir.IntType(32), len(numbers)), numbers)


def in_every_lane(builder, scalar):
    """Return a vector with the scalar in every lane."""
    undefined = ir.Constant(ir.VectorType(scalar.type, WIDTH), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, undefined, constants([0] * WIDTH))


def rows_of(context, builder, lanes: Lanes, value_type, value) -> list:
    """Return a value as the list of its rows, as many as `lanes` has: one row, or a float, stands for all."""
    if not isinstance(value_type, Lanes):
        return [in_every_lane(builder, context.cast(builder, value, value_type, lanes.dtype))] * lanes.rows
    if value_type.rows == 1:
        return [value] * lanes.rows
    return [builder.extract_value(value, row) for row in range(lanes.rows)]


def table_of(builder, vectors: list):
    """Return rows as one value."""
    if len(vectors) == 1:
        return vectors[0]
    table = ir.Constant(ir.ArrayType(vectors[0].type, len(vectors)), ir.Undefined)
    for row, vector in enumerate(vectors):
        table = builder.insert_value(table, vector, row)
    return table
