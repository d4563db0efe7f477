"""Dual alignment: optimal transport between tokens, and the maximum mean discrepancy between token distributions.

`transport` says which token of one modality belongs to which token of the other (local alignment); `mmd`
says how far the two clouds of tokens are apart as distributions (global alignment). Both take padded,
masked batches, both are differentiable, and neither takes part in prediction. `DualAlignment` makes losses of them.
"""

from .losses import DualAlignment, MMDLoss, TransportLoss
from .mean_discrepancy import PermutationTest, mmd, permutation_test, witness
from .optimal_transport import TransportResult, transport

__all__ = [
    "DualAlignment",
    "MMDLoss",
    "PermutationTest",
    "TransportLoss",
    "TransportResult",
    "mmd",
    "permutation_test",
    "transport",
    "witness",
]
