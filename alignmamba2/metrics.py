"""The field's metrics, as the field computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def classification_metrics(prediction: Tensor, target: Tensor, n_classes: int) -> dict[str, float]:
    """Accuracy and F1 of class predictions.

    Parameters
    ----------
    prediction, target : int64 Tensor (N,)
    n_classes : int

    Returns
    -------
    dict
        "accuracy"; "f1", weighted by class frequency; "f1_macro", the plain mean over classes. All in [0, 1].
    """
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score  # takes seconds

    _check(prediction, target)
    score = {"num_classes": n_classes}
    return {
        "accuracy": float(multiclass_accuracy(prediction, target, average="micro", **score)),
        "f1": float(multiclass_f1_score(prediction, target, average="weighted", **score)),
        "f1_macro": float(multiclass_f1_score(prediction, target, average="macro", **score)),
    }


def regression_metrics(prediction: Tensor, target: Tensor) -> dict[str, float | None]:
    """MMSA's metrics of sentiment in [-3, 3] (thuiar/MMSA, `metricsTop.py`).

    Returns
    -------
    dict
        "accuracy", "f1" : ``prediction >= 0`` against ``target >= 0`` over all samples (Has0); F1 weighted.
        "accuracy_non0", "f1_non0" : samples with target 0 left out, ``> 0`` on both sides; None if none is left.
        "accuracy_7", "accuracy_5" : both clipped to ±3, ±2 and rounded half to even.
        "mae" : mean absolute error, not clipped.
        "corr" : Pearson's r; None where either side is constant and r is not defined.
    """
    _check(prediction, target)
    p, t = prediction.double(), target.double()
    nonzero = t != 0
    metrics: dict[str, float | None] = {}
    for suffix, a, b in (("", p >= 0, t >= 0), ("_non0", p[nonzero] > 0, t[nonzero] > 0)):
        known = classification_metrics(a.long(), b.long(), 2) if len(b) else {"accuracy": None, "f1": None}
        metrics["accuracy" + suffix], metrics["f1" + suffix] = known["accuracy"], known["f1"]
    for n, limit in ((7, 3), (5, 2)):
        same = p.clamp(-limit, limit).round() == t.clamp(-limit, limit).round()
        metrics[f"accuracy_{n}"] = float(same.double().mean())
    metrics["mae"] = float((p - t).abs().mean())
    varies = bool(p.min() < p.max()) and bool(t.min() < t.max())  # the sd of equal numbers need not come out as 0
    metrics["corr"] = float(torch.corrcoef(torch.stack([p, t]))[0, 1]) if varies else None
    return metrics


def mean_and_sd(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Mean and sample standard deviation (n − 1; 0 for a single value); None if any value is undefined."""
    if any(v is None for v in values):
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _check(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape or prediction.ndim != 1 or not len(target):
        raise ValueError(
            f"metrics: prediction {tuple(prediction.shape)}, target {tuple(target.shape)}; expected both (N,), N ≥ 1"
        )
    if not (torch.isfinite(prediction.double()).all() and torch.isfinite(target.double()).all()):
        raise ValueError("metrics: NaN or infinity in prediction or target; expected finite numbers")


def calibration_error(probabilities: Tensor, target: Tensor, bins: int = 15) -> float:
    r"""Expected calibration error: how far confidence is from accuracy (Guo et al. 2017).

    .. math:: \sum_b \frac{n_b}{N} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    over `bins` equal bins (l, r] of the confidence, the largest probability.

    Parameters
    ----------
    probabilities : Tensor (N, C), rows that sum to 1
    target : int64 Tensor (N,)
    """
    if probabilities.ndim != 2 or len(probabilities) != len(target) or not len(target):
        raise ValueError(
            f"metrics: probabilities {tuple(probabilities.shape)}, target {tuple(target.shape)}; expected (N, C), (N,)"
        )
    confidence, guess = probabilities.double().max(1)
    right = (guess == target).double()
    place = (confidence * bins).ceil().clamp(1, bins).long() - 1
    gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place, right - confidence)
    return float(gap.abs().sum() / len(target))


def interval(
    scores: np.ndarray, units: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean score, over seeds and over samples.

    Parameters
    ----------
    scores : float array (S, N)
        The score of each of N predictions from each of S models that differ in their seed; or the difference of two
        such arrays.
    units : int array (N,)
        Predictions of one unit (the utterances of a video) are drawn together.
    """
    sums, counts = _by_unit(scores, units)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for i in range(draws):
        drawn = rng.integers(0, len(counts), len(counts))
        runs = rng.integers(0, len(sums), len(sums))
        means[i] = sums[runs][:, drawn].sum() / (len(sums) * counts[drawn].sum())
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(a: np.ndarray, b: np.ndarray, units: np.ndarray, draws: int = 5000, seed: int = 0) -> dict[str, float]:
    """Whether two models differ on the same samples, over their seeds.

    Parameters
    ----------
    a, b : float arrays (S, N), (S', N)
        Scores of each prediction, larger is better; one row a seed.
    units : int array (N,), as in `interval`

    Returns
    -------
    dict
        "difference" a − b of the means; "low", "high", its 95 % bootstrap interval over seeds and units; "p",
        two-sided, of a sign-flip permutation test over units (of each unit's difference, averaged over seeds).
    """
    difference = a.mean(0) - b.mean(0)
    sums, counts = _by_unit(difference[None], units)
    total = counts.sum()
    rng = np.random.default_rng(seed)
    observed = sums[0].sum()
    flips = rng.choice((-1.0, 1.0), (draws, len(counts))) @ sums[0]
    p = (1 + int((np.abs(flips) >= abs(observed) - 1e-9).sum())) / (draws + 1)
    # Seeds of two models are drawn apart: nothing pairs them but their number.
    (sums_a, _), (sums_b, _) = _by_unit(a, units), _by_unit(b, units)
    means = np.empty(2000)
    for i in range(len(means)):
        drawn = rng.integers(0, len(counts), len(counts))
        runs_a, runs_b = (rng.integers(0, len(s), len(s)) for s in (sums_a, sums_b))
        gap = sums_a[runs_a].mean(0) - sums_b[runs_b].mean(0)
        means[i] = gap[drawn].sum() / counts[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return {"difference": float(observed / total), "low": float(low), "high": float(high), "p": float(p)}


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979)."""
    order, corrected, largest = np.argsort(p, kind="stable"), [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = float(largest)
    return corrected


def _by_unit(scores: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of scores (S, U) and number of predictions (U,) of each unit."""
    if scores.ndim != 2 or scores.shape[1] != len(units) or not len(units):
        raise ValueError(f"metrics: scores {scores.shape}, units {np.shape(units)}; expected (S, N) and (N,)")
    _, place, counts = np.unique(units, return_inverse=True, return_counts=True)
    sums = np.zeros((len(scores), len(counts)))
    np.add.at(sums, (slice(None), place), scores)
    return sums, counts
