"""All tokens on one plane, before and after fusion (UMAP)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..model.trace import Trace
from .style import COLOURS, INK, PAPER, PLAN_SCALE, SYMBOLS, array, look, titled, wrapped

# From orange over grey to blue: both ends are dark enough to be seen, and the colour-blind tell them apart.
SIGNED = [[0, "#D55E00"], [0.5, "#BDBDBD"], [1, "#0072B2"]]


@dataclass(frozen=True)
class Tokens:
    """N real tokens of many samples, with what they were before and after fusion.

    Attributes
    ----------
    before, after : float32 array (N, d)
    modality : array of N strings
    hover : N strings
        The sample, the token's place, and its words.
    sample : int array (N,)
        The number of the sample that a token belongs to, counted through all traces.
    label, prediction : arrays (N,), or None without labels
        Of the token's step, or of its sample where there is one a sample; label is NaN where it is not known.
    """

    before: np.ndarray
    after: np.ndarray
    modality: np.ndarray
    hover: Sequence[str]
    sample: np.ndarray | None = None
    label: np.ndarray | None = None
    prediction: np.ndarray | None = None

    @property
    def error(self) -> np.ndarray:
        """(N,): "right" or "wrong" for classes, |prediction − label| for numbers."""
        if self.label is None or self.prediction is None:
            raise ValueError("error: these tokens have no labels")
        if self.prediction.dtype.kind in "iu":
            return np.where(self.prediction == self.label, "right", "wrong")
        return np.abs(self.prediction - self.label)


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
    first = {id(trace): sum(len(t.ids) for t in traces[:i]) for i, trace in enumerate(traces)}
    labelled = all(trace.labels is not None for trace in traces)
    return Tokens(
        sample=np.array([first[id(trace)] + b for _, trace, b, _ in chosen]),
        label=np.array([_of_token(trace.labels, b, t, trace.label_mask) for _, trace, b, t in chosen])
        if labelled
        else None,
        prediction=np.array([_of_token(trace.prediction, b, t) for _, trace, b, t in chosen]),
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
    by: Sequence[Any] | None = None,
    by_name: str = "",
    facts: Mapping[str, str] | None = None,
    landmarks: int = 0,
    images: Sequence[str] = (),
    heads: tuple[str, str] = ("before fusion", "after fusion"),
    note: str = "",
) -> go.Figure:
    """The same tokens before and after fusion, side by side; a token's place in the data is the same in both panels.

    Parameters
    ----------
    before, after : arrays (N, 2)
        From `plane`.
    modality : N strings
        The symbol, and without `by` the colour.
    hover : N strings, or empty
        What a token stands for.
    by : N values, optional
        What the colour says instead: numbers with a fraction get a scale, anything else a colour a value.
    by_name : str
        Such as "label", "prediction", "error".
    facts : mapping of "before" and "after" to a string, optional
        Stands over each panel, after its name.
    landmarks : int
        So many tokens, far apart before fusion, carry the same number in both panels.
    images : N strings, or empty
        Data URIs; in a page written by `save` the picture shows beside the pointer.
    heads : what the two panels are
    note : str
        The subtitle; say "synthetic" here where the data are.

    Examples
    --------
    >>> figure = before_after([[0, 0], [1, 1]], [[0, 1], [1, 0]], ["text", "audio"])
    >>> len(figure.data)
    4
    """
    modality, facts = np.asarray(modality), facts or {}
    clouds = (array(before), array(after))
    for points in clouds:
        if points.shape != (len(modality), 2):
            raise ValueError(f"points: found {points.shape}; expected ({len(modality)}, 2), one row a token")
    texts = np.asarray(hover if len(hover) else modality, dtype=object)
    groups, scale = _groups(modality, by, by_name)
    if by is not None:
        shown = [f"{v:.2f}" if scale else str(v) for v in np.asarray(by)]
        texts = np.array([f"{t}<br>{by_name or 'value'}: {v}" for t, v in zip(texts, shown, strict=True)], dtype=object)
    sides = zip(heads, ("before", "after"), strict=True)
    titles = [f"<b>{head}</b>" + (f": {facts[name]}" if name in facts else "") for head, name in sides]
    figure = make_subplots(rows=1, cols=2, subplot_titles=titles, horizontal_spacing=0.04)
    for column, points in enumerate(clouds, start=1):
        for name, (mine, marker) in groups.items():
            figure.add_scatter(
                x=points[mine, 0],
                y=points[mine, 1],
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                marker={"size": 7, "opacity": 0.8, "line": {"color": PAPER, "width": 0.5}, **marker},
                text=texts[mine],
                customdata=np.flatnonzero(mine).tolist(),  # a list, since the page looks tokens up in it
                hovertemplate="%{text}<extra></extra>",
                row=1,
                col=column,
            )
    for number, i in enumerate(_apart(clouds[0], landmarks), start=1):
        for column, points in enumerate(clouds, start=1):
            figure.add_annotation(
                x=points[i, 0],
                y=points[i, 1],
                text=f"<b>{number}</b>",
                showarrow=False,
                bgcolor=PAPER,
                bordercolor=INK,
                borderwidth=1.5,
                borderpad=2,
                font={"size": 13, "color": INK},
                hovertext=texts[i],
                row=1,
                col=column,
            )
    frame = {"showticklabels": False, "ticks": "", "showgrid": False, "showline": True, "mirror": True}
    figure.update_xaxes(**frame)
    figure.update_yaxes(**frame)
    figure.update_layout(legend_itemsizing="constant", meta={"linked": True, "images": list(images)})
    if scale:
        figure.update_layout(
            coloraxis={
                **scale,
                "colorbar": {
                    "title": {"text": by_name, "side": "right"},
                    "len": 1,
                    "thickness": 14,
                    "outlinewidth": 0,
                },
            }
        )
    counts = ", ".join(f"{(modality == m).sum()} of {m}" for m in dict.fromkeys(modality.tolist()))
    words = f"Each dot is a token: {counts}."
    if landmarks:
        note = " · ".join(filter(None, (note, "a number marks the same token in both panels")))
    title = "Every token on one plane (UMAP)" + (f", by {by_name}" if by_name else "")
    figure = titled(figure, title, note, height=560, words=words)
    return figure.update_layout(margin={"l": 30, "b": 64})


def _groups(modality: np.ndarray, by: Sequence[Any] | None, by_name: str) -> tuple[dict, dict[str, Any]]:
    """Names of the traces of a panel → (which tokens, their marker); and the colour scale, if there is one."""
    names = list(dict.fromkeys(modality.tolist()))
    if by is None:
        return {m: (modality == m, {"symbol": look(m).symbol, "color": look(m).colour}) for m in names}, {}
    values = np.asarray(by)
    if len(values) != len(modality):
        raise ValueError(f"by: found {len(values)} values; expected {len(modality)}, one a token")
    if values.dtype.kind == "f" and not np.all(values == np.round(values)):
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if low < 0 < high:  # a signed number: white in the middle would vanish, so dark ends and a grey middle
            low, high = -max(-low, high), max(-low, high)
        scale = {"colorscale": SIGNED if low < 0 < high else PLAN_SCALE, "cmin": low, "cmax": high}
        markers = {
            m: {"symbol": look(m).symbol, "color": values[modality == m], "coloraxis": "coloraxis"} for m in names
        }
        return {m: (modality == m, marker) for m, marker in markers.items()}, scale
    kinds = sorted(set(values.tolist()))
    if len(kinds) > len(COLOURS):
        raise ValueError(f"by: found {len(kinds)} different values; expected at most {len(COLOURS)}, or fractions")
    groups = {}
    for k, kind in enumerate(kinds):
        label = f"{by_name} {kind:g}" if isinstance(kind, (int, float)) else str(kind)
        marker = {"symbol": SYMBOLS[k], "color": COLOURS[(k, 3)[k == 1]] if len(kinds) == 2 else COLOURS[k]}
        groups[label] = (values == kind, marker)
    return groups, {}


def _apart(points: np.ndarray, count: int) -> list[int]:
    """So many of the points, each as far as can be from those before it; the first is the one nearest to the middle."""
    if count < 1:
        return []
    chosen = [int(((points - points.mean(0)) ** 2).sum(1).argmin())]
    distance = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return chosen


def _of_token(values: Any, sample: int, place: int, known: Any = None) -> Any:
    """A label or prediction of the token's step, or of its sample; NaN where it is not known."""
    values = array(values)
    if values.ndim == 1:
        return values[sample]
    if place >= values.shape[1] or (known is not None and not bool(known[sample, place])):
        return np.nan
    return values[sample, place]


def _described(sample: str, modality: str, place: int, words: Mapping[str, Sequence[str]]) -> str:
    """The sample and its words: the token's own, or what was said at its place where the text runs in step."""
    said = words.get(modality) or words.get("text") or ()
    text = f"<br>“{wrapped(said[place])}”" if place < len(said) else ""
    return f"<b>{modality} {place + 1}</b> of {sample}{text}"
