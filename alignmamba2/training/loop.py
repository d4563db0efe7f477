"""What Lightning runs for `training.fit`: the task, what watches it, and how several processes share a batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed
from torch.utils.data import BatchSampler

from ..batch import MultimodalBatch
from ..metrics import classification_metrics, regression_metrics
from ..model.config import AlignMamba2Config
from ..recipes import TrainingConfig
from .checkpoint import CheckpointError, random_state, set_random_state


class TrainingError(ValueError):
    """Training cannot go on; the message names epoch, step and samples."""


def scores(prediction: Tensor, target: Tensor, config: AlignMamba2Config) -> dict[str, float | None]:
    """The field's metrics for the model's task (see `metrics`)."""
    if config.task == "classification":
        return classification_metrics(prediction, target, config.n_classes)
    return regression_metrics(prediction, target)


class Task(L.LightningModule):
    """The model, its optimiser, and a history of means over each epoch's samples.

    `samples` are those of the training and of the validation split; a batch is `training.batch_size` of them over all
    processes together. With `compile`, the call of the model is compiled and not the model, which stays what it is.
    """

    def __init__(
        self, model: torch.nn.Module, training: TrainingConfig, samples: tuple[int, int], compile: bool = False
    ):
        super().__init__()
        # Hardly two batches are of one size: a graph for each would never be done compiling.
        self.run = torch.compile(model.__call__, dynamic=True) if compile else model.__call__
        self.model, self.training_config, self.samples = model, training, samples
        self.steps = math.ceil(samples[0] / training.batch_size)
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._weights = 0
        self._valid: list[tuple[Tensor, Tensor, Tensor]] = []
        self._at = ""

    def on_train_start(self) -> None:
        rank, _ = process()
        if rank:  # the weights are one process's; dropout is each one's own
            torch.manual_seed(torch.initial_seed() + rank)

    def training_step(self, batch: MultimodalBatch, index: int) -> Tensor:
        warm = round(self.training_config.alignment_warmup * self.steps * self.training_config.max_epochs)
        self.model.alignment_warmth = min(1.0, self.global_step / warm) if warm else 1.0
        output = self.run(batch)
        self._at = f"epoch {self.current_epoch}, step {index}, samples {_some(batch.ids)}"
        values = {name: float(value.detach()) for name, value in {"loss": output.loss, **output.losses}.items()}
        if not math.isfinite(values["loss"]):
            parts = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise TrainingError(f"{self._at}: the loss is no finite number ({parts})")
        own, size = self._share(index, self.samples[0])
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value * own
        self._weights += own
        self.log("loss", output.loss.detach(), prog_bar=True, batch_size=len(batch))
        # The processes' gradients are averaged: each counts by its share of the samples.
        weight = own * process()[1] / size
        return output.loss if weight == 1 else output.loss * weight

    def on_train_end(self) -> None:
        self.model.alignment_warmth = 1.0  # training may have ended before the warm-up

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        if not norm.isfinite():
            bad = [n for n, p in self.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
            raise TrainingError(f"{self._at}: the gradient's norm is {float(norm)}, by {_some(bad)}")
        torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val or math.inf, norm)

    def validation_step(self, batch: MultimodalBatch, index: int) -> None:
        with self.model.swapping(seed=index):
            output = self.run(batch)
        loss = float(output.loss)
        if not math.isfinite(loss):
            raise TrainingError(
                f"epoch {self.current_epoch}, validation, samples {_some(batch.ids)}: the loss is {loss}"
            )
        known = ... if batch.label_mask is None else batch.label_mask
        labels = batch.labels[known]
        if self._share(index, self.samples[1])[0]:
            self._valid.append((output.prediction[known].cpu(), labels.cpu(), output.loss.cpu() * labels.numel()))

    def on_validation_epoch_end(self) -> None:
        prediction, labels, loss = zip(*(row for part in gathered(self._valid) for row in part), strict=True)
        self._valid.clear()
        target = torch.cat(labels)
        metrics = {"loss": float(sum(loss)) / len(target)}
        metrics |= scores(torch.cat(prediction), target, self.model.config)
        row = {"epoch": self.current_epoch}
        row |= {f"train/{name}": value for name, value in self._means().items()}
        row |= {f"valid/{name}": value for name, value in metrics.items() if value is not None}
        self.history.append(row)
        shown = ("valid/loss", "valid/accuracy")
        for name, value in row.items():
            if name.startswith("valid/"):
                self.log(name, value, prog_bar=name in shown, batch_size=1)

    def _share(self, index: int, samples: int) -> tuple[int, int]:
        """Samples of this step that are this process's (0: it has a stand-in, see `Share`), and those of all."""
        rank, world = process()
        size = min(self.training_config.batch_size, samples - index * self.training_config.batch_size)
        return len(range(rank, size, world)), size

    def _means(self) -> dict[str, float]:
        """Of each part of the loss, over the samples since the last call, of all processes."""
        parts = gathered((self._sums, self._weights))
        self._sums, self._weights = {}, 0
        total = sum(weight for _, weight in parts)
        return {name: sum(sums.get(name, 0.0) for sums, _ in parts) / total for name in parts[0][0]}

    def configure_optimizers(self) -> dict[str, Any]:
        c = self.training_config
        # As Mamba does: no decay for what is no matrix of weights (norms, biases, A and D of the scan).
        plain = [p for name, p in self.named_parameters() if p.ndim < 2 or name.endswith("A_log")]
        others = {id(p) for p in plain}
        decayed = [p for p in self.parameters() if id(p) not in others]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": c.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=c.learning_rate,
            fused=True,
        )
        total = self.steps * c.max_epochs
        warm = max(1, round(c.warmup * total))

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class KeepBest(Callback):
    """The best weights so far, in memory; training ends `patience` epochs after them."""

    def __init__(self, monitor: str, patience: int):
        self.monitor, self.patience = monitor, patience
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

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if self.finished(trainer.current_epoch + 1):
            trainer.should_stop = True

    def finished(self, epochs: int) -> bool:
        """Whether patience is at its end after so many epochs."""
        return epochs - 1 - self.epoch >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.score, self.epoch, self.weights = float(state["score"]), int(state["epoch"]), dict(state["weights"])


class Resume(Callback):
    """Hands the whole state of training to `write` after each epoch, and begins with such a state if one is given.

    `order` draws the order of the training data; `state` is what `write` was given.
    """

    def __init__(
        self,
        write: Callable[[Mapping[str, Any]], None],
        order: torch.Generator,
        state: Mapping[str, Any] | None = None,
    ):
        self._write, self._order, self._state = write, order, state

    def on_fit_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        """Weights and epoch; here, so that they are there even if no epoch is left to train."""
        if self._state is None:
            return
        with _fitting():
            progress = trainer.fit_loop.epoch_progress.current
            progress.processed = progress.completed = int(self._state["epochs"])
            task.model.load_state_dict(self._state["model"])
            task.history = [dict(row) for row in self._state["history"]]

    def on_train_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if self._state is None:
            return
        with _fitting():
            trainer.optimizers[0].load_state_dict(self._state["optimizer"])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self._state["schedule"])

    def on_train_epoch_start(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        if self._state is not None:  # only now: Lightning has drawn from the generators while it set up
            with _fitting():
                self._order.set_state(self._state["order"])
                set_random_state(self._state["random"][process()[0]])
            self._state = None

    def on_train_epoch_end(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        random = gathered(random_state())
        if process()[0]:
            return
        self._write(
            {
                "epochs": trainer.current_epoch + 1,
                "model": task.model.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
                "history": task.history,
                "order": self._order.get_state(),
                "random": random,
            }
        )


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint does not fit this model: {error}; resume=False starts anew") from error


class Share(BatchSampler):
    """This process's part of every batch: of n processes, the r-th takes every n-th sample, from the r-th on.

    A process that would get nothing takes the first sample as a stand-in, which then counts 0.
    """

    def __init__(self, batches: BatchSampler):
        super().__init__(batches.sampler, batches.batch_size, batches.drop_last)  # Lightning looks at them
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = process()
        for batch in self.batches:
            yield batch[rank::world] or batch[:1]

    def __len__(self) -> int:
        return len(self.batches)


def process() -> tuple[int, int]:
    """The number of this process among those that train together, and how many these are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def gathered(value: Any) -> list[Any]:
    """The value of every process that trains with this one, by number."""
    _, world = process()
    values = [value] * world
    if world > 1:
        distributed.all_gather_object(values, value)
    return values


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(n) for n in names[:8]) + (", …" if len(names) > 8 else "")
