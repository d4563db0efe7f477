"""Pictures: pure functions from arrays or a `Trace` to a Plotly figure, one module a subject.

Importing this registers the Plotly templates "alignmamba2" and "alignmamba2_dark". Every figure is made in the first;
`dark(figure)` is the same in the second. `describe(figure)` says in words what it shows, `save` writes it to a file.
"""

from .confusion import confusion
from .discrepancy import kernel_matrix, line_between, mmd_by_bandwidth, mmd_over_epochs, witness_curve
from .efficiency import against_length, growth
from .embedding import Tokens, before_after, plane, same_modality_neighbours, tokens_of
from .experts import entropy_of, expert_contributions, expert_distances, gate_entropy, gate_flow
from .export import save, to_page
from .links import patch_links, token_links, words_on_picture
from .pictures import side_by_side
from .plans import plans_on_cost, true_and_learned
from .robustness import under_corruption
from .routing import expert_shares, token_shares
from .sample import sample_strips
from .scan import attribution_bars, scan_influence, scan_steps
from .style import DARK_TEMPLATE, TEMPLATE, dark, describe, look
from .training import losses, scores
from .transport import agreement, plan_of, transport_plan, transport_sweep

__all__ = [
    "DARK_TEMPLATE",
    "TEMPLATE",
    "Tokens",
    "against_length",
    "agreement",
    "attribution_bars",
    "before_after",
    "confusion",
    "dark",
    "describe",
    "entropy_of",
    "expert_contributions",
    "expert_distances",
    "expert_shares",
    "gate_entropy",
    "gate_flow",
    "growth",
    "kernel_matrix",
    "line_between",
    "look",
    "losses",
    "mmd_by_bandwidth",
    "mmd_over_epochs",
    "patch_links",
    "plan_of",
    "plane",
    "plans_on_cost",
    "same_modality_neighbours",
    "sample_strips",
    "save",
    "scan_influence",
    "scan_steps",
    "scores",
    "side_by_side",
    "to_page",
    "token_links",
    "token_shares",
    "tokens_of",
    "transport_plan",
    "transport_sweep",
    "true_and_learned",
    "under_corruption",
    "witness_curve",
    "words_on_picture",
]
