"""Several transport plans beside each other: on the cost that they pay, and beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..model.trace import Pair
from .style import COLOURS, PLAN_SCALE, array, look, short, ticks, titled
from .transport import agreement, labels_of, named

ALONG = 12  # letters of a label under a panel
RING = COLOURS[3]


def plans_on_cost(
    plans: Mapping[str, Any],
    cost: Any,
    row_words: Sequence[str] = (),
    column_words: Sequence[str] = (),
    *,
    names: Pair = ("tokens", "anchor"),
    partners: Any = None,
    note: str = "",
) -> go.Figure:
    """Plans of the same tokens, entropic against exact say, each as dots on the cost under it.

    A dot's area is the mass, the colour under it is what a unit of mass pays there. Over each panel stands what the
    plan pays in all, ⟨P, C⟩, and its largest error in the sums that a plan promises.

    Parameters
    ----------
    plans : mapping of a name to an array (T_m, T_anchor)
        Each sums to 1.
    cost : array (T_m, T_anchor)
    row_words, column_words, names, partners, note
        As for `transport_plan`; true partners are ringed.

    Examples
    --------
    >>> figure = plans_on_cost({"exact": [[0.5, 0], [0, 0.5]], "even": [[0.25] * 2] * 2}, [[0, 1], [1, 0]])
    >>> [one.text for one in figure.layout.annotations[:2]]
    ['<b>exact</b><br>pays 0.000', '<b>even</b><br>pays 0.500']
    """
    plans = {name: array(plan).astype(float) for name, plan in plans.items()}
    cost = array(cost).astype(float)
    for name, plan in plans.items():
        if plan.shape != cost.shape:
            raise ValueError(f"plans[{name!r}]: found {plan.shape}; expected the cost's {cost.shape}")
    rows, columns = labels_of(row_words, cost.shape[0]), labels_of(column_words, cost.shape[1])
    paid = {name: float((plan * cost).sum()) for name, plan in plans.items()}
    heads = [f"<b>{name}</b><br>pays {value:.3f}" for name, value in paid.items()]
    figure = make_subplots(rows=1, cols=len(plans), subplot_titles=heads, shared_yaxes=True, horizontal_spacing=0.03)
    most = max(max(plan.max() for plan in plans.values()), 1e-12)
    at = np.dstack(np.meshgrid(np.arange(len(rows)), np.arange(len(columns)), indexing="ij")).reshape(-1, 2)
    for column, plan in enumerate(plans.values(), start=1):
        figure.add_trace(
            go.Heatmap(
                z=cost.T,
                zmin=float(cost.min()),
                zmax=float(cost.max()),
                colorscale="Greys",
                showscale=column == len(plans),
                colorbar={"title": {"text": "cost", "side": "top"}, "len": 0.8},
                hoverinfo="skip",
            ),
            1,
            column,
        )
        seen = plan.ravel() > most / 400
        figure.add_scatter(
            x=at[seen, 0],
            y=at[seen, 1],
            mode="markers",
            showlegend=False,
            marker={
                "size": np.sqrt(plan.ravel()[seen] / most) * min(26, 300 / max(cost.shape)),
                "color": look(names[0]).colour,
                "line": {"color": "white", "width": 1},
                "symbol": "circle",
                "opacity": 1,
            },
            text=[
                f"{named(rows[i], i, names[0])}<br>→ {named(columns[j], j, names[1])}<br>"
                f"{plan[i, j]:.2%} of all mass, at a cost of {cost[i, j]:.2f}"
                for i, j in at[seen]
            ],
            hovertemplate="%{text}<extra></extra>",
            row=1,
            col=column,
        )
        figure.add_trace(_rings(partners, column == 1), 1, column)
    _panels(figure, rows, columns, names, len(plans))
    words = "; ".join(f"{name} pays {value:.3f}" for name, value in paid.items())
    if partners is not None:
        told = [f"{name}: {agreement(plan, partners)[0]:.0%}" for name, plan in plans.items()]
        words += ". Mass on the true partners: " + "; ".join(told)
        note = " · ".join(filter(None, (note, "mass on true partners: " + "; ".join(told))))
    height = int(np.clip(250 + 26 * len(columns), 420, 720))
    return titled(
        figure, f"What a plan pays: {names[0]} → {names[1]}", note, height=height + 20, words=words + "."
    ).update_layout(margin_t=142)


def true_and_learned(
    mass: Any,
    partners: Any,
    row_words: Sequence[str] = (),
    column_words: Sequence[str] = (),
    *,
    names: Pair = ("tokens", "anchor"),
    note: str = "",
) -> go.Figure:
    """The true alignment, the learned one beside it, and how much of each token's mass agrees.

    Parameters
    ----------
    mass : array (T_m, T_anchor)
    partners : integer array (T_m,)
        True anchor token of each token, −1 where there is none.
    row_words, column_words, names, note
        As for `transport_plan`.

    Examples
    --------
    >>> figure = true_and_learned([[0.5, 0.0], [0.25, 0.25]], [0, 1])
    >>> figure.layout.title.subtitle.text
    '75% of the mass agrees (chance: 50%)'
    """
    mass, partners = array(mass).astype(float), array(partners).astype(int)
    rows, columns = labels_of(row_words, mass.shape[0]), labels_of(column_words, mass.shape[1])
    share, chance = agreement(mass, partners)
    own = mass.sum(1)
    truth = np.zeros_like(mass)
    known = np.flatnonzero(partners >= 0)
    truth[known, partners[known]] = own[known]
    agreeing = np.full(len(rows), np.nan)
    agreeing[known] = mass[known, partners[known]] / np.maximum(own[known], 1e-12)
    figure = make_subplots(
        rows=2,
        cols=2,
        row_heights=[0.76, 0.24],
        shared_yaxes="rows",
        shared_xaxes="columns",
        horizontal_spacing=0.04,
        vertical_spacing=0.03,
        subplot_titles=["<b>the truth</b>", "<b>learned</b>"],
    )
    most = float(max(mass.max(), truth.max(), 1e-12))
    for column, (plan, which) in enumerate(((truth, "in truth"), (mass, "learned")), start=1):
        hover = [
            [
                f"{named(rows[i], i, names[0])}<br>→ {named(columns[j], j, names[1])}<br>{which}: "
                + (f"{plan[i, j]:.2%} of all mass" if which == "learned" or partners[i] >= 0 else "no partner is known")
                for i in range(len(rows))
            ]
            for j in range(len(columns))
        ]
        heat = go.Heatmap(
            z=plan.T,
            zmin=0,
            zmax=most,
            colorscale=PLAN_SCALE,
            xgap=1 if len(rows) <= 40 else 0,
            ygap=1,
            showscale=column == 2,
            colorbar={
                "title": {"text": "mass", "side": "top"},
                "tickvals": [0, most],
                "ticktext": ["0", f"{most:.1%}"],
                "y": 1,
                "yanchor": "top",
                "len": 0.7,
            },
            text=hover,
            hovertemplate="%{text}<extra></extra>",
        )
        figure.add_trace(heat, 1, column)
    figure.add_trace(_rings(partners, True), 1, 2)
    heights = np.where(np.isnan(agreeing), 0, agreeing)
    for column, values in ((1, (partners >= 0).astype(float)), (2, heights)):
        figure.add_bar(
            x=np.arange(len(rows)),
            y=values,
            marker_color=look(names[0]).colour,
            text=[
                named(rows[i], i, names[0])
                + (f"<br>{values[i]:.0%} of its mass agrees" if partners[i] >= 0 else "<br>no partner is known")
                for i in range(len(rows))
            ],
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
            row=2,
            col=column,
        )
    _panels(figure, rows, columns, names, 2, bottom=2)
    figure.update_yaxes(range=[0, 1.05], tickformat=".0%", tickvals=[0, 0.5, 1], row=2)
    figure.update_yaxes(title="agrees", autorange=False, row=2, col=1)
    found = f"{share:.0%} of the mass agrees (chance: {chance:.0%})"
    if share != share:
        found = "no partner is known"
    free = int((partners < 0).sum())
    if free:
        found += f"; {free} of {len(rows)} {names[0]} tokens have no partner"
    height = int(np.clip(300 + 26 * len(columns), 480, 760))
    note = f"{note} · {found}" if note else found
    return titled(figure, f"The truth and what was learned: {names[0]} → {names[1]}", note, height=height)


def _rings(partners: Any, legend: bool) -> go.Scatter:
    partners = np.array([], int) if partners is None else array(partners)
    known = np.flatnonzero(partners >= 0)
    size = float(np.clip(400 / max(len(partners), 1), 5, 15))  # many rings would hide what they ring
    return go.Scatter(
        x=known,
        y=partners[known],
        mode="markers",
        name="true partner",
        marker={"symbol": "circle-open", "size": size, "color": RING, "line": {"width": 1 + size / 10}},
        hoverinfo="skip",
        showlegend=legend and bool(len(known)),
    )


def _panels(figure: go.Figure, rows: list[str], columns: list[str], names: Pair, count: int, bottom: int = 1) -> None:
    """Anchor tokens down the side of the first panel, the others along the bottom of each."""
    numbered = rows == [str(i + 1) for i in range(len(rows))]
    along = ticks(rows if numbered else [short(r, ALONG) for r in rows], (24 if numbered else 40) // count)
    figure.update_xaxes(showgrid=False, range=[-0.5, len(rows) - 0.5])
    figure.update_yaxes(showgrid=False)
    figure.update_xaxes(
        **along, tickangle=0 if numbered else -50, title=f"{names[0]}, in order", showticklabels=True, row=bottom
    )
    down = {"range": [len(columns) - 0.5, -0.5], "autorange": False}
    for column in range(1, count + 1):
        figure.update_yaxes(**down, ticks="", row=1, col=column)
    figure.update_yaxes(**ticks([short(c, 22) for c in columns], 26), row=1, col=1)
