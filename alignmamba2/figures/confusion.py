"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .style import PLAN_SCALE, array, titled


def confusion(label: Any, prediction: Any, classes: Sequence[str], *, note: str = "") -> go.Figure:
    """How often each class (a row) is taken for each (a column): counts, and as colour their share of the row.

    Parameters
    ----------
    label, prediction : int arrays (N,)
        Indices into `classes`.
    classes : C strings
    note : str

    Examples
    --------
    >>> figure = confusion([0, 0, 1], [0, 1, 1], ["cat", "dog"])
    >>> figure.data[0].z.tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    >>> figure.layout.meta["words"]
    'Accuracy 67%, balanced accuracy 75%. Most often cat is taken for dog, 1 of 2 times.'
    """
    label, prediction = array(label).astype(int), array(prediction).astype(int)
    count = np.zeros((len(classes), len(classes)), int)
    np.add.at(count, (label, prediction), 1)
    total = count.sum(1, keepdims=True)
    share = count / np.maximum(total, 1)
    heads = [f"{name} ({n})" for name, n in zip(classes, total[:, 0], strict=True)]
    figure = go.Figure(
        go.Heatmap(
            z=share,
            x=list(classes),
            y=heads,
            zmin=0,
            zmax=1,
            colorscale=PLAN_SCALE,
            xgap=2,
            ygap=2,
            text=np.where(count > 0, count.astype(str), ""),
            texttemplate="%{text}",
            textfont={"size": 15},
            hovertemplate="%{y} taken for %{x}: %{z:.0%}<extra></extra>",
            showscale=False,
        )
    )
    figure.update_xaxes(
        title="taken for", type="category", showgrid=False, ticks="", tickangle=-30 if len(classes) > 4 else 0
    )
    figure.update_yaxes(
        title="is (how many)", type="category", title_standoff=8, showgrid=False, ticks="", autorange="reversed"
    )
    accuracy, balanced = np.trace(count) / max(count.sum(), 1), float(np.diag(share)[total[:, 0] > 0].mean())
    words = f"Accuracy {accuracy:.0%}, balanced accuracy {balanced:.0%}."
    note = " · ".join(filter(None, (note, words.rstrip("."))))
    wrong = count - np.diag(np.diag(count))
    if wrong.any():
        i, j = np.unravel_index(wrong.argmax(), wrong.shape)
        words += f" Most often {classes[i]} is taken for {classes[j]}, {wrong[i, j]} of {total[i, 0]} times."
    return titled(figure, "Which class is taken for which", note, height=262 + 34 * len(classes), words=words)
