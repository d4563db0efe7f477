"""The scan on the processor: numba's kernels, found in a cache on disk or compiled, as an operator of PyTorch.

Threads are PyTorch's (`threads.py`), not numba's: its layers are not there everywhere, forbid two callers at once, or
die in a forked child. What the operator does besides the kernels, NumPy does: it starts no threads for it.

(B, D, L) views of (B, L, D) memory are read in place, and y and the gradients are such views: no tensor is ever
transposed. Other layouts are right too; they are copied once.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
from numba import boolean, int64, njit, types
from torch import Tensor

from ..cpu import scan_kernels as kernels
from ..cpu import threads
from . import chunked

WORTH_A_THREAD = 200_000  # states (B · L · D · N) that outweigh handing work to another thread


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """u, delta, z (B, D, L); B, C (B, G, N, L); the rest as `selective_scan` → y, last state.

    B or C fixed over time, (D, N), which no Mamba has, go to the chunked form.
    """
    if B.dim() == 2 or C.dim() == 2:
        return chunked.scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    y, last, _ = _Scan.apply(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, keep)
    return y, last


class _Scan(torch.autograd.Function):
    """The operators below with their gradient."""

    @staticmethod
    def forward(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, keep):  # torch.compile counts them
        return _call(_scan, u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, keep)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, initial_state, delta_softplus, _ = inputs
        ctx.save_for_backward(*tensors, output[2])
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.delta_softplus = delta_softplus
        ctx.given = [x is not None for x in (*tensors, initial_state)]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gy, g_last, _):
        *tensors, kept = ctx.saved_tensors
        if gy is None:  # the last state alone has a gradient
            gy = torch.zeros_like(tensors[0])
        grads = _call(_scan_backward, *tensors, ctx.delta_softplus, kept, gy, g_last)
        return *(g if given else None for g, given in zip(grads, ctx.given, strict=True)), None, None


def _call(operator, u: Tensor, *args):
    """The operator, but for ordinary tensors the function itself: its dispatch costs as much as a small scan."""
    ordinary = type(u) in (Tensor, torch.nn.Parameter) and not torch._C._are_functorch_transforms_active()
    ordinary = ordinary and not torch.compiler.is_compiling()
    return (operator._init_fn if ordinary else operator)(u, *args)


@torch.library.custom_op("alignmamba2::selective_scan", mutates_args=(), device_types="cpu")
def _scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, D, L), last state (B, D, N) and, for the backward, states kept on the way (B, K · N, D)."""
    y, last, kept = _empty_outputs(u, A, keep)
    inputs = _inputs(u, delta, A, B, C, D, z, delta_bias)
    first = _array_or_zeros(initial_state, last)
    outputs = (_array(x) for x in (y.transpose(1, 2), last, kept))
    tasks = u.shape[0] * B.shape[1] * kernels.parts(u.shape[1], B.shape[1])
    _run("forward", tasks, *inputs, z is not None, delta_softplus, keep, first, *outputs)
    return y, last, kept


@_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, keep):
    return _empty_outputs(u, A, keep)


def _empty_outputs(u: Tensor, A: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, channels, length), states = u.shape, A.shape[1]
    chunks = -(-length // kernels.CHUNK) if keep else 0
    y = u.new_empty(batch, length, channels).transpose(1, 2)
    return y, u.new_empty(batch, channels, states), u.new_empty(batch, chunks * states, channels)


@torch.library.custom_op("alignmamba2::selective_scan_backward", mutates_args=(), device_types="cpu")
def _scan_backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    kept: Tensor,
    gy: Tensor,
    g_last: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and initial_state; empty ones for what is missing."""
    (batch, channels, length), states, groups = u.shape, A.shape[1], B.shape[1]
    gu, g_delta, gz = _empty_like_u(u), _empty_like_u(u), _empty_like_u(u if z is not None else u[:0])
    g_first = u.new_empty(batch, channels, states)
    dtype = _array(u).dtype
    parts = kernels.parts(channels, groups)
    gB, gC = (np.empty((parts, batch, groups, length, states), dtype) for _ in range(2))
    g_channel = np.empty((batch, states + 2, channels), dtype)
    outputs = (_array(x) for x in (gu.transpose(1, 2), g_delta.transpose(1, 2), gz.transpose(1, 2), g_first))
    _run(
        "backward",
        batch * groups * parts,
        *_inputs(u, delta, A, B, C, D, z, delta_bias),
        z is not None,
        delta_softplus,
        *(_array(kept), _rows(gy), _array_or_zeros(g_last, g_first)),
        *outputs,
        *(g_channel, gB, gC),
    )
    # NumPy adds along the first axis one after the other: the same order, whatever the threads.
    gB, gC = (torch.from_numpy(x[0] if parts == 1 else x.sum(0)).transpose(2, 3) for x in (gB, gC))
    g_channel = torch.from_numpy(g_channel.sum(0))
    gA, gD, g_bias = g_channel[:states].t().contiguous(), g_channel[states].clone(), g_channel[states + 1].clone()
    return gu, g_delta, gA, gB, gC, gD, gz, g_bias, g_first


@_scan_backward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, kept, gy, g_last):
    channels, states = A.shape
    gB, gC = (x.new_empty(x.transpose(2, 3).shape).transpose(2, 3) for x in (B, C))
    vectors = [u.new_empty(channels) for _ in range(2)]
    gz = _empty_like_u(u if z is not None else u[:0])
    gA = u.new_empty(channels, states)
    g_first = u.new_empty(u.shape[0], channels, states)
    return _empty_like_u(u), _empty_like_u(u), gA, gB, gC, vectors[0], gz, vectors[1], g_first


# --- Tensors to kernels -----------------------------------------------------------------------------------


def _array(x: Tensor) -> np.ndarray:
    return x.detach().numpy()


def _array_or_zeros(x: Tensor | None, like: Tensor) -> np.ndarray:
    return np.zeros_like(_array(like)) if x is None else _array(x)


def _rows(x: Tensor) -> np.ndarray:
    """(B, D, L) → (B, L, D) with neighbouring channels side by side: a view where memory is so, else a copy."""
    x = x.detach().transpose(1, 2)
    return (x if x.stride(2) == 1 else x.contiguous()).numpy()


def _empty_like_u(u: Tensor) -> Tensor:
    """(B, D, L), a view of new (B, L, D) memory."""
    return u.new_empty(u.shape[0], u.shape[2], u.shape[1]).transpose(1, 2)


def _inputs(u, delta, A, B, C, D, z, delta_bias) -> list[np.ndarray]:
    """The inputs as the kernels want them; zeros, or u for z, where there is none."""
    u, delta = _rows(u), _rows(delta)
    zeros = np.zeros(u.shape[2], u.dtype) if D is None or delta_bias is None else None
    D, delta_bias = (zeros if x is None else _array(x) for x in (D, delta_bias))
    B, C = (_array(x).swapaxes(2, 3) for x in (B, C))
    return [u, delta, _array(A), B, C, D, u if z is None else _rows(z), delta_bias]


# --- Compilation ------------------------------------------------------------------------------------------


def _run(name: str, tasks: int, *args) -> None:
    """Run all tasks of a kernel on as many threads as PyTorch uses; this thread is one of them."""
    u, A = args[0], args[2]
    kernel = _kernel(name, u.dtype.name)
    count = min(torch.get_num_threads(), tasks, 1 + u.size * A.shape[1] // WORTH_A_THREAD)
    if count == 1:
        kernel(0, tasks, *args)
        return
    # More runs than threads, taken one by one: a thread that the system holds up does not hold up the rest.
    bounds = np.linspace(0, tasks, min(tasks, 4 * count) + 1).astype(int).tolist()
    runs = iter(list(itertools.pairwise(bounds)))

    def work() -> None:
        for start, stop in runs:
            kernel(start, stop, *args)

    threads.run(work, count)


@functools.cache
def _kernel(name: str, dtype: str):
    """The kernel for float32 or float64: from the cache on disk (half a second), or compiled (some seconds).

    The one signature, with strides open, keeps numba from compiling again for every layout.
    """
    number = getattr(types, dtype)

    def array(*dimensions: int):
        return [types.Array(number, n, "A") for n in dimensions]

    inputs = [*array(3, 3, 2, 4, 4, 1, 3, 1), boolean, boolean]
    if name == "forward":
        signature = types.void(int64, int64, *inputs, boolean, *array(3, 3, 3, 3))
    else:
        signature = types.void(int64, int64, *inputs, *array(3, 3, 3), *array(3, 3, 3, 3, 3, 5, 5))
    function = getattr(kernels, name)
    try:
        return njit(signature, cache=True, nogil=True)(function)
    except RuntimeError as error:  # numba finds no folder to write to: compile in every process
        if "cache" not in str(error):
            raise
        return njit(signature, nogil=True)(function)
