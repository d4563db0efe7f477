"""Mamba baselines: AlignMamba-2 with something taken away, and its predecessor."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from ..alignment import transport
from ..model import AlignMamba2
from ..model.ordering import Ordering
from .base import BaselineConfig


class PlainMamba(AlignMamba2):
    """A plain Mamba on all tokens: one shared expert, no alignment."""

    config_class = BaselineConfig
    width_step = 1

    def __init__(self, config: BaselineConfig):
        plain = {"experts": "shared", "routing": "modality", "n_shared": 1, "lambda_ot": 0.0, "lambda_mmd": 0.0}
        super().__init__(dataclasses.replace(config, **plain))


class AlignMambaV1(AlignMamba2):
    r"""AlignMamba (arXiv 2412.00833, as a third party tells it): transported tokens, then a plain Mamba.

    Every token i of a modality goes to its nearest anchor token j, plan :math:`M_{ij} = 1/T_m`; at step j stands the
    mean of the tokens that arrived, :math:`\sum_i M_{ij} x_i / \sum_i M_{ij}`, and nothing where none did (our
    choice). The transport is computed when predicting too: the cost that AlignMamba-2 does away with. MMD as in
    AlignMamba-2. A sample without an anchor keeps its tokens as they are.
    """

    config_class = BaselineConfig
    width_step = 1

    def __init__(self, config: BaselineConfig):
        plain = {"experts": "shared", "routing": "modality", "n_shared": 1, "lambda_ot": 0.0}
        super().__init__(dataclasses.replace(config, **plain))

    def _fuse(
        self,
        projected: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        records: list[dict[str, Tensor]] | None = None,
    ) -> tuple[Tensor, Ordering, dict[str, Tensor]]:
        anchor = self.config.anchor
        if anchor not in projected or self.config.readout == "per_step" or not masks[anchor].any():
            return super()._fuse(projected, masks, records)  # one token a step: they are aligned as they come
        moved, arrived = dict(projected), dict(masks)
        for m in projected:
            if m != anchor:
                moved[m], arrived[m] = self._transported(projected, masks, m)
        return super()._fuse(moved, arrived, records)

    def _transported(self, tokens, masks, m: str) -> tuple[Tensor, Tensor]:
        """Tokens of modality m at the anchor's steps, and the mask of steps where any arrived."""
        anchor = self.config.anchor
        with torch.no_grad():
            plan = transport(tokens[m], tokens[anchor], masks[m], masks[anchor], method="relaxed").plan
        mass = plan.sum(1)  # (B, T_anchor)
        x = (plan.transpose(1, 2) @ tokens[m]) / mass.clamp_min(1e-12).unsqueeze(-1)
        kept, there = tokens[m], masks[m] & ~masks[anchor].any(1, keepdim=True)
        steps = max(x.shape[1], kept.shape[1])

        def pad(t: Tensor) -> Tensor:
            return torch.cat([t, t.new_zeros(len(t), steps - t.shape[1], *t.shape[2:])], 1)

        stays = pad(there)
        return torch.where(stays.unsqueeze(-1), pad(kept), pad(x)), pad(mass > 0) | stays
