"""A model's predictions on a data set, and the field's metrics of them."""

from collections.abc import Callable
from typing import Any

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


@torch.no_grad()
def outputs(
    model: FusionModel,
    dataset: Dataset,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    change: Callable[[MultimodalBatch], MultimodalBatch] = lambda batch: batch,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return predictions, labels and logits of a data set, on the CPU; None for what there is not.

    One row per sample or, with one label per step, one per step. `device` is where the model goes, and stays; `change`
    is made to each batch first.
    """
    model.to(device).eval()
    place = next(model.parameters()).device
    rows: tuple[list[Tensor], ...] = ([], [], [])
    for batch in map(change, loader(dataset, batch_size, neighbours=model.encode.neighbours)):
        output = model(batch.to(place))
        known = ... if batch.label_mask is None else batch.label_mask
        for part, x in zip(rows, (output.prediction, batch.labels, output.logits), strict=True):
            part += [] if x is None else [x.cpu()[known]]
    return tuple(torch.cat(part) if part else None for part in rows)


def predict(
    model: FusionModel,
    data: Dataset | Any,
    batch_size: int = 64,
    *,
    device: torch.device | str | None = None,
    **columns: Any,
) -> tuple[Tensor, Tensor | None] | Any:
    """Return predictions and labels (N,), one per sample or, with one label per step, one per step.

    Of a pandas frame, return a frame with its index: "prediction" and, for classes, the probability of each. `columns`
    are those of `Dataset.from_frame`, such as ``text="review"``; a modality is otherwise the column of its name.
    """
    if isinstance(data, Dataset):
        return outputs(model, data, batch_size, device)[:2]
    import pandas

    columns = {m: m for m in model.config.modalities if m in data.columns} | columns
    encoders = {m: e.config.name for m, e in model.encode.items() if m in columns} | columns.pop("encoders", {})
    dataset = Dataset.from_frame(data, encoders=encoders, say=lambda _: None, **columns)["test"]
    prediction, _, logits = outputs(model, dataset, batch_size, device)
    if logits is None:
        return pandas.DataFrame({"prediction": prediction.numpy()}, data.index)
    names = model.config.classes or [str(k) for k in range(logits.shape[-1])]
    table = pandas.DataFrame(logits.softmax(-1).numpy(), data.index, names)
    table.insert(0, "prediction", [names[k] for k in prediction.tolist()])
    return table


def evaluate(
    model: FusionModel, dataset: Dataset, *, device: torch.device | str | None = None
) -> dict[str, float | None]:
    """Return the field's metrics of a model on one split: accuracy and F1, and more for regression (see `metrics`).

    `device` is where the model goes, and stays; default where it is.
    """
    prediction, labels, _ = outputs(model, dataset, device=device)
    if labels is None:
        raise ValueError(f"{dataset.name}, split {dataset.split!r}: no labels to compare predictions with")
    return scores(prediction, labels, model.config)
