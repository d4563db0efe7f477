"""Recurrent baselines: early and late fusion, and the contextual bc-LSTM."""

from collections.abc import Mapping

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
