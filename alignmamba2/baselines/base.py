"""The base of the baselines, and the steps that several fusions share."""

from __future__ import annotations  # fields' types are read as text

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import BatchError
from ..model import AlignMamba2Config, FusionModel, ModelOutput
from ..model.ordering import shuffled


@dataclass(frozen=True)
class BaselineConfig(AlignMamba2Config):
    """The settings that a baseline shares with AlignMamba-2, and its own."""

    kind: str = ""  # one of `KINDS`
    n_heads: int = 4  # of attention; d_model must be a multiple ("mult", "transformer")
    rank: int = 4  # of "lmf"


class Baseline(FusionModel):
    """A model that shares all but the fusion with AlignMamba-2. A subclass makes its layers and a `fuse`."""

    config_class = BaselineConfig

    def fuse(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """Tokens (B, T_m, d), 0 on padding, and masks (B, T_m) of all modalities → scores (B, n) or (B, T, n)."""
        raise NotImplementedError

    def predict(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> ModelOutput:
        """Fuse all modalities; for one that the batch lacks stand zeros, masked out."""
        if self.config.readout == "anchor_steps":
            raise BatchError(f"readout: found 'anchor_steps'; {self.config.kind} knows 'mean', 'last' and 'per_step'")
        self._check_steps(masks)
        present = [m for m, mask in masks.items() if mask.any()]
        every = dict.fromkeys(self.config.modalities, torch.zeros_like(tokens[present[0]]))
        every_mask = dict.fromkeys(self.config.modalities, torch.zeros_like(masks[present[0]]))
        for m in present:
            every[m] = self.dropout(tokens[m]).masked_fill(~masks[m].unsqueeze(-1), 0)
            every_mask[m] = masks[m]
        if self.training:
            for m, order in shuffled(every_mask, self.config.shuffle).items():
                mask = every_mask[m].unsqueeze(-1)
                every[m] = every[m].masked_scatter(mask, every[m][every_mask[m]][order])
        return self._output(self.fuse(every, every_mask))

    @property
    def per_step(self) -> bool:
        return self.config.readout == "per_step"

    def read_out(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, k) → (B, k): the mean over the real steps, or the last of them; unchanged with "per_step"."""
        if self.per_step:
            return x
        if self.config.readout == "last":
            last = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
            return x[torch.arange(len(x), device=x.device), last] * mask.any(1, keepdim=True)
        return mean_token(x, mask)


def mean_token(x: Tensor, mask: Tensor) -> Tensor:
    """(B, T, k) → (B, k): the mean over real tokens; 0 where there is none."""
    return (x * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)


def squeeze(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Real tokens to the front: (B, L, k) with L the most real tokens of a sample, and their number (B,)."""
    lengths = mask.sum(1)
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)[:, : max(1, int(lengths.max()))]
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[-1])), lengths


def side_by_side(
    tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor], anchor: str, per_step: bool
) -> tuple[Tensor, Tensor]:
    """Return all modalities at common steps, (B, T, M·d), 0 where one has no token, and the mask of steps (B, T).

    The steps are the anchor's; where a sample lacks it, those of its longest modality. Step i of T looks up token
    ⌊(i + ½) T_m / T⌋ of modality m: the one at the same relative time (our choice).
    """
    if per_step:
        return torch.cat(list(tokens.values()), -1), torch.stack(list(masks.values())).any(0)
    packed = {m: squeeze(tokens[m], masks[m]) for m in tokens}
    counts = torch.stack([n for _, n in packed.values()], 1)  # (B, M)
    lengths = packed[anchor][1]
    steps = torch.where(lengths > 0, lengths, counts.max(1).values)
    index = torch.arange(int(steps.max()), device=steps.device).expand(len(steps), -1)
    columns = []
    for x, n in packed.values():
        place = ((2 * index + 1) * n.unsqueeze(1)) // (2 * steps.unsqueeze(1))
        place = place.minimum((n - 1).clamp_min(0).unsqueeze(1))
        tokens_there = x.gather(1, place.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        columns.append(tokens_there * (n > 0).view(-1, 1, 1))
    mask = index < steps.unsqueeze(1)
    return torch.cat(columns, -1) * mask.unsqueeze(-1), mask
