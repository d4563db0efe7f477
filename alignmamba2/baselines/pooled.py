"""Baselines on one vector per modality (or, per step, the modality's token of that step)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .base import Baseline, BaselineConfig, mean_token
from .recurrent import MaskedLSTM, average


class Pooled(Baseline):
    """One vector per modality: the mean token; per step, that step's token. 0 for a missing modality."""

    def vectors(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {m: x if self.per_step else mean_token(x, masks[m]) for m, x in tokens.items()}


class ConcatMean(Pooled):
    """Vectors side by side, two layers."""

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        self.head = two_layers(len(c.modalities) * c.d_model, c.d_model, self.outputs, c.dropout)

    def fuse(self, tokens, masks):
        return self.head(torch.cat(list(self.vectors(tokens, masks).values()), -1))


class LateMean(Pooled):
    """Two layers per modality; scores averaged over the modalities that a sample has."""

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        self.heads = nn.ModuleDict({m: two_layers(c.d_model, c.d_model, self.outputs, c.dropout) for m in c.modalities})

    def fuse(self, tokens, masks):
        vectors = self.vectors(tokens, masks)
        return average({m: head(vectors[m]) for m, head in self.heads.items()}, masks, self.per_step)


class Tensors(Pooled):
    """Vectors [1; z_m] for the tensor networks, z_m from a small network; on a sequence, the anchor's is an LSTM."""

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        self.networks = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(c.d_model, c.d_model), nn.ReLU(), nn.Dropout(c.dropout)) for m in c.modalities}
        )
        self.lstm = None if self.per_step else MaskedLSTM(c.d_model, c.d_model)

    def vectors(self, tokens, masks):
        """Each with a 1 in front, so that the product holds every subset of modalities; missing: only that 1."""
        if self.lstm is not None:
            a = self.config.anchor
            tokens = {**tokens, a: self.lstm(tokens[a], masks[a])}
        extended = {}
        for m, z in super().vectors(tokens, masks).items():
            present = (masks[m] if self.per_step else masks[m].any(1)).unsqueeze(-1).to(z.dtype)
            extended[m] = torch.cat([torch.ones_like(z[..., :1]), self.networks[m](z) * present], -1)
        return extended


class TensorFusion(Tensors):
    """TFN (Zadeh et al. 2017): the outer product of [1; z_m] over modalities, flattened, two layers."""

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        self.head = two_layers((c.d_model + 1) ** len(c.modalities), c.d_model, self.outputs, c.dropout)

    def fuse(self, tokens, masks):
        product = None
        for z in self.vectors(tokens, masks).values():
            product = z if product is None else (product.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)
        return self.head(self.dropout(product))


class LowRankFusion(Tensors):
    r"""LMF (Liu et al. 2018): :math:`h = \sum_r w_r \prod_m W_{m,r} [1; z_m] + b`, then the head."""

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        bound = math.sqrt(6 / (2 * c.d_model + 1))
        shape = (c.rank, c.d_model + 1, c.d_model)
        self.factors = nn.ParameterDict(
            {m: nn.Parameter(torch.empty(shape).uniform_(-bound, bound)) for m in c.modalities}
        )
        self.weights = nn.Parameter(torch.full((c.rank,), 1 / c.rank))
        self.bias = nn.Parameter(torch.zeros(c.d_model))
        self.head = nn.Linear(c.d_model, self.outputs)

    def fuse(self, tokens, masks):
        product = 1.0
        for m, z in self.vectors(tokens, masks).items():
            product = product * torch.einsum("...i,rij->...rj", z, self.factors[m])
        return self.head(self.dropout(torch.einsum("...rj,r->...j", product, self.weights) + self.bias))


def two_layers(inside: int, hidden: int, outside: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Dropout(dropout), nn.Linear(inside, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outside)
    )
