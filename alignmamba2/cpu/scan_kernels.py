"""The scan and its gradient for numba: a task takes WIDTH neighbouring channels of a sample through all steps.

A channel is a lane of the processor's vector registers. RUN of its N states at a time stay there through a chunk of
steps. softplus, bias, D and the gate z happen on the way, so each input is read once and each output written once.
Memory is (B, L, D) here, neighbouring channels side by side, rows at any stride; B and C are (B, G, L, N).

The forward keeps the states before every CHUNK-th step. The backward goes through the chunks from last to first:
it computes a chunk's states again, then runs its steps backwards.

Sums over channels (gradients of B and C) and over samples (of A, D and the bias) come out in parts, one per task,
for the caller to add in a fixed order: the same bits for any number of threads.
"""

import functools
from collections.abc import Callable

import numpy as np
from numba import njit, types

from .compiler import arrays, boolean, compiled
from .lanes.arithmetic import add_products, total
from .lanes.functions import exp2, sigmoid, softplus
from .lanes.memory import aligned, load, load_first, load_rows, prefetch, spread_rows, store, store_first
from .lanes.vectors import LN2, LOG2E, WIDTH

CHUNK = 16  # steps between kept states; keeping them takes N / CHUNK times the memory of u
RUN = 4  # states taken through a chunk at a time: with their rates and gradients they fit the registers
SLICE = 8  # blocks of WIDTH channels whose shares in the gradients of B and C one task adds up


@njit
def _zeros(shape, dtype):
    """Return zeros (*shape, WIDTH)."""
    count = WIDTH
    for size in shape:
        count *= size
    flat = aligned(count, dtype)
    flat[:] = 0
    return flat.reshape((*shape, WIDTH))


@njit
def _in_lanes(table, factor, first, channels):
    """Return channels first … first + channels − 1 of a table (D, N), times a factor, as (blocks, padded N, WIDTH)."""
    states = table.shape[1]
    lanes = _zeros(((channels + WIDTH - 1) // WIDTH, _padded(states)), table.dtype)
    for i in range(channels):
        for n in range(states):
            lanes[i // WIDTH, n, i % WIDTH] = table[first + i, n] * factor
    return lanes


@njit
def _split(task, channels, groups):
    """Return a task's sample, group, first channel and channels: a group's channels in runs of SLICE · WIDTH."""
    width, run = channels // groups, SLICE * WIDTH
    runs = (width + run - 1) // run
    within = task % runs * run
    group = task // runs % groups
    return task // runs // groups, group, group * width + within, min(run, width - within)


@njit
def _padded(states):
    """Return the number of states in whole runs. Those beyond N have A = B = C = 0, and stay 0."""
    return (states + RUN - 1) // RUN * RUN


@njit
def _forward_slice(task, inputs, gated, positive, keep, first, y, last, kept):
    u, delta, A, B, C, D, z, bias = inputs
    b, g, c0, channels = _split(task, u.shape[2], B.shape[1])
    dtype, states, length = A.dtype, A.shape[1], u.shape[1]
    blocks, padded = (channels + WIDTH - 1) // WIDTH, _padded(states)
    rates, current = _in_lanes(A, LOG2E, c0, channels), _in_lanes(first[b], 1.0, c0, channels)  # A · log₂ e, states
    per_channel = _zeros((blocks, 2), dtype)  # D, bias
    step = _zeros((blocks, CHUNK, 4), dtype)  # Δ, Δu, Du and later y, gate
    Bs, Cs = np.zeros((CHUNK, padded), dtype), np.zeros((CHUNK, padded), dtype)
    for i in range(channels):
        block, lane = divmod(i, WIDTH)
        per_channel[block, 0, lane], per_channel[block, 1, lane] = D[c0 + i], bias[c0 + i]

    for t0 in range(0, length, CHUNK):
        steps = min(CHUNK, length - t0)
        # What does not depend on the state, first and for itself: memory is read row by row, as it lies, and the
        # processor works on several steps at a time.
        for i in range(steps):
            t, later = t0 + i, min(t0 + i + CHUNK, length - 1)
            for n in range(states):
                Bs[i, n], Cs[i, n] = B[b, g, t, n], C[b, g, t, n]
            for block in range(blocks):
                c, count = c0 + block * WIDTH, min(WIDTH, channels - block * WIDTH)
                # A slice's rows are too short for the processor to foresee the next: half the time would be waiting.
                prefetch(u, (b, later, c))
                prefetch(delta, (b, later, c))
                prefetch(z, (b, later, c))
                prefetch(y, (b, t, c))
                ut = load_first(u, (b, t, c), count)
                dt = load_first(delta, (b, t, c), count) + load(per_channel, (block, 1, 0))
                if positive:
                    dt = softplus(dt)
                store(step, (block, i, 0, 0), dt)
                store(step, (block, i, 1, 0), dt * ut)
                store(step, (block, i, 2, 0), load(per_channel, (block, 0, 0)) * ut)
                if gated:
                    zt = load_first(z, (b, t, c), count)
                    store(step, (block, i, 3, 0), zt * sigmoid(zt))
        for block in range(blocks):
            c, count = c0 + block * WIDTH, min(WIDTH, channels - block * WIDTH)
            if keep:
                for n in range(states):
                    store_first(kept, (b, t0 // CHUNK * states + n, c), count, load(current, (block, n, 0)))
            for n in range(0, padded, RUN):
                rate, h = load_rows(rates, (block, n, 0), RUN), load_rows(current, (block, n, 0), RUN)
                for i in range(steps):
                    dt, x = load(step, (block, i, 0, 0)), load(step, (block, i, 1, 0))
                    h = exp2(dt * rate) * h + x * spread_rows(Bs, (i, n), RUN)
                    yt = add_products(load(step, (block, i, 2, 0)), h, spread_rows(Cs, (i, n), RUN))
                    store(step, (block, i, 2, 0), yt)
                store(current, (block, n, 0), h)
        for i in range(steps):  # and written row by row
            for block in range(blocks):
                c, count = c0 + block * WIDTH, min(WIDTH, channels - block * WIDTH)
                yt = load(step, (block, i, 2, 0))
                if gated:
                    yt = yt * load(step, (block, i, 3, 0))
                store_first(y, (b, t0 + i, c), count, yt)

    for i in range(channels):
        for n in range(states):
            last[b, c0 + i, n] = current[i // WIDTH, n, i % WIDTH]


def parts(channels: int, groups: int) -> int:
    """Return the number of slices of a group; a task is a slice of a group of a sample."""
    return -(-(channels // groups) // (SLICE * WIDTH))


def forward(start, stop, inputs, gated, positive, keep, first, y, last, kept):
    """Do tasks start … stop − 1: write y, last and, if `keep`, kept (B, ⌈L / CHUNK⌉ · N, D).

    inputs: u, delta, A, B, C, D, z, bias; `gated`: z counts; `positive`: softplus is wanted.
    """
    for task in range(start, stop):
        _forward_slice(task, inputs, gated, positive, keep, first, y, last, kept)


@njit
def _backward_slice(task, inputs, gated, positive, kept, gy, g_last, g_sequences, g_first, g_channel, gB, gC):
    (u, delta, A, B, C, D, z, bias), (gu, g_delta, gz) = inputs, g_sequences
    b, g, c0, channels = _split(task, u.shape[2], B.shape[1])
    part = task % gB.shape[0]
    dtype, states, length = A.dtype, A.shape[1], u.shape[1]
    blocks, padded = (channels + WIDTH - 1) // WIDTH, _padded(states)
    # Of each block of channels, for the whole way back:
    rates = _in_lanes(A, LOG2E, c0, channels)  # A · log₂ e
    carries = _in_lanes(g_last[b], 1.0, c0, channels)  # gradients of the states to come
    gAs = _zeros((blocks, padded), dtype)
    per_channel = _zeros((blocks, 4), dtype)  # D, bias, and their gradients
    # Of each block and step of a chunk: u, Δ, Δu, gradient of y before the gate, slope of softplus, what y is
    # multiplied with in the gradient of z; and sums over the states: y, gradients of Δu and, over ln 2, of Δ.
    step = _zeros((blocks, CHUNK, 9), dtype)
    Bs, Cs = np.zeros((CHUNK, padded), dtype), np.zeros((CHUNK, padded), dtype)
    # Of a run of states and each step of a chunk, for the block at hand:
    first = _zeros((RUN,), dtype)
    decays = _zeros((CHUNK, RUN), dtype)
    before = _zeros((CHUNK, RUN), dtype)  # the states that decay
    # The same over all blocks, lane by lane:
    sum_B = _zeros((CHUNK, RUN), dtype)
    sum_C = _zeros((CHUNK, RUN), dtype)

    for i in range(channels):
        block, lane = divmod(i, WIDTH)
        per_channel[block, 0, lane], per_channel[block, 1, lane] = D[c0 + i], bias[c0 + i]

    for chunk in range((length - 1) // CHUNK, -1, -1):
        t0 = chunk * CHUNK
        steps = min(CHUNK, length - t0)
        for i in range(steps):
            t, later = t0 + i, max(t0 + i - CHUNK, 0)
            for n in range(states):
                Bs[i, n], Cs[i, n] = B[b, g, t, n], C[b, g, t, n]
            for block in range(blocks):
                c, count = c0 + block * WIDTH, min(WIDTH, channels - block * WIDTH)
                prefetch(u, (b, later, c))
                prefetch(delta, (b, later, c))
                prefetch(z, (b, later, c))
                prefetch(gy, (b, later, c))
                prefetch(gu, (b, t, c))
                prefetch(g_delta, (b, t, c))
                prefetch(gz, (b, t, c))
                ut = load_first(u, (b, t, c), count)
                dt = load_first(delta, (b, t, c), count) + load(per_channel, (block, 1, 0))
                gt = load_first(gy, (b, t, c), count)
                slope, g_gate = dt, gt
                if positive:
                    slope = sigmoid(dt)
                    dt = softplus(dt)
                if gated:
                    zt = load_first(z, (b, t, c), count)
                    gate = sigmoid(zt)
                    g_gate = gt * (gate * (1.0 + zt * (1.0 - gate)))
                    gt = gt * (zt * gate)
                store(step, (block, i, 0, 0), ut)
                store(step, (block, i, 1, 0), dt)
                store(step, (block, i, 2, 0), dt * ut)
                store(step, (block, i, 3, 0), gt)
                store(step, (block, i, 4, 0), slope)
                store(step, (block, i, 5, 0), g_gate)
                for k in range(6, 9):
                    store(step, (block, i, k, 0), ut * 0.0)
        for n0 in range(0, padded, RUN):
            run = min(RUN, states - n0)
            sum_B[:], sum_C[:], first[:] = 0, 0, 0
            for block in range(blocks):
                c, count = c0 + block * WIDTH, min(WIDTH, channels - block * WIDTH)
                for n in range(run):
                    store(first, (n, 0), load_first(kept, (b, chunk * states + n0 + n, c), count))
                    prefetch(kept, (b, max(chunk - 1, 0) * states + n0 + n, c))
                rate, h = load_rows(rates, (block, n0, 0), RUN), load_rows(first, (0, 0), RUN)
                for i in range(steps):
                    dt, x, gt = load(step, (block, i, 1, 0)), load(step, (block, i, 2, 0)), load(step, (block, i, 3, 0))
                    decay = exp2(dt * rate)
                    store(decays, (i, 0, 0), decay)
                    store(before, (i, 0, 0), h)
                    h = decay * h + x * spread_rows(Bs, (i, n0), RUN)
                    store(sum_C, (i, 0, 0), load_rows(sum_C, (i, 0, 0), RUN) + gt * h)
                    yt = add_products(load(step, (block, i, 6, 0)), h, spread_rows(Cs, (i, n0), RUN))
                    store(step, (block, i, 6, 0), yt)
                carry, gA = load_rows(carries, (block, n0, 0), RUN), load_rows(gAs, (block, n0, 0), RUN)
                for i in range(steps - 1, -1, -1):
                    dt, x, gt = load(step, (block, i, 1, 0)), load(step, (block, i, 2, 0)), load(step, (block, i, 3, 0))
                    gh = carry + gt * spread_rows(Cs, (i, n0), RUN)
                    store(sum_B, (i, 0, 0), load_rows(sum_B, (i, 0, 0), RUN) + gh * x)
                    gx = add_products(load(step, (block, i, 7, 0)), gh, spread_rows(Bs, (i, n0), RUN))
                    carry = gh * load_rows(decays, (i, 0, 0), RUN)
                    g_exponent = carry * load_rows(before, (i, 0, 0), RUN)
                    g_rate = add_products(load(step, (block, i, 8, 0)), g_exponent, rate)
                    gA = gA + g_exponent * dt
                    store(step, (block, i, 7, 0), gx)
                    store(step, (block, i, 8, 0), g_rate)
                store(carries, (block, n0, 0), carry)
                store(gAs, (block, n0, 0), gA)
            for i in range(steps):
                for n in range(run):
                    gB[part, b, g, t0 + i, n0 + n] = total(load(sum_B, (i, n, 0)))
                    gC[part, b, g, t0 + i, n0 + n] = total(load(sum_C, (i, n, 0)))

        for i in range(steps):
            t = t0 + i
            for block in range(blocks):
                c, count = c0 + block * WIDTH, min(WIDTH, channels - block * WIDTH)
                ut, dt, gt = load(step, (block, i, 0, 0)), load(step, (block, i, 1, 0)), load(step, (block, i, 3, 0))
                gx, skip = load(step, (block, i, 7, 0)), load(per_channel, (block, 0, 0))
                g_dt = gx * ut + load(step, (block, i, 8, 0)) * LN2
                if positive:
                    g_dt = g_dt * load(step, (block, i, 4, 0))
                store(per_channel, (block, 2, 0), load(per_channel, (block, 2, 0)) + gt * ut)
                store(per_channel, (block, 3, 0), load(per_channel, (block, 3, 0)) + g_dt)
                store_first(gu, (b, t, c), count, gx * dt + gt * skip)
                store_first(g_delta, (b, t, c), count, g_dt)
                if gated:
                    yt = load(step, (block, i, 6, 0)) + skip * ut
                    store_first(gz, (b, t, c), count, load(step, (block, i, 5, 0)) * yt)

    for i in range(channels):
        block, lane = divmod(i, WIDTH)
        g_channel[b, states, c0 + i] = per_channel[block, 2, lane]
        g_channel[b, states + 1, c0 + i] = per_channel[block, 3, lane]
        for n in range(states):
            g_channel[b, n, c0 + i] = gAs[block, n, lane]
            g_first[b, c0 + i, n] = carries[block, n, lane]


def backward(start, stop, inputs, gated, positive, kept, gy, g_last, g_sequences, g_first, g_channel, gB, gC):
    """Do tasks start … stop − 1: from `gy` and `g_last`, write the gradients, the last five arguments.

    g_sequences: those of u, delta and z (B, L, D).
    g_channel (B, N + 2, D): a sample's shares in the gradients of A, D and the bias.
    gB, gC (parts, B, G, L, N): a part's shares in the gradients of B and C.
    """
    for task in range(start, stop):
        _backward_slice(
            task, inputs, gated, positive, kept, gy, g_last, g_sequences, g_first, g_channel, gB, gC
        )  # fmt: skip


@functools.cache
def kernel(name: str, dtype: str) -> Callable[..., None]:
    """Return "forward" or "backward" for float32 or float64."""

    def of(*dimensions: int) -> list[types.Array]:
        return arrays(getattr(types, dtype), *dimensions)

    inputs = [types.Tuple(of(3, 3, 2, 4, 4, 1, 3, 1)), boolean, boolean]
    if name == "forward":
        return compiled(forward, *inputs, boolean, *of(3, 3, 3, 3))
    return compiled(backward, *inputs, *of(3, 3, 3), types.UniTuple(*of(3), 3), *of(3, 3, 5, 5))
