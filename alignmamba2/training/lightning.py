"""AlignMamba-2 as a LightningModule, for a Trainer of your own. No other module imports Lightning, an extra."""

import math
from typing import Any

try:
    import lightning as L
except ImportError as error:
    raise ImportError("Lightning is not installed: pip install 'alignmamba2[lightning]'") from error
import torch
from torch import Tensor, nn

from ..batch import MultimodalBatch
from ..recipes import TrainingConfig
from .optimizer import optimizer_of, schedule_of, warm_alignment


class AlignMambaModule(L.LightningModule):
    """AlignMambaModule trains a model as `fit` does, step by step, under a Lightning `Trainer`.

    It logs "train/loss" with the parts of the loss, "valid/loss" and the validation metrics. Batches come from
    `training.loader`. The Trainer clips the gradient, ``L.Trainer(gradient_clip_val=config.grad_clip)``, and keeps the
    best epoch, stops early and resumes if it has the callbacks for it.

    Parameters
    ----------
    model : AlignMamba2 or a baseline, such as `training.build` makes
    config : TrainingConfig
        For the optimiser, its schedule and the warm-up of the alignment losses; no other settings are read.

    Raises
    ------
    ValueError
        The Trainer has no end, so that the schedule has no length.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig | None = None):
        super().__init__()
        self.model, self.config = model, config or TrainingConfig()
        self._valid: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def training_step(self, batch: MultimodalBatch, index: int) -> Tensor:
        warm_alignment(self.model, self.config, self.global_step, self._steps())
        output = self.model(batch)
        losses = {"loss": output.loss, **output.losses}
        values = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(batch))
        return output.loss

    def on_train_end(self) -> None:
        warm_alignment(self.model, self.config, 1, 0)

    def validation_step(self, batch: MultimodalBatch, index: int) -> None:
        with self.model.swapping(seed=index):
            output = self.model(batch)
        rows = self.model.task.rows(output, batch)
        self.log("valid/loss", output.loss, batch_size=int(self.model.task.known(rows[1]).sum()), sync_dist=True)
        self._valid.append(rows)

    def on_validation_epoch_end(self) -> None:
        rows = (None if x[0] is None else torch.cat(x) for x in zip(*self._valid, strict=True))
        self._valid.clear()
        metrics = self.model.task.metrics(*rows)
        self.log_dict({f"valid/{name}": value for name, value in metrics.items() if value is not None}, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = optimizer_of(self.model, self.config)
        schedule = schedule_of(optimizer, self.config, self._steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise ValueError("Trainer: found no end of training; expected max_epochs or max_steps")
        return int(steps)
