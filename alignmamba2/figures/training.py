"""How a training went: losses by part, and the metric that chose the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from scipy.stats import t

from .marks import HOVER_ENDS, curve, panels
from .style import INK, LIGHT, QUIET, Look, floats, joined, titled, whole_steps

PARTS = {"task": "task loss", "ot": "transport loss", "mmd": "MMD loss"}
# Training solid and dark, validation dotted and light: no colour, since colours are the modalities'.
SPLITS = {"training": Look(INK, "circle", "solid"), "validation": Look(QUIET, "circle-open", "dot")}


def losses(
    history: Sequence[Mapping[str, float]], *, metric: str = "valid/accuracy", best: str = "max", note: str = ""
) -> go.Figure:
    """Draw the parts of the loss, each on its own axis since their sizes differ, and the validation metric.

    Parameters
    ----------
    history : list of mappings, one per epoch
        With "epoch", "train/task", "train/ot", "train/mmd", the same of "valid" if measured, and `metric`.
    metric : str
    best : "max" or "min"
        Which value of the metric is best; that epoch is marked.
    note : str
        The subtitle; say "synthetic" here for synthetic data.

    Raises
    ------
    ValueError
        If the history has neither a loss nor the metric.

    Examples
    --------
    >>> figure = losses([{"epoch": 0, "train/task": 0.7, "valid/accuracy": 0.5},
    ...                  {"epoch": 1, "train/task": 0.5, "valid/accuracy": 0.8}])
    >>> [list(line.y) for line in figure.data]
    [[0.7, 0.5], [0.5, 0.8]]
    """
    rows = {
        heading: [f"train/{part}", f"valid/{part}"]
        for part, heading in PARTS.items()
        if recorded(history, f"train/{part}")[1]
    }
    measured = dict(zip(*recorded(history, metric), strict=True))
    if measured:
        rows["validation " + metric.split("/")[-1]] = [metric]
    if not rows:
        raise ValueError(f"history: neither 'train/task' nor {metric!r} in it; expected one mapping per epoch")
    figure, changes, in_legend = panels(list(rows)), [], set()
    figure.update_annotations(font_size=16)
    for column, (heading, names) in enumerate(rows.items(), start=1):
        for name in names:
            epochs, values = recorded(history, name)
            if not values:
                continue
            split = "validation" if name.startswith("valid") else "training"
            hover = f"{name}, epoch %{{x}}: %{{y:.4f}}"
            group = {"legendgroup": split, "showlegend": split not in in_legend}
            line = curve(SPLITS[split], epochs, values, split, hover, width=2.5, size=7, **group)
            figure.add_trace(line, 1, column)
            in_legend.add(split)
        _, values = recorded(history, names[0])
        changes.append(f"{heading}: {values[0]:.3g} to {values[-1]:.3g}")
    if measured:
        at = (max if best == "max" else min)(measured, key=measured.get)
        figure.add_vline(x=at, line={"color": INK, "width": 1, "dash": "dash"}, row=1, col=len(rows))
        figure.layout.annotations[len(rows) - 1].text = f"{list(rows)[-1]}<br>best {measured[at]:.3g}"
    figure.update_xaxes(title="epoch", tick0=0, dtick=whole_steps(len(history), 4))
    layout = {"height": 420, "words": "; ".join(changes) + ".", "margin_t": 142 if measured else 122}
    return titled(figure, "How the training went", note, **layout)


def recorded(history: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Return the epochs with a value of this name, and the values."""
    epochs = [epoch for epoch in history if epoch.get(name) is not None]
    return [epoch["epoch"] for epoch in epochs], [epoch[name] for epoch in epochs]


def scores(
    results: Mapping[str, Sequence[float]], *, metric: str = "accuracy", best: str = "max", note: str = ""
) -> go.Figure:
    """Draw a metric of several models over seeds: every seed a mark, the mean, and a 95 % interval for it.

    The interval is Student's t over the seeds: it says how sure the mean over seeds is, not how a test set of other
    samples would change it. With one seed there is none.

    Parameters
    ----------
    results : mapping of a model's name to its values, one per seed
    metric : str
    best : "max" or "min"
    note : str

    Examples
    --------
    >>> figure = scores({"full": [0.80, 0.82, 0.81], "without OT": [0.79, 0.80, 0.78]})
    >>> figure.data[1].x
    (0.81,)
    """
    figure, summaries, ends = go.Figure(), {}, []
    for name, values in results.items():
        values, first = floats(values), not summaries
        mean, count, half = float(values.mean()), len(values), 0.0
        if count > 1:
            half = float(t.ppf(0.975, count - 1) * values.std(ddof=1) / count**0.5)
        sure = f" ± {half:.3f}" if count > 1 else ""
        figure.add_scatter(
            x=values,
            y=[name] * count,
            mode="markers",
            marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": LIGHT}},
            name="one seed",
            hovertemplate=f"{name}, one seed: %{{x:.4f}}" + HOVER_ENDS,
            showlegend=first,
        )
        interval = {"type": "data", "array": [half], "visible": count > 1, "thickness": 3, "width": 8, "color": INK}
        figure.add_scatter(
            x=(round(mean, 12),),
            y=(name,),
            error_x=interval,
            mode="markers",
            marker={"symbol": "circle", "size": 13, "color": INK},
            name="mean, and 95 % interval over seeds",
            hovertemplate=f"{name}: {mean:.4f}{sure} ({count} seed{'s' * (count > 1)})" + HOVER_ENDS,
            showlegend=first,
        )
        summaries[name] = f"{mean:.3f}", sure
        ends += [values.min(), values.max(), mean - half, mean + half]
    low, high = min(ends), max(ends)
    room = max(high - low, 1e-6)
    for name, (mean, sure) in summaries.items():  # in a column, beyond all that is drawn
        text = f"<b>{mean}</b>{sure}"
        figure.add_annotation(x=high, y=name, text=text, showarrow=False, xanchor="left", xshift=14)
    figure.update_xaxes(title=metric, range=[low - 0.08 * room, high + 0.38 * room])
    figure.update_yaxes(autorange="reversed", ticks="", showgrid=True)
    note = joined(note, f"{'more' if best == 'max' else 'less'} is better")
    title, height = f"{metric[0].upper()}{metric[1:]}, model by model", 240 + 46 * len(results)
    words = "; ".join(f"{name} {mean}{sure}" for name, (mean, sure) in summaries.items()) + "."
    return titled(figure, title, note, height=height, words=words)
