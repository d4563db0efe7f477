"""A model's predictions on a data set, and the field's metrics of them."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..batch import MultimodalBatch
from ..datasets import Dataset
from ..model import FusionModel
from .batches import loader


@torch.no_grad()
def outputs(
    model: FusionModel,
    dataset: Dataset,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    change: Callable[[MultimodalBatch], MultimodalBatch] = lambda batch: batch,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return predictions, labels and logits of a data set, on the CPU; None for what there is not.

    One row per sample or, with one label per step, one per step with a label. A label that is not known is −1 or, of
    numbers, NaN. `device` is where the model goes, and stays; `change`
    is made to each batch first.
    """
    model.to(device).eval()
    place = next(model.parameters()).device
    rows, labelled = [], False
    for batch in map(change, loader(dataset, batch_size, neighbours=model.encode.neighbours)):
        batch = batch.to(place)
        rows.append(model.task.rows(model(batch), batch))
        labelled |= batch.labels is not None
    prediction, labels, logits = (None if x[0] is None else torch.cat(x) for x in zip(*rows, strict=True))
    return prediction, labels if labelled else None, logits


def predict(
    model: FusionModel,
    data: Dataset | Any,
    batch_size: int = 64,
    *,
    device: torch.device | str | None = None,
    **columns: Any,
) -> tuple[Tensor, Tensor | None] | Any:
    """Return predictions and labels, (N,) or (N, K), one row per sample or, with one label per step, one per step.

    A label that is not known is −1 or, of numbers, NaN. Of a pandas frame, return a frame with its index: "prediction"
    (of several labels, the names of those predicted) and the probability of each class or label; of several targets, a
    column for each. `columns` are those of `Dataset.from_frame`, such as ``text="review"``; a modality is otherwise the
    column of its name.
    """
    if isinstance(data, Dataset):
        return outputs(model, data, batch_size, device)[:2]
    import pandas

    columns = {m: m for m in model.config.modalities if m in data.columns} | columns
    encoders = {m: e.config.name for m, e in model.encode.items() if m in columns} | columns.pop("encoders", {})
    dataset = Dataset.from_frame(data, encoders=encoders, say=lambda _: None, **columns)["test"]
    prediction, _, logits = outputs(model, dataset, batch_size, device)
    task = model.task
    names = model.config.classes or [str(k) for k in range(task.outputs)]
    if logits is None:
        return pandas.DataFrame(prediction.numpy(), data.index, names if task.several else ["prediction"])
    table = pandas.DataFrame(task.probabilities(logits).numpy(), data.index, names)
    chosen = prediction.tolist()
    if task.several:
        chosen = [[name for name, is_on in zip(names, row, strict=True) if is_on] for row in chosen]
    else:
        chosen = [names[k] for k in chosen]
    table.insert(0, "prediction", chosen)
    return table


def evaluate(
    model: FusionModel,
    dataset: Dataset,
    *,
    device: torch.device | str | None = None,
    metrics: Mapping[str, Callable[[Tensor, Tensor], Any]] | None = None,
) -> dict[str, float | None]:
    """Return the field's metrics of a model on one split: accuracy and F1, and more for numbers (see `metrics`).

    `device` is where the model goes, and stays; default where it is. `metrics` are functions of your own, by name, such
    as those of torchmetrics: of probabilities, or predicted numbers, and labels (see `tasks.Task.own_metrics`).
    """
    prediction, labels, logits = outputs(model, dataset, device=device)
    if labels is None:
        raise ValueError(f"{dataset.name}, split {dataset.split!r}: no labels to compare predictions with")
    return model.task.metrics(prediction, labels, logits, metrics)
