"""Pure functions from arrays or a `Trace` to a Plotly figure, one module per subject.

Every `note` becomes the subtitle; say "synthetic" there for synthetic data. Figures are made in the Plotly template
"alignmamba2", which importing this registers. `dark(figure)` is the same in "alignmamba2_dark", `describe(figure)` says
in words what it shows, and `save` writes it to a file.
"""

from .contents import sample_strips
from .discrepancy import kernel_matrix, mmd_by_bandwidth, mmd_over_epochs, witness_curve
from .embedding import Tokens, before_after, same_modality_neighbours, tokens_of, umap_2d
from .experts import expert_shares, gate_flow
from .export import save, to_page
from .pictures import patch_links, side_by_side, words_on_picture
from .results import against_length, confusion, growth, losses, scores, under_corruption
from .scan import attribution_bars, scan_influence, scan_steps
from .style import DARK_TEMPLATE, TEMPLATE, dark, describe, look
from .transport import agreement, plan_of, transport_plan, transport_sweep
