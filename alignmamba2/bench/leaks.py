"""How much do the published features of `mosi-utterances` know about the training labels?

For each modality: logistic regression on single utterances, scored on *training* videos that it has not seen
(5 folds by video), and on the test videos. An honest feature scores alike on both. A feature that was itself fitted to
the training labels scores higher on the first, and a validation split taken from there cannot see how little it is
worth. The last column is the share of tokens whose features must be swapped in
training to make the one like the other, (unseen − test) / (unseen − ½): what the recipes take.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ..batch import Sample
from ..datasets import Dataset, load_dataset


def main(argv: Sequence[str] = ()) -> None:
    argparse.ArgumentParser(prog="python -m alignmamba2 bench leaks", description=__doc__).parse_args(argv)
    print("logistic regression on single utterances, accuracy in %")
    print(f"{'':18s}{'unseen training videos':>24s}{'test videos':>14s}{'swap':>8s}")
    for text in ("released", "minilm"):
        splits = load_dataset("mosi-utterances", text=text)
        for modality in ("text", "audio", "video") if text == "released" else ("text",):
            unseen, test = scores(splits, modality)
            name = f"text ({text})" if modality == "text" else modality
            swap = max(0.0, (unseen - test) / (unseen - 0.5)) if unseen > 0.6 else 0.0  # near chance there is no leak
            print(f"{name:18s}{100 * unseen:24.1f}{100 * test:14.1f}{swap:8.2f}")


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


if __name__ == "__main__":
    main()
