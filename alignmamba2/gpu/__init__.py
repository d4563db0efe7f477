"""Kernels for an NVIDIA GPU behind one door: this library's own in Triton, and those of packages that may be there.

`selective_scan` may be called where `obstacle()` is None, on tensors of a GPU; on others only with TRITON_INTERPRET=1,
for tests. The first question imports Triton, so importing the package does not wait for it. `packages` are mamba-ssm
and causal-conv1d.
"""

import warnings

from torch import Tensor

from . import packages

__all__ = ["convolve_silu", "obstacle", "packages", "quickest_scan", "selective_scan", "status"]
convolve_silu = packages.convolve_silu


def obstacle(device: str = "cuda") -> tuple[str, str] | None:
    """Return the obstacle to Triton kernels on tensors of a device and the command that mends it; None without one."""
    from .support import INTERPRETED, OBSTACLE

    if device != "cuda" and not INTERPRETED:
        return "Triton's kernels run on a GPU or, for tests, interpreted (TRITON_INTERPRET=1)", ""
    return OBSTACLE


def quickest_scan(u: Tensor, A: Tensor, initial_state: Tensor | None, differentiable_state: bool) -> str:
    """Return "mamba-ssm", "triton" or "chunked", whichever is the first that is there and can do it on a GPU."""
    mamba, own = _here()
    if mamba and packages.fits(u, A, initial_state, differentiable_state):
        return "mamba-ssm"
    return "triton" if own else "chunked"


def _here() -> tuple[bool, bool]:
    """Whether mamba-ssm's kernel is here, and whether Triton is; with a warning where neither is."""
    (kernel, reason, fix), why = packages.mamba_ssm(), obstacle()
    if why and not kernel:
        warnings.warn(
            f"selective_scan on CUDA runs its slower PyTorch form: {why[0]} (add it with: {why[1]}); {reason} (add it "
            f"with: {fix})",
            stacklevel=4,
        )
    return kernel is not None, why is None


_here._dynamo_marked_constant = True  # or torch.compile would read through the import system; see `packages`


def status() -> tuple[str, str]:
    """Return which scan a GPU runs here and why, and the command that adds a faster one or "" if there is none."""
    kernel, reason, fix = packages.mamba_ssm()
    if kernel:
        return reason, ""
    why = obstacle()
    own = "Triton kernels of our own" if why is None else f"its slower PyTorch form ({why[0]})"
    return f"{own}; {reason}", why[1] if why else fix


def __getattr__(name: str):
    if name != "selective_scan":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .scan import selective_scan

    globals()[name] = selective_scan
    return selective_scan
