"""The training loop: epochs of steps, a validation after each epoch, the weights of the best one kept."""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch._functorch import config as functorch
from tqdm import tqdm

from ..batch import MultimodalBatch
from ..datasets import Dataset
from ..model import FusionModel, ModelOutput
from ..recipes import TrainingConfig
from .averaging import WeightAverage
from .batches import loader, share_of
from .best import Best
from .environment import random_state, set_random_state
from .machines import Machines, gathered, process
from .optimizer import optimizer_of, schedule_of, warm_alignment


class TrainingError(ValueError):
    """Training cannot go on; the message names epoch, step and samples."""


@dataclass
class Loop:
    """Loop is a model in training, with all that changes from step to step.

    Read it from `run` on: an epoch is `train_epoch`, whose steps are `backward` and `update`, then `validate`.
    """

    model: FusionModel
    config: TrainingConfig
    epochs: int  # to train at most; the schedules are laid out for `config.max_epochs`
    train: Dataset
    valid: Dataset | None  # without it there is nothing to choose by, and all epochs run
    best: Best  # hears of every validated epoch
    machines: Machines
    accelerator: Accelerator  # what `Machines.start` returned
    seed: int = 0  # of the order of the training data; dropout draws from PyTorch's own generator
    callbacks: Sequence[Any] = ()  # see `fit`
    save: Callable[[Mapping[str, Any]], None] | None = None  # takes the whole state after each epoch
    progress: bool = False
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._tell("on_start", self.model, self.epochs)
        size, neighbours = self.config.batch_size, self.model.encode.neighbours
        options = {"share": True, "num_workers": self.machines.num_workers, "neighbours": neighbours}
        self.place = ""  # the step, for errors
        self.order = torch.Generator().manual_seed(self.seed)
        parts, bucket = self.machines.accumulate, self.config.bucket
        self.train_batches = loader(self.train, size, self.order, parts=parts, bucket=bucket, **options)
        self.valid_batches = functools.partial(loader, self.valid, size, **options)
        self.steps = len(self.train_batches) // parts
        self.total = self.steps * self.config.max_epochs
        # L_OT and L_MMD are measured on every so many batches of the validation split, evenly: 1 or 2 % of an epoch.
        self.measured_every = -(-len(self.valid_batches()) // max(1, self.steps // 12)) if self.valid else 1
        self.network = Network(self.model, self.machines.compile)
        self.shared = self.accelerator.prepare(self.network)  # on its device; within PyTorch's DDP if there are several
        self.optimizer = optimizer_of(self.model, self.config)
        self.schedule = schedule_of(self.optimizer, self.config, self.total)
        self.average = WeightAverage(p for p in self.model.parameters() if p.requires_grad)
        self.first_averaged = self.total - round(self.config.average * self.total)  # a step
        rank, world = process()
        if world > 1:  # the weights are the same in each process; dropout is each one's own
            torch.manual_seed(self.seed + rank)

    def run(self) -> None:
        """Train until all epochs are done, or the best one is as far back as patience reaches."""
        while self.epoch < self.epochs and not (self.valid and self.best.is_final(self.epoch)):
            untrained = self.validate(untrained=True) if self.valid and self.epoch == 0 else {}
            row = {"epoch": self.epoch, **untrained, **self.train_epoch()}
            with self.average.used():
                row |= self.validate() if self.valid else {}
                if self.valid or self.config.monitor == "epoch":
                    self.best.add(row, self.model)
            self.epoch += 1
            if self.save:
                self.save(self.state_dict())
            self._tell("on_epoch", row)
        if not self.valid:
            self.average.swap()
        warm_alignment(self.model, self.config, self.total, self.total)  # training may have ended before the warm-up

    def train_epoch(self) -> dict[str, float]:
        """Take every step of an epoch; return the means of the loss and its parts over all samples."""
        self.model.train()
        batches, sums = iter(self.train_batches), Counter()
        silent = not self.progress or process()[0] > 0
        with tqdm(total=self.steps, desc=f"epoch {self.epoch}", leave=False, disable=silent) as bar:
            for step in range(self.steps):
                done = self.epoch * self.steps + step
                warm_alignment(self.model, self.config, done, self.total)
                of_step = Counter()
                for part in range(self.machines.accumulate):
                    of_step.update(self.backward(next(batches), step, part))
                self.update()
                if done >= self.first_averaged:
                    self.average.add()
                sums.update(of_step)
                losses = means_of([of_step])
                bar.set_postfix(loss=losses["loss"], refresh=False)
                bar.update()
                self._tell("on_step", {"epoch": self.epoch, "step": step, **losses})
        return {f"train/{name}": value for name, value in means_of(gathered(sums)).items()}

    def backward(self, batch: MultimodalBatch, step: int, part: int) -> dict[str, float]:
        """Add the gradient of this process's part of a batch; return the loss and its parts, summed over samples."""
        self.place = f"epoch {self.epoch}, step {step}, samples {_some(batch.ids)}"
        samples = size = len(batch)
        if self.model.encode.neighbours == 1:
            samples, size = share_of(step, len(self.train), self.config.batch_size, part, self.machines.accumulate)
        is_last = part == self.machines.accumulate - 1
        with nullcontext() if is_last else self.accelerator.no_sync(self.shared):  # processes meet once per step
            output: ModelOutput = self.shared(batch.to(self.accelerator.device, non_blocking=True))
            losses = {"loss": output.loss, **output.losses}
            # One look at all of them: a GPU's host waits at each.
            losses = dict(zip(losses, torch.stack([x.detach().float() for x in losses.values()]).tolist(), strict=True))
            terms = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            finite = math.isfinite(losses["loss"])
            _stop_together("" if finite else f"{self.place}: the loss is no finite number ({terms})")
            # The processes' gradients are averaged: each counts by its share of the samples.
            weight = samples * process()[1] / size
            self.accelerator.backward(output.loss if weight == 1 else output.loss * weight)
        return {"samples": samples, **{name: value * samples for name, value in losses.items()}}

    def update(self) -> None:
        """Clip the gradient, take the optimiser's step and the schedule's."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters])
        if not norm.isfinite():
            bad = [n for n, p in self.model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
            raise TrainingError(f"{self.place}: the gradient's norm is {float(norm)}, by {_some(bad)}")
        nn.utils.clip_grads_with_norm_(parameters, self.config.grad_clip or math.inf, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()

    @torch.no_grad()
    def validate(self, untrained: bool = False) -> dict[str, float]:
        """Return loss, metrics and alignment on the validation split, each process's samples together.

        L_OT and L_MMD are those in prediction, without dropout; of the `untrained` model nothing else is measured.
        """
        self.model.eval()
        rows, sums, problem, task = [], Counter(samples=0), "", self.model.task
        every = self.measured_every if untrained else 1
        for step, batch in zip(itertools.count(0, every), self.valid_batches(every=every), strict=False):
            self.model.aligning = step % self.measured_every == 0
            batch = batch.to(self.accelerator.device, non_blocking=True)
            with self.model.swapping(seed=step):
                output: ModelOutput = self.network(batch)
            loss = torch.zeros(()) if output.loss is None else output.loss  # of samples without a label
            if not math.isfinite(loss):
                at = f"epoch {self.epoch}, validation, samples {_some(batch.ids)}"
                problem = problem or f"{at}: the loss is {float(loss)}"
            alone = self.model.encode.neighbours > 1
            samples = len(batch) if alone else share_of(step, len(self.valid), self.config.batch_size)[0]
            aligned = {name: float(value) for name, value in output.losses.items() if name != "task"}
            if aligned:
                sums.update(samples=samples, **{name: value * samples for name, value in aligned.items()})
            elif untrained:
                break  # a model without these losses
            if samples:
                prediction, labels, logits = task.rows(output, batch)
                count = int(task.known(labels).sum())
                rows.append(
                    (prediction, labels, logits if task.own_metrics else None, output.loss.cpu() * count, count)
                )
        self.model.aligning = False
        alignment = means_of(gathered(sums))
        if untrained:
            return {f"untrained/{name}": value for name, value in alignment.items()}
        _stop_together(problem)
        *parts, losses, counts = zip(*(row for share in gathered(rows) for row in share), strict=True)
        columns = (None if part[0] is None else torch.cat(part) for part in parts)
        metrics = {"loss": float(sum(losses)) / sum(counts), **task.metrics(*columns)}
        return {f"valid/{name}": value for name, value in {**metrics, **alignment}.items() if value is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return all that it takes to go on; every process has to ask for it."""
        return {
            "epochs": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "average": self.average.state_dict(),
            "order": self.order.get_state(),
            "alignment": dict(self.model.align.state) if self.model.align is not None else {},
            "random": gathered(random_state()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = int(state["epochs"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.average.load_state_dict(state["average"])
        self.order.set_state(state["order"])
        if self.model.align is not None:
            self.model.align.state = dict(state["alignment"])
        set_random_state(state["random"][process()[0]])

    def _tell(self, event: str, *what: Any) -> None:
        for callback in self.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(*what)


class Network(nn.Module):
    """Network is the call of a model, compiled or not; the model itself stays what it is.

    Hardly two batches are of one size: with static shapes, compiling would never end.
    """

    def __init__(self, model: nn.Module, compile: bool = False):
        super().__init__()
        self.model = model
        if compile:  # measuring gradients keeps the graph: a backward pass may not write over what it was left
            functorch.donated_buffer = False
        self.call = torch.compile(model.__call__, dynamic=True) if compile else model.__call__

    def forward(self, batch: MultimodalBatch) -> ModelOutput:
        return self.call(batch)


def means_of(sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the means of what processes summed over samples; "samples" of each says how many these were."""
    total = sum(part["samples"] for part in sums) or 1
    return {name: sum(part.get(name, 0.0) for part in sums) / total for name in sums[0] if name != "samples"}


def _stop_together(problem: str) -> None:
    """Raise on every process what one of them met, so that none waits for one that is gone."""
    if problems := [text for text in gathered(problem) if text]:
        raise TrainingError(problems[0])


def _some(names: Sequence[str]) -> str:
    return ", ".join(repr(n) for n in names[:8]) + (", …" if len(names) > 8 else "")
