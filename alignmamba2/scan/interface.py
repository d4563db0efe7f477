"""`selective_scan` and `selective_step`: the arguments checked, the backend chosen."""

from typing import NamedTuple

import torch
from torch import Tensor

from .. import cpu, gpu
from . import chunked, reference

BACKENDS = ("auto", "cuda", "triton", "cpu", "chunked", "reference")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class BackendStatus(NamedTuple):
    """The status of a backend on this machine."""

    name: str
    works: bool
    reason: str  # for working, or for not working
    fix: str  # the command that adds it; empty if it works or cannot be added


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_state: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Run the selective scan over a sequence.

        Δ'_t = softplus(Δ_t + delta_bias)
        h_t  = exp(Δ'_t A) h_{t-1} + Δ'_t B_t u_t
        y_t  = (Σ_n C_t h_t + D u_t) · SiLU(z_t)

    Parameters
    ----------
    u, delta : Tensor (B, D, L)
        Input and step size. float32, float64, bfloat16 or float16; the state is float64 for a float64 u and
        float32 otherwise. Transposed views of (B, L, D) memory are read in place, and y then is such a view.
    A : Tensor (D, N)
        Negative for a state that decays.
    B, C : Tensor (B, N, L), (B, G, N, L) or (D, N)
        Per step; per step and group of D / G neighbouring channels; per channel and the same at every step, which no
        Mamba has: it runs as D groups, and takes their time.
    D : Tensor (D,), optional
        Skip connection.
    z : Tensor (B, D, L), optional
        Gate.
    delta_bias : Tensor (D,), optional
    delta_softplus : bool
    return_last_state : bool
        Also return h_L. It is differentiable (our choice; mamba-ssm's is not).
    initial_state : Tensor (B, D, N), optional
        h_0, zeros if missing (our choice, so that a sequence can be continued).
    backend : "auto", "cuda", "triton", "cpu", "chunked", "reference"
        "auto" takes the fastest that works for the device of u; see `available_backends`. "cuda" is mamba-ssm's kernel
        where it is installed and fits, else "triton".

    Returns
    -------
    y : Tensor (B, D, L), dtype of u
    last_state : Tensor (B, D, N), float32 or float64, only with return_last_state

    Raises
    ------
    ValueError, TypeError
        For a shape or dtype that does not fit: the argument, what was found, what was expected.
    RuntimeError
        For a backend asked for by name that does not work here.

    Source: Gu & Dao 2023, algorithm 2; as mamba-ssm's `selective_scan_fn`.
    """
    B, C = _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    backend = _choose(backend, u.device.type)
    if backend == "cuda":
        backend = gpu.quickest_scan(u, A, initial_state, return_last_state and _needs_grad(tensors))
    if backend in ("mamba-ssm", "triton"):  # which read half precision as it is
        run = gpu.packages.mamba_scan if backend == "mamba-ssm" else gpu.selective_scan
        y, last_state = run(*tensors, delta_softplus=delta_softplus)
        return (y, last_state) if return_last_state else y
    state_dtype = torch.float64 if u.dtype == torch.float64 else torch.float32
    if any(x is not None and x.dtype != state_dtype for x in tensors):
        tensors = tuple(None if x is None else x.to(state_dtype) for x in tensors)
    run = reference.scan if backend == "reference" else chunked.scan
    if backend == "cpu":
        run = cpu.selective_scan
    y, last_state = run(*tensors, delta_softplus=delta_softplus)
    if y.dtype != u.dtype:
        y = y.to(u.dtype)
    return (y, last_state) if return_last_state else y


def selective_step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Do one token of `selective_scan`, for streams: (state, token) → (new state, output).

    Parameters
    ----------
    state : Tensor (B, D, N), float32 or float64
        Start with zeros, or with the last state of a scan.
    u, delta, z : Tensor (B, D)
    B, C : Tensor (B, N), (D, N) or (B, G, N)
        A shape that fits both of the first two is read as (B, N).
    A, D, delta_bias, delta_softplus
        As in `selective_scan`.

    Returns
    -------
    state : Tensor (B, D, N)
    y : Tensor (B, D), dtype of u

    Source: as mamba-ssm's `selective_state_update`, but that the new state is returned, not written in place.
    """

    def step_last(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.unsqueeze(-1)

    def per_step(x: Tensor) -> Tensor:
        return x if x.dim() == 2 and x.shape[0] != u.shape[0] else x.unsqueeze(-1)

    B4, C4 = _check(step_last(u), step_last(delta), A, per_step(B), per_step(C), D, step_last(z), delta_bias, state)
    dtype = state.dtype
    B4, C4 = (x[..., 0].to(dtype) for x in (B4, C4))
    optional = [None if x is None else x.to(dtype) for x in (D, z, delta_bias)]
    state, y = reference.step(state, u.to(dtype), delta.to(dtype), A.to(dtype), B4, C4, *optional, delta_softplus)
    return state, y.to(u.dtype)


def available_backends() -> list[BackendStatus]:
    """Return each backend, fastest first: whether it works on this machine, why, and the command that adds it."""
    seen = torch.cuda.is_available()
    obstacle = gpu.obstacle("cuda" if seen else "cpu")
    return [
        BackendStatus("cuda", seen, *(gpu.status() if seen else ("PyTorch sees no NVIDIA GPU", ""))),
        BackendStatus("triton", obstacle is None, *(obstacle or ("Triton", ""))),
        BackendStatus("cpu", cpu.available(), *(cpu.obstacle() or ("numba", ""))),
        BackendStatus("chunked", True, "PyTorch alone", ""),
        BackendStatus("reference", True, "PyTorch alone; slow, for checks", ""),
    ]


def _choose(backend: str, device: str) -> str:
    """Return the backend for "auto"; one asked for by name, if it works for tensors on this device."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: found {backend!r}, expected one of {BACKENDS}")
    if backend == "auto":
        if device == "cuda":
            return "cuda"
        return "cpu" if device == "cpu" and cpu.available() else "chunked"
    if backend in ("cuda", "cpu") and device != backend:
        raise RuntimeError(f"backend: found {backend!r} for tensors on {device!r}, expected them on {backend!r}")
    obstacle = cpu.obstacle() if backend == "cpu" else gpu.obstacle(device) if backend == "triton" else None
    if obstacle:
        raise RuntimeError(f"backend: found {backend!r}, but {'; to mend it: '.join(filter(None, obstacle))}")
    return backend


def _needs_grad(tensors) -> bool:
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _check(u, delta, A, B, C, D, z, delta_bias, initial_state) -> tuple[Tensor, Tensor]:
    """Raise for what does not fit; return B and C as (B, G, N, L)."""
    tensors = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z}
    tensors |= {"delta_bias": delta_bias, "initial_state": initial_state}
    for name, x in tensors.items():
        if x is not None and x.dtype not in FLOATS:
            raise TypeError(f"{name}: found dtype {x.dtype}, expected one of {FLOATS}")
        if x is not None and x.device != u.device:
            raise ValueError(f"{name}: found on {x.device}, expected on {u.device}, where u is")
    if u.dim() != 3 or u.shape[2] == 0:
        raise ValueError(f"u: found shape {tuple(u.shape)}, expected (B, D, L) with L ≥ 1")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels:
        raise ValueError(f"A: found shape {tuple(A.shape)}, expected (D, N) with D = {channels} as in u")
    states = A.shape[1]
    shapes = dict.fromkeys(("delta", "z"), (batch, channels, length)) | dict.fromkeys(("D", "delta_bias"), (channels,))
    for name, shape in (shapes | {"initial_state": (batch, channels, states)}).items():
        if tensors[name] is not None and tensors[name].shape != shape:
            raise ValueError(f"{name}: found shape {tuple(tensors[name].shape)}, expected {shape}")
    B, C = (_per_step(name, tensors[name], batch, channels, states, length) for name in ("B", "C"))
    groups = max(B.shape[1], C.shape[1])
    if groups % B.shape[1] or groups % C.shape[1]:
        raise ValueError(f"C: found {C.shape[1]} groups, expected {B.shape[1]} as in B, or a multiple or divisor of it")
    return tuple(x if x.shape[1] == groups else x.repeat_interleave(groups // x.shape[1], 1) for x in (B, C))


def _per_step(name: str, x: Tensor, batch: int, channels: int, states: int, length: int) -> Tensor:
    if channels and x.shape == (channels, states):
        return x[None, :, :, None].expand(batch, -1, -1, length)
    if x.shape == (batch, states, length):
        return x.unsqueeze(1)
    groups = x.shape[1] if x.dim() == 4 else 0
    if x.shape == (batch, groups, states, length) and groups and channels % groups == 0:
        return x
    raise ValueError(
        f"{name}: found shape {tuple(x.shape)}, expected (D, N) = {(channels, states)}, "
        f"(B, N, L) = {(batch, states, length)} or (B, G, N, L) with G a divisor of D"
    )
