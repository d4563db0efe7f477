"""Recurrent baselines: early and late fusion, and the contextual bc-LSTM."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from .base import Baseline, BaselineConfig, side_by_side, squeeze


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
        found = y.new_zeros(*mask.shape, self.width)
        found[mask] = y[torch.arange(y.shape[1], device=y.device) < lengths.unsqueeze(1)].to(found.dtype)
        return found


class EarlyLSTM(Baseline):
    """[text; audio; video] at each step → LSTM → readout → head."""

    def make(self, c: BaselineConfig) -> None:
        self.lstm = MaskedLSTM(len(c.modalities) * c.d_model, c.d_model)
        self.head = nn.Linear(c.d_model, self.outputs)

    def fuse(self, tokens, masks):
        x, mask = side_by_side(tokens, masks, self.config.anchor, self.per_step)
        return self.head(self.dropout(self.read_out(self.lstm(x, mask), mask)))


class LateLSTM(Baseline):
    """An LSTM and a head a modality; scores averaged over the modalities that are there."""

    def make(self, c: BaselineConfig) -> None:
        self.lstms = nn.ModuleDict({m: MaskedLSTM(c.d_model, c.d_model) for m in c.modalities})
        self.heads = nn.ModuleDict({m: nn.Linear(c.d_model, self.outputs) for m in c.modalities})

    def fuse(self, tokens, masks):
        scores = {
            m: self.heads[m](self.dropout(self.read_out(self.lstms[m](x, masks[m]), masks[m])))
            for m, x in tokens.items()
        }
        return average(scores, masks, self.per_step)


class BcLSTM(Baseline):
    """Two-way LSTMs over the steps, a modality first, then over all of them side by side (Poria et al. 2017).

    Their paper trains the two levels one after the other; here they are trained together (our choice).
    """

    def make(self, c: BaselineConfig) -> None:
        self.lstms = nn.ModuleDict({m: MaskedLSTM(c.d_model, c.d_model, both=True) for m in c.modalities})
        self.down = nn.ModuleDict({m: nn.Linear(2 * c.d_model, c.d_model) for m in c.modalities})
        self.together = MaskedLSTM(len(c.modalities) * c.d_model, c.d_model, both=True)
        self.head = nn.Linear(2 * c.d_model, self.outputs)

    def fuse(self, tokens, masks):
        own = {}
        for m, x in tokens.items():
            context = self.down[m](self.dropout(self.lstms[m](x, masks[m]))).tanh()
            own[m] = context * masks[m].unsqueeze(-1)
        x, mask = side_by_side(own, masks, self.config.anchor, self.per_step)
        return self.head(self.dropout(self.read_out(self.together(x, mask), mask)))


def average(scores: dict[str, Tensor], masks: dict[str, Tensor], per_step: bool) -> Tensor:
    """The mean of the scores of the modalities that are there, a sample (or a step) at a time."""
    there = torch.stack([masks[m] if per_step else masks[m].any(1) for m in scores]).unsqueeze(-1)
    return (torch.stack(list(scores.values())) * there).sum(0) / there.sum(0).clamp_min(1)
