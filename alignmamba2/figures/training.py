"""How a training went: losses by part, and the metric that chose the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.stats import t

from .style import INK, LIGHT, QUIET, array, titled, whole_steps

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
    figure.update_annotations(font_size=16)
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
        heading = f"{heads[-1]}<br>best {at[metric]:.3g}"
        figure.layout.annotations[len(heads) - 1].text = heading
    figure.update_xaxes(title="epoch", tick0=0, dtick=whole_steps(len(history), 4))
    told = [f"{name}: {line.y[0]:.3g} to {line.y[-1]:.3g}" for name, line in _firsts(figure, heads)]
    figure = titled(figure, "How the training went", note, height=420, words="; ".join(told) + ".")
    return figure.update_layout(margin_t=142 if measured else 122)


def scores(
    results: Mapping[str, Sequence[float]], *, metric: str = "accuracy", best: str = "max", note: str = ""
) -> go.Figure:
    """A metric of several models over seeds: every seed a dot, the mean, and a 95 % interval for it.

    The interval is Student's t over the seeds: it says how sure the mean over seeds is, not how a test set of other
    samples would change it. With one seed there is none.

    Parameters
    ----------
    results : mapping of a model's name to its values, one a seed
    metric : str
    best : "max" or "min"
    note : str

    Examples
    --------
    >>> figure = scores({"full": [0.80, 0.82, 0.81], "without OT": [0.79, 0.80, 0.78]})
    >>> figure.data[1].x
    (0.81,)
    """
    figure, told, numbers = go.Figure(), [], []
    for name, values in results.items():
        values = array(values).astype(float)
        mean = float(values.mean())
        several = len(values) > 1
        half = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5) if several else 0.0
        sure = f" ± {half:.3f}" if several else ""
        figure.add_scatter(
            x=values,
            y=[name] * len(values),
            mode="markers",
            marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": LIGHT}},
            name="one seed",
            hovertemplate=f"{name}, one seed: %{{x:.4f}}<extra></extra>",
            showlegend=not told,
        )
        figure.add_scatter(
            x=(round(mean, 12),),
            y=(name,),
            error_x={"type": "data", "array": [half], "visible": several, "thickness": 3, "width": 8, "color": INK},
            mode="markers",
            marker={"symbol": "circle", "size": 13, "color": INK},
            name="mean, and 95 % interval over seeds",
            hovertemplate=f"{name}: {mean:.4f}{sure} ({len(values)} seed{'s' * several})<extra></extra>",
            showlegend=not told,
        )
        told.append(f"{name} {mean:.3f}{sure}")
        numbers.append(f"<b>{mean:.3f}</b>{sure}")
    every = np.concatenate([array(v).astype(float) for v in results.values()])
    edges = [e.x[0] + s * e.error_x.array[0] for e in figure.data[1::2] for s in (-1, 1)]
    low, high = min(every.min(), *edges), max(every.max(), *edges)
    room = max(high - low, 1e-6)
    for dot, text in zip(figure.data[1::2], numbers, strict=True):  # in a column, beyond all that is drawn
        figure.add_annotation(x=high, y=dot.y[0], text=text, showarrow=False, xanchor="left", xshift=14)
    figure.update_xaxes(title=metric, range=[low - 0.08 * room, high + 0.38 * room])
    figure.update_yaxes(autorange="reversed", ticks="", showgrid=True)
    better = "more" if best == "max" else "less"
    note = " · ".join(filter(None, (note, f"{better} is better")))
    height = 240 + 46 * len(results)
    return titled(
        figure, f"{metric[0].upper()}{metric[1:]}, model by model", note, height=height, words="; ".join(told) + "."
    )


def _firsts(figure: go.Figure, heads: Sequence[str]) -> list[tuple[str, go.Scatter]]:
    """The first line of each panel, with the panel's name."""
    found: dict[str, go.Scatter] = {}
    for line in figure.data:
        found.setdefault(line.xaxis or "x", line)
    return list(zip(heads, found.values(), strict=False))


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
