"""Lanes and tables from arrays and into them. An array's strides are free but the last: neighbours lie side by side.

An index names the first number: (..., j) for Lanes, (..., i, j) for a table.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import WIDTH, Lanes, in_every_lane, llvm_suffix, rows_of, table_of


@njit
def aligned(size, dtype):
    """Return an empty array that starts at a cache line: a vector across two lines costs twice."""
    flat = np.empty(size + WIDTH, dtype)
    skip = -(flat.ctypes.data // flat.itemsize) % WIDTH
    return flat[skip : skip + size]


def _addresses(context, builder, signature, args, rows: int, axis: int) -> list:
    """Return the addresses of array[index], the first two of `args`, and of its successors along an axis."""
    array_type, index_type = signature.args[:2]
    array = context.make_array(array_type)(context, builder, args[0])
    index = [
        context.cast(builder, i, t, types.intp)
        for i, t in zip(cgutils.unpack_tuple(builder, args[1]), index_type, strict=True)
    ]
    addresses = []
    for row in range(rows):
        place = list(index)
        if row:
            place[axis] = builder.add(index[axis], ir.Constant(index[axis].type, row))
        address = cgutils.get_item_pointer(
            context, builder, array_type, array, place, wraparound=False, boundscheck=False
        )
        addresses.append(address)
    return addresses


def _vectors_at(context, builder, signature, args, rows: int = 1) -> tuple[list, int]:
    """Return the addresses of array[..., i + r, j : j + WIDTH] as of vectors, and the alignment that is sure."""
    dtype = signature.args[0].dtype
    pointer = context.get_value_type(Lanes(dtype)).as_pointer()
    addresses = _addresses(context, builder, signature, args, rows, axis=-2)
    return [builder.bitcast(a, pointer) for a in addresses], dtype.bitwidth // 8


def _load(context, builder, signature, args):
    addresses, align = _vectors_at(context, builder, signature, args, signature.return_type.rows)
    return table_of(builder, [builder.load(a, align=align) for a in addresses])


@intrinsic
def load(typingctx, array, index):
    """Return array[..., j : j + WIDTH] as Lanes."""
    return Lanes(array.dtype)(array, index), _load


@intrinsic(prefer_literal=True)
def load_rows(typingctx, array, index, rows):
    """Return array[..., i : i + rows, j : j + WIDTH] as a table; `rows` is a constant."""
    return Lanes(array.dtype, rows.literal_value)(array, index, rows), _load


@intrinsic
def store(typingctx, array, index, value):
    """Write Lanes to array[..., j : j + WIDTH], or a table to array[..., i : i + rows, j : j + WIDTH]."""

    def codegen(context, builder, signature, args):
        addresses, align = _vectors_at(context, builder, signature, args, value.rows)
        for address, vector in zip(addresses, rows_of(context, builder, value, value, args[2]), strict=True):
            builder.store(vector, address, align=align)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic(prefer_literal=True)
def spread_rows(typingctx, array, index, rows):
    """Return the table whose row r holds array[..., i + r] in every lane; index = (..., i), `rows` a constant."""

    def codegen(context, builder, signature, args):
        addresses = _addresses(context, builder, signature, args, signature.return_type.rows, axis=-1)
        return table_of(builder, [in_every_lane(builder, builder.load(a)) for a in addresses])

    return Lanes(array.dtype, rows.literal_value)(array, index, rows), codegen


@intrinsic
def prefetch(typingctx, array, index):
    """Have the memory around array[index] on its way to the second-level cache before it is needed. Only a hint."""

    def codegen(context, builder, signature, args):
        (address,) = _addresses(context, builder, signature, args, 1, axis=-1)
        address = builder.bitcast(address, cgutils.voidptr_t)
        number = ir.IntType(32)
        # to read, second level, data
        _call(builder, "llvm.prefetch.p0", ir.VoidType(), [address, number(0), number(2), number(1)])
        return context.get_dummy_value()

    return types.void(array, index), codegen


def _call(builder, name: str, result, arguments):
    kind = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def _mask(builder, count):
    """Return the mask of the lanes below `count`: LLVM's masked loads and stores leave the memory of others alone."""
    numbers = ir.Constant(ir.VectorType(count.type, WIDTH), list(range(WIDTH)))
    return builder.icmp_signed("<", numbers, in_every_lane(builder, count))


@intrinsic
def _load_masked(typingctx, array, index, count):
    def codegen(context, builder, signature, args):
        (address,), align = _vectors_at(context, builder, signature, args)
        vector = context.get_value_type(signature.return_type)
        zeros = ir.Constant(vector, [0.0] * WIDTH)
        arguments = [address, ir.IntType(32)(align), _mask(builder, args[2]), zeros]
        return _call(builder, f"llvm.masked.load.{llvm_suffix(array.dtype)}.p0", vector, arguments)

    return Lanes(array.dtype)(array, index, count), codegen


@intrinsic
def _store_masked(typingctx, array, index, count, value):
    def codegen(context, builder, signature, args):
        (address,), align = _vectors_at(context, builder, signature, args)
        arguments = [args[3], address, ir.IntType(32)(align), _mask(builder, args[2])]
        _call(builder, f"llvm.masked.store.{llvm_suffix(array.dtype)}.p0", ir.VoidType(), arguments)
        return context.get_dummy_value()

    return types.void(array, index, count, value), codegen


@njit(forceinline=True)
def load_first(array, index, count):
    """Return the first `count` lanes of `load`; the others are zero, and their memory is not touched."""
    return load(array, index) if count >= WIDTH else _load_masked(array, index, count)


@njit(forceinline=True)
def store_first(array, index, count, value):
    """Write the first `count` lanes alone."""
    if count >= WIDTH:
        store(array, index, value)
    else:
        _store_masked(array, index, count, value)
