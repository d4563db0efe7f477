"""The labels and the lengths in a file of data, split by split."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .export import to_page
from .marks import HOVER_ENDS, panels
from .style import array, look, short, titled

LEAST, HEIGHT, BUTTONS = 430, 490, 36  # pixels: height without data and with, and of Plotly's buttons
GREYS = ("#3A3A3A", "#8C8C8C", "#C9C9C9")  # splits are no modalities, so they have none of their colours


def contents(
    histograms: Mapping[str, Mapping[str, int]], lengths: Mapping[str, Mapping[str, Any]], title: str, note: str = ""
) -> go.Figure:
    """Draw labels as shares of each split, and the spread of lengths of each modality in each split.

    Parameters
    ----------
    histograms : mapping of split to a mapping of label to its number of samples
        Empty: no panel of labels.
    lengths : mapping of split to a mapping of modality to array (N,)
        Tokens of each sample. Empty: no panel of lengths.
    title, note : str
    """
    heads = [name for name, data in (("labels", histograms), ("tokens of a sample", lengths)) if data]
    if not heads:
        return titled(go.Figure(), title, "no labels and no lengths in it", height=LEAST)
    figure = panels(heads, 0.12)
    if histograms:
        _labels(figure, histograms)
    if lengths:
        _lengths(figure, lengths, len(heads))
    # Labels with long names stand obliquely and need the room that the legend would take; Plotly's buttons lie above.
    legend = {"y": 1 - BUTTONS / HEIGHT, "yanchor": "top", "x": 1.0, "xanchor": "right", "yref": "container"}
    words = f"Labels and lengths of {' and '.join(dict.fromkeys([*histograms, *lengths]))}."
    return titled(figure, title, note, height=HEIGHT, words=words, legend=legend)


def _labels(figure: go.Figure, histograms: Mapping[str, Mapping[str, int]]) -> None:
    for colour, (split, counts) in zip(itertools.cycle(GREYS), histograms.items(), strict=False):
        total = max(1, sum(counts.values()))
        figure.add_bar(
            x=[short(label, 14) for label in counts],
            y=[n / total for n in counts.values()],
            customdata=[[label, n] for label, n in counts.items()],
            hovertemplate=f"{split}: %{{customdata[0]}}<br>%{{customdata[1]}} samples, %{{y:.1%}}" + HOVER_ENDS,
            name=split,
            marker_color=colour,
            row=1,
            col=1,
        )
    figure.update_yaxes(title="share of the split", tickformat=".0%", row=1, col=1)
    figure.update_xaxes(type="category", row=1, col=1)


def _lengths(figure: go.Figure, lengths: Mapping[str, Mapping[str, Any]], column: int) -> None:
    for modality in dict.fromkeys(m for by in lengths.values() for m in by):
        values = {split: array(by[modality]) for split, by in lengths.items() if modality in by}
        figure.add_box(
            x=np.repeat(list(values), [len(v) for v in values.values()]),
            y=np.concatenate(list(values.values())),
            name=modality,
            marker_color=look(modality).colour,
            marker_symbol=look(modality).symbol,
            marker_size=4,
            row=1,
            col=column,
        )
    figure.update_layout(boxmode="group")
    figure.update_yaxes(title="tokens", rangemode="tozero", row=1, col=column)


def contents_page(figure: go.Figure, text: str) -> str:
    """Return a page that stands alone, with the figure and the text of a check under it."""
    before, _, after = to_page(figure).rpartition("</body>")
    style = "white-space: pre-wrap; font-size: 14px; line-height: 1.45; margin: 0 20px 40px"
    return f'{before}<pre style="{style}">{html.escape(text)}</pre></body>{after}'
