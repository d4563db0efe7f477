"""How a training went: losses by part, and the metric that chose the model."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from .marks import curve, panels
from .style import INK, QUIET, Look, titled, whole_steps

PARTS = {"task": "task loss", "ot": "transport loss", "mmd": "MMD loss"}
# Training solid and dark, validation dotted and light: no colour, since colours are the modalities'.
SPLITS = {"training": Look(INK, "circle", "solid"), "validation": Look(QUIET, "circle-open", "dot")}


def losses(
    history: Sequence[Mapping[str, float]], *, metric: str = "valid/accuracy", best: str = "max", note: str = ""
) -> go.Figure:
    """Draw the parts of the loss, each on its own axis since their sizes differ, and the validation metric.

    Parameters
    ----------
    history : mappings, one per epoch, with "epoch", "train/task", "train/ot", "train/mmd", the same of "valid" if
        measured, and `metric`
    best : "max" or "min", the best value of the metric, whose epoch is marked

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
