"""A model's predictions on a data set, and the field's metrics of them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..datasets import Dataset
from ..metrics import classification_metrics, regression_metrics
from ..model import AlignMamba2Config, FusionModel
from .batches import loader


def scores(prediction: Tensor, target: Tensor, config: AlignMamba2Config) -> dict[str, float | None]:
    """Return the field's metrics for the model's task (see `metrics`)."""
    if config.task == "classification":
        return classification_metrics(prediction, target, config.n_classes)
    return regression_metrics(prediction, target)


@torch.no_grad()
def predict(model: FusionModel, dataset: Dataset, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Return predictions and labels (N,), one per sample or, with one label per step, one per step."""
    model.eval()
    device = next(model.parameters()).device
    predictions, labels = [], []
    for batch in loader(dataset, batch_size, neighbours=model.encode.neighbours):
        output = model(batch.to(device))
        known = ... if batch.label_mask is None else batch.label_mask
        predictions.append(output.prediction.cpu()[known])
        labels.append(batch.labels[known])
    return torch.cat(predictions), torch.cat(labels)


def evaluate(model: FusionModel, dataset: Dataset) -> dict[str, float | None]:
    """Return the field's metrics of a model on one split: accuracy and F1, and more for regression (see `metrics`)."""
    return scores(*predict(model, dataset), model.config)
