"""Fit and evaluate, on Lightning."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, TQDMProgressBar
from torch import Tensor
from torch.utils.data import DataLoader

from .baselines import build_model
from .batch import MultimodalBatch
from .config import AlignMamba2Config
from .datasets import Dataset, load_dataset
from .files import write_text
from .metrics import classification_metrics, regression_metrics
from .model import AlignMamba2
from .recipes import Recipe, TrainingConfig


@dataclass(frozen=True)
class FitResult:
    """What `fit` leaves.

    Attributes
    ----------
    model : the best model by `monitor` on the validation split, ready to predict; with `refit`, trained anew for as
        many epochs on the training and validation splits together
    history : one mapping an epoch: "epoch", "train/loss", "train/task", "train/ot", "train/mmd", each pair's such as
        "train/mmd/audio-text", "valid/loss" and the validation metrics, such as "valid/accuracy"
    best_epoch : the epoch that the model comes from
    datasets : the splits
    recipe : what was run, overrides included
    seed : int
    folder : where model and history were written, or None
    """

    model: AlignMamba2
    history: list[dict[str, float]]
    best_epoch: int
    datasets: dict[str, Dataset]
    recipe: Recipe
    seed: int
    folder: Path | None


def fit(
    recipe: str | Path | Recipe,
    *,
    seed: int = 0,
    fast: bool = False,
    overrides: Mapping[str, Any] | None = None,
    datasets: dict[str, Dataset] | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
) -> FitResult:
    """Train AlignMamba-2 by a recipe; choose the epoch on the validation split. The test split is not touched.

    Parameters
    ----------
    recipe : name, path of a TOML, or a `Recipe`
    seed : int
        Of weights, data order and dropout. Same seed, same machine, same numbers.
    fast : bool
        Two epochs: to see that everything runs.
    overrides : mapping such as ``{"model.lambda_ot": 0.0}``
    datasets : splits to use instead of loading the recipe's
    folder : where to write the model, the history and the recipe; nothing is written if left out
    progress : show a progress bar
    """
    if not isinstance(recipe, Recipe):
        recipe = Recipe.load(recipe, overrides)
    elif overrides:
        raise ValueError("fit: overrides go with a recipe's name or path; this recipe is already read")
    if fast:
        recipe = dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, max_epochs=2))
    datasets = datasets or load_dataset(recipe.dataset, **recipe.data)
    train, valid = datasets["train"], datasets["valid"]
    best = _KeepBest(recipe.training.monitor)
    stop = EarlyStopping(recipe.training.monitor, mode=best.mode, patience=recipe.training.patience, check_finite=True)
    task = _train(recipe, seed, train, recipe.training.max_epochs, progress, valid, [best, stop])
    task.model.load_state_dict(best.weights)
    model = task.model
    if recipe.training.refit:
        whole = dataclasses.replace(train, split="train+valid", samples=[*train.samples, *valid.samples])
        model = _train(recipe, seed, whole, best.epoch + 1, progress).model
    result = FitResult(
        model.cpu().eval(),
        task.history,
        best.epoch,
        datasets,
        recipe,
        seed,
        Path(folder) if folder else None,
    )
    if result.folder:
        _write(result)
    return result


def _train(
    recipe: Recipe,
    seed: int,
    train: Dataset,
    epochs: int,
    progress: bool,
    valid: Dataset | None = None,
    callbacks: Sequence[Callback] = (),
) -> _Task:
    """Train a new model from this seed; the learning rate's course is the recipe's, however many epochs of it run."""
    size = recipe.training.batch_size
    L.seed_everything(seed, workers=True, verbose=False)
    task = _Task(build(recipe, train), recipe.training, steps=math.ceil(len(train) / size))
    bar = [TQDMProgressBar(leave=False)] if progress else []
    with _quiet():
        trainer = L.Trainer(
            max_epochs=epochs,
            accelerator="auto",
            devices=1,
            callbacks=[*callbacks, *bar],
            gradient_clip_val=recipe.training.grad_clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        order = torch.Generator().manual_seed(seed)
        trainer.fit(task, loader(train, size, order), None if valid is None else loader(valid, size))
    return task


def build(recipe: Recipe, train: Dataset) -> AlignMamba2:
    """The recipe's model for this data set, standardising features by the training split's statistics."""
    fitting = {"modalities": train.modalities, "task": train.task, "n_classes": train.n_classes}
    model = build_model({**fitting, "readout": train.readout, **recipe.model})
    model.set_statistics(train.statistics())
    return model


def loader(dataset: Dataset, batch_size: int, shuffle: torch.Generator | None = None) -> DataLoader:
    """Batches of a data set, in a random order if a generator is given."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle is not None,
        generator=shuffle,
        collate_fn=MultimodalBatch.from_samples,
        pin_memory=torch.cuda.is_available(),
    )


@torch.no_grad()
def predict(model: AlignMamba2, dataset: Dataset, batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Predictions and labels (N,), one a sample or, with one label a step, one a step."""
    model.eval()
    device = next(model.parameters()).device
    predictions, labels = [], []
    for batch in loader(dataset, batch_size):
        output = model(batch.to(device))
        known = ... if batch.label_mask is None else batch.label_mask
        predictions.append(output.prediction.cpu()[known])
        labels.append(batch.labels[known])
    return torch.cat(predictions), torch.cat(labels)


def evaluate(model: AlignMamba2, dataset: Dataset) -> dict[str, float | None]:
    """The field's metrics of a model on one split: accuracy and F1, and more for regression (see `metrics`)."""
    return _metrics(*predict(model, dataset), model.config)


def _metrics(prediction: Tensor, target: Tensor, config: AlignMamba2Config) -> dict[str, float | None]:
    if config.task == "classification":
        return classification_metrics(prediction, target, config.n_classes)
    return regression_metrics(prediction, target)


class _Task(L.LightningModule):
    """The model, its optimiser, and a history of means over each epoch's samples."""

    def __init__(self, model: AlignMamba2, training: TrainingConfig, steps: int):
        super().__init__()
        self.model, self.training_config, self.steps = model, training, steps
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._weights = 0
        self._valid: list[tuple[Tensor, Tensor, Tensor]] = []

    def training_step(self, batch: MultimodalBatch, _index: int) -> Tensor:
        output = self.model(batch)
        for name, value in {"loss": output.loss, **output.losses}.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach()) * len(batch)
        self._weights += len(batch)
        self.log("loss", output.loss.detach(), prog_bar=True, batch_size=len(batch))
        return output.loss

    def validation_step(self, batch: MultimodalBatch, index: int) -> None:
        with self.model.swapping(seed=index):
            output = self.model(batch)
        known = ... if batch.label_mask is None else batch.label_mask
        labels = batch.labels[known]
        self._valid.append((output.prediction[known], labels, output.loss * labels.numel()))

    def on_validation_epoch_end(self) -> None:
        prediction, labels, loss = zip(*self._valid, strict=True)
        self._valid.clear()
        target = torch.cat(labels)
        metrics = {"loss": float(sum(loss)) / len(target)}
        metrics |= _metrics(torch.cat(prediction).cpu(), target.cpu(), self.model.config)
        row = {"epoch": self.current_epoch}
        row |= {f"train/{name}": value / self._weights for name, value in self._sums.items()}
        row |= {f"valid/{name}": value for name, value in metrics.items() if value is not None}
        self._sums, self._weights = {}, 0
        self.history.append(row)
        shown = ("valid/loss", "valid/accuracy")
        for name, value in row.items():
            if name.startswith("valid/"):
                self.log(name, value, prog_bar=name in shown, batch_size=1)

    def configure_optimizers(self) -> dict[str, Any]:
        c = self.training_config
        # As Mamba does: no decay for what is no matrix of weights (norms, biases, A and D of the scan).
        plain = [p for name, p in self.named_parameters() if p.ndim < 2 or name.endswith("A_log")]
        others = {id(p) for p in plain}
        decayed = [p for p in self.parameters() if id(p) not in others]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": c.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=c.learning_rate,
        )
        total = self.steps * c.max_epochs
        warm = max(1, round(c.warmup * total))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _KeepBest(Callback):
    """The best weights so far, in memory: these models are small, and no file is half written."""

    def __init__(self, monitor: str):
        self.monitor = monitor
        self.mode = "min" if monitor.endswith(("loss", "mae")) else "max"
        self.score = math.inf
        self.epoch = -1
        self.weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"training.monitor: found {self.monitor!r}; there are "
                f"{sorted(n for n in trainer.callback_metrics if n.startswith('valid/'))}"
            )
        value = float(trainer.callback_metrics[self.monitor])
        score = value if self.mode == "min" else -value
        if score < self.score or not self.weights:
            self.score, self.epoch = score, trainer.current_epoch
            self.weights = {k: v.detach().clone() for k, v in task.model.state_dict().items()}


class _quiet(warnings.catch_warnings):
    """Lightning's hints on workers and logging do not apply to data that lies in memory."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", module="lightning")
        self._logger = logging.getLogger("lightning.pytorch")
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *exc: object) -> None:
        self._logger.setLevel(self._level)
        super().__exit__(*exc)


def _write(result: FitResult) -> None:
    result.model.save_pretrained(result.folder)
    notes = {
        "recipe": result.recipe.to_dict(),
        "seed": result.seed,
        "best_epoch": result.best_epoch,
        "history": result.history,
    }
    write_text(result.folder / "training.json", json.dumps(notes, indent=2) + "\n")
