"""Lanes from arrays and into them, at any stride but side by side."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .vectors import WIDTH, Lanes, in_every_lane, pointer_to, suffix, vector_at


@intrinsic
def load(typingctx, array, index):
    """array[..., i : i + WIDTH] as Lanes; the index names the first number. Neighbours lie side by side."""

    def codegen(context, builder, signature, args):
        pointer, _, align = vector_at(context, builder, signature, args)
        return builder.load(pointer, align=align)

    return Lanes(array.dtype)(array, index), codegen


@intrinsic
def store(typingctx, array, index, value):
    """array[..., i : i + WIDTH] = value"""

    def codegen(context, builder, signature, args):
        pointer, _, align = vector_at(context, builder, signature, args)
        builder.store(args[2], pointer, align=align)
        return context.get_dummy_value()

    return types.void(array, index, value), codegen


@intrinsic
def prefetch(typingctx, array, index):
    """Have the memory around array[index] on its way to the second-level cache before it is needed. Only a hint."""

    def codegen(context, builder, signature, args):
        pointer = pointer_to(context, builder, array, args[0], index, args[1])
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
    return builder.icmp_signed("<", numbers, in_every_lane(builder, count))


def _masked(builder, name: str, dtype, result, arguments):
    """LLVM's masked load or store: lanes that the mask leaves out do not touch memory."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.{suffix(dtype)}.p0")
    return builder.call(function, arguments)


@intrinsic
def load_first(typingctx, array, index, count):
    """`load`, but only the first `count` lanes; the others are zero, and their memory is not touched."""

    def codegen(context, builder, signature, args):
        pointer, vector, align = vector_at(context, builder, signature, args)
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
        pointer, _, align = vector_at(context, builder, signature, args)
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
