"""The model: projection, Modality-Aware Mamba layers, read-out; its settings, its order of tokens, its trace."""

from .config import AlignMamba2Config
from .fusion import CONFIG_FILE, WEIGHTS_FILE, AlignMamba2, ModelOutput, Projection, full_precision
from .layers import ModalityAwareLinear, ModalityAwareMamba
from .ordering import Ordering, order_tokens
from .trace import Trace

__all__ = [
    "CONFIG_FILE",
    "WEIGHTS_FILE",
    "AlignMamba2",
    "AlignMamba2Config",
    "ModalityAwareLinear",
    "ModalityAwareMamba",
    "ModelOutput",
    "Ordering",
    "Projection",
    "Trace",
    "full_precision",
    "order_tokens",
]
