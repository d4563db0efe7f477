"""AlignMamba-2, the kit: multimodal fusion with a Modality-Aware Mamba and a dual alignment.

Glossary: one letter, one meaning, everywhere in this package.

    B       batch: samples processed together
    m       a modality, by name: "text", "audio", "video", "image", "depth", ...
    T_m     tokens of modality m in a sample;   D_m   their feature width
    L       tokens of all modalities in one sequence, after ordering
    d       d_model: width of a token inside the model
    e       d_inner = expand · d: width inside the Mamba
    n       d_state: size of the state that each channel carries (N in the scan's shapes)
    Δ       step size: how far the state moves on at a token (the "selective" part)
    P       transport plan (T_x, T_y);   C   its cost;   ε   its entropic regularisation
    MMD     maximum mean discrepancy;   k   its kernel;   bandwidth σ of k

Shapes are written (B, T, d). Masks are (B, T), True where a token is real.
"""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

# Where each public name lives. Imported on first use, so that `import alignmamba2` is quick and
# `python -m alignmamba2 data ...` does not wait for torch's and numba's start-up.
_HOME = {
    "selective_scan": "scan",
    "transport": "alignment",
    "TransportResult": "alignment",
    "mmd": "alignment",
    "DualAlignment": "alignment",
    "MultimodalBatch": "batch",
    "ModalityAwareMamba": "model",
    "AlignMamba2": "model",
    "AlignMamba2Config": "model",
    "ModelOutput": "model",
    "Trace": "model",
    "Dataset": "datasets",
    "load_dataset": "datasets",
    "register_dataset": "datasets",
    "fit": "training",
    "evaluate": "training",
    "predict": "training",
    "results": "experiments",
    "export_program": "program",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .alignment import DualAlignment, TransportResult, mmd, transport
    from .batch import MultimodalBatch
    from .datasets import Dataset, load_dataset, register_dataset
    from .experiments import results
    from .model import AlignMamba2, ModelOutput
    from .model.config import AlignMamba2Config
    from .model.layers import ModalityAwareMamba
    from .program import export_program
    from .scan import selective_scan
    from .trace import Trace
    from .training import evaluate, fit, predict


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
