"""Which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .marks import heat
from .style import array, joined, titled


def confusion(label: Any, prediction: Any, classes: Sequence[str], *, note: str = "") -> go.Figure:
    """Draw how often each class (a row) is taken for each (a column): counts, and as colour their share of the row.

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
