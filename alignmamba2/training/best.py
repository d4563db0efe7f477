"""The history of a training, and the weights of its best epoch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def sign_of(monitor: str) -> int:
    """Return 1 for a metric of which less is better, also of one target or pair, -1 for others."""
    return 1 if monitor.endswith(("loss", "mae")) or {"mae", "ot", "mmd"} & {*monitor.split("/")} else -1


class Best:
    """Best is the history of the epochs, one row each, with the weights of the one that is best by `monitor`."""

    def __init__(self, monitor: str, patience: int, metrics: Mapping[str, Any] | None = None):
        """`metrics` are the caller's, by name; those of torchmetrics say of themselves whether more is better."""
        self.monitor, self.patience = monitor, patience
        own = (metrics or {}).get(monitor.removeprefix("valid/"))
        self.sign = 1 if getattr(own, "higher_is_better", None) is False else sign_of(monitor)
        self.history: list[dict[str, float]] = []
        self.score, self.epoch = math.inf, -1
        self.weights: dict[str, Tensor] = {}

    def add(self, row: Mapping[str, float], model: nn.Module) -> None:
        """Add an epoch; keep the model's weights if none was better."""
        names = sorted(name for name in row if name.startswith("valid/"))
        if self.monitor not in (names := [*names, "epoch"]):
            raise ValueError(f"training.monitor: found {self.monitor!r}; there are {names}")
        self.history.append(dict(row))
        score = self.sign * row[self.monitor]
        if score < self.score or not self.weights:
            self.score, self.epoch = score, row["epoch"]
            self.weights = {name: x.detach().clone() for name, x in model.state_dict().items()}

    def is_final(self, epochs: int) -> bool:
        """Return whether patience is at its end after so many epochs."""
        return epochs - 1 - self.epoch >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any], history: Sequence[Mapping[str, float]]) -> None:
        self.score, self.epoch, self.weights = float(state["score"]), int(state["epoch"]), dict(state["weights"])
        self.history = [dict(row) for row in history]
