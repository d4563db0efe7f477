"""Metrics of the benchmarks, computed as their authors compute them, and tests that compare models."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def classification_metrics(prediction: Tensor, target: Tensor, n_classes: int) -> dict[str, float]:
    """Return accuracy and F1 of class predictions.

    Parameters
    ----------
    prediction, target : int64 Tensor (N,), classes from 0 to n_classes − 1
    n_classes : int

    Returns
    -------
    dict
        "accuracy"; "f1", weighted by class frequency; "f1_macro", the plain mean over classes. All in [0, 1].
    """
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score  # takes seconds

    _check(prediction, target)
    _check_classes(prediction, n_classes, "prediction")
    _check_classes(target, n_classes, "target")
    score = {"num_classes": n_classes}
    return {
        "accuracy": float(multiclass_accuracy(prediction, target, average="micro", **score)),
        "f1": float(multiclass_f1_score(prediction, target, average="weighted", **score)),
        "f1_macro": float(multiclass_f1_score(prediction, target, average="macro", **score)),
    }


def regression_metrics(prediction: Tensor, target: Tensor) -> dict[str, float | None]:
    """Return MMSA's metrics of sentiment in [-3, 3] (thuiar/MMSA, `metricsTop.py`).

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
    metrics["corr"] = _correlation(p, t)
    return metrics


def multilabel_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """Return metrics of K labels per sample, int64 (N, K) of 0 and 1; a target of −1 is not known and does not count.

    "accuracy" is over all known labels, "exact" the share of samples of which each known label is right, "f1" weighted
    by the labels' frequency, "f1_macro" the plain mean over labels.
    """
    from torchmetrics.functional.classification import multilabel_f1_score

    known, right, labels = target >= 0, prediction == target, {"num_labels": target.shape[1], "ignore_index": -1}
    return {
        "accuracy": float(right[known].double().mean()),
        "exact": float((right | ~known).all(1).double().mean()),
        "f1": float(multilabel_f1_score(prediction, target, average="weighted", **labels)),
        "f1_macro": float(multilabel_f1_score(prediction, target, average="macro", **labels)),
    }


def multitarget_metrics(prediction: Tensor, target: Tensor, names: Sequence[str] = ()) -> dict[str, float | None]:
    """Return "mae" and "corr" of K numbers per sample, their means and those of each target, such as "mae/valence".

    prediction and target are (N, K); a target that is NaN is not known. Without a name, a target is called by its
    place. None is what is not defined: any mean over a target without a known value, or r where a side is constant.
    """
    metrics: dict[str, float | None] = {"mae": None, "corr": None}
    for k in range(target.shape[1]):
        known, name = ~target[:, k].isnan(), names[k] if len(names) else str(k)
        p, t = prediction[known, k].double(), target[known, k].double()
        metrics[f"mae/{name}"] = float((p - t).abs().mean()) if len(t) else None
        metrics[f"corr/{name}"] = _correlation(p, t) if len(t) else None
    for kind in ("mae", "corr"):
        values = [value for name, value in metrics.items() if name.startswith(f"{kind}/")]
        metrics[kind] = None if None in values else float(np.mean(values))
    return metrics


def _correlation(p: Tensor, t: Tensor) -> float | None:
    """Pearson's r of two float64 vectors; None where either is constant."""
    if not (p.min() < p.max() and t.min() < t.max()):  # the sd of equal numbers need not come out as 0
        return None
    p, t = ((x - x.mean()) / (x.max() - x.min()) for x in (p, t))  # whose squares neither overflow nor vanish
    return float(torch.corrcoef(torch.stack([p, t]))[0, 1])


def mean_and_sd(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Return mean and sample standard deviation (n − 1; 0 for a single value); None if any value is undefined."""
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


def _check_classes(classes: Tensor, n_classes: int, name: str) -> None:
    wrong = classes if classes.is_floating_point() else classes[(classes < 0) | (classes >= n_classes)]
    if len(wrong):
        raise ValueError(f"metrics: {name} holds {wrong[0].item()}; expected integers from 0 to {n_classes - 1}")


def calibration_error(probabilities: Tensor, target: Tensor, bins: int = 15) -> float:
    r"""Return the expected calibration error, how far confidence is from accuracy (Guo et al. 2017).

    .. math:: \sum_b \frac{n_b}{N} \left| \mathrm{acc}_b - \mathrm{conf}_b \right|

    over `bins` equal bins [l, r) of the confidence, the largest probability; a confidence of 1 has a bin of its own.

    Parameters
    ----------
    probabilities : Tensor (N, C), rows that sum to 1
    target : int64 Tensor (N,)
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    if probabilities.ndim != 2 or len(probabilities) != len(target) or not len(target):
        raise ValueError(
            f"metrics: probabilities {tuple(probabilities.shape)}, target {tuple(target.shape)}; expected (N, C), (N,)"
        )
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise ValueError("metrics: probabilities outside [0, 1], or NaN; expected rows that sum to 1, not logits")
    if not ((probabilities.double().sum(1) - 1).abs() < 0.01).all():
        raise ValueError("metrics: probabilities whose rows do not sum to 1; expected one of each class")
    _check_classes(target, probabilities.shape[1], "target")
    return float(multiclass_calibration_error(probabilities, target, probabilities.shape[1], n_bins=bins))


def interval(
    scores: np.ndarray, units: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a mean score, over seeds and over samples.

    Parameters
    ----------
    scores : float array (S, N)
        The score of each of N predictions from each of S models that differ in their seed; or the difference of two
        such arrays.
    units : int array (N,)
        Predictions of one unit (the utterances of a video) are drawn together.
    """
    sums, counts = _by_unit(scores, units)
    means = _bootstrap([sums], counts, draws, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_test(a: np.ndarray, b: np.ndarray, units: np.ndarray, draws: int = 5000, seed: int = 0) -> dict[str, float]:
    """Test whether two models differ on the same samples, over their seeds.

    Parameters
    ----------
    a, b : float arrays (S, N), (S', N)
        Scores of each prediction, larger is better; one row per seed.
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
    p = (1 + int((np.abs(flips) >= abs(observed) - 1e-9 * np.abs(sums).sum()).sum())) / (draws + 1)
    means = _bootstrap([_by_unit(a, units)[0], _by_unit(b, units)[0]], counts, 2000, rng)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"difference": float(observed / total), "low": float(low), "high": float(high), "p": float(p)}


def _bootstrap(sides: Sequence[np.ndarray], counts: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return mean scores (draws,), of one side or of the difference of two, each of other units and seeds.

    Seeds of two models are drawn apart: nothing pairs them but their number.
    """
    means = np.empty(draws)
    for i in range(draws):
        units = rng.integers(0, len(counts), len(counts))
        sums = np.subtract.reduce([side[rng.integers(0, len(side), len(side))].mean(0) for side in sides])
        means[i] = sums[units].sum() / counts[units].sum()
    return means


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979)."""
    if not all(0 <= x <= 1 for x in p):
        raise ValueError(f"metrics: p values {list(p)}; expected numbers in [0, 1]")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, np.arange(len(p), 0, -1) * np.asarray(p, float)[order])
    return np.maximum.accumulate(steps)[np.argsort(order, kind="stable")].tolist()


def _by_unit(scores: np.ndarray, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of scores (S, U) and number of predictions (U,) of each unit."""
    if scores.ndim != 2 or scores.shape[1] != len(units) or not len(units) or not np.isfinite(scores).all():
        raise ValueError(f"metrics: scores {scores.shape}, units {np.shape(units)}; expected finite (S, N), and (N,)")
    _, place, counts = np.unique(units, return_inverse=True, return_counts=True)
    sums = np.zeros((len(scores), len(counts)))
    np.add.at(sums, (slice(None), place), scores)
    return sums, counts
