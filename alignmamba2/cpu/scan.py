"""The selective scan on the processor: the kernels as an operator of PyTorch, with its gradient.

(B, D, L) views of (B, L, D) memory are read in place, and y and the gradients are such views: no tensor is ever
transposed. Other layouts are right too; they are copied once. What the operator does besides the kernels, NumPy does:
it starts no threads for it.
"""

import numpy as np
import torch
from torch import Tensor

from . import scan_kernels as kernels
from .threads import share

WORTH_A_THREAD = 200_000  # states (B · L · D · N) that outweigh handing work to another thread


def selective_scan(*tensors: Tensor | None, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """Return y and the last state of `alignmamba2.scan.selective_scan`, for its tensors in its order.

    Those are u, delta, A, B, C, D, z, delta_bias, initial_state, of one type, float32 or float64; u, delta, z (B, D, L)
    and B, C (B, G, N, L).
    """
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    y, last, _ = _Scan.apply(*tensors, delta_softplus, keep)
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
        ctx.present = [x is not None for x in (*tensors, initial_state)]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gy, g_last, _):
        *tensors, kept = ctx.saved_tensors
        if gy is None:  # the last state alone has a gradient
            gy = torch.zeros_like(tensors[0])
        grads = _call(_scan_backward, *tensors, ctx.delta_softplus, kept, gy, g_last)
        return *(g if present else None for g, present in zip(grads, ctx.present, strict=True)), None, None


def _call(operator, u: Tensor, *args):
    """Call the operator, but for ordinary tensors the function itself: its dispatch costs as much as a small scan."""
    ordinary = type(u) in (Tensor, torch.nn.Parameter) and not torch._C._are_functorch_transforms_active()
    ordinary = ordinary and not torch.compiler.is_compiling()
    return (operator._init_fn if ordinary else operator)(u, *args)


# --- The operators ----------------------------------------------------------------------------------------

_TENSORS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias"
_GRADIENTS = ", ".join(["Tensor"] * 9)


@torch.library.custom_op(
    "alignmamba2::selective_scan",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_TENSORS}, Tensor? initial_state, bool delta_softplus, bool keep) -> (Tensor, Tensor, Tensor)",
)
def _scan(*args):
    """Return y (B, D, L), last state (B, D, N) and, for the backward, states kept on the way (B, K · N, D)."""
    *tensors, initial_state, delta_softplus, keep = args
    u, _, A, B, _, _, z, _ = tensors
    y, last, kept = _empty_outputs(u, A, keep)
    first = _array_or_zeros(initial_state, last)
    tasks = u.shape[0] * B.shape[1] * kernels.parts(u.shape[1], B.shape[1])
    outputs = (_array(x) for x in (y.transpose(1, 2), last, kept))
    _run("forward", tasks, _inputs(*tensors), z is not None, delta_softplus, keep, first, *outputs)
    return y, last, kept


@_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, initial_state, delta_softplus, keep):
    return _empty_outputs(u, A, keep)


def _empty_outputs(u: Tensor, A: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, channels, length), states = u.shape, A.shape[1]
    chunks = -(-length // kernels.CHUNK) if keep else 0
    return _empty_like_u(u), u.new_empty(batch, channels, states), u.new_empty(batch, chunks * states, channels)


@torch.library.custom_op(
    "alignmamba2::selective_scan_backward",
    mutates_args=(),
    device_types="cpu",
    schema=f"({_TENSORS}, bool delta_softplus, Tensor kept, Tensor gy, Tensor? g_last) -> ({_GRADIENTS})",
)
def _scan_backward(*args):
    """Return the gradients of all nine tensors; empty or meaningless ones for those that are missing."""
    *tensors, delta_softplus, kept, gy, g_last = args
    u, _, A, B, _, _, z, _ = tensors
    (batch, channels, length), states, groups = u.shape, A.shape[1], B.shape[1]
    sequences = [_empty_like_u(x) for x in (u, u, u if z is not None else u[:0])]
    g_first = u.new_empty(batch, channels, states)
    parts = kernels.parts(channels, groups)
    gB, gC = (np.empty((parts, batch, groups, length, states), g_first.numpy().dtype) for _ in range(2))
    g_channel = np.empty((batch, states + 2, channels), gB.dtype)
    _run(
        *("backward", batch * groups * parts, _inputs(*tensors), z is not None, delta_softplus),
        *(_array(kept), _rows(gy), _array_or_zeros(g_last, g_first)),
        *(tuple(_array(x.transpose(1, 2)) for x in sequences), _array(g_first), g_channel, gB, gC),
    )
    # NumPy adds along the first axis one after the other: the same order, whatever the threads.
    gB, gC = (torch.from_numpy(x[0] if parts == 1 else x.sum(0)).transpose(2, 3) for x in (gB, gC))
    g_channel = torch.from_numpy(g_channel.sum(0))
    gA, gD, g_bias = g_channel[:states].t().contiguous(), g_channel[states].clone(), g_channel[states + 1].clone()
    gu, g_delta, gz = sequences
    return gu, g_delta, gA, gB, gC, gD, gz, g_bias, g_first


@_scan_backward.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, kept, gy, g_last):
    gu, g_delta, gz = (_empty_like_u(x) for x in (u, u, u if z is not None else u[:0]))
    gB, gC = (x.new_empty(x.transpose(2, 3).shape).transpose(2, 3) for x in (B, C))
    gD, g_bias = (u.new_empty(u.shape[1]) for _ in range(2))
    return gu, g_delta, u.new_empty(A.shape), gB, gC, gD, gz, g_bias, u.new_empty(u.shape[0], *A.shape)


def _run(name: str, tasks: int, inputs: tuple[np.ndarray, ...], *args) -> None:
    u, _, A, *_ = inputs
    threads = 1 + u.size * A.shape[1] // WORTH_A_THREAD
    share(kernels.kernel(name, u.dtype.name), tasks, threads, inputs, *args)


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
    """Return (B, D, L), a view of new (B, L, D) memory."""
    return u.new_empty(u.shape[0], u.shape[2], u.shape[1]).transpose(1, 2)


def _inputs(u, delta, A, B, C, D, z, delta_bias) -> tuple[np.ndarray, ...]:
    """Return the inputs as the kernels want them; zeros, or u for z, where there is none."""
    u, delta = _rows(u), _rows(delta)
    zeros = np.zeros(u.shape[2], u.dtype) if D is None or delta_bias is None else None
    D, delta_bias = (zeros if x is None else _array(x) for x in (D, delta_bias))
    B, C = (_array(x).swapaxes(2, 3) for x in (B, C))
    return u, delta, _array(A), B, C, D, u if z is None else _rows(z), delta_bias
