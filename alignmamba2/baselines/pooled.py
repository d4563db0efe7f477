"""Baselines on one vector per modality or step: pooled tokens, tensor products, and LSTMs."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .base import Baseline, BaselineConfig, mean_token, side_by_side, squeeze


class MaskedLSTM(nn.Module):
    """An LSTM that never sees padding: (B, T, k) → (B, T, hidden or, both ways, 2 hidden), 0 on padding."""

    def __init__(self, width: int, hidden: int, both: bool = False):
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=both)
        self.width = hidden * (2 if both else 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        tokens, lengths = squeeze(x, mask)
        packed = pack_padded_sequence(tokens, lengths.clamp_min(1).cpu(), batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])
        states = y.new_zeros(*mask.shape, self.width)
        states[mask] = y[torch.arange(y.shape[1], device=y.device) < lengths.unsqueeze(1)].to(states.dtype)
        return states


class EarlyLSTM(Baseline):
    """[text; audio; video] at each step → LSTM → readout → head."""

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        self.lstm = MaskedLSTM(len(c.modalities) * c.d_model, c.d_model)
        self.head = nn.Linear(c.d_model, self.outputs)

    def fuse(self, tokens, masks):
        x, mask = side_by_side(tokens, masks, self.config.anchor, self.per_step)
        return self.head(self.dropout(self.read_out(self.lstm(x, mask), mask)))


class LateLSTM(Baseline):
    """An LSTM and a head per modality; scores averaged over the modalities that a sample has."""

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        self.lstms = nn.ModuleDict({m: MaskedLSTM(c.d_model, c.d_model) for m in c.modalities})
        self.heads = nn.ModuleDict({m: nn.Linear(c.d_model, self.outputs) for m in c.modalities})

    def fuse(self, tokens, masks):
        vectors = {m: self.read_out(self.lstms[m](x, masks[m]), masks[m]) for m, x in tokens.items()}
        return average({m: self.heads[m](self.dropout(x)) for m, x in vectors.items()}, masks, self.per_step)


class BcLSTM(Baseline):
    """Two-way LSTMs over the steps, first of each modality, then of all side by side (Poria et al. 2017).

    Their paper trains the two levels one after the other; here they are trained together (our choice).
    """

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        self.lstms = nn.ModuleDict({m: MaskedLSTM(c.d_model, c.d_model, both=True) for m in c.modalities})
        self.down = nn.ModuleDict({m: nn.Linear(2 * c.d_model, c.d_model) for m in c.modalities})
        self.together = MaskedLSTM(len(c.modalities) * c.d_model, c.d_model, both=True)
        self.head = nn.Linear(2 * c.d_model, self.outputs)

    def fuse(self, tokens, masks):
        contexts = {}
        for m, x in tokens.items():
            context = self.down[m](self.dropout(self.lstms[m](x, masks[m]))).tanh()
            contexts[m] = context * masks[m].unsqueeze(-1)
        x, mask = side_by_side(contexts, masks, self.config.anchor, self.per_step)
        return self.head(self.dropout(self.read_out(self.together(x, mask), mask)))


def average(scores: Mapping[str, Tensor], masks: Mapping[str, Tensor], per_step: bool) -> Tensor:
    """Return the mean of the scores over the modalities that a sample (or a step) has."""
    present = torch.stack([masks[m] if per_step else masks[m].any(1) for m in scores]).unsqueeze(-1)
    return (torch.stack(list(scores.values())) * present).sum(0) / present.sum(0).clamp_min(1)


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
