"""The mean of a model's weights over the last steps of a training."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_swa_multi_avg_fn


class WeightAverage:
    r"""WeightAverage is the mean of parameters over the steps that were added.

    .. math:: \bar w_n = \bar w_{n-1} + (w_n - \bar w_{n-1}) / n

    Source: Polyak and Juditsky 1992; Izmailov et al. 2018 (stochastic weight averaging), here with the learning rate's
    own course in place of a constant rate (our choice).

    Parameters
    ----------
    parameters : those that learn; their mean takes as much memory again, from the first step that is added
    """

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = list(parameters)
        self.mean: list[Tensor] = []
        self.count = 0

    @torch.no_grad()
    def add(self) -> None:
        """Add the parameters as they are now."""
        if self.mean:
            get_swa_multi_avg_fn()(self.mean, self.parameters, self.count)
        else:
            self.mean = [p.detach().clone() for p in self.parameters]
        self.count += 1

    def swap(self) -> None:
        """Exchange parameters and means; nothing happens before the first step is added."""
        for p, mean in zip(self.parameters, self.mean, strict=bool(self.mean)):
            p.data, mean.data = mean.data, p.data

    @contextmanager
    def used(self) -> Iterator[None]:
        """Within, the model has the mean weights."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.count = int(state["count"])
        self.mean = [x.to(p.device) for x, p in zip(state["mean"], self.parameters, strict=bool(state["mean"]))]
