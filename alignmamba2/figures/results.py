"""How a training went; how good models are, by seed, by class and on worse data; and how their cost grows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from scipy.stats import t

from .marks import band, curve, dots, heat, panels
from .style import INK, LIGHT, QUIET, Look, array, floats, joined, numbered_look, titled, whole_steps

PARTS = {"task": "task loss", "ot": "transport loss", "mmd": "MMD loss"}
# Training solid and dark, validation dotted and light: no colour, since colours are the modalities'.
SPLITS = {"training": Look(INK, "circle", "solid"), "validation": Look(QUIET, "circle-open", "dot")}


def losses(
    history: Sequence[Mapping[str, float]], *, metric: str = "valid/accuracy", best: str = "max", note: str = ""
) -> go.Figure:
    """Draw the parts of the loss, each on its own axis since their sizes differ, and the validation metric.

    The history has a mapping per epoch, with "epoch", "train/task", "train/ot", "train/mmd", the same of "valid" if
    measured, and `metric`, whose `best` ("max" or "min") epoch is marked. A `ValueError` says that it has neither a
    loss nor the metric.

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
    samples would change it. With one seed there is none. `results` are by model, one value per seed; `best` is "max" or
    "min".

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
        tick = {"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": LIGHT}}
        seeds = [f"{name}, one seed: {value:.4f}" for value in values]
        figure.add_trace(dots(values, [name] * count, tick, seeds, name="one seed", showlegend=first))
        interval = {"type": "data", "array": [half], "visible": count > 1, "thickness": 3, "width": 8, "color": INK}
        dot = {"symbol": "circle", "size": 13, "color": INK}
        text = f"{name}: {mean:.4f}{sure} ({count} seed{'s' * (count > 1)})"
        more = {"name": "mean, and 95 % interval over seeds", "error_x": interval, "showlegend": first}
        figure.add_trace(dots((round(mean, 12),), (name,), dot, [text], **more))
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


def confusion(label: Any, prediction: Any, classes: Sequence[str], *, note: str = "") -> go.Figure:
    """Draw how often each class (a row) is taken for each (a column): counts, and as colour their share of the row.

    Labels and predictions are int arrays (N,) of indices into `classes`.

    >>> figure = confusion([0, 0, 1], [0, 1, 1], ["cat", "dog"])
    >>> figure.data[0].z.tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    >>> figure.layout.meta["words"]
    'Accuracy 67%, balanced accuracy 75%. Most often cat is taken for dog, 1 of 2 times.'
    """
    label, prediction = array(label).astype(int), array(prediction).astype(int)
    count = np.zeros((len(classes), len(classes)), int)
    np.add.at(count, (label, prediction), 1)
    total = count.sum(1)
    share = count / np.maximum(total, 1)[:, None]
    rows = [f"{name} ({n})" for name, n in zip(classes, total, strict=True)]
    cells = {"text": np.where(count > 0, count.astype(str), ""), "texttemplate": "%{text}", "textfont": {"size": 15}}
    figure = go.Figure(heat(share, 1, "%{y} taken for %{x}: %{z:.0%}", gap=2, x=list(classes), y=rows, **cells))
    axis = {"type": "category", "showgrid": False, "ticks": ""}
    figure.update_xaxes(title="taken for", tickangle=-30 if len(classes) > 4 else 0, **axis)
    figure.update_yaxes(title="is (how many)", title_standoff=8, autorange="reversed", **axis)
    accuracy, balanced = np.trace(count) / max(count.sum(), 1), float(np.diag(share)[total > 0].mean())
    words = f"Accuracy {accuracy:.0%}, balanced accuracy {balanced:.0%}."
    note = joined(note, words.rstrip("."))
    wrong = count - np.diag(np.diag(count))
    if wrong.any():
        i, j = np.unravel_index(wrong.argmax(), wrong.shape)
        words += f" Most often {classes[i]} is taken for {classes[j]}, {wrong[i, j]} of {total[i]} times."
    return titled(figure, "Which class is taken for which", note, height=262 + 34 * len(classes), words=words)


def under_corruption(
    severity: Any,
    results: Mapping[str, Any],
    *,
    metric: str = "accuracy",
    kind: str = "severity",
    level: float | None = None,
    note: str = "",
) -> go.Figure:
    """Draw a metric against the severity of a corruption: per model a line of means, and a band from worst to best run.

    To a rising severity (S,), `results` are by model an array (R, S) of R runs, such as seeds of training or of the
    corruption; a `ValueError` names another shape. `metric` and `kind` are titles of axes, `level` is the metric of a
    model that ignores its input.

    >>> figure = under_corruption([0, 1], {"plain": [[0.9, 0.5], [0.8, 0.4]]}, level=0.5)
    >>> [round(float(y), 2) for y in figure.data[1].y]
    [0.85, 0.45]
    """
    severity, figure, changes = floats(severity), go.Figure(), []
    for k, (name, runs) in enumerate(results.items()):
        runs, style = floats(runs), numbered_look(k)
        if runs.ndim != 2 or runs.shape[1] != len(severity):
            raise ValueError(f"results[{name!r}]: found {runs.shape}; expected (runs, {len(severity)})")
        low, high, mean = runs.min(0), runs.max(0), runs.mean(0)
        figure.add_trace(band(severity, low, high, style.colour, line={"width": 0}, legendgroup=name, showlegend=False))
        hover = f"{name}, {kind} %{{x:g}}: %{{y:.3f}} (%{{customdata[0]:.3f}} to %{{customdata[1]:.3f}})"
        ends = {"customdata": np.column_stack([low, high])}
        figure.add_trace(curve(style, severity, mean, name, hover, size=10, legendgroup=name, **ends))
        changes.append(f"{name}: {mean[0]:.3g} to {mean[-1]:.3g}")
    if level is not None:
        # No model's colour; and written where the data are still good, so that the lines are far above.
        figure.add_hline(y=level, line={"dash": "dot", "width": 1.5, "color": QUIET})
        place = {"x": 0, "xref": "paper", "xanchor": "left", "y": level, "yanchor": "top"}
        figure.add_annotation(text="who looks at nothing", showarrow=False, **place)
    figure.update_xaxes(title=kind)
    figure.update_yaxes(title=metric)
    note = joined(note, "bands from the worst to the best run")
    title = f"{metric[0].upper()}{metric[1:]} as data get worse"
    return titled(figure, title, note, words="; ".join(changes) + ".", margin_t=100)


def growth(lengths: Any, values: Any) -> float:
    """Return the slope of log(value) over log(length), by least squares: 1 grows like the length, 2 like its square.

    >>> round(growth([10, 100, 1000], [1, 100, 10000]), 6)
    2.0
    """
    lengths, values = floats(lengths), floats(values)
    known = np.isfinite(values)
    return float(np.polyfit(np.log(lengths[known]), np.log(values[known]), 1)[0])


def against_length(
    lengths: Any,
    measures: Mapping[str, Mapping[str, Any]],
    *,
    units: Mapping[str, str] | None = None,
    title: str = "What a longer sequence costs",
    note: str = "",
) -> go.Figure:
    """Draw time, memory, … of several methods against length, both axes logarithmic, the slopes printed.

    To lengths (S,), `measures` are by name and method an array (S,), such as {"time": {"ours": [...], "theirs": [...]},
    "memory": {...}}, with NaN for a length that a method could not run; `units` are by name.

    >>> time = {"scan": [1.0, 10.0], "attention": [1.0, 100.0]}
    >>> figure = against_length([100, 1000], {"time": time}, units={"time": "s"})
    >>> [line.name for line in figure.data]
    ['scan', 'attention']
    >>> figure.layout.annotations[-1].text
    '<b>L<sup>2.00</sup></b>'
    """
    lengths, units = floats(lengths), units or {}
    methods = list(dict.fromkeys(method for rows in measures.values() for method in rows))
    looks = {method: numbered_look(k) for k, method in enumerate(methods)}
    figure, slopes = panels([f"<b>{what}</b>" for what in measures], 0.12), []
    for column, (what, rows) in enumerate(measures.items(), start=1):
        unit, ends = units.get(what, ""), []
        for method, values in rows.items():
            values = floats(values)
            known = np.flatnonzero(np.isfinite(values))
            if not len(known):
                continue
            group = {"legendgroup": method, "showlegend": column == 1}
            hover = f"{method}, length %{{x}}: %{{y:.3g}} {unit}"
            line = curve(looks[method], lengths[known], values[known], method, hover, size=10, **group)
            figure.add_trace(line, 1, column)
            if len(known) > 1:
                slope = growth(lengths[known], values[known])
                ends.append((values[known[-1]], lengths[known[-1]], slope, looks[method]))
                slopes.append(f"{what} of {method} grows like length to the {slope:.2f}")
        _print_slopes(figure, column, ends, rows)
        heading = f"{what}, {unit}" if what in units else what
        figure.update_yaxes(type="log", title=heading, tickformat="~g", dtick=1, row=1, col=column)
    first, last = np.log10([lengths.min(), lengths.max()])
    room, marks = last - first, lengths[:: max(1, len(lengths) // 4)]
    figure.update_xaxes(
        type="log",
        title="tokens in the sequence",
        range=[first - 0.06 * room, last + 0.24 * room],
        tickvals=marks,
        ticktext=[f"{v:,.0f}" for v in marks],
    )
    return titled(figure, title, note, height=500, words="; ".join(slopes) + ".")


def _print_slopes(
    figure: go.Figure, column: int, ends: Sequence[tuple[float, float, float, Look]], rows: Mapping[str, Any]
) -> None:
    gap = 0.0
    if len(ends) > 1:
        values = np.concatenate([floats(row).ravel() for row in rows.values()])
        gap = 0.075 * max(float(np.ptp(np.log10(values[np.isfinite(values)]))), 0.5)
    last = -np.inf
    for value, length, slope, style in sorted(ends, key=lambda end: end[:3]):
        last = max(np.log10(value), last + gap)
        place = {"x": np.log10(length), "y": last, "xanchor": "left", "xshift": 10, "row": 1, "col": column}
        font = {"color": style.colour, "size": 17}
        figure.add_annotation(text=f"<b>L<sup>{slope:.2f}</sup></b>", showarrow=False, font=font, **place)
