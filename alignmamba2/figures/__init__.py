"""Pure functions from arrays or a `Trace` to a Plotly figure, one module per subject.

Importing this registers the Plotly templates "alignmamba2" and "alignmamba2_dark". Every figure is made in the first;
`dark(figure)` is the same in the second. `describe(figure)` says in words what it shows, `save` writes it to a file.
"""

from .attribution import attribution_bars
from .contents import sample_strips
from .discrepancy import kernel_matrix, mmd_by_bandwidth, mmd_over_epochs, witness_curve
from .embedding import Tokens, before_after, same_modality_neighbours, tokens_of, umap_2d
from .experts import expert_distances, expert_shares, gate_flow
from .export import save, to_page
from .pictures import patch_links, side_by_side, words_on_picture
from .results import against_length, confusion, growth, scores, under_corruption
from .scan import scan_influence, scan_steps
from .style import DARK_TEMPLATE, TEMPLATE, dark, describe, look
from .training import losses
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
    "expert_distances",
    "expert_shares",
    "gate_flow",
    "growth",
    "kernel_matrix",
    "look",
    "losses",
    "mmd_by_bandwidth",
    "mmd_over_epochs",
    "patch_links",
    "plan_of",
    "same_modality_neighbours",
    "sample_strips",
    "save",
    "scan_influence",
    "scan_steps",
    "scores",
    "side_by_side",
    "to_page",
    "tokens_of",
    "transport_plan",
    "transport_sweep",
    "umap_2d",
    "under_corruption",
    "witness_curve",
    "words_on_picture",
]
