"""The selective scan: one function, several backends, one answer.

    Δ'_t = softplus(Δ_t + bias)                        (both optional)
    h_t  = exp(Δ'_t A) h_{t-1} + Δ'_t B_t u_t           a state of N numbers for each of D channels
    y_t  = (Σ_n C_t h_t + D u_t) · SiLU(z_t)            (D and z optional)

`interface` checks the arguments and picks the backend; `reference` is the definition, one step at a time;
`chunked` is plain PyTorch for any device. `cpu` is compiled by numba, `gpu` by Triton, or hands over to mamba-ssm.

Source: Gu & Dao 2023 (Mamba), algorithm 2; shapes and meaning as mamba-ssm's `selective_scan_fn`.
"""

from .interface import BackendStatus, available_backends, selective_scan, selective_step

__all__ = ["BackendStatus", "available_backends", "selective_scan", "selective_step"]
