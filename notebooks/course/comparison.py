"""Panel of a simulated study of several variants: draw it again and again, and count how often chance wins."""

from __future__ import annotations

from typing import Unpack

import numpy as np
import plotly.graph_objects as go
from scipy.stats import binom

from alignmamba2.explorers.panel import Explorer, PanelOptions, add_trace, choice, number, one_of, steps, whole
from alignmamba2.figures.style import COLOURS, INK, QUIET, titled
from alignmamba2.metrics import holm

SAMPLES = (100, 200, 400, 750, 2000, 8000)
# Chance of the full model to be right, and share of the samples on which a variant is right where the full model is
# wrong, or the other way round: our choice, as in chapter 11.
RIGHT, DISAGREE = 0.79, 0.15
STUDIES = 2000
RULES = (("p < .05 as it is", False), ("p < .05 after Holm", True))


def mcnemar(gained: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Return the two-sided p of the exact test that samples gained and lost are equally likely (McNemar 1947).

    For scores of right and wrong it is the sign-flip permutation test with all flips counted.

    Examples
    --------
    >>> float(mcnemar(np.array(5), np.array(0)))
    0.0625
    """
    return np.minimum(1.0, 2 * binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))


def studies(
    rng: np.random.Generator, repeats: int, variants: int, samples: int, effect: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return samples gained and lost (repeats, variants) against the full model in simulated studies.

    The first variant is truly better by `effect`, a share of the samples; all others are neither better nor worse. Each
    disagrees with the full model on a share `DISAGREE`. All are held against the same answers of the full model.
    """
    true = np.zeros(variants)
    true[0] = effect
    right = rng.binomial(samples, RIGHT, size=(repeats, 1))  # answers of the full model
    gained = rng.binomial(samples - right, (DISAGREE + true) / 2 / (1 - RIGHT))
    return gained, rng.binomial(right, (DISAGREE - true) / 2 / RIGHT)


class ComparisonExplorer(Explorer):
    """A simulated study with one full model and several variants, of which at most the first differs in truth.

    Each row is a variant: its difference in accuracy, the 95 % interval over test samples, its p. Draw another study,
    change its size, correct for the number of variants; the words count what `STUDIES` such studies find.

    Parameters
    ----------
    variants : int
        Comparisons at first.
    samples : int, one of `SAMPLES`
    **options : those of `Explorer`

    Attributes
    ----------
    p : array (variants,)
        Of the study that is drawn, not corrected.

    Examples
    --------
    >>> panel = ComparisonExplorer(3, 100, interactive=False)
    >>> len(panel.p)
    3
    """

    def __init__(self, variants: int = 7, samples: int = 750, **options: Unpack[PanelOptions]):
        self.p = np.ones(variants)
        first = one_of("samples", samples, SAMPLES)
        controls = {
            "study": whole("study", 1, 100, 1),
            "variants": whole("comparisons", 1, 12, variants),
            "samples": steps("test samples", SAMPLES, first, "330px", "{:,}".format),
            "effect": number("true effect of variant 1, points", 0, 8, 0.0, 0.5, width="380px"),
            "rule": choice("found if", RULES, width="260px"),
        }
        super().__init__(controls, **{"note": "simulated studies, synthetic", **options})

    def _figure(self) -> go.Figure:
        figure = go.Figure()
        for name, legend, colour, symbol in (
            ("found", "found", COLOURS[3], "diamond"),
            ("rest", "not found", QUIET, "circle"),
        ):
            marker = {"size": 13, "color": colour, "symbol": symbol}
            error = {"type": "data", "thickness": 3, "width": 8, "color": colour}
            text = {"textposition": "top center", "cliponaxis": False}
            hover = "%{y}: %{x:+.1f} points"
            add_trace(figure, "markers+text", name, hover, legend=legend, marker=marker, error_x=error, **text)
        figure.add_vline(x=0, line={"color": INK, "width": 1.5, "dash": "dash"})
        figure.update_xaxes(title="accuracy of the variant less that of the full model, in points", range=[-10, 10])
        figure.update_yaxes(showgrid=False, autorange="reversed", categoryorder="array")
        return titled(figure, "What does one study find?", height=520).update_layout(showlegend=True)

    def _paint(self, study: int, variants: int, samples: int, effect: float, rule: bool) -> str:
        gained, lost = studies(np.random.default_rng(study), 1, variants, samples, effect / 100)
        self.p = mcnemar(gained, lost)[0]
        judged = np.array(holm(self.p)) if rule else self.p
        difference = (gained - lost)[0] / samples
        error = 1.96 * np.sqrt(np.maximum((gained + lost)[0] / samples - difference**2, 1e-9) / samples)
        names = [f"variant {i + 1}" for i in range(variants)]
        for name, chosen in (("found", judged < 0.05), ("rest", judged >= 0.05)):
            rows = np.flatnonzero(chosen)
            self._set(
                name,
                x=100 * difference[rows],
                y=[names[i] for i in rows],
                text=[f"p = {judged[i]:.3f}" for i in rows],
                error_x_array=100 * error[rows],
            )
        reach = 100 * max(0.02, float((np.abs(difference) + error).max())) * 1.08
        self.fig.update_xaxes(range=[-reach, reach])
        self.fig.update_yaxes(categoryarray=names)
        many = self._many_studies(variants, samples, effect / 100, rule)
        return f"Study {study}: {int((judged < 0.05).sum())} of {variants} variants found. {many}"

    def _many_studies(self, variants: int, samples: int, effect: float, corrected: bool) -> str:
        """Return how many of `STUDIES` studies find the true effect, and how many find one that is none."""
        p = mcnemar(*studies(np.random.default_rng(0), STUDIES, variants, samples, effect))
        significant = (np.array([holm(row) for row in p]) if corrected else p) < 0.05
        first, shares = int(effect > 0), []
        if first:
            shares.append(f"{significant[:, 0].mean():.0%} find variant 1, which is truly better")
        if variants > first:
            wrong = significant[:, first:].any(1).mean()
            shares.append(f"{wrong:.0%} find at least one variant that is neither better nor worse in truth")
        return f"Of {STUDIES} such studies, {'; '.join(shares)}."
