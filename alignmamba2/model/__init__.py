"""The model: projection, Modality-Aware Mamba layers, read-out; its settings, its order of tokens, its trace."""

from ..trace import Trace
from .base import FusionModel, ModelOutput
from .config import AlignMamba2Config
from .fusion import AlignMamba2
from .layers import ModalityAwareLinear, ModalityAwareMamba
from .ordering import Ordering, order_tokens
