"""Functions of Lanes and tables: square roots by the processor; exp2, sigmoid and softplus by polynomials."""

import math

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils

from .arithmetic import CONTRACT, at_least, at_most, larger, smaller, unary
from .vectors import LN2, LOG2E, WIDTH, llvm_suffix

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


def _constant(like, number: float):
    return ir.Constant(like.type, [number] * WIDTH)


def _polynomial(builder, x, coefficients):
    """Return the polynomial at x, by Horner's scheme."""
    first, *rest = (_constant(x, c) for c in coefficients)
    for c in rest:
        first = builder.fadd(builder.fmul(first, x, flags=CONTRACT), c, flags=CONTRACT)
    return first


def _exp2(builder, x, dtype):
    """Return 2^x = 2^n · 2^f with the whole number n next to x, and f = x − n."""
    bits, mantissa, lowest, highest = (32, 23, -127.0, 128.0) if dtype == types.float32 else (64, 52, -1023.0, 1024.0)
    x = smaller(builder, larger(builder, x, _constant(x, lowest)), _constant(x, highest))
    rounder = _constant(x, 1.5 * 2.0**mantissa)
    n = builder.fadd(x, rounder, flags=CONTRACT)  # rounds to a whole number, which then stands in the lowest bits
    f = builder.fsub(x, builder.fsub(n, rounder, flags=CONTRACT), flags=CONTRACT)
    p = _polynomial(builder, f, _EXP2[dtype])
    integer = ir.VectorType(ir.IntType(bits), WIDTH)  # and is added to the exponent's bits of 2^f
    shifted = builder.shl(builder.bitcast(n, integer), ir.Constant(integer, [mantissa] * WIDTH))
    return builder.bitcast(builder.add(builder.bitcast(p, integer), shifted), x.type)


def _sqrt(builder, x, dtype):
    kind, name = ir.FunctionType(x.type, [x.type]), f"llvm.sqrt.{llvm_suffix(dtype)}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x])


sqrt = unary(_sqrt)
exp2 = unary(_exp2)  # within two units in the last place; 0 and infinity out of range, NaN for NaN
_log1p_series = unary(lambda builder, x, dtype: _polynomial(builder, x, _LOG1P[dtype]))


@njit(inline="always")
def sigmoid(x):
    """Return 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp2(x * -LOG2E))


@njit(inline="always")
def softplus(x):
    """Return log(1 + e^x) = max(x, 0) + log(1 + w), w = e^-|x|: no overflow, and exact for very negative x."""
    w = exp2(at_most(x, x * -1.0) * LOG2E)
    s = w / (w + 2.0)
    return at_least(x, 0.0) + s * _log1p_series(s * s)
