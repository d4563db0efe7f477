"""The scan on an NVIDIA GPU: mamba-ssm's kernel where it is installed, the chunked PyTorch form where not."""

import functools
import importlib
import importlib.util
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

INSTALL = "pip install --no-build-isolation mamba-ssm"
# mamba-ssm's default install may leave its compiled kernel out.
INSTALL_KERNEL = (
    "MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE "
    "pip install --no-build-isolation --no-deps --no-cache-dir --force-reinstall mamba-ssm"
)


@functools.cache
def mamba_ssm() -> tuple[Callable | None, str, str]:
    """Return mamba-ssm's `selective_scan_fn` or None, the reason, and the command that adds the missing part."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return None, "mamba-ssm is not installed", INSTALL
    if importlib.util.find_spec("selective_scan_cuda") is None:
        return None, "mamba-ssm is installed without its compiled kernel (selective_scan_cuda)", INSTALL_KERNEL
    try:
        module = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except Exception as error:  # built for another torch or CUDA: anything from ImportError to OSError
        return None, f"mamba-ssm is installed but does not import ({error})", INSTALL_KERNEL
    return module.selective_scan_fn, "mamba-ssm's compiled kernel", ""


@functools.cache
def kernel_or_warning() -> Callable | None:
    """Return `selective_scan_fn`, or None with a warning, the first time, that says how to get it."""
    function, reason, fix = mamba_ssm()
    if function is None:
        warnings.warn(f"selective_scan on CUDA runs its slower PyTorch form: {reason}. To add it: {fix}", stacklevel=4)
    return function


def fits(u: Tensor, A: Tensor, differentiable_state: bool, initial_state: Tensor | None) -> bool:
    """Return whether mamba-ssm's kernel can do it: it has no float64, no more than 256 states, no first state and no
    gradient through the last one."""
    return u.dtype != torch.float64 and A.shape[1] <= 256 and initial_state is None and not differentiable_state


def scan(*tensors: Tensor | None, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """Return y and the last state by `selective_scan_fn`, for the tensors of `selective_scan` without initial_state.

    Sequences go there in the dtype of u, parameters in float32.
    """
    u, delta, A, B, C, D, z, delta_bias = tensors
    delta, B, C, z = (None if x is None else x.to(u.dtype) for x in (delta, B, C, z))
    A, D, delta_bias = (None if x is None else x.float() for x in (A, D, delta_bias))
    with torch.autocast("cuda", enabled=False):
        return kernel_or_warning()(u, delta, A, B, C, D, z, delta_bias, delta_softplus, True)
