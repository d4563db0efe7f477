"""Which expert adds what to each token, and what the prediction would be without it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from ..figures import look
from ..figures.style import INK, LIGHT, QUIET, array, class_names, short, titled
from ..model.trace import Trace
from .panel import Explorer, Shown, choice, whole

WITHOUT = {"specific": "without the modalities' own experts", "shared": "without the shared experts"}


class RoutingExplorer(Explorer):
    """The share of a token's own expert, token by token and on average, by sample, layer and routing.

    Routing is that of the model (or of one of several), or the same model with one kind of expert switched off.

    Parameters
    ----------
    models : a model, or a mapping of a name to a model
        Such as {"modality": model, "gated": other}, trained on the same data.
    dataset : Dataset
    samples : int
        So many of the first samples are averaged, for comparison.
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    shares : mapping of modality to array (T_m,)
        What is drawn: the own expert's share of each token.

    Examples
    --------
    >>> RoutingExplorer(model, data["test"])  # doctest: +SKIP
    """

    def __init__(
        self,
        models: Any,
        dataset: Any,
        *,
        samples: int = 40,
        **shown: Unpack[Shown],
    ):
        given = models if isinstance(models, Mapping) else {f"{models.config.routing} (as trained)": models}
        self._models: dict[str, Any] = {}
        for name, model in given.items():
            self._models[name] = model
            for kind, words in WITHOUT.items():
                if model.config.experts == "both":
                    self._models[f"{name}, {words}" if len(given) > 1 else words] = _without(model, kind)
        self._dataset, self._many = dataset, range(min(samples, len(dataset)))
        self._traced: dict[tuple[str, int], Trace] = {}
        self._averages: dict[str, list[dict[str, Any]]] = {}
        first = next(iter(given.values()))
        self._modalities = list(first.config.modalities)
        self._classes = class_names(getattr(dataset, "classes", ()), first.config.n_classes)
        controls = {
            "sample": whole("sample", 0, len(dataset) - 1, 0),
            "layer": choice("layer", [(str(i + 1), i) for i in range(first.config.n_layers)], width="130px"),
            "routing": choice("routing", list(self._models), width="380px"),
        }
        super().__init__(self._laid_out(), controls, **shown)

    def _laid_out(self) -> go.Figure:
        heads = ("each token of this sample", "on average")
        figure = make_subplots(rows=1, cols=2, column_widths=[0.66, 0.34], subplot_titles=heads, horizontal_spacing=0.1)
        for m in self._modalities:
            shown = look(m)
            figure.add_scatter(
                meta=m,
                name=m,
                mode="lines+markers",
                line={"color": shown.colour, "dash": shown.dash, "width": 2},
                marker={"symbol": shown.symbol, "size": 9},
                hovertemplate="%{text}<br>%{y:.1%} from its own expert<extra></extra>",
                row=1,
                col=1,
            )
        figure.add_bar(
            meta="own",
            orientation="h",
            name="own expert, this sample",
            marker_color=[look(m).colour for m in self._modalities],
            showlegend=False,
            textposition="inside",
            insidetextanchor="start",
            textfont_size=15,
            hovertemplate="%{y}: %{x:.1%} from its own expert, the rest shared<extra></extra>",
            row=1,
            col=2,
        )
        figure.add_bar(
            meta="shared",
            orientation="h",
            name="shared",
            marker={"color": LIGHT, "pattern": {"shape": "/", "solidity": 0.2}},
            hovertemplate="%{y}: %{x:.1%} from shared experts<extra></extra>",
            row=1,
            col=2,
        )
        figure.add_scatter(
            meta="average",
            mode="markers",
            name=f"own, first {len(self._many)} samples",
            marker={"symbol": "line-ns", "size": 26, "line": {"width": 4, "color": INK}},
            hovertemplate="%{y}, over samples: %{x:.1%} from its own expert<extra></extra>",
            row=1,
            col=2,
        )
        figure.add_hline(y=0.5, line={"color": QUIET, "width": 1, "dash": "dash"}, row=1, col=1)
        figure.update_xaxes(range=[0, 1], title="relative time (0 = first token, 1 = last)", row=1, col=1)
        figure.update_yaxes(range=[-0.02, 1.02], tickformat=".0%", title="own expert's share", row=1, col=1)
        figure.update_xaxes(range=[0, 1], tickformat=".0%", title="share", nticks=4, row=1, col=2)
        figure.update_yaxes(autorange="reversed", ticks="", row=1, col=2)
        titled(figure, "Own expert or shared?", height=450)
        return figure.update_layout(barmode="stack", bargap=0.4, legend_traceorder="normal")

    def _paint(self) -> str:
        now = {name: control.value for name, control in self._controls.items()}
        trace, layer = self._trace(now["routing"], now["sample"]), now["layer"]
        own = [k for k, name in enumerate(trace.expert_names) if not name.startswith("shared")]
        self.shares, averages = {}, self._average(now["routing"])[layer]
        for m in self._modalities:
            norms = (
                array(trace.contributions[layer][m][0])[array(trace.masks[m][0])]
                if m in trace.masks
                else np.zeros((0, 1))
            )
            share = norms[:, own].sum(1) / np.maximum(norms.sum(1), 1e-12) if len(norms) else np.zeros(0)
            self.shares[m] = share
            said = list(trace.words[0].get(m, ()))
            names = [f"{m} {i + 1}" + (f" “{short(said[i], 60)}”" if i < len(said) else "") for i in range(len(share))]
            self._traces[m].update(x=(np.arange(len(share)) + 0.5) / max(len(share), 1), y=share, text=names)
        mean = {m: float(share.mean()) for m, share in self.shares.items() if len(share)}
        every = {m: float(array(v)[own].sum()) for m, v in averages.items()}
        self._traces["own"].update(
            x=list(mean.values()),
            y=list(mean),
            text=[f"{v:.0%}" for v in mean.values()],
            marker_color=[look(m).colour for m in mean],
        )
        self._traces["shared"].update(x=[1 - v for v in mean.values()], y=list(mean))
        self._traces["average"].update(x=list(every.values()), y=list(every))
        shares = ", ".join(f"{m} {v:.0%}" for m, v in mean.items())
        trained = self._trace(next(iter(self._models)), now["sample"])
        said = f"Sample {trace.ids[0]}, layer {layer + 1}: the own expert adds {shares}; the shared ones add the rest. "
        if trained is trace:
            return said + f"Prediction {self._predicted(trace)}{self._labelled(trace)}."
        return (
            said + f"Prediction {self._predicted(trace)}; as trained {self._predicted(trained)}{self._labelled(trace)}."
        )

    def _trace(self, routing: str, sample: int) -> Trace:
        key = routing, sample
        if key not in self._traced:
            if len(self._traced) > 500:
                self._traced.clear()
            self._traced[key] = self._models[routing].trace(self._dataset.batch([sample]), scans=False)
        return self._traced[key]

    def _average(self, routing: str) -> list[dict[str, Any]]:
        if routing not in self._averages:
            trace = self._models[routing].trace(self._dataset.batch(self._many), scans=False)
            self._averages[routing] = trace.expert_shares()
        return self._averages[routing]

    def _predicted(self, trace: Trace) -> str:
        """The prediction of the one sample of a trace, in words; how many steps of each class with one a step."""
        guess = trace.prediction[0]
        if guess.ndim == 0:
            return f"{float(guess):.2f}" if trace.logits is None else self._classes[int(guess)]
        real = trace.label_mask[0] if trace.label_mask is not None else torch.ones_like(guess, dtype=torch.bool)
        kinds, counts = guess[real].unique(return_counts=True)
        return ", ".join(f"{int(n)} × {self._classes[int(k)]}" for k, n in zip(kinds, counts, strict=True))

    def _labelled(self, trace: Trace) -> str:
        """ ", label …" of the one sample of a trace, or nothing."""
        if trace.labels is None:
            return ""
        label = trace.labels[0]
        if label.ndim == 0:
            return f", label {f'{float(label):.2f}' if label.is_floating_point() else self._classes[int(label)]}"
        right = (trace.prediction[0] == label)[trace.label_mask[0]]
        return f", {int(right.sum())} of {len(right)} steps right"


def _without(model: Any, kind: str) -> Any:
    """A copy of the model in which one kind of expert, "specific" or "shared", adds nothing."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in other.layers:
            for projection in (layer.in_proj, layer.out_proj, layer.around):
                # A projection without a mixture belongs to the Mamba itself and stays.
                if projection is not None and projection.specific is not None and projection.shared is not None:
                    getattr(projection, kind).zero_()
    return other
