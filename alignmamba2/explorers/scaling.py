"""What was measured against length, and what it would be at your length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
from scipy.optimize import nnls

from ..figures.style import COLOURS, DASHES, INK, SYMBOLS, array, titled
from .panel import Explorer, Shown, choice, steps

LENGTHS = tuple(2**k for k in range(6, 21))
FEWEST = 4  # lengths that three numbers are fitted to: with three every curve fits, and nothing speaks against it
BEYOND = 1.5  # times the longest length: so far a curve is still read off its points


def fitted(lengths: Any, values: Any) -> np.ndarray:
    """(c, a, b) ≥ 0 of c + a L + b L², the best in relative error: a fixed cost, one a token, one a pair of tokens.

    Examples
    --------
    >>> fitted([1, 10, 100], [4, 31, 301]).round(6).tolist()
    [1.0, 3.0, 0.0]
    """
    lengths, values = array(lengths).astype(float), array(values).astype(float)
    known = np.isfinite(values)
    terms = np.stack([np.ones_like(lengths), lengths, lengths**2], 1)[known] / values[known, None]
    size = np.linalg.norm(terms, axis=0)  # or L² would drown the others
    return nnls(terms / size, np.ones(int(known.sum())))[0] / size


class ScalingExplorer(Explorer):
    """Measured points against length, a curve c + a L + b L² through each method's, and what it says at your length.

    Beyond the measured lengths it is an extrapolation, and drawn and called so. There is none where the points cannot
    carry one: with fewer than four lengths, or where at the longest the fixed cost c is still more than half of the
    value. Such a curve ends where the measuring did, and the words say why.

    Parameters
    ----------
    lengths : array (S,)
    measures : mapping of what was measured to (method to array (S,))
        As in `figures.against_length`: such as {"prediction": {"transformer": [...]}}; NaN where there is none.
    units : mapping of what was measured to its unit
    at : int, one of `LENGTHS`
        The length at first.
    **shown
        note, interactive and theme, as for `Explorer`.

    Attributes
    ----------
    fig, controls, words
        As in `Explorer`.
    at : mapping of method to what its curve says at the chosen length, if it says anything

    Examples
    --------
    >>> panel = ScalingExplorer([100, 1000], {"time": {"scan": [1.0, 10.0]}}, at=1024, interactive=False)
    >>> round(panel.at["scan"], 2)
    10.24
    """

    def __init__(
        self,
        lengths: Any,
        measures: Mapping[str, Mapping[str, Any]],
        *,
        units: Mapping[str, str] | None = None,
        at: int = 16384,
        **shown: Unpack[Shown],
    ):
        self._lengths = array(lengths).astype(float)
        self._measures = {what: dict(rows) for what, rows in measures.items()}
        self._units = dict(units or {})
        self._methods = list(dict.fromkeys(method for rows in self._measures.values() for method in rows))
        if not self._methods:
            raise ValueError("measures: empty; expected at least one method, such as {'time': {'scan': [...]}}")
        self.at: dict[str, float] = {}
        controls = {
            "what": choice("what", list(self._measures), width="260px"),
            "at": steps("tokens", [(f"{n:,}", n) for n in LENGTHS], at, width="420px"),
        }
        super().__init__(self._laid_out(), controls, **shown)

    def _laid_out(self) -> go.Figure:
        figure = go.Figure()
        for k, method in enumerate(self._methods):
            colour = COLOURS[k % 6]
            for part, options in (
                ("points", {"mode": "markers", "marker": {"size": 10, "symbol": SYMBOLS[k % 6], "color": colour}}),
                ("curve", {"mode": "lines", "line": {"color": colour, "dash": DASHES[k % 6], "width": 2.5}}),
                ("now", {"mode": "markers", "marker": {"size": 17, "symbol": "circle-open", "color": colour}}),
            ):
                figure.add_scatter(
                    meta=f"{part} {method}",
                    name=method,
                    legendgroup=method,
                    showlegend=part == "points",
                    hovertemplate=f"{method}, %{{x:,.0f}} tokens: %{{y:.3g}}<extra></extra>",
                    **options,
                )
        figure.add_scatter(
            meta="line",
            mode="lines",
            line={"color": INK, "width": 1, "dash": "dash"},
            showlegend=False,
            hoverinfo="skip",
        )
        ticks = LENGTHS[::2]
        figure.update_xaxes(
            type="log",
            title="tokens in the sequence",
            tickvals=ticks,
            ticktext=[f"{n:,}" for n in ticks],
            range=np.log10([min(LENGTHS[0], self._lengths.min()) / 1.2, LENGTHS[-1] * 1.2]).tolist(),
        )
        figure.update_yaxes(type="log", tickformat="~g", dtick=1)
        return titled(figure, "And at your length?", height=520)

    def _paint(self) -> str:
        what, at = self._controls["what"].value, self._controls["at"].value
        rows, unit = self._measures[what], self._units.get(what, "")
        longest = self._lengths.max()
        self.at, silent, low, high = {}, {}, [], []
        for method in self._methods:
            values = array(rows.get(method, np.full(len(self._lengths), np.nan))).astype(float)
            known = np.isfinite(values)
            points, curve, now = (self._traces[f"{part} {method}"] for part in ("points", "curve", "now"))
            points.update(x=self._lengths[known], y=values[known])
            if not known.any():
                curve.update(x=[], y=[])
                now.update(x=[], y=[])
                continue
            c, a, b = fitted(self._lengths, values)
            reach = self._lengths[known].max()
            fixed = c / (c + a * reach + b * reach**2)
            if at > BEYOND * reach and known.sum() < FEWEST:
                silent[method] = f"only {known.sum()} lengths were measured"
            elif at > BEYOND * reach and fixed > 0.5:
                silent[method] = f"{100 * fixed:.0f} % of the longest is what every call costs, however short"
            else:
                self.at[method] = float(c + a * at + b * at**2)
            grid = np.geomspace(self._lengths.min(), reach if method in silent else max(at, longest), 60)
            drawn = c + a * grid + b * grid**2
            curve.update(x=grid, y=drawn)
            now.update(x=[at] if method in self.at else [], y=[self.at[method]] if method in self.at else [])
            low, high = [*low, drawn.min(), values[known].min()], [*high, drawn.max(), values[known].max()]
        self._traces["line"].update(x=[at, at], y=[min(low) / 2, max(high) * 2])
        self.fig.update_yaxes(title=f"{what}, {unit}" if unit else what)
        self.fig.update_yaxes(range=np.log10([min(low) / 2, max(high) * 2]).tolist())
        said = f"{what[0].upper()}{what[1:]} at {at:,} tokens"
        said += f" ({at / longest:.0f} times beyond what was measured)" if at > BEYOND * longest else ""
        least = min(self.at.values(), default=1.0)
        told = [f"{m} {_plain(v)} {unit}".rstrip() + f" (×{v / least:.1f})" for m, v in self.at.items()]
        told += [f"{m} cannot be told from these points ({why})" for m, why in silent.items()]
        return f"{said}: {', '.join(told)}."


def _plain(value: float) -> str:
    """Three digits, and no power of ten where a reader would rather count zeros."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else f"{value:.3g}"
