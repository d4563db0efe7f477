"""Sixteen numbers as one, in a numba kernel: the processor's vector registers, by name.

A compiler only turns a loop over channels into vector instructions when it can prove that nothing overlaps,
and gives up without a word when it cannot. Here a kernel says what it means: `load` takes 16 neighbouring
numbers of an array, `+ - * /` work on all of them at once (a plain float is spread over all), and `store` puts
them back. LLVM maps them to whatever the machine has: AVX-512, AVX2, NEON, or plain scalars.

Products and sums may fuse (one rounding instead of two). Nothing else is relaxed: NaN and infinity spread as
usual.

numba's cache on disk looks at the date of a kernel's own file alone: after a change in this folder, save
`scan/kernels.py`, `alignment/kernel_sums_cpu.py` and `alignment/sinkhorn_cpu.py` too.

`vectors` is the type and its LLVM values, `memory` loads and stores, `tables` are several rows as one value,
`arithmetic` works on lanes and over them, `functions` are exp2, sigmoid and softplus.
"""

from .arithmetic import above, at_least, at_most, chosen, doubled, largest, spread, sqrt, total, totals, weighted
from .functions import exp2, sigmoid, softplus
from .memory import load, load_first, prefetch, store, store_first
from .tables import add_products, load_rows, spread_rows, store_rows
from .vectors import LN2, LOG2E, WIDTH, Lanes

__all__ = [
    "LN2",
    "LOG2E",
    "WIDTH",
    "Lanes",
    "above",
    "add_products",
    "at_least",
    "at_most",
    "chosen",
    "doubled",
    "exp2",
    "largest",
    "load",
    "load_first",
    "load_rows",
    "prefetch",
    "sigmoid",
    "softplus",
    "spread",
    "spread_rows",
    "sqrt",
    "store",
    "store_first",
    "store_rows",
    "total",
    "totals",
    "weighted",
]
