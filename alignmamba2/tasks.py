"""Tasks, in one place: scores, predictions, unknown labels, loss and metrics of each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .batch import BatchError, MultimodalBatch
from .gpu.host import on_host, send
from .metrics import classification_metrics, multilabel_metrics, multitarget_metrics, regression_metrics

Function = Callable[[Tensor, Tensor], Any]


class Task:
    """Task is "classification", one of n classes per sample or step; its subclasses are the other tasks.

    Labels that are not known count neither in the loss nor in metrics; in what `rows` returns they are `unknown`.

    Attributes
    ----------
    own_loss : function (scores, labels) -> scalar Tensor, in place of the task's loss; not saved with a model
        It gets the rows that have a label, and logits or numbers as scores; of several labels, some may be `unknown`.
    own_metrics : mapping of name to function (probabilities or numbers, labels) -> number, such as one of torchmetrics
        It gets the same rows, of a whole split, after softmax or sigmoid.
    """

    several = False  # whether a label is K values, in the last dimension
    unknown = -1.0
    fewest = 2  # classes, labels or targets

    def __init__(self, config: Any):
        self.config, self.outputs = config, int(config.n_classes)
        self.own_loss: Function | None = None
        self.own_metrics: Mapping[str, Function] = {}
        if self.outputs < self.fewest:
            raise ValueError(f"n_classes: found {self.outputs}; expected at least {self.fewest} with {config.task!r}")
        weights = list(config.class_weights)
        right = all(isinstance(w, (int, float)) and 0 <= w < math.inf for w in weights) and sum(weights) > 0
        if weights and not (right and len(weights) == self.outputs and self.fewest > 1):
            expected = f"{self.outputs} numbers of at least 0, in regression none"
            raise ValueError(f"class_weights: found {weights}; expected {expected}")

    def predicted(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return prediction and logits, None for numbers, of scores (..., outputs)."""
        return scores.argmax(-1), scores

    def scores(self, output: Any) -> Tensor:
        """Return the scores (..., outputs) of a `ModelOutput`."""
        return output.prediction if output.logits is None else output.logits

    def probabilities(self, logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    @torch._disable_dynamo  # what depends on the values of labels is no graph; as torch.compiler.disable, imported late
    def loss(self, output: Any, batch: MultimodalBatch, training: bool = False) -> Tensor:
        """Return the mean loss over known labels; 0, with a gradient, where there is none."""
        guess, labels, mask = self.scores(output), batch.labels, batch.label_mask
        if labels is None:
            return guess.sum() * 0
        if labels.shape != output.prediction.shape:
            raise BatchError(
                f"labels: found {tuple(labels.shape)}; task={self.config.task!r}, readout={self.config.readout!r} "
                f"predicts {tuple(output.prediction.shape)}"
            )
        if mask is not None:
            known = on_host(mask)
            rows, here = self._rows(known), self._marked(on_host(labels), known)
            place = send(rows.flatten().nonzero().squeeze(1), guess.device)
            labels, guess = send(here[rows], guess.device), guess.flatten(0, rows.ndim - 1)[place]
        if not labels.numel():  # a mean over nothing, of no sample or of no step with a label
            return guess.sum()
        return self.own_loss(guess, labels) if self.own_loss else self._loss(guess, labels, training)

    def rows(self, output: Any, batch: MultimodalBatch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return prediction, labels and logits on the CPU: a row per sample or, of steps, per step with a label."""
        prediction, labels, mask = output.prediction, batch.labels, batch.label_mask
        if labels is None:
            labels = torch.full_like(prediction, self.unknown)
        elif mask is not None:
            labels = self._marked(labels, mask)
        part = self._rows(mask) if mask is not None and prediction.ndim > 1 + self.several else ...
        return tuple(None if x is None else x[part].cpu() for x in (prediction, labels, output.logits))

    @classmethod
    def known(cls, labels: Tensor) -> Tensor:
        """Return the mask of known labels, of labels as `rows` returns them."""
        return (labels == labels) & (labels != cls.unknown)

    def metrics(
        self, prediction: Tensor, labels: Tensor, logits: Tensor | None = None, own: Any = None
    ) -> dict[str, Any]:
        """Return the field's metrics of the rows with a label, then those of `own_metrics` and `own`."""
        rows = self._rows(self.known(labels))
        if not rows.any():
            raise ValueError(f"metrics: none of {len(rows)} labels is known; expected one at least")
        prediction, labels = prediction[rows], labels[rows]
        values = self._metrics(prediction, labels)
        guess = prediction if logits is None else self.probabilities(logits[rows])
        for name, metric in {**self.own_metrics, **(own or {})}.items():
            try:
                values[name] = float(metric(guess, labels))
            except (TypeError, ValueError, RuntimeError) as error:
                found = f"{tuple(guess.shape)} {guess.dtype} and labels {tuple(labels.shape)} {labels.dtype}"
                raise ValueError(f"metrics: {name!r} makes no number of {found}: {error}") from error
            if hasattr(metric, "reset"):
                metric.reset()
        return values

    @staticmethod
    def balanced(labels: Sequence[Tensor | None], outputs: int) -> list[float]:
        """Return N / (C · N_c) for each class, scikit-learn's "balanced"; for each label, the number of 0 per 1."""
        kinds = torch.cat([x.reshape(-1) for x in labels if x is not None])
        counts = torch.bincount(kinds[kinds >= 0], minlength=outputs).double()
        return (counts.sum() / (outputs * counts.clamp_min(1))).tolist()

    def _rows(self, known: Tensor) -> Tensor:
        return known.any(-1) if self.several else known

    def _marked(self, labels: Tensor, mask: Tensor) -> Tensor:
        return (labels.float() if math.isnan(self.unknown) else labels).masked_fill(~mask, self.unknown)

    def _weights(self, guess: Tensor) -> Tensor | None:
        return guess.new_tensor(self.config.class_weights) if self.config.class_weights else None

    def _loss(self, guess: Tensor, labels: Tensor, training: bool) -> Tensor:
        seen = on_host(labels)
        if labels.is_floating_point() or not 0 <= seen.min() <= seen.max() < self.outputs:
            found = f"{labels.dtype} {sorted(set(seen.tolist()))[:8]}"
            raise BatchError(f"labels: found {found}; expected whole numbers from 0 to {self.outputs - 1}")
        smoothing = self.config.label_smoothing if training else 0.0
        return F.cross_entropy(guess, labels, self._weights(guess), label_smoothing=smoothing)

    def _metrics(self, prediction: Tensor, labels: Tensor) -> dict[str, float | None]:
        return classification_metrics(prediction, labels, self.outputs)


class MultiLabel(Task):
    """MultiLabel is any of K labels per sample or step, 0 or 1 each; its loss is their mean binary cross-entropy.

    `class_weights` are those of a label's ones; `label_smoothing` is for classes alone.
    """

    several = True

    def predicted(self, scores):
        return (scores > 0).long(), scores

    def probabilities(self, logits):
        return logits.sigmoid()

    @staticmethod
    def balanced(labels, outputs):
        table = torch.cat([x.reshape(-1, outputs) for x in labels if x is not None])
        return ((table == 0).sum(0) / (table == 1).sum(0).clamp_min(1)).tolist()

    def _loss(self, guess, labels, training):
        seen, known = on_host(labels), self.known(on_host(labels))
        if len(wrong := seen[known & (seen != 0) & (seen != 1)]):
            raise BatchError(f"labels: found {wrong[0].item():g}; expected 0 or 1 for each label, as task='multilabel'")
        goal = labels.clamp_min(0).to(guess.dtype)
        losses = F.binary_cross_entropy_with_logits(guess, goal, pos_weight=self._weights(guess), reduction="none")
        return losses.masked_fill(~self.known(labels), 0).sum() / known.sum().item()

    def _metrics(self, prediction, labels):
        return multilabel_metrics(prediction, labels)


class MultiTarget(Task):
    """MultiTarget is K numbers per sample or step; its loss is the mean absolute error, weighted by `class_weights`."""

    several, unknown = True, math.nan

    def predicted(self, scores):
        return scores, None

    def _loss(self, guess, labels, training):
        weights, unknown = self._weights(guess), ~self.known(labels)
        errors = (guess - labels.to(guess.dtype).masked_fill(unknown, 0)).abs().masked_fill(unknown, 0)
        return (errors if weights is None else errors * weights).sum() / self.known(on_host(labels)).sum().item()

    def _metrics(self, prediction, labels):
        return multitarget_metrics(prediction, labels, self.config.classes)


class Regression(MultiTarget):
    """Regression is one number per sample or step; its loss is the absolute error."""

    several, fewest = False, 1

    def __init__(self, config: Any):
        super().__init__(config)
        self.outputs = 1

    def predicted(self, scores):
        return scores.squeeze(-1), None

    def _loss(self, guess, labels, training):
        return F.l1_loss(guess, labels.to(guess.dtype))

    def _metrics(self, prediction, labels):
        return regression_metrics(prediction, labels)


TASKS = {"classification": Task, "regression": Regression, "multilabel": MultiLabel, "multitarget": MultiTarget}
