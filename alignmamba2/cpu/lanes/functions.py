"""exp2, sigmoid and softplus of Lanes, by polynomials."""

from __future__ import annotations

import math

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

from .arithmetic import at_least, at_most, binary
from .vectors import LN2, LOG2E, WIDTH, Lanes, rows_of, table_of


def _raised(builder, p, n):
    """p · 2^k, where the lowest bits of the float n hold the integer k: added to the exponent's bits of p."""
    bits, mantissa = (32, 23) if p.type.element == ir.FloatType() else (64, 52)
    integer = ir.VectorType(ir.IntType(bits), WIDTH)
    shifted = builder.shl(builder.bitcast(n, integer), ir.Constant(integer, [mantissa] * WIDTH))
    return builder.bitcast(builder.add(builder.bitcast(p, integer), shifted), p.type)


_raise_exponent = binary(_raised)

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
            for row in rows_of(context, builder, x, x, args[0]):
                p = first
                for c in rest:
                    product = builder.fmul(p, row, flags=("contract",))
                    p = builder.fadd(product, c, flags=("contract",))
                values.append(p)
            return table_of(builder, values)

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
