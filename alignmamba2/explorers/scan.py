"""Panel of how long a selective scan remembers, by Δ and A: a toy of one channel, or a channel of a trained layer."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from ..figures import look
from ..figures.style import INK, LIGHT, SIGNED, array, quoted, short, titled
from ..trace import Scan, Trace
from .panel import Explorer, PanelOptions, add_trace, choice, steps, which_layer, which_sample, whole

LENGTH = 40
INPUTS = ("a single pulse", "a step", "a wave", "marked tokens in noise")
FACTORS = tuple(2.0**k for k in range(-4, 5))
TOY_DELTA, TOY_DECAY = 0.2, 1.0
MARKED = (6, 19, 30)
OPEN = 1.278464542761074  # SiLU of it is 1: a gate that changes nothing
SELECTIVE = (("the same at every token", False), ("large at marked tokens", True))


class ScanExplorer(Explorer):
    """Input of a selective scan, the speed at which it forgets, and the earlier tokens that each output is made of.

    Without a model: one channel with one state, y_t = h_t, and inputs to choose from. With a model: any channel of any
    layer, on any sample; Δ and A are then factors on the trained ones. `scan` is that of the one channel that is drawn.
    """

    def __init__(self, model: Any = None, dataset: Any = None, **options: Unpack[PanelOptions]):
        if (model is None) != (dataset is None):
            raise ValueError("ScanExplorer: found only one of model and dataset; expected both, or neither for the toy")
        self._model = model
        self._trace: Callable[[int], Trace] = lru_cache(1)(lambda sample: model.trace(dataset.batch([sample])))
        controls = {
            "delta": steps("step size Δ", FACTORS, 1.0, "360px", "× {:g}".format),
            "decay": steps("decay A", FACTORS, 1.0, "360px", "× {:g}".format),
        }
        if model is None:
            controls["input"] = choice("input", INPUTS, width="300px")
            controls["selective"] = choice("Δ is", SELECTIVE, width="300px")
        else:
            controls["sample"] = which_sample(dataset)
            controls["layer"] = which_layer(model)
            controls["channel"] = whole("channel", 0, model.config.expand * model.config.d_model - 1, 0)
        self._names: list[str] = []
        super().__init__(controls, **options)

    def _figure(self) -> go.Figure:
        specs = [[{}, {"rowspan": 2}], [{}, None]]
        sizes = {"column_widths": [0.52, 0.48], "vertical_spacing": 0.16, "horizontal_spacing": 0.12}
        heads = ("input u and output y", "what each output is made of", "step size Δ, and what is kept")
        figure = make_subplots(2, 2, specs=specs, subplot_titles=heads, shared_xaxes="columns", **sizes)
        top, below = (1, 1), (2, 1)
        hover = "%{text}<br>%{fullData.name} %{y:.3f}"
        bar = {"marker_color": LIGHT, "textposition": "none"}
        add_trace(figure, "bar", "u", hover, place=top, legend="input u", **bar)
        line = {"line_color": INK, "marker_size": 7}
        add_trace(figure, "lines+markers", "y", hover, place=top, legend="output y", **line)
        add_trace(figure, "bar", "delta", hover, place=below, legend="Δ (largest = 1)", marker_pattern_shape="/", **bar)
        line = {"line": {"color": look("video").colour, "dash": "dot"}, "marker": {"symbol": "square", "size": 6}}
        add_trace(figure, "lines+markers", "kept", hover, place=below, legend="share of the old state kept", **line)
        hover, bar = "%{text}<br>%{z:.4f}", {"thickness": 10, "nticks": 5, "len": 0.9, "x": 1.0, "xpad": 4}
        add_trace(figure, "heatmap", "matrix", hover, place=(1, 2), colorscale=SIGNED, zmid=0, colorbar=bar, text=[])
        figure.update_yaxes(range=[0, 1.08], row=2, col=1)
        figure.update_xaxes(title="token, in the order read", row=2, col=1)
        figure.update_xaxes(showgrid=False, title="token s that was read", side="bottom", row=1, col=2)
        figure.update_yaxes(autorange="reversed", showgrid=False, title="output at token t", row=1, col=2)
        return titled(figure, "What the scan remembers", height=506)

    def _paint(self, delta: float, decay: float, **which: Any) -> str:
        scan, where = self._toy(**which) if self._model is None else self._trained(**which)
        self.scan = scan = replace(scan, delta=scan.delta * delta, A=scan.A * decay)
        self._name_tokens()
        matrix = array(scan.contributions(torch.ones(len(scan.u), 1, 1))[..., 0])
        size, at = array(scan.delta[:, 0]), np.arange(len(scan.u)) + 1
        self._set("u", x=at, y=array(scan.u[:, 0]))
        self._set("y", x=at, y=matrix.sum(1))
        self._set("delta", x=at, y=size / max(size.max(), 1e-12))
        self._set("kept", x=at, y=array(torch.exp(scan.delta * scan.A).mean(1)))
        most = float(abs(matrix).max()) or 1.0
        self._set("matrix", z=matrix, x=at, y=at, zmin=-most, zmax=most)
        half = float(np.log(2) / max(float((-scan.A).mean()) * size.mean(), 1e-12))
        forgets = f"Half of what the state holds is gone after about {half:.3g} tokens."
        return f"{where} {forgets} {self._sources(matrix)}"

    def _name_tokens(self) -> None:
        tokens = zip(self.scan.modality, self.scan.words, strict=True)
        names = [f"{i}: {m}{quoted(short(word, 40))}" for i, (m, word) in enumerate(tokens, start=1)]
        if names != self._names:
            self._names = names
            self._set("matrix", text=[[f"output at {t}<br>from {s}" for s in names] for t in names])
            for name in ("u", "y", "delta", "kept"):
                self._set(name, text=names)

    def _sources(self, matrix: np.ndarray) -> str:
        share = np.abs(matrix[-1])
        share = share / max(share.sum(), 1e-12)
        modality = np.array(self.scan.modality)
        parts = {m: share[modality == m].sum() for m in dict.fromkeys(self.scan.modality)}
        by_modality = "".join(f", {v:.0%} from {m}" for m, v in parts.items()) if len(parts) > 1 else ""
        return f"{share[-5:].sum():.0%} of the last output comes from the last five tokens{by_modality}."

    def _toy(self, input: str, selective: bool) -> tuple[Scan, str]:
        """Return a scan with one state, y_t = h_t, and its origin in words."""
        at = torch.arange(LENGTH, dtype=torch.float32)
        marked = torch.zeros(LENGTH)
        marked[list(MARKED)] = 1
        noise = 0.25 * torch.randn(LENGTH, generator=torch.Generator().manual_seed(0))
        u = ((at == 6).float(), (at >= 6).float(), torch.sin(at / 3), noise + marked)[INPUTS.index(input)]
        delta = torch.where(marked > 0, 2.0, 0.02) if selective else torch.full((LENGTH,), TOY_DELTA)
        ones, words = torch.ones(LENGTH, 1), ["marked" if m else "" for m in marked]
        scan = Scan(
            u=u[:, None],
            delta=delta[:, None],
            z=OPEN * ones,
            B=ones,
            C=ones,
            A=torch.tensor([[-TOY_DECAY]]),
            D=torch.zeros(1),
            modality=["token"] * LENGTH,
            words=words,
        )
        return scan, f"One channel, input: {input}."

    def _trained(self, sample: int, layer: int, channel: int) -> tuple[Scan, str]:
        """Return one channel of the model's scan of a sample, and its origin in words."""
        trace, k = self._trace(sample), [channel]
        scan = trace.scan(0, layer)
        part = replace(scan, u=scan.u[:, k], delta=scan.delta[:, k], z=scan.z[:, k], A=scan.A[k], D=scan.D[k])
        return part, f"Sample {trace.ids[0]}, layer {layer + 1}, channel {channel}."
