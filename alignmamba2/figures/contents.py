"""What is in a data set: labels and lengths, split by split, and one sample as the model gets it."""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .export import to_page
from .marks import HOVER_ENDS, bars, panels
from .style import SIGNED, array, floats, look, short, titled, token_names

LEAST, HEIGHT, BUTTONS = 430, 490, 36  # pixels: height without data and with, and of Plotly's buttons
GREYS = ("#3A3A3A", "#8C8C8C", "#C9C9C9")  # splits are no modalities, so they have none of their colours
SHOWN = 3.0  # standard deviations at which a colour ends


def contents(
    histograms: Mapping[str, Mapping[str, int]], lengths: Mapping[str, Mapping[str, Any]], title: str, note: str = ""
) -> go.Figure:
    """Draw labels as shares of each split, and the spread of lengths of each modality in each split.

    `histograms` are by split and label the number of samples, and `lengths` by split and modality the tokens of each
    sample (N,); what is empty has no panel.
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
        names, shares = [short(label, 14) for label in counts], [n / total for n in counts.values()]
        hover, facts = f"{split}: %{{customdata[0]}}<br>%{{customdata[1]}} samples, %{{y:.1%}}", list(counts.items())
        figure.add_trace(bars(names, shares, {"color": colour}, hover, split, customdata=facts), 1, 1)
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


def sample_strips(
    features: Mapping[str, Any],
    words: Mapping[str, Sequence[str]] | None = None,
    *,
    title: str = "One sample",
    note: str = "",
) -> go.Figure:
    """Draw the features of one sample as a strip per modality, one under another in relative time, words on top.

    Features (T_m, D_m) are best standardised, for colours end at ±3; the text's words are written over the strips,
    those of all modalities, T_m strings each, are in the hover text.

    >>> figure = sample_strips({"text": [[0.0, 1.0], [1.0, 0.0]], "audio": [[0.5], [0.1], [0.2]]})
    >>> [strip.z.shape for strip in figure.data]
    [(2, 2), (1, 3)]
    """
    words = words or {}
    figure = make_subplots(rows=len(features), cols=1, shared_xaxes=True, vertical_spacing=0.04)
    sizes = []
    for row, (m, values) in enumerate(features.items(), start=1):
        values = floats(values)
        count, width = values.shape
        sizes.append(f"{count} tokens of {m}")
        figure.add_trace(_strip(values, m, words.get(m, ())).update(showscale=row == 1), row, 1)
        heading = f"<b>{m}</b><br>{count} tokens<br>{width} features"
        figure.update_yaxes(title={"text": heading, "font": {"color": look(m).colour, "size": 13}}, row=row, col=1)
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, range=[0, 1])
    figure.update_yaxes(showticklabels=False, ticks="", showgrid=False)
    spoken = [short(word, 18) for word in words.get("text", ())]
    if spoken:
        step = max(1, len(spoken) // 16)
        at = [(i + 0.5) / len(spoken) for i in range(0, len(spoken), step)]
        above = {"side": "top", "showticklabels": True, "tickangle": -30}
        figure.update_xaxes(**above, tickvals=at, ticktext=spoken[::step], row=1, col=1)
    figure.update_xaxes(title="relative time →", row=len(features), col=1)
    longest = max(map(len, spoken), default=0)
    layout = {"height": 210 + 120 * len(features) + 4 * longest, "margin": {"l": 130, "t": 100 + 5 * longest, "b": 50}}
    return titled(figure, title, note, words=f"A strip for each of: {', '.join(sizes)}.", **layout)


def _strip(values: np.ndarray, modality: str, words: Sequence[str]) -> go.Heatmap:
    """Return the tokens (T, D) of a modality as a heat map, in relative time from 0 to 1."""
    count, width = values.shape
    return go.Heatmap(
        z=values.T,
        x=(np.arange(count) + 0.5) / max(count, 1),
        zmid=0,
        zmin=-SHOWN,
        zmax=SHOWN,
        colorscale=SIGNED,
        xgap=2,
        colorbar={"title": {"text": "sd", "side": "top"}, "tickvals": [-3, 0, 3], "len": 1, "y": 0.5},
        text=[token_names(modality, words, count)] * width,
        hovertemplate="%{text}<br>feature %{y}: %{z:.2f} sd" + HOVER_ENDS,
    )
