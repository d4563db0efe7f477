"""How a training went: losses by part, and the metric that chose the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .style import INK, QUIET, titled, whole_steps

PARTS = {"task": "task loss", "ot": "transport loss", "mmd": "MMD loss"}


def losses(
    history: Sequence[Mapping[str, float]],
    *,
    metric: str = "valid/accuracy",
    best: str = "max",
    note: str = "",
) -> go.Figure:
    """The parts of the loss, each on its own axis since their sizes differ, and the validation metric.

    Parameters
    ----------
    history : list of mappings, one an epoch
        With "epoch", "train/task", "train/ot", "train/mmd", the same of "valid" where measured, and `metric`.
    metric : str
    best : "max" or "min"
        Which value of the metric is best; that epoch is marked.
    note : str
        The subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> figure = losses([{"epoch": 0, "train/task": 0.7, "valid/accuracy": 0.5},
    ...                  {"epoch": 1, "train/task": 0.5, "valid/accuracy": 0.8}])
    >>> [list(line.y) for line in figure.data]
    [[0.7, 0.5], [0.5, 0.8]]
    """
    panels = {words: name for name, words in PARTS.items() if any(f"train/{name}" in epoch for epoch in history)}
    measured = any(epoch.get(metric) is not None for epoch in history)
    heads = [*panels, *(["validation " + metric.split("/")[-1]] if measured else [])]
    if not heads:
        raise ValueError(f"history: neither 'train/task' nor {metric!r} in it; expected one mapping an epoch")
    figure = make_subplots(rows=1, cols=len(heads), subplot_titles=heads, horizontal_spacing=0.08)
    for column, words in enumerate(heads, start=1):
        names = [f"train/{panels[words]}", f"valid/{panels[words]}"] if words in panels else [metric]
        for name in names:
            epochs = [epoch for epoch in history if epoch.get(name) is not None]
            if epochs:
                figure.add_trace(_line(name, epochs), 1, column)
    shown: set[str] = set()
    for line in figure.data:
        line.showlegend = line.name not in shown
        shown.add(line.name)
    if measured:
        pick = max if best == "max" else min
        at = pick((epoch for epoch in history if epoch.get(metric) is not None), key=lambda epoch: epoch[metric])
        figure.add_vline(x=at["epoch"], line={"color": INK, "width": 1, "dash": "dash"}, row=1, col=len(heads))
        heading = f"{heads[-1]} (best {at[metric]:.3g})"
        figure.layout.annotations[len(heads) - 1].text = heading
    figure.update_xaxes(title="epoch", tick0=0, dtick=whole_steps(len(history), 4))
    return titled(figure, "How the training went", note, height=400)


def _line(name: str, epochs: Sequence[Mapping[str, float]]) -> go.Scatter:
    """Training solid and dark, validation dotted and light: no colour, since colours are the modalities'."""
    held_out = name.startswith("valid")
    return go.Scatter(
        x=[epoch["epoch"] for epoch in epochs],
        y=[epoch[name] for epoch in epochs],
        mode="lines+markers",
        name="validation" if held_out else "training",
        legendgroup="validation" if held_out else "training",
        line={"color": QUIET if held_out else INK, "dash": "dot" if held_out else "solid", "width": 2.5},
        marker={"symbol": "circle-open" if held_out else "circle", "size": 7},
        hovertemplate=f"{name}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
    )
