"""Turn ε and watch the transport plan go from sharp to even."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go
from torch import Tensor

from ..alignment import transport
from ..figures import transport_plan, transport_sweep

EPSILONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
WIDTH = 860  # pixels: a FigureWidget left to itself takes 700, whatever room there is


class TransportExplorer:
    """The plan between the tokens of two modalities, with a slider for ε.

    All plans are computed at the start, so the slider answers at once. Where no Python runs (a page), or with
    `interactive=False`, the same plans stand behind Plotly's own slider.

    Parameters
    ----------
    x, y : Tensor (T_m, d) and (T_anchor, d)
        Tokens, without padding.
    row_words, column_words, names, partners, note
        As for `figures.transport_plan`.
    epsilon : float
        Where the slider begins: the nearest of `epsilons`.
    epsilons : numbers
    interactive : bool

    Attributes
    ----------
    fig : FigureWidget, or Figure with interactive=False
    controls : mapping of name to widget; empty with interactive=False
    plans : list of Tensor (T_m, T_anchor), one an ε

    Examples
    --------
    >>> TransportExplorer(torch.randn(5, 8), torch.randn(4, 8), epsilon=0.1)  # doctest: +SKIP
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        row_words: Sequence[str] = (),
        column_words: Sequence[str] = (),
        *,
        epsilon: float = 0.05,
        epsilons: Sequence[float] = EPSILONS,
        interactive: bool = True,
        **labels: Any,
    ):
        self.epsilons = tuple(epsilons)
        self.plans = [_plan(x, y, e) for e in self.epsilons]
        start = min(range(len(self.epsilons)), key=lambda i: abs(self.epsilons[i] - epsilon))
        most = max(float(plan.max()) for plan in self.plans)
        self._labels = {"row_words": row_words, "column_words": column_words, **labels}
        self.still = transport_sweep(self.plans, self.epsilons, start=start, **self._labels)
        self._each = [transport_plan(plan, most=most, **self._labels) for plan in self.plans]
        self.controls: dict[str, widgets.Widget] = {}
        self.fig: go.Figure = self.still
        if not interactive:
            return
        self.fig = go.FigureWidget(self._each[start])
        self.fig.layout.width = WIDTH
        self.controls["epsilon"] = widgets.SelectionSlider(
            options=[(f"{e:g}", i) for i, e in enumerate(self.epsilons)],
            value=start,
            description="ε",
            layout=widgets.Layout(width="60%"),
        )
        self.controls["epsilon"].observe(lambda _change: self.update(), names="value")
        self._view = widgets.VBox([*self.controls.values(), self.fig])

    def update(self) -> None:
        """Draw what the controls say."""
        drawn = self._each[self.controls["epsilon"].value]
        with self.fig.batch_update():
            for old, new in zip(self.fig.data, drawn.data, strict=True):
                if old.type == "heatmap":
                    old.update(z=new.z, text=new.text)
                elif old.type == "bar":
                    old.update(x=new.x, y=new.y, hovertext=new.hovertext)
                else:
                    old.update(x=new.x, y=new.y)
            self.fig.layout.title = drawn.layout.title

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The panel where widgets live, the still figure everywhere else."""
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        if self.controls:
            bundle |= self._view._repr_mimebundle_(**kwargs)
        return {**bundle, "application/vnd.plotly.v1+json": self.still.to_plotly_json()}


def _plan(x: Tensor, y: Tensor, epsilon: float) -> Tensor:
    # A small ε takes more steps than training allows itself, and bars that do not end level would puzzle.
    return transport(x[None], y[None], epsilon=epsilon, tolerance=1e-5, max_iterations=20_000).plan[0]
