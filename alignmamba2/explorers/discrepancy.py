"""Panel of the MMD between two clouds: turn the bandwidth, move a cloud, and see when it is more than chance."""

from collections.abc import Mapping
from typing import Any, Self, Unpack

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from ..alignment import PermutationTest, mmd, permutation_test, witness
from ..figures import look
from ..figures.marks import panels
from ..figures.style import INK, KNOWN, LIGHT, QUIET, array, titled
from .panel import Explorer, PanelOptions, add_trace, button, choice, number, steps, whole

FACTORS = tuple(2.0 ** (k / 2) for k in range(-8, 9))  # of the median distance
KERNELS = (("Gaussian", "gaussian"), ("Laplacian", "laplacian"), ("rational quadratic", "rational_quadratic"))
PERMUTATIONS = 200
BINS = 24


class DiscrepancyExplorer(Explorer):
    """The MMD between two clouds of tokens, by bandwidth and kernel, with the permutation test's p-value.

    Left: both clouds along the line through their means, and the witness, the function that tells them apart best.
    Middle: MMD² by bandwidth. Right: MMD² of relabelled tokens, which is what chance gives. `test` is the
    PermutationTest that is drawn, of the unbiased estimate.

    `clouds` are, by a pair's name, (x (N, d), y (M, d)), and `names` those of x and y; `size` are the tokens of each at
    first.
    """

    def __init__(
        self,
        clouds: Mapping[str, tuple[Tensor, Tensor]],
        names: Mapping[str, tuple[str, str]] | None = None,
        *,
        size: int = 60,
        **options: Unpack[PanelOptions],
    ):
        self._clouds = {key: (x.detach().float(), y.detach().float()) for key, (x, y) in clouds.items()}
        if not self._clouds or min(len(x) for both in self._clouds.values() for x in both) < 4:
            raise ValueError("clouds: expected at least one pair of clouds, with at least 4 tokens each")
        self._names, self._seed = names or {}, 0
        most = min(200, max(min(len(x), len(y)) for x, y in self._clouds.values()))
        controls = {
            "bandwidth": steps("bandwidth (× median)", FACTORS, 1.0, form="{:.3g}".format),
            "kernel": choice("kernel", KERNELS),
            "shift": number("close the gap by", -0.5, 1.5, 0.0, 0.05),
            "size": whole("tokens of each", 4, most, min(size, most), 2),
            "pair": choice("clouds", list(self._clouds), width="320px"),
            "draw": button("draw other tokens", "refresh"),
        }
        super().__init__(controls, **options)

    @classmethod
    def of_model(cls, model: Any, dataset: Any, *, samples: int = 60, **options: Any) -> Self:
        """Return the panel of every pair that a model aligns, over the first samples of a data set."""
        trace = model.trace(dataset.batch(range(min(samples, len(dataset)))))
        clouds, names = {}, {}
        for when, tokens in (("before fusion", trace.projected), ("after fusion", trace.fused)):
            for pair in trace.pairs:
                key = f"{pair[0]} and {pair[1]}, {when}"
                clouds[key] = tuple(tokens[m][trace.masks[m]] for m in pair)
                names[key] = pair
        return cls(clouds, names, **options)

    def _changed(self, name: str) -> None:
        self._seed += name == "draw"

    def _figure(self) -> go.Figure:
        heads = ("along the line through the means", "MMD² by bandwidth", "what chance gives")
        figure = panels(heads, 0.085, column_widths=[0.42, 0.29, 0.29])
        left, middle, right = (1, 1), (1, 2), (1, 3)
        for side, m, pattern in (("x", "text", ""), ("y", "audio", "/")):
            marker = {"color": look(m).colour, "opacity": 0.6, "pattern_shape": pattern}
            add_trace(figure, "bar", side, "%{y:.0%} of the tokens", place=left, legend=m, marker=marker)
        bold, diamond = {"color": INK, "width": 3}, {"symbol": "diamond", "color": INK, "size": 15}
        hover = "witness %{customdata:.4f}"
        add_trace(figure, "lines", "witness", hover, place=left, legend="witness (scaled)", line=bold)
        hover = "× %{x:.3g}: MMD² %{y:.4f}"
        add_trace(figure, "lines+markers", "curve", hover, place=middle, line_color=QUIET, marker_size=5)
        add_trace(figure, "markers", "now", hover, place=middle, marker=diamond)
        hover = "MMD² near %{x:.4f}: %{y} of the relabellings"
        add_trace(figure, "bar", "null", hover, place=right, marker_color=LIGHT)
        hover, style = "MMD² as labelled: %{x:.4f}", {"line": bold, "marker": {"symbol": "diamond", "size": [0.1, 15]}}
        add_trace(figure, "lines+markers", "statistic", hover, place=right, legend="as labelled", **style)
        figure.update_xaxes(showgrid=False, title="distance from the middle", row=1, col=1)
        figure.update_yaxes(showticklabels=False, ticks="", title="share of the tokens", row=1, col=1)
        figure.update_xaxes(
            type="log",
            range=np.log10([FACTORS[0] / 1.2, FACTORS[-1] * 1.2]).tolist(),
            tickvals=[1 / 16, 1 / 4, 1, 4, 16],
            ticktext=["1/16", "1/4", "1", "4", "16"],
            title="bandwidth (× median)",
            row=1,
            col=2,
        )
        figure.update_xaxes(title="MMD²", nticks=4, row=1, col=3)
        figure.update_yaxes(title="relabellings", row=1, col=3)
        figure.update_annotations(font_size=15)
        titled(figure, "How far apart are the clouds?", height=456)
        return figure.update_layout(barmode="overlay", bargap=0.02)

    def _paint(self, bandwidth: float, kernel: str, shift: float, size: int, pair: str) -> str:
        generator = torch.Generator().manual_seed(self._seed)
        x, y = (z[torch.randperm(len(z), generator=generator)[:size]] for z in self._clouds[pair])
        median = float(torch.pdist(torch.cat([x, y])).median())
        y = y + shift * (x.mean(0) - y.mean(0))
        options = {"kernel": kernel, "bandwidth": bandwidth * median}
        self._paint_clouds(x, y, options, self._names.get(pair, ("first", "second")))
        curve = [
            float(mmd(x[None], y[None], bandwidth=f * median, kernel=kernel, estimator="unbiased")[0]) for f in FACTORS
        ]
        self._set("curve", x=FACTORS, y=curve)
        self._set("now", x=[bandwidth], y=[curve[FACTORS.index(bandwidth)]])
        self.test: PermutationTest = permutation_test(x[None], y[None], permutations=PERMUTATIONS, **options)
        null, statistic, p = array(self.test.null[0]), float(self.test.statistic), float(self.test.p_value)
        counts, edges = np.histogram(null, bins=20)
        self._set("null", x=_middles(edges), y=counts, width=float(edges[1] - edges[0]))
        self._set("statistic", x=[statistic, statistic], y=[0, int(counts.max())])
        verdict = "more than chance gives" if p <= 0.05 else "no more than chance gives"
        reached = int((null >= statistic).sum())
        return (
            f"MMD² is {statistic:.4f}, {verdict}: {reached} of {PERMUTATIONS} relabellings reach it, p = {p:.3f}. "
            f"{size} tokens of each cloud; the bandwidth is {bandwidth * median:.3g}, the median distance {median:.3g}."
            + (f" {shift:.0%} of the gap between the means is closed." if shift else "")
        )

    def _paint_clouds(self, x: Tensor, y: Tensor, options: Mapping[str, Any], names: tuple[str, str]) -> None:
        gap, middle = x.mean(0) - y.mean(0), (x.mean(0) + y.mean(0)) / 2
        direction = gap / gap.norm().clamp_min(1e-9) if gap.norm() > 1e-6 else torch.eye(len(gap))[0]
        along = [array((z - middle) @ direction) for z in (x, y)]
        low, high = min(a.min() for a in along), max(a.max() for a in along)
        edges = np.linspace(low, high, BINS + 1)
        shares = [np.histogram(a, edges)[0] / len(a) for a in along]
        for side, share, name in zip(("x", "y"), shares, names, strict=True):
            colour = {"marker_color": look(name).colour} if name in KNOWN else {}
            self._set(side, x=_middles(edges), y=share, name=name, **colour)
        places = torch.linspace(float(low), float(high), 60)
        values = array(witness((middle + places[:, None] * direction)[None], x[None], y[None], **options)[0])
        height = max(s.max() for s in shares)
        self._set("witness", x=array(places), y=values / max(abs(values).max(), 1e-9) * height, customdata=values)


def _middles(edges: np.ndarray) -> np.ndarray:
    return (edges[1:] + edges[:-1]) / 2
