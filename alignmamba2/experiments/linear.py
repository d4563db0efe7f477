"""The first row of a table: a linear model of the mean frozen token of each modality, put side by side."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..datasets import Dataset
from ..encoders import Encoder, EncoderConfig
from ..metrics import classification_metrics, regression_metrics
from ..recipes import Recipe
from ..training.kept_states import prepared

STRENGTHS = tuple(10.0**k for k in range(-4, 3))  # C of the logistic regression; 1/α of the ridge regression


def fit_linear(datasets: Mapping[str, Dataset], recipe: Recipe | None = None) -> dict[str, Any]:
    """Fit logistic or ridge regression (scikit-learn) and return what a run of `reproduce` records of it.

    Token ids and pictures are read by the encoder that they were made for, frozen, pictures as the recipe says; values
    are standardised by the training split. The strength of the penalty is chosen among `STRENGTHS` on the validation
    split, by the accuracy or the mean absolute error; with the recipe's `refit`, that split then trains too.
    """
    train = datasets["train"]
    settings = recipe.model.get("encoders", {}) if recipe else {}
    views = {m: {k: v for k, v in s.items() if k in ("size", "grid", "mirror", "bf16")} for m, s in settings.items()}
    encode = {m: Encoder(EncoderConfig(name, **views.get(m, {}))) for m, name in train.encoders.items()}
    frozen = SimpleNamespace(encode=encode)
    x, y = {}, {}
    for split, dataset in datasets.items():
        x[split] = np.stack([_means(sample.features) for sample in prepared(dataset, frozen)])
        y[split] = np.array([float(label) for label in dataset.labels])
    mean, sd = x["train"].mean(0), x["train"].std(0)
    x = {split: (part - mean) / np.where(sd > 1e-8, sd, 1) for split, part in x.items()}
    fitted = [_fit(x["train"], y["train"], train.task, strength) for strength in STRENGTHS]
    scores = [_metrics(model.predict(x["valid"]), y["valid"], train) for model in fitted]
    best = min(range(len(fitted)), key=lambda i: scores[i].get("mae", -scores[i]["accuracy"]))
    if recipe and recipe.training.refit:
        both = (np.concatenate([part["train"], part["valid"]]) for part in (x, y))
        fitted[best] = _fit(*both, train.task, STRENGTHS[best])
    prediction = fitted[best].predict(x["test"])
    return {
        "parameters": int(sum(np.size(part) for part in (fitted[best].coef_, fitted[best].intercept_))),
        "valid": scores[best],
        "test": _metrics(prediction, y["test"], train),
        "prediction": prediction.tolist(),
        "strength": STRENGTHS[best],
        "settings_tried": len(STRENGTHS),
    }


def _means(features: Mapping[str, Tensor]) -> np.ndarray:
    return torch.cat([x.double().mean(0) if len(x) else x.new_zeros(x.shape[1]) for x in features.values()]).numpy()


def _fit(x: np.ndarray, y: np.ndarray, task: str, strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression, Ridge

    model = Ridge(alpha=1 / strength) if task == "regression" else LogisticRegression(C=strength, max_iter=2000)
    return model.fit(x, y if task == "regression" else y.astype(int))


def _metrics(prediction: np.ndarray, target: np.ndarray, dataset: Dataset) -> dict[str, float | None]:
    if dataset.task == "regression":
        return regression_metrics(torch.from_numpy(prediction), torch.from_numpy(target))
    return classification_metrics(torch.from_numpy(prediction), torch.from_numpy(target).long(), dataset.n_classes)
