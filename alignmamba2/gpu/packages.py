"""The kernels of mamba-ssm and causal-conv1d, where they are installed.

Both are compiled for one version of PyTorch and of CUDA. Their installers download a wheel where there is one for those
at hand, and else compile with nvcc, which takes long; without nvcc they fail, and what this library brings does.
"""

import functools
import importlib
import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

# Without isolation, since their builds import the torch that is here; mamba-ssm's newest leaves this kernel out unless
# it is told to keep it.
INSTALL = "MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation mamba-ssm"
INSTALL_CONVOLUTION = "pip install --no-build-isolation causal-conv1d"
ANEW = "pip install --no-build-isolation --no-deps --no-cache-dir --force-reinstall"
INSTALL_KERNEL = f"MAMBA_KEEP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE {ANEW} mamba-ssm"
REBUILD_CONVOLUTION = f"CAUSAL_CONV1D_FORCE_BUILD=TRUE {ANEW} causal-conv1d"

Found = tuple[Callable | None, str, str]  # a package's function or None, the reason, and the command that brings it


@functools.cache
def mamba_ssm() -> Found:
    """Return mamba-ssm's `selective_scan_fn`, as of `Found`."""
    place = "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"
    return _find("mamba-ssm", *place, "selective_scan_cuda", INSTALL, INSTALL_KERNEL)


@functools.cache
def causal_conv1d() -> Found:
    """Return `causal_conv1d_fn`, as of `Found`."""
    place = "causal_conv1d", "causal_conv1d_fn"
    return _find("causal-conv1d", *place, "causal_conv1d", INSTALL_CONVOLUTION, REBUILD_CONVOLUTION)


def _find(package: str, module: str, function: str, kernel: str, install: str, rebuild: str) -> Found:
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        return None, f"{package} is not installed", install
    if importlib.util.find_spec(kernel) is None:
        return None, f"{package} is installed without its compiled kernel ({kernel})", rebuild
    try:
        return getattr(importlib.import_module(module), function), f"{package}'s compiled kernel", ""
    except Exception as error:  # built for another torch or CUDA: anything from ImportError to OSError
        return None, f"{package} is installed but does not import ({error})", rebuild


def fits(u: Tensor, A: Tensor, initial_state: Tensor | None, differentiable_state: bool) -> bool:
    """Return whether mamba-ssm's kernel can do it: it has no float64, no more than 256 states, no first state and no
    gradient through the last one."""
    return u.dtype != torch.float64 and A.shape[1] <= 256 and initial_state is None and not differentiable_state


def mamba_scan(*tensors: Tensor | None, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """Return y and the last state by `selective_scan_fn`, for the tensors of `selective_scan`; no first state.

    Sequences go there in the dtype of u, parameters in float32.
    """
    u, delta, A, B, C, D, z, delta_bias, _ = tensors
    delta, B, C, z = (None if x is None else x.to(u.dtype) for x in (delta, B, C, z))
    A, D, delta_bias = (None if x is None else x.float() for x in (A, D, delta_bias))
    with torch.autocast("cuda", enabled=False):
        return mamba_ssm()[0](u, delta, A, B, C, D, z, delta_bias, delta_softplus, True)


def convolve_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor | None:
    """Return SiLU(causal depthwise convolution) (B, L, D) by causal-conv1d, or None where it is not or does not fit.

    x (B, L, D);  weight (D, K), K from 2 to 4;  bias (D,). It reads channels side by side, eight at a time.
    """
    (channels, taps), strides = weight.shape, (x.stride(0), x.stride(1))
    fits = _on_gpu(x) and 2 <= taps <= 4 and x.dtype != torch.float64 and x.numel() and x.stride(2) == 1
    if not fits or channels % 8 or any(s % 8 for s in strides) or not _has_convolution():
        return None
    with torch.autocast("cuda", enabled=False):
        return causal_conv1d()[0](x.transpose(1, 2), weight, bias, activation="silu").transpose(1, 2)


def _has_convolution() -> bool:
    return causal_conv1d()[0] is not None


_has_convolution._dynamo_marked_constant = True  # torch.compiler.assume_constant_result would import the compiler


def _on_gpu(x: Tensor) -> bool:
    return x.device.type == "cuda" and torch.version.hip is None
