"""Turn records of runs into rows: mean and sd over seeds, intervals, and paired tests against the full model."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..datasets import Dataset
from ..metrics import holm, interval, mean_and_sd, paired_test
from .benchmarks import FULL, Benchmark, Variant


def summarise(
    benchmark: Benchmark,
    datasets: Mapping[str, Dataset],
    variants: Sequence[Variant],
    records: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return all that the report says of one benchmark.

    A prediction's score is whether it is right: its class, or in regression its sign (as in "accuracy"). Regression
    has a second score, "mae", the negative error. Tests compare each variant with the full model on each score; p is
    corrected for the number of variants (Holm). "drops" is the loss of accuracy where modalities are missing, noisy or
    late, with its difference from the full model's: above 0, this row loses more.
    """
    test = datasets["test"]
    target, units = labels_and_units(test)
    measures = ("accuracy", "mae") if test.task == "regression" else ("accuracy",)
    rows: dict[str, Any] = {}
    scores: dict[str, dict[str, np.ndarray]] = {}
    drops: dict[tuple[str, str], np.ndarray] = {}  # by row and by what made the test harder
    for variant in variants:
        runs = [r for r in records if r["variant"] == variant.name]
        prediction = np.array([r["prediction"] for r in runs])
        scores[variant.name] = {m: _scores(prediction, target, test.task, m) for m in measures}
        rows[variant.name] = {
            "group": variant.group,
            "note": variant.note,
            "overrides": dict(variant.overrides),
            "parameters": runs[0]["parameters"],
            "active_parameters": runs[0].get("active_parameters"),
            "seconds": float(np.mean([r["seconds"] for r in runs])),
            "seeds": [r["seed"] for r in runs],
            "test": mean_and_sd_of([r["test"] for r in runs]),
            "valid": mean_and_sd_of([r["valid"] for r in runs]),
            **{
                kind: {k: mean_and_sd_of([r[kind][k] for r in runs]) for k in runs[0].get(kind, ())}
                for kind in ("only", "noise", "late")
            },
            "interval": {m: _signed(interval(s, units), m) for m, s in scores[variant.name].items()},
            "against_full": {},
        }
        for name in runs[0].get("predictions", ()):  # how much of the first score is lost
            harder = np.array([r["predictions"][name] for r in runs])
            lost = scores[variant.name][measures[0]] - _scores(harder, target, test.task, measures[0])
            drops[variant.name, name] = lost
    for (row, name), lost in drops.items():
        against = {"against_full": paired_test(lost, drops[FULL, name], units)} if (FULL, name) in drops else {}
        rows[row].setdefault("drops", {})[name] = {"drop": float(lost.mean()), **against}
    others = [name for name in rows if name != FULL and FULL in rows]
    for m in measures:
        tests = [paired_test(scores[FULL][m], scores[name][m], units) for name in others]
        for name, test_result, p in zip(others, tests, holm([t["p"] for t in tests]), strict=True):
            rows[name]["against_full"][m] = {**test_result, "p_holm": p}
    return {
        **describe(datasets),
        "task": test.task,
        "recipe": benchmark.recipe,
        "settings_tried": benchmark.tried,
        "equal_parameters": benchmark.equal,
        "published": published(benchmark),
        "rows": rows,
    }


def published(benchmark: Benchmark) -> list[dict[str, Any]]:
    """Return what others report on the benchmark, as mappings."""
    return [dataclasses.asdict(p) for p in benchmark.published]


def labels_and_units(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (N,), one per prediction, and the number of the unit that each belongs to (N,).

    Predictions of one sample, and of samples of one group such as a video, are not independent: they are one unit.
    """
    labels = [np.atleast_1d(np.asarray(label)) for label in dataset.labels]
    names = [group or str(i) for i, group in enumerate(dataset.groups)]
    units = np.unique(names, return_inverse=True)[1]
    return np.concatenate(labels), np.repeat(units, [len(x) for x in labels])


def _scores(prediction: np.ndarray, target: np.ndarray, task: str, measure: str) -> np.ndarray:
    if measure == "mae":
        return -np.abs(prediction - target)
    if task == "regression":
        return ((prediction >= 0) == (target >= 0)).astype(float)
    return (prediction == target).astype(float)


def _signed(limits: tuple[float, float], measure: str) -> list[float]:
    return [-limits[1], -limits[0]] if measure == "mae" else list(limits)


def summary_of(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return "mean", "sd" and number of "seeds" of each test metric, by recipe; shares of right answers in %.

    `rows` maps the name of a recipe to its row: "test", and "seeds" or "runs", one entry per seed.
    """
    summary = {}
    for name, row in rows.items():
        scores = {metric: score for metric, score in row["test"].items() if score is not None}
        factors = {metric: 100 if metric.startswith(("accuracy", "f1")) else 1 for metric in scores}
        summary[name] = {
            metric: {k: None if v is None else v * factors[metric] for k, v in score.items()}
            | {"seeds": len(row.get("seeds", row.get("runs", ())))}
            for metric, score in scores.items()
        }
    return summary


def mean_and_sd_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return "mean" and "sd" over runs of every metric; None where a run has none, and no sd of a single run."""
    summary: dict[str, Any] = {}
    for name in runs[0]:
        moments = mean_and_sd([run.get(name) for run in runs])
        sd = moments[1] if moments and len(runs) > 1 else None
        summary[name] = None if moments is None else {"mean": moments[0], "sd": sd}
    return summary


def describe(datasets: Mapping[str, Dataset]) -> dict[str, Any]:
    """Return what a result says of its data: protocol, description, whether synthetic, sizes and hashes."""
    test = datasets["test"]
    return {
        "protocol": test.protocol,
        "description": test.description,
        "synthetic": test.synthetic,
        "samples": {split: len(d) for split, d in datasets.items()},
        "sha256": dict(test.hashes),
    }
