"""Sixteen numbers as one, in a numba kernel: the processor's vector registers, by name.

A compiler only turns a loop over channels into vector instructions when it can prove that nothing overlaps, and gives
up without a word when it cannot. Here a kernel says what it means: `load` takes 16 neighbouring numbers of an array,
`+ - * /` work on all of them at once (a plain float is spread over all), and `store` puts them back. LLVM maps them to
the machine's vectors: AVX-512, AVX2, NEON, or plain scalars.

A *table* is several rows of 16 numbers that are one value, as a float is. A loop over the rows of an array loads and
stores every row each time; the rows of a table stay in registers. `load_rows` takes it from an array once, before the
loop over steps, and `store` puts it back once, after it. Arithmetic goes row by row; 16 numbers, or a float, stand for
every row. The number of rows is a constant of the kernel: AVX-512 has 32 registers for 16 float32 each.

Products and sums may fuse (one rounding instead of two). Nothing else is relaxed: NaN and infinity spread as usual.

numba's cache on disk looks at the date of a kernel's own file alone: after a change in this folder, save
`scan_kernels.py`, `sinkhorn.py` and `kernel_sums.py` of the folder above too.
"""
