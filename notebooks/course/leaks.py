"""How much features know about the labels that they were made with, for chapter 07 and ``python -m studies leaks``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from alignmamba2.batch import Sample
from alignmamba2.datasets import Dataset


def scores(splits: dict[str, Dataset], modality: str) -> tuple[float, float]:
    """Accuracy on unseen training videos (mean of 5 folds by video), and on test videos."""
    videos = [*splits["train"].samples, *splits["valid"].samples]
    x, y = _rows(videos, modality)
    group = np.repeat(np.arange(len(videos)), [len(s.label) for s in videos])
    folds = GroupKFold(5).split(x, y, group)
    unseen = float(np.mean([_fit(x[a], y[a]).score(x[b], y[b]) for a, b in folds]))
    return unseen, float(_fit(x, y).score(*_rows(splits["test"].samples, modality)))


def _rows(videos: Sequence[Sample], modality: str) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([s.features[modality] for s in videos]), np.concatenate([s.label for s in videos])


def _fit(x: np.ndarray, y: np.ndarray) -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(x, y)
