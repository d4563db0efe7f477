"""The field's metrics, as the field computes them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score


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
    varies = len(p) > 1 and bool(p.std() > 0) and bool(t.std() > 0)
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
