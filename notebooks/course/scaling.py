"""Panel of what was measured against length, and of what it would be at another length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
import plotly.graph_objects as go
from scipy.optimize import nnls

from alignmamba2.explorers.panel import Explorer, PanelOptions, add_trace, choice, one_of, steps
from alignmamba2.figures.style import INK, floats, numbered_look, titled

LENGTHS = tuple(2**k for k in range(6, 21))
FEWEST = 4  # lengths for a fit of three numbers: through three points there is always a curve, true or not
BEYOND = 1.5  # times the longest length: up to there a curve is read off its points


def fitted(lengths: Any, values: Any) -> np.ndarray:
    """Return (c, a, b) ≥ 0 of c + a L + b L² of least relative error: costs per call, token and pair of tokens.

    Examples
    --------
    >>> fitted([1, 10, 100], [4, 31, 301]).round(6).tolist()
    [1.0, 3.0, 0.0]
    """
    lengths, values = floats(lengths), floats(values)
    known = np.isfinite(values)
    terms = np.stack([np.ones_like(lengths), lengths, lengths**2], 1)[known] / values[known, None]
    size = np.linalg.norm(terms, axis=0)  # or L² would drown the others
    return nnls(terms / size, np.ones(int(known.sum())))[0] / size


class ScalingExplorer(Explorer):
    """Measured points against length, a curve c + a L + b L² through those of each method, and its value at a length.

    Beyond the measured lengths the curve is an extrapolation, and called so. A method has none if its points cannot
    carry one: with fewer than four lengths, or if at the longest the fixed cost c is still more than half of the
    value. Such a curve ends at the longest measured length, and the words say why.

    Parameters
    ----------
    lengths : array (S,)
    measures : mapping of a quantity to a mapping of method to array (S,)
        As in `figures.against_length`: such as {"prediction": {"transformer": [...]}}; NaN for a missing value.
    units : mapping of a quantity to its unit
    at : int, one of `LENGTHS`
        The length at first.
    **options : those of `Explorer`

    Attributes
    ----------
    at : mapping of method to the value of its curve at the chosen length; only methods that have one

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
        **options: Unpack[PanelOptions],
    ):
        self._lengths = floats(lengths)
        self._measures = {quantity: dict(rows) for quantity, rows in measures.items()}
        self._units = dict(units or {})
        self._methods = list(dict.fromkeys(method for rows in self._measures.values() for method in rows))
        if not self._methods:
            raise ValueError("measures: empty; expected at least one method, such as {'time': {'scan': [...]}}")
        self.at: dict[str, float] = {}
        controls = {
            "what": choice("what", list(self._measures), width="260px"),
            "at": steps("tokens", LENGTHS, one_of("at", at, LENGTHS), "420px", "{:,}".format),
        }
        super().__init__(controls, **options)

    def _figure(self) -> go.Figure:
        figure = go.Figure()
        for k, method in enumerate(self._methods):
            look = numbered_look(k)
            parts = {
                "points": ("markers", {"marker": look.marker(10)}),
                "curve": ("lines", {"line": look.line(2.5)}),
                "now": ("markers", {"marker": look.marker(17) | {"symbol": "circle-open"}}),
            }
            for part, (kind, style) in parts.items():
                hover = f"{method}, %{{x:,.0f}} tokens: %{{y:.3g}}"
                group = {"legendgroup": method, "showlegend": part == "points"}
                add_trace(figure, kind, f"{part} {method}", hover, legend=method, **group, **style)
        add_trace(figure, "lines", "line", line={"color": INK, "width": 1, "dash": "dash"})
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

    def _paint(self, what: str, at: int) -> str:
        self.at, missing, extent = {}, {}, []
        for method in self._methods:
            values = self._measures[what].get(method, np.full(len(self._lengths), np.nan))
            reason, extremes = self._paint_method(method, floats(values), at)
            missing |= {method: reason} if reason else {}
            extent += extremes
        ends = [min(extent) / 2, max(extent) * 2]
        unit, longest = self._units.get(what, ""), self._lengths.max()
        self._set("line", x=[at, at], y=ends)
        self.fig.update_yaxes(title=f"{what}, {unit}" if unit else what, range=np.log10(ends).tolist())
        least = min(self.at.values(), default=1.0)
        results = [f"{m} {_plain(v)} {unit}".rstrip() + f" (×{v / least:.1f})" for m, v in self.at.items()]
        results += [f"{m} cannot be told from these points ({reason})" for m, reason in missing.items()]
        beyond = f" ({at / longest:.0f} times beyond what was measured)" if at > BEYOND * longest else ""
        return f"{what[0].upper()}{what[1:]} at {at:,} tokens{beyond}: {', '.join(results)}."

    def _paint_method(self, method: str, values: np.ndarray, at: int) -> tuple[str, list[float]]:
        """Draw a method's points and curve; return why it has no value at a length, and the extremes drawn."""
        known = np.isfinite(values)
        self._set(f"points {method}", x=self._lengths[known], y=values[known])
        if not known.any():
            self._set(f"curve {method}", x=[], y=[])
            self._set(f"now {method}", x=[], y=[])
            return "", []
        c, a, b = fitted(self._lengths, values)
        reach, reason = self._lengths[known].max(), ""
        fixed = c / (c + a * reach + b * reach**2)
        if at > BEYOND * reach and known.sum() < FEWEST:
            reason = f"only {known.sum()} lengths were measured"
        elif at > BEYOND * reach and fixed > 0.5:
            reason = f"{100 * fixed:.0f} % of the longest is what every call costs, however short"
        else:
            self.at[method] = float(c + a * at + b * at**2)
        grid = np.geomspace(self._lengths.min(), reach if reason else max(at, self._lengths.max()), 60)
        curve = c + a * grid + b * grid**2
        self._set(f"curve {method}", x=grid, y=curve)
        self._set(f"now {method}", x=[] if reason else [at], y=[] if reason else [self.at[method]])
        return reason, [curve.min(), values[known].min(), curve.max(), values[known].max()]


def _plain(value: float) -> str:
    """Return three digits, without a power of ten: a reader would rather count zeros."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 1000 else f"{value:.3g}"
