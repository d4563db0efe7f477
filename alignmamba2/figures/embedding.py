"""All tokens in two dimensions (UMAP), before and after fusion."""

import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import plotly.graph_objects as go

from ..trace import Trace
from .marks import FRAME, dots, panels
from .style import COLOURS, INK, PAPER, PLAN_SCALE, SYMBOLS, array, floats, joined, look, quoted, titled

# From orange over grey to blue: both ends are dark enough to be seen, and the colour-blind tell them apart.
SIGNED = [[0, "#D55E00"], [0.5, "#BDBDBD"], [1, "#0072B2"]]
EPOCHS = 200  # of UMAP


@dataclass(frozen=True)
class Tokens:
    """Tokens are N real tokens of several samples, each before and after fusion."""

    before: np.ndarray  # (N, d) float32
    after: np.ndarray  # (N, d) float32
    modality: np.ndarray  # N strings
    sample: np.ndarray  # (N,) int: the place of the token's sample in the batch
    place: np.ndarray  # (N,) int: the place of the token in its sample
    words: list[str]  # N: the token's words, or the text's at its place if it has none
    hover: list[str]  # N: the sample, the token's place, and its words
    label: np.ndarray | None  # (N,), of the token's step, or of its sample if it has one; an unknown one is NaN


def tokens_of(trace: Trace, most: int = 1500, random_state: int = 0) -> Tokens:
    """Return the real tokens of a trace, at most `most` of them drawn evenly over modalities by `random_state`."""
    rng = np.random.default_rng(random_state)
    chosen: list[tuple[str, int, int]] = []  # modality, sample, place
    for m in trace.modalities:
        places = np.argwhere(array(trace.masks[m])).tolist()
        count = min(len(places), most // len(trace.modalities))
        chosen += [(m, *places[i]) for i in np.sort(rng.choice(len(places), count, replace=False))]
    modality, sample, place = map(np.array, zip(*chosen, strict=True))
    spoken = [trace.words[b].get(m) or trace.words[b].get("text") or () for m, b, _ in chosen]
    words = [texts[t] if t < len(texts) else "" for texts, t in zip(spoken, place, strict=True)]
    return Tokens(
        before=np.stack([array(trace.projected[m][b, t]) for m, b, t in chosen]).astype(np.float32),
        after=np.stack([array(trace.fused[m][b, t]) for m, b, t in chosen]).astype(np.float32),
        modality=modality,
        sample=sample,
        place=place,
        words=words,
        hover=[
            f"<b>{m} {t + 1}</b> of {trace.ids[b]}" + quoted(spoken, "<br>")
            for (m, b, t), spoken in zip(chosen, words, strict=True)
        ],
        label=None if trace.labels is None else np.array([_label(trace, b, t) for _, b, t in chosen]),
    )


def umap_2d(
    points: Any,
    *,
    random_state: int = 0,
    neighbours: int = 15,
    distance: float = 0.1,
    progress: Callable[[float], None] = lambda share: None,
) -> np.ndarray:
    """Return the points (N, d) in two dimensions (N, 2), by UMAP; the same for the same arguments.

    UMAP keeps neighbourhoods, of so many nearest `neighbours`. Sizes of groups and distances between them mean little;
    `distance` is the least of two points on the plane. `progress` is called with the share that is done, 0 to 1, and an
    exception that it raises ends the work.
    """
    points, count = array(points).astype(np.float32), min(neighbours, len(points) - 1)
    if len(points) < 4:  # too few for UMAP, and a plane holds three points with their distances as they are
        u, s, _ = np.linalg.svd(points - points.mean(0, keepdims=True), full_matrices=False)
        return np.pad(u * s, ((0, 0), (0, 2)))[:, :2]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # repeatable UMAP runs on one core, and says so each time
        import umap.layouts  # here, since it takes seconds to import

        this_thread, tqdm = threading.get_ident(), umap.layouts.tqdm

        def watched(epochs: range, **options: Any) -> Iterable[int]:
            if threading.get_ident() != this_thread:  # another thread's UMAP
                yield from tqdm(epochs, **options)
                return
            for epoch in epochs:
                progress(epoch / len(epochs))
                yield epoch

        reducer = umap.UMAP(n_neighbors=count, min_dist=distance, random_state=random_state, n_epochs=EPOCHS)
        # UMAP has no callback, but a progress bar over its epochs. (To raise inside a real bar would keep tqdm's lock.)
        with patch.object(umap.layouts, "tqdm", watched):
            return reducer.fit_transform(points).astype(np.float32)


def same_modality_neighbours(points: Any, modality: Sequence[str], k: int = 10) -> float:
    """Return the mean share of a token's k nearest tokens that are of its own modality: 1 apart, about 1/M mixed.

    It is measured in the space of the tokens, not in two dimensions.

    >>> same_modality_neighbours([[0.0], [0.1], [9.0], [9.1]], ["text", "text", "audio", "audio"], k=1)
    1.0
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import

    modality = np.asarray(modality)
    nearest = NearestNeighbors(n_neighbors=k).fit(floats(points)).kneighbors(return_distance=False)
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
    heads: tuple[str, str] = ("before fusion", "after fusion"),
    note: str = "",
) -> go.Figure:
    """Draw the same tokens before and after fusion, side by side.

    They are arrays (N, 2) from `umap_2d`, in which the same row is the same token; a `ValueError` names other shapes. N
    modalities give the symbol and the colour, N `hover` texts the words. The colour may show N values `by` instead,
    called `by_name`: numbers with a fraction get a scale, anything else a colour per value, of which there are at most
    six. `facts` stand over the panels "before" and "after", after their `heads`, and so many `landmarks`, tokens far
    apart before fusion, carry the same number in both.

    >>> figure = before_after([[0, 0], [1, 1]], [[0, 1], [1, 0]], ["text", "audio"])
    >>> len(figure.data)
    4
    """
    modality, facts = np.asarray(modality), facts or {}
    clouds = (array(before), array(after))
    for points in clouds:
        if points.shape != (len(modality), 2):
            raise ValueError(f"points: found {points.shape}; expected ({len(modality)}, 2), one row per token")
    texts = np.asarray(hover if len(hover) else modality, dtype=object)
    groups, scale = _groups(modality, by, by_name)
    if by is not None:
        values = [f"<br>{by_name or 'value'}: " + (f"{v:.2f}" if scale else str(v)) for v in np.asarray(by)]
        texts = np.array([f"{text}{value}" for text, value in zip(texts, values, strict=True)], dtype=object)
    sides = zip(heads, ("before", "after"), strict=True)
    figure = panels([f"<b>{head}</b>" + (f": {facts[side]}" if side in facts else "") for head, side in sides], 0.04)
    edge = {"color": PAPER, "width": 0.5}
    for column, points in enumerate(clouds, start=1):
        for name, (members, look_of_group) in groups.items():
            marker = {"size": 7, "opacity": 0.8, "line": edge, **look_of_group}
            group = {"name": name, "legendgroup": name, "showlegend": column == 1}
            group["customdata"] = np.flatnonzero(members).tolist()  # a list, since the page looks tokens up in it
            figure.add_trace(dots(*points[members].T, marker, texts[members], **group), 1, column)
    _number(figure, clouds, _apart(clouds[0], landmarks), texts)
    figure.update_xaxes(**FRAME).update_yaxes(**FRAME)
    figure.update_layout(meta={"linked": True})
    if scale:
        bar = {"title": {"text": by_name, "side": "right"}, "len": 1, "thickness": 14, "outlinewidth": 0}
        figure.update_layout(coloraxis={**scale, "colorbar": bar})
    counts = ", ".join(f"{(modality == m).sum()} of {m}" for m in dict.fromkeys(modality.tolist()))
    note = joined(note, "a number marks the same token in both panels" if landmarks else "")
    title = "Every token on one plane (UMAP)" + (f", by {by_name}" if by_name else "")
    layout = {"height": 560, "words": f"Each dot is a token: {counts}.", "legend_itemsizing": "constant"}
    return titled(figure, title, note, margin={"l": 30, "b": 64}, **layout)


def _number(figure: go.Figure, clouds: Sequence[np.ndarray], tokens: Sequence[int], texts: Sequence[str]) -> None:
    box = {"bgcolor": PAPER, "bordercolor": INK, "borderwidth": 1.5, "borderpad": 2, "font": {"size": 13, "color": INK}}
    for number, i in enumerate(tokens, start=1):
        for column, points in enumerate(clouds, start=1):
            place = {"x": points[i, 0], "y": points[i, 1], "hovertext": texts[i], "row": 1, "col": column}
            figure.add_annotation(text=f"<b>{number}</b>", showarrow=False, **place, **box)


def _groups(
    modality: np.ndarray, by: Sequence[Any] | None, by_name: str
) -> tuple[dict[str, tuple[np.ndarray, dict[str, Any]]], dict[str, Any]]:
    """Return, by the name of a panel's trace, its tokens (a mask) and marker; and the colour scale, or nothing."""
    masks = {m: modality == m for m in dict.fromkeys(modality.tolist())}
    if by is None:
        return {m: (mask, {"symbol": look(m).symbol, "color": look(m).colour}) for m, mask in masks.items()}, {}
    values = np.asarray(by)
    if len(values) != len(modality):
        raise ValueError(f"by: found {len(values)} values; expected {len(modality)}, one per token")
    if values.dtype.kind == "f" and not np.all(values == np.round(values)):
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        colours = PLAN_SCALE
        if low < 0 < high:  # a signed number: white in the middle would vanish, so dark ends and a grey middle
            low, high, colours = -max(-low, high), max(-low, high), SIGNED
        scale = {"coloraxis": "coloraxis"}
        groups = {m: (mask, {"symbol": look(m).symbol, "color": values[mask], **scale}) for m, mask in masks.items()}
        return groups, {"colorscale": colours, "cmin": low, "cmax": high}
    kinds = sorted(set(values.tolist()))
    if len(kinds) > len(COLOURS):
        raise ValueError(f"by: found {len(kinds)} different values; expected at most {len(COLOURS)}, or fractions")
    colours = (COLOURS[0], COLOURS[3]) if len(kinds) == 2 else COLOURS  # of two, those that differ most
    names = [f"{by_name} {kind:g}" if isinstance(kind, (int, float)) else str(kind) for kind in kinds]
    markers = [{"symbol": symbol, "color": colour} for symbol, colour in zip(SYMBOLS, colours, strict=False)]
    return {name: (values == kind, one) for name, kind, one in zip(names, kinds, markers, strict=False)}, {}


def _apart(points: np.ndarray, count: int) -> list[int]:
    """Return the places of `count` points, the most central and then each as far as can be from those before it."""
    if count < 1:
        return []
    chosen = [int(((points - points.mean(0)) ** 2).sum(1).argmin())]
    distance = ((points - points[chosen[0]]) ** 2).sum(1)
    while len(chosen) < min(count, len(points)):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(1))
    return chosen


def _label(trace: Trace, sample: int, place: int) -> Any:
    """Return the label of the token's step, or of its sample; NaN if it is not known."""
    labels = array(trace.labels)
    if labels.ndim == 1:
        return labels[sample]
    unknown = place >= labels.shape[1] or (trace.label_mask is not None and not trace.label_mask[sample, place])
    return np.nan if unknown else labels[sample, place]
