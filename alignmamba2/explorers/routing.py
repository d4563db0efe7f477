"""Panel of a model's experts: what each adds to a token, and the prediction without them."""

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
import torch

from ..effects import change, switched_off, switches
from ..figures import look
from ..figures.marks import panels
from ..figures.scan import gate_words
from ..figures.style import INK, LIGHT, QUIET, array, class_names, titled, token_names
from ..trace import Trace
from .panel import Explorer, PanelOptions, add_trace, choice, which_layer, which_sample


class RoutingExplorer(Explorer):
    """The share of a token's own expert, token by token and on average, by sample, layer and routing.

    Routing is that of the model (or of one of several), or of the same model with experts switched off; how far this
    moves predictions is said below. `shares` are, by modality, the own expert's shares of the tokens (T_m,), as drawn.

    `models` are one, or several of the same data, such as {"modality": model, "gated": other}; as many first `samples`
    are averaged, for comparison.
    """

    def __init__(self, models: Any, dataset: Any, *, samples: int = 40, **options: Unpack[PanelOptions]):
        named = models if isinstance(models, Mapping) else {f"{models.config.routing} (as trained)": models}
        self._models, self._off = dict(named), dict.fromkeys(named, ((), ""))  # experts switched off, and in which
        for name, model in named.items():
            own = tuple(model.config.modalities)
            off = {f"without {name}" + "'s own expert" * (name in own): (name,) for name in switches(model)}
            off |= {"without the modalities' own experts": own} if model.config.experts == "both" else {}
            for words, experts in off.items():
                reduced = f"{name}, {words}" if len(named) > 1 else words
                self._models[reduced], self._off[reduced] = model, (experts, name)
        self._dataset, self._many = dataset, range(min(samples, len(dataset)))
        self._trace: Callable[[str, range], Trace] = lru_cache(500)(self._traced)
        first = next(iter(named.values()))
        self._modalities = list(first.config.modalities)
        self._classes = class_names(getattr(dataset, "classes", ()), first.config.n_classes)
        controls = {
            "sample": which_sample(dataset),
            "layer": which_layer(first),
            "routing": choice("routing", list(self._models), width="380px"),
        }
        super().__init__(controls, **options)

    def _figure(self) -> go.Figure:
        heads, left, right = ("each token of this sample", "on average"), (1, 1), (1, 2)
        figure = panels(heads, 0.1, column_widths=[0.66, 0.34])
        for m in self._modalities:
            style = look(m)
            line = {"color": style.colour, "dash": style.dash, "width": 2}
            marker = {"symbol": style.symbol, "size": 9}
            hover = "%{text}<br>%{y:.1%} from its own expert"
            add_trace(figure, "lines+markers", m, hover, place=left, legend=m, line=line, marker=marker)
        text = {"textposition": "inside", "insidetextanchor": "start", "textfont_size": 15, "orientation": "h"}
        hover = "%{y}: %{x:.1%} from its own expert, the rest shared"
        add_trace(figure, "bar", "own", hover, place=right, **text)
        hatched = {"color": LIGHT, "pattern": {"shape": "/", "solidity": 0.2}}
        hover = "%{y}: %{x:.1%} from shared experts"
        add_trace(figure, "bar", "shared", hover, place=right, legend="shared", orientation="h", marker=hatched)
        hover = "%{y}, over samples: %{x:.1%} from its own expert"
        marker = {"symbol": "line-ns", "size": 26, "line": {"width": 4, "color": INK}}
        legend = f"own, first {len(self._many)} samples"
        add_trace(figure, "markers", "average", hover, place=right, legend=legend, marker=marker)
        figure.add_hline(y=0.5, line={"color": QUIET, "width": 1, "dash": "dash"}, row=1, col=1)
        figure.update_xaxes(range=[0, 1], title="relative time (0 = first token, 1 = last)", row=1, col=1)
        figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", title="own expert's share", row=1, col=1)
        figure.update_xaxes(range=[0, 1], tickformat=".0%", title="share", nticks=4, row=1, col=2)
        figure.update_yaxes(autorange="reversed", ticks="", row=1, col=2)
        titled(figure, "Own expert or shared?", height=450)
        return figure.update_layout(barmode="stack", bargap=0.4, legend_traceorder="normal")

    def _paint(self, sample: int, layer: int, routing: str) -> str:
        one, (off, trained) = range(sample, sample + 1), self._off[routing]
        trace, many = self._trace(routing, one), self._trace(routing, self._many)
        experts = [k for k, name in enumerate(trace.expert_names) if not name.startswith("shared")]
        self.shares = {m: _own_share(trace, layer, m, experts) * (m not in off) for m in self._modalities}
        for m, share in self.shares.items():
            names = token_names(m, trace.words[0].get(m, ()), len(share))
            self._set(m, x=(np.arange(len(share)) + 0.5) / max(len(share), 1), y=share, text=names)
        mean = {m: float(share.mean()) for m, share in self.shares.items() if len(share)}
        shares = many.expert_shares()[layer]
        every = {m: float(array(v)[experts].sum()) * (m not in off) for m, v in shares.items()}
        percent, colours = [f"{v:.0%}" for v in mean.values()], [look(m).colour for m in mean]
        self._set("own", x=list(mean.values()), y=list(mean), text=percent, marker_color=colours)
        self._set("shared", x=[1 - v for v in mean.values()], y=list(mean))
        self._set("average", x=list(every.values()), y=list(every))
        shares = ", ".join(f"{m} {v}" for m, v in zip(mean, percent, strict=True))
        as_trained = f"; as trained {self._predicted(self._trace(trained, one))}" if off else ""
        words = (
            f"Sample {trace.ids[0]}, layer {layer + 1}: the own expert adds {shares}; the shared ones add the rest. "
            f"Prediction {self._predicted(trace)}{as_trained}{self._labelled(trace)}."
        )
        if off:
            moved = change(self._trace(trained, self._many), many, many.label_mask).mean()
            unit = "" if many.logits is None else " of the probability"
            words += f" Of the first {len(self._many)} samples, predictions moved by {moved:.3f}{unit} on average."
        return words + "".join(f" The FFN's gate: {gate_words(many, layer)}." for _ in many.ffn_gates[:1])

    def _traced(self, routing: str, samples: range) -> Trace:
        model = self._models[routing]
        with switched_off(model, *self._off[routing][0]):
            return model.trace(self._dataset.batch(samples), scans=False)

    def _predicted(self, trace: Trace) -> str:
        """Return the prediction for the one sample of a trace in words; with one per step, how often each class."""
        guess = trace.prediction[0]
        if guess.ndim == 0:
            return f"{float(guess):.2f}" if trace.logits is None else self._classes[int(guess)]
        real = trace.label_mask[0] if trace.label_mask is not None else torch.ones_like(guess, dtype=torch.bool)
        kinds, counts = guess[real].unique(return_counts=True)
        return ", ".join(f"{int(n)} × {self._classes[int(k)]}" for k, n in zip(kinds, counts, strict=True))

    def _labelled(self, trace: Trace) -> str:
        if trace.labels is None:
            return ""
        label = trace.labels[0]
        if label.ndim == 0:
            return f", label {f'{float(label):.2f}' if label.is_floating_point() else self._classes[int(label)]}"
        right = (trace.prediction[0] == label)[trace.label_mask[0]]
        return f", {int(right.sum())} of {len(right)} steps right"


def _own_share(trace: Trace, layer: int, modality: str, experts: list[int]) -> np.ndarray:
    if modality not in trace.masks:
        return np.zeros(0)
    norms = array(trace.contributions[layer][modality][0])[array(trace.masks[modality][0])]
    return norms[:, experts].sum(1) / np.maximum(norms.sum(1), 1e-12) if len(norms) else np.zeros(0)
