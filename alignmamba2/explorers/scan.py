"""Turn Δ and A and watch how long a selective scan remembers: a toy of one channel, or a trained layer's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..figures import look
from ..figures.style import INK, LIGHT, SIGNED, array, short, titled
from ..scan import selective_scan
from .panel import Explorer, Shown, choice, steps, whole

LENGTH = 40
INPUTS = ("a single pulse", "a step", "a wave", "marked tokens in noise")
FACTORS = tuple(2.0**k for k in range(-4, 5))
TOY_DELTA, TOY_DECAY = 0.2, 1.0
MARKED = (6, 19, 30)
SELECTIVE = (("the same at every token", False), ("large at marked tokens", True))


@dataclass(frozen=True)
class Channel:
    """One channel of one scan: u, Δ, gate (L,), B, C (L, n), A (n,), D, and what the tokens are."""

    u: Tensor
    delta: Tensor
    gate: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    D: float
    modality: Sequence[str]
    words: Sequence[str]


def contributions(channel: Channel) -> np.ndarray:
    """(L, L): what token s (column) adds to y at token t (row); row sums are y.

    M[t, s] = gate_t · Σ_n C_{t,n} exp(A_n Σ_{r=s+1..t} Δ_r) Δ_s B_{s,n} u_s,  plus gate_t · D u_t where t = s.
    """
    c = channel
    u, delta, gate, b, out, a = (x.double() for x in (c.u, c.delta, c.gate, c.B, c.C, c.A))
    total = delta.cumsum(0)
    since = (total[:, None] - total[None]).clamp_min(0)  # (t, s)
    kept = torch.exp(since[..., None] * a)
    matrix = torch.einsum("tn,tsn,sn->ts", out, kept, b * (delta * u)[:, None]).tril()
    matrix += torch.diag(c.D * u)
    return array(matrix * gate[:, None])


class ScanExplorer(Explorer):
    """What a selective scan takes in, how fast it forgets, and which earlier tokens each output is made of.

    Without a model: one channel with one state, y_t = h_t, and inputs to choose from. With a model: any channel of any
    layer, on any sample; Δ and A are then factors on the trained ones.

    Parameters
    ----------
    model, dataset : optional
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    channel : Channel
        What is drawn.
    output : Tensor (L,)
        y, by `selective_scan`.

    Examples
    --------
    >>> ScanExplorer()  # doctest: +SKIP
    >>> ScanExplorer(model, data["test"])  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any = None,
        dataset: Any = None,
        **shown: Unpack[Shown],
    ):
        if (model is None) != (dataset is None):
            raise ValueError("ScanExplorer: found only one of model and dataset; expected both, or neither for the toy")
        self._model, self._dataset, self._kept = model, dataset, (-1, None)
        scale = [(f"× {f:g}", f) for f in FACTORS]
        controls = {"delta": steps("step size Δ", scale, 1.0, "360px"), "decay": steps("decay A", scale, 1.0, "360px")}
        if model is None:
            controls["input"] = choice("input", INPUTS, width="300px")
            controls["selective"] = choice(
                "Δ is", [("the same at every token", False), ("large at marked tokens", True)]
            )
            controls["selective"].layout.width = "300px"
        else:
            controls["sample"] = whole("sample", 0, len(dataset) - 1, 0)
            controls["layer"] = choice("layer", [(str(i + 1), i) for i in range(model.config.n_layers)], width="130px")
            controls["channel"] = whole("channel", 0, model.config.expand * model.config.d_model - 1, 0)
        self._shape: tuple = ()
        super().__init__(self._laid_out(), controls, **shown)

    def _laid_out(self) -> go.Figure:
        figure = make_subplots(
            rows=2,
            cols=2,
            column_widths=[0.52, 0.48],
            specs=[[{}, {"rowspan": 2}], [{}, None]],
            shared_xaxes="columns",
            horizontal_spacing=0.12,
            vertical_spacing=0.16,
            subplot_titles=("input u and output y", "what each output is made of", "step size Δ, and what is kept"),
        )
        hover = "%{text}<br>%{fullData.name} %{y:.3f}<extra></extra>"
        figure.add_bar(
            meta="u", name="input u", marker_color=LIGHT, textposition="none", hovertemplate=hover, row=1, col=1
        )
        figure.add_scatter(
            meta="y",
            name="output y",
            mode="lines+markers",
            line_color=INK,
            marker={"size": 7},
            hovertemplate=hover,
            row=1,
            col=1,
        )
        figure.add_bar(meta="delta", name="Δ (largest = 1)", marker_color=LIGHT, hovertemplate=hover, row=2, col=1)
        figure.data[-1].update(marker_pattern_shape="/", textposition="none")
        figure.add_scatter(
            meta="kept",
            name="share of the old state kept",
            mode="lines+markers",
            line={"color": look("video").colour, "dash": "dot"},
            marker={"symbol": "square", "size": 6},
            hovertemplate=hover,
            row=2,
            col=1,
        )
        matrix = go.Heatmap(
            meta="matrix",
            colorscale=SIGNED,
            zmid=0,
            text=[],
            hovertemplate="%{text}<br>%{z:.4f}<extra></extra>",
            colorbar={"thickness": 10, "nticks": 5, "len": 0.9, "x": 1.0, "xpad": 4},
        )
        figure.add_trace(matrix, 1, 2)
        figure.update_yaxes(range=[0, 1.08], row=2, col=1)
        figure.update_xaxes(title="token, in the order read", row=2, col=1)
        figure.update_xaxes(showgrid=False, title="token s that was read", side="bottom", row=1, col=2)
        figure.update_yaxes(autorange="reversed", showgrid=False, title="output at token t", row=1, col=2)
        return titled(figure, "What the scan remembers", height=506)

    def _paint(self) -> str:
        now = {name: control.value for name, control in self._controls.items()}
        channel = self._toy(now) if self._model is None else self._trained(now)
        self.channel = Channel(
            channel.u,
            channel.delta * now["delta"],
            channel.gate,
            channel.B,
            channel.C,
            channel.A * now["decay"],
            *(channel.D, channel.modality, channel.words),
        )
        c = self.channel
        length = len(c.u)
        self.output = (
            selective_scan(
                c.u[None, None],
                c.delta[None, None],
                c.A[None],
                c.B.T[None].contiguous(),
                c.C.T[None].contiguous(),
                torch.tensor([c.D], dtype=c.u.dtype),
            )[0, 0]
            * c.gate
        )
        matrix = contributions(c)
        kept = array(torch.exp(c.delta[:, None] * c.A).mean(1))
        at = np.arange(length)
        tokens = enumerate(zip(c.modality, c.words, strict=True))
        names = [f"{i + 1}: {m}" + (f" “{short(w, 40)}”" if w else "") for i, (m, w) in tokens]
        if self._shape != tuple(names):  # hover texts change with the sample alone
            self._shape = tuple(names)
            self._traces["matrix"].text = [[f"output at {t}<br>from {s}" for s in names] for t in names]
            for name in ("u", "y", "delta", "kept"):
                self._traces[name].text = names
        delta = array(c.delta)
        self._traces["u"].update(x=at + 1, y=array(c.u))
        self._traces["y"].update(x=at + 1, y=array(self.output))
        self._traces["delta"].update(x=at + 1, y=delta / max(delta.max(), 1e-12))
        self._traces["kept"].update(x=at + 1, y=kept)
        most = float(abs(matrix).max()) or 1.0
        self._traces["matrix"].update(z=matrix, x=at + 1, y=at + 1, zmin=-most, zmax=most)
        half = float(np.log(2) / max(float((-c.A).mean()) * delta.mean(), 1e-12))
        forgets = f"Half of what the state holds is gone after about {half:.3g} tokens."
        return f"{self._where(now)} {forgets} {self._sources(matrix)}"

    def _where(self, now: dict[str, Any]) -> str:
        if self._model is None:
            return f"One channel, input: {now['input']}."
        return f"Sample {self._kept[1].ids[0]}, layer {now['layer'] + 1}, channel {now['channel']}."

    def _sources(self, matrix: np.ndarray) -> str:
        last = np.abs(matrix[-1])
        share = last / max(last.sum(), 1e-12)
        recent = share[-5:].sum()
        said = f"{recent:.0%} of the last output comes from the last five tokens"
        modality = np.array(self.channel.modality)
        by = {m: share[modality == m].sum() for m in dict.fromkeys(self.channel.modality)}
        if len(by) > 1:
            said += ", " + ", ".join(f"{v:.0%} from {m}" for m, v in by.items())
        return said + "."

    def _toy(self, now: dict[str, Any]) -> Channel:
        at = torch.arange(LENGTH, dtype=torch.float32)
        marked = torch.zeros(LENGTH)
        marked[list(MARKED)] = 1
        noise = 0.25 * torch.randn(LENGTH, generator=torch.Generator().manual_seed(0))
        u = {
            INPUTS[0]: (at == 6).float(),
            INPUTS[1]: (at >= 6).float(),
            INPUTS[2]: torch.sin(at / 3),
            INPUTS[3]: noise + marked,
        }[now["input"]]
        delta = torch.where(marked > 0, 2.0, 0.02) if now["selective"] else torch.full((LENGTH,), TOY_DELTA)
        one = torch.ones(LENGTH, 1)
        words = ["marked" if m else "" for m in marked]
        decay = torch.tensor([-TOY_DECAY])
        return Channel(u, delta, torch.ones(LENGTH), one, one, decay, 0.0, ["token"] * LENGTH, words)

    def _trained(self, now: dict[str, Any]) -> Channel:
        if self._kept[0] != now["sample"]:
            self._kept = now["sample"], self._model.trace(self._dataset.batch([now["sample"]]))
        scan, k = self._kept[1].scan(0, now["layer"]), now["channel"]
        return Channel(
            *(scan.u[:, k], scan.delta[:, k], scan.gate()[:, k], scan.B, scan.C, scan.A[k], float(scan.D[k])),
            *(scan.modality, scan.words),
        )
