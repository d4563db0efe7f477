"""Pictures: pure functions from arrays or a `Trace` to a Plotly figure, one module a subject.

Importing this registers the Plotly template "alignmamba2" that all of them use.
"""

from .discrepancy import mmd_over_epochs
from .embedding import Tokens, before_after, plane, same_modality_neighbours, tokens_of
from .routing import expert_shares, token_shares
from .sample import sample_strips
from .style import TEMPLATE, look
from .training import losses
from .transport import agreement, plan_of, transport_plan, transport_sweep

__all__ = [
    "TEMPLATE",
    "Tokens",
    "agreement",
    "before_after",
    "expert_shares",
    "look",
    "losses",
    "mmd_over_epochs",
    "plan_of",
    "plane",
    "same_modality_neighbours",
    "sample_strips",
    "token_shares",
    "tokens_of",
    "transport_plan",
    "transport_sweep",
]
