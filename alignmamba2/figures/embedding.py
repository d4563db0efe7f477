"""All tokens on one plane, before and after fusion (UMAP)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..trace import Trace
from .style import array, look, titled, wrapped


@dataclass(frozen=True)
class Tokens:
    """N real tokens of many samples, with what they were before and after fusion.

    Attributes
    ----------
    before, after : float32 array (N, d)
    modality : array of N strings
    hover : N strings
        The sample, the token's place, and its words.
    """

    before: np.ndarray
    after: np.ndarray
    modality: np.ndarray
    hover: Sequence[str]


def tokens_of(traces: Trace | Sequence[Trace], most: int = 1500, random_state: int = 0) -> Tokens:
    """The real tokens of one or more traces, at most `most` of them drawn evenly over modalities.

    Parameters
    ----------
    traces : Trace or list of Trace
    most : int
    random_state : int
        Decides which tokens are drawn.

    Examples
    --------
    >>> tokens_of(model.trace(batch)).before.shape  # doctest: +SKIP
    (1500, 64)
    """
    traces = [traces] if isinstance(traces, Trace) else list(traces)
    rng = np.random.default_rng(random_state)
    modalities = list(dict.fromkeys(m for trace in traces for m in trace.modalities))
    chosen: list[tuple[str, Trace, int, int]] = []
    for m in modalities:
        places = [
            (m, trace, int(b), int(t))
            for trace in traces
            if m in trace.masks
            for b, t in zip(*np.nonzero(array(trace.masks[m])), strict=True)
        ]
        keep = min(len(places), most // len(modalities))
        chosen += [places[i] for i in np.sort(rng.choice(len(places), keep, replace=False))]
    return Tokens(
        before=np.stack([array(trace.projected[m][b, t]) for m, trace, b, t in chosen]).astype(np.float32),
        after=np.stack([array(trace.fused[m][b, t]) for m, trace, b, t in chosen]).astype(np.float32),
        modality=np.array([m for m, *_ in chosen]),
        hover=[_described(trace.ids[b], m, t, trace.words[b]) for m, trace, b, t in chosen],
    )


def plane(points: Any, *, random_state: int = 0, neighbours: int = 15) -> np.ndarray:
    """Points (N, d) on a plane (N, 2) by UMAP; the same for the same `random_state`.

    UMAP keeps neighbourhoods. Sizes of groups and distances between them mean little.

    Parameters
    ----------
    points : array (N, d)
    random_state : int
    neighbours : int
        How many nearest points count as a point's neighbourhood.

    Examples
    --------
    >>> plane(numpy.random.rand(100, 8)).shape  # doctest: +SKIP
    (100, 2)
    """
    points = array(points).astype(np.float32)
    with warnings.catch_warnings():
        # Repeatable UMAP runs on one core and says so each time; it is what was asked for.
        warnings.simplefilter("ignore")
        from umap import UMAP  # here, since it takes seconds to import

        reducer = UMAP(n_neighbors=min(neighbours, len(points) - 1), random_state=random_state, n_epochs=200)
        return reducer.fit_transform(points).astype(np.float32)


def same_modality_neighbours(points: Any, modality: Sequence[str], k: int = 10) -> float:
    """The mean share of a token's k nearest tokens that are of its own modality: 1 apart, about 1/M mixed.

    Measured in the space of the tokens, not on the plane.

    Parameters
    ----------
    points : array (N, d)
    modality : N strings
    k : int

    Examples
    --------
    >>> same_modality_neighbours([[0.0], [0.1], [9.0], [9.1]], ["text", "text", "audio", "audio"], k=1)
    1.0
    """
    points, modality = array(points).astype(np.float64), np.asarray(modality)
    square = (points**2).sum(1)
    distance = square[:, None] + square[None] - 2 * points @ points.T
    np.fill_diagonal(distance, np.inf)
    nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
    return float((modality[nearest] == modality[:, None]).mean())


def before_after(
    before: Any,
    after: Any,
    modality: Sequence[str],
    hover: Sequence[str] = (),
    *,
    facts: Mapping[str, str] | None = None,
    note: str = "",
) -> go.Figure:
    """The same tokens before and after fusion, side by side, in their modality's colour and symbol.

    Parameters
    ----------
    before, after : arrays (N, 2)
        From `plane`.
    modality : N strings
    hover : N strings, or empty
        What a token stands for.
    facts : mapping of "before" and "after" to a string, optional
        Stands over each panel, after its name.
    note : str
        The subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> figure = before_after([[0, 0], [1, 1]], [[0, 1], [1, 0]], ["text", "audio"])
    >>> len(figure.data)
    4
    """
    modality, facts = np.asarray(modality), facts or {}
    texts = np.asarray(hover if len(hover) else modality, dtype=object)
    heads = [f"{name} fusion" + (f": {facts[name]}" if name in facts else "") for name in ("before", "after")]
    figure = make_subplots(rows=1, cols=2, subplot_titles=heads, horizontal_spacing=0.04)
    for column, points in enumerate((array(before), array(after)), start=1):
        if points.shape != (len(modality), 2):
            raise ValueError(f"points: found {points.shape}; expected ({len(modality)}, 2), one row a token")
        for m in dict.fromkeys(modality.tolist()):
            mine = modality == m
            figure.add_scatter(
                x=points[mine, 0],
                y=points[mine, 1],
                mode="markers",
                name=m,
                legendgroup=m,
                showlegend=column == 1,
                marker={
                    "symbol": look(m).symbol,
                    "color": look(m).colour,
                    "size": 6,
                    "opacity": 0.75,
                    "line": {"color": "white", "width": 0.5},
                },
                text=texts[mine],
                hovertemplate="%{text}<extra></extra>",
                row=1,
                col=column,
            )
    frame = {"showticklabels": False, "ticks": "", "showgrid": False, "showline": True, "mirror": True}
    figure.update_xaxes(**frame)
    figure.update_yaxes(**frame)
    figure.update_layout(legend_itemsizing="constant")
    figure = titled(figure, "Every token on one plane (UMAP)", note, height=540)
    return figure.update_layout(margin={"l": 30, "b": 56})


def _described(sample: str, modality: str, place: int, words: Mapping[str, Sequence[str]]) -> str:
    """The sample and its words: the token's own, or what was said at its place where the text runs in step."""
    said = words.get(modality) or words.get("text") or ()
    text = f"<br>“{wrapped(said[place])}”" if place < len(said) else ""
    return f"<b>{modality} {place + 1}</b> of {sample}{text}"
