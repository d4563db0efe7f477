"""Turn the bandwidth and move a cloud: what the MMD sees, and when it is more than chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..alignment import PermutationTest, mmd, permutation_test, witness
from ..figures import look
from ..figures.style import INK, LIGHT, QUIET, array, titled
from .panel import Explorer, Shown, button, choice, number, steps, whole

FACTORS = tuple(2.0 ** (k / 2) for k in range(-8, 9))  # of the median distance
KERNELS = (("Gaussian", "gaussian"), ("Laplacian", "laplacian"), ("rational quadratic", "rational_quadratic"))
PERMUTATIONS = 200
BINS = 24


class DiscrepancyExplorer(Explorer):
    """The MMD between two clouds of tokens, by bandwidth and kernel, with the permutation test's p-value.

    Left: both clouds along the line through their means, and the witness, the function that tells them apart best.
    Middle: MMD² by bandwidth. Right: MMD² of relabelled tokens, which is what chance gives.

    Parameters
    ----------
    clouds : mapping of a pair's name to (x (N, d), y (M, d))
    names : mapping of a pair's name to (name of x, name of y), optional
    size : int
        Tokens of each cloud at first.
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    test : PermutationTest
        What is drawn; MMD² is the unbiased estimate.

    Examples
    --------
    >>> DiscrepancyExplorer({"a and b": (torch.randn(200, 8), torch.randn(200, 8) + 1)})  # doctest: +SKIP
    >>> DiscrepancyExplorer.of_model(model, data["test"])  # doctest: +SKIP
    """

    def __init__(
        self,
        clouds: Mapping[str, tuple[Tensor, Tensor]],
        names: Mapping[str, tuple[str, str]] | None = None,
        *,
        size: int = 60,
        **shown: Unpack[Shown],
    ):
        self._clouds = {key: (x.detach().float(), y.detach().float()) for key, (x, y) in clouds.items()}
        if not self._clouds or min(len(x) for both in self._clouds.values() for x in both) < 4:
            raise ValueError("clouds: expected at least one pair of clouds, with at least 4 tokens each")
        self._names, self._draw = names or {}, 0
        most = min(200, max(min(len(x), len(y)) for x, y in self._clouds.values()))
        middle = FACTORS.index(1.0)
        controls = {
            "bandwidth": steps("bandwidth (× median)", [(f"{f:.3g}", i) for i, f in enumerate(FACTORS)], middle),
            "kernel": choice("kernel", KERNELS),
            "shift": number("close the gap by", -0.5, 1.5, 0.0, 0.05),
            "size": whole("tokens of each", 4, most, min(size, most), 2),
            "pair": choice("clouds", list(self._clouds), width="320px"),
            "draw": button("draw other tokens", "refresh"),
        }
        super().__init__(self._laid_out(), controls, **shown)

    @classmethod
    def of_model(cls, model: Any, dataset: Any, *, samples: int = 60, **options: Any) -> DiscrepancyExplorer:
        """The clouds of every pair that a model aligns, over the first samples of a data set."""
        trace = model.trace(dataset.batch(range(min(samples, len(dataset)))))
        clouds, names = {}, {}
        for when, tokens in (("before fusion", trace.projected), ("after fusion", trace.fused)):
            for m, anchor in trace.pairs:
                key = f"{m} and {anchor}, {when}"
                clouds[key] = tuple(tokens[k][trace.masks[k]] for k in (m, anchor))
                names[key] = (m, anchor)
        return cls(clouds, names, **options)

    def _changed(self, name: str) -> None:
        self._draw += name == "draw"

    def _laid_out(self) -> go.Figure:
        heads = ("along the line through the means", "MMD² by bandwidth", "what chance gives")
        figure = make_subplots(
            rows=1, cols=3, column_widths=[0.42, 0.29, 0.29], subplot_titles=heads, horizontal_spacing=0.085
        )
        for side, colour in (("x", look("text").colour), ("y", look("audio").colour)):
            figure.add_bar(
                meta=side,
                marker={"color": colour, "opacity": 0.6, "pattern_shape": "" if side == "x" else "/"},
                hovertemplate="%{y:.0%} of the tokens<extra></extra>",
                row=1,
                col=1,
            )
        figure.add_scatter(
            meta="witness",
            mode="lines",
            line={"color": INK, "width": 3},
            name="witness (scaled)",
            hovertemplate="witness %{customdata:.4f}<extra></extra>",
            row=1,
            col=1,
        )
        hover = "× %{x:.3g}: MMD² %{y:.4f}<extra></extra>"
        figure.add_scatter(
            meta="curve",
            mode="lines+markers",
            line_color=QUIET,
            marker_size=5,
            showlegend=False,
            hovertemplate=hover,
            row=1,
            col=2,
        )
        big = {"size": 15, "color": INK, "symbol": "diamond"}
        figure.add_scatter(meta="now", mode="markers", marker=big, showlegend=False, hovertemplate=hover, row=1, col=2)
        figure.add_bar(
            meta="null",
            marker_color=LIGHT,
            name="relabelled",
            showlegend=False,
            hovertemplate="MMD² near %{x:.4f}: %{y} of the relabellings<extra></extra>",
            row=1,
            col=3,
        )
        figure.add_scatter(
            meta="found",
            mode="lines+markers",
            line={"color": INK, "width": 3},
            marker={"symbol": "diamond", "size": [0.1, 15]},
            name="as labelled",
            hovertemplate="MMD² as labelled: %{x:.4f}<extra></extra>",
            row=1,
            col=3,
        )
        figure.update_xaxes(showgrid=False, title="distance from the middle", row=1, col=1)
        figure.update_yaxes(showticklabels=False, ticks="", title="share of the tokens", row=1, col=1)
        low, high = np.log10(FACTORS[0] / 1.2), np.log10(FACTORS[-1] * 1.2)
        figure.update_xaxes(
            type="log",
            range=[low, high],
            tickvals=[1 / 16, 1 / 4, 1, 4, 16],
            ticktext=["1/16", "1/4", "1", "4", "16"],
            title="bandwidth (× median)",
            row=1,
            col=2,
        )
        figure.update_xaxes(title="MMD²", nticks=4, row=1, col=3)
        figure.update_yaxes(title="relabellings", row=1, col=3)
        titled(figure, "How far apart are the clouds?", height=456)
        figure.update_layout(barmode="overlay", bargap=0.02)
        for annotation in figure.layout.annotations:
            annotation.font.size = 15
        return figure

    def _paint(self) -> str:
        now = {name: control.value for name, control in self._controls.items() if name != "draw"}
        x, y = self._drawn(now["pair"], now["size"])
        median = float(torch.pdist(torch.cat([x, y])).median())
        y = y + now["shift"] * (x.mean(0) - y.mean(0))
        sigma, kernel = FACTORS[now["bandwidth"]] * median, now["kernel"]
        options = {"kernel": kernel, "bandwidth": sigma}
        self.test: PermutationTest = permutation_test(
            x[None], y[None], pooled=True, permutations=PERMUTATIONS, **options
        )
        curve = [
            float(mmd(x[None], y[None], bandwidth=f * median, kernel=kernel, estimator="unbiased")[0]) for f in FACTORS
        ]
        self._traces["curve"].update(x=FACTORS, y=curve)
        self._traces["now"].update(x=[FACTORS[now["bandwidth"]]], y=[curve[now["bandwidth"]]])
        self._paint_clouds(x, y, options, self._names.get(now["pair"], ("first", "second")))
        null, found, p = array(self.test.null), float(self.test.statistic), float(self.test.p_value)
        counts, edges = np.histogram(null, bins=20)
        self._traces["null"].update(x=(edges[1:] + edges[:-1]) / 2, y=counts, width=float(edges[1] - edges[0]))
        self._traces["found"].update(x=[found, found], y=[0, int(counts.max())])
        verdict = "more than chance gives" if p <= 0.05 else "no more than chance gives"
        beaten = int((null >= found).sum())
        return (
            f"MMD² is {found:.4f}, {verdict}: {beaten} of {PERMUTATIONS} relabellings reach it, p = {p:.3f}. "
            f"{now['size']} tokens of each cloud; the bandwidth is {sigma:.3g}, the median distance {median:.3g}."
            + (f" {now['shift']:.0%} of the gap between the means is closed." if now["shift"] else "")
        )

    def _drawn(self, pair: str, size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self._draw)
        return tuple(z[torch.randperm(len(z), generator=generator)[:size]] for z in self._clouds[pair])

    def _paint_clouds(self, x: Tensor, y: Tensor, options: Mapping[str, Any], names: tuple[str, str]) -> None:
        gap = x.mean(0) - y.mean(0)
        middle = (x.mean(0) + y.mean(0)) / 2
        towards = gap / gap.norm().clamp_min(1e-9) if gap.norm() > 1e-6 else torch.eye(len(gap))[0]
        along = [array((z - middle) @ towards) for z in (x, y)]
        low, high = min(a.min() for a in along), max(a.max() for a in along)
        edges = np.linspace(low, high, BINS + 1)
        shares = [np.histogram(a, edges)[0] / len(a) for a in along]
        for side, share, name in zip(("x", "y"), shares, names, strict=True):
            shown = look(name) if name in ("text", "audio", "video", "image", "depth", "rgb") else None
            self._traces[side].update(x=(edges[1:] + edges[:-1]) / 2, y=share, name=name)
            if shown:
                self._traces[side].marker.color = shown.colour
        at = torch.linspace(float(low), float(high), 60)
        values = array(witness((middle + at[:, None] * towards)[None], x[None], y[None], **options)[0])
        tall = max(s.max() for s in shares)
        self._traces["witness"].update(x=array(at), y=values / max(abs(values).max(), 1e-9) * tall, customdata=values)
