"""What every baseline shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..batch import BatchError, MultimodalBatch
from ..model import AlignMamba2, ModelOutput, Projection, full_precision
from ..model.config import AlignMamba2Config
from ..model.trace import Trace


@dataclass(frozen=True)
class BaselineConfig(AlignMamba2Config):
    """The settings that a baseline shares with AlignMamba-2, and its own.

    Attributes
    ----------
    kind : one of `KINDS`
    n_heads : heads of attention; d_model must be a multiple ("mult", "transformer")
    rank : of "lmf"
    """

    kind: str = ""
    n_heads: int = 4
    rank: int = 4


class Baseline(AlignMamba2):
    """AlignMamba-2's projections, statistics, swapping, modality dropout, loss and files, with another fusion.

    A subclass makes its layers in `make` and fuses in `fuse`.
    """

    config_class = BaselineConfig
    width_step = 1  # d_model must be a multiple of this

    def __init__(self, config: BaselineConfig):
        nn.Module.__init__(self)
        self.config = c = config
        self.project = nn.ModuleDict(
            {
                m: Projection(width, c.d_model, c.dropout, c.clip, c.swap.get(m, 0.0))
                for m, width in c.modalities.items()
            }
        )
        self.dropout = nn.Dropout(c.dropout)
        self.outputs = c.n_classes if c.task == "classification" else 1
        self.make(c)

    def make(self, c: BaselineConfig) -> None:
        raise NotImplementedError

    def fuse(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
        """All modalities' tokens (B, T_m, d), 0 on padding, and masks (B, T_m) → scores (B, n) or (B, T, n)."""
        raise NotImplementedError

    def forward(self, batch: MultimodalBatch) -> ModelOutput:
        masks, projected = self._project(batch)
        kept = self._drop_modalities(masks)
        steps = {m: mask.shape[1] for m, mask in masks.items() if mask.any()}
        if self.per_step and len(set(steps.values())) > 1:
            raise BatchError(f"features: readout='per_step' needs equally many steps a modality; found {steps}")
        some = projected[next(iter(steps))]
        tokens, full = {}, {}
        for m in self.config.modalities:  # one that the batch does not have is there without tokens
            if m in steps:
                full[m] = kept[m]
                tokens[m] = projected[m].masked_fill(~kept[m].unsqueeze(-1), 0)
            else:
                tokens[m] = torch.zeros_like(some)
                full[m] = torch.zeros(some.shape[:2], dtype=torch.bool, device=some.device)
        scores = full_precision(self.fuse(tokens, full))
        if self.config.task == "regression":
            output = ModelOutput(prediction=scores.squeeze(-1))
        else:
            output = ModelOutput(prediction=scores.argmax(-1), logits=scores)
        if batch.labels is not None:
            output.losses = {"task": self._task_loss(output, batch)}
            output.loss = output.losses["task"]
        return output

    def trace(self, batch: MultimodalBatch) -> Trace:
        raise TypeError(f"trace: {type(self).__name__} is a baseline; only AlignMamba-2 has plans and experts to show")

    # What the fusions have in common.

    @property
    def per_step(self) -> bool:
        return self.config.readout == "per_step"

    def read_out(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, k) → (B, k): mean over, or last of, the real steps; unchanged with readout="per_step"."""
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
    """All modalities at common steps, (B, T, M·d) and the mask of steps (B, T); 0 where a modality has nothing.

    The steps are the anchor's; where a sample lacks it, those of its longest modality. Step i of T looks up token
    ⌊(i + ½) T_m / T⌋ of modality m: the one at the same relative time (our choice).
    """
    if per_step:
        return torch.cat(list(tokens.values()), -1), torch.stack(list(masks.values())).any(0)
    packed = {m: squeeze(tokens[m], masks[m]) for m in tokens}
    counts = torch.stack([n for _, n in packed.values()], 1)  # (B, M)
    own = packed[anchor][1]
    steps = torch.where(own > 0, own, counts.max(1).values)
    index = torch.arange(int(steps.max()), device=steps.device).expand(len(steps), -1)
    found = []
    for x, n in packed.values():
        place = ((2 * index + 1) * n.unsqueeze(1)) // (2 * steps.unsqueeze(1))
        place = place.minimum((n - 1).clamp_min(0).unsqueeze(1))
        picked = x.gather(1, place.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
        found.append(picked * (n > 0).view(-1, 1, 1))
    mask = index < steps.unsqueeze(1)
    return torch.cat(found, -1) * mask.unsqueeze(-1), mask
