"""A model's predictions on a data set, and the field's metrics of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..batch import MultimodalBatch
from ..datasets import Dataset
from ..metrics import classification_metrics, regression_metrics
from ..model import AlignMamba2Config, FusionModel
from .batches import loader


def scores(prediction: Tensor, target: Tensor, config: AlignMamba2Config) -> dict[str, float | None]:
    """Return the field's metrics for the model's task (see `metrics`)."""
    if config.task == "classification":
        return classification_metrics(prediction, target, config.n_classes)
    return regression_metrics(prediction, target)


def predict(model: FusionModel, dataset: Dataset, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Return predictions and labels (N,), one per sample or, with one label per step, one per step."""
    prediction, labels, _ = outputs(model, dataset, batch_size)
    return prediction, labels


@torch.no_grad()
def outputs(
    model: FusionModel,
    dataset: Dataset,
    batch_size: int = 64,
    change: Callable[[MultimodalBatch], MultimodalBatch] = lambda batch: batch,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return predictions and labels (N,), and of classes the logits (N, C), of a split whose batches are changed."""
    model.eval()
    device = next(model.parameters()).device
    rows = []
    for batch in map(change, loader(dataset, batch_size, neighbours=model.encode.neighbours)):
        output = model(batch.to(device))
        known = ... if batch.label_mask is None else batch.label_mask
        logits = None if output.logits is None else output.logits.cpu()[known]
        rows.append((output.prediction.cpu()[known], batch.labels[known], logits))
    prediction, labels, logits = zip(*rows, strict=True)
    return torch.cat(prediction), torch.cat(labels), None if logits[0] is None else torch.cat(logits)


def evaluate(model: FusionModel, dataset: Dataset) -> dict[str, float | None]:
    """Return the field's metrics of a model on one split: accuracy and F1, and more for regression (see `metrics`)."""
    return scores(*predict(model, dataset), model.config)
