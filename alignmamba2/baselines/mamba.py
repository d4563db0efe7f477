"""Mamba baselines: AlignMamba-2 with something taken away, and its predecessor."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..alignment import transport
from ..model import AlignMamba2, Ordering
from .base import BaselineConfig

PLAIN = {"experts": "shared", "routing": "modality", "n_shared": 1, "ffn": 0.0, "lambda_ot": 0.0, "align_after": 0}


class PlainMamba(AlignMamba2):
    """A plain Mamba on all tokens: one shared expert, no alignment."""

    config_class = BaselineConfig

    def __init__(self, config: BaselineConfig):
        super().__init__(dataclasses.replace(config, **PLAIN, lambda_mmd=0.0))


class AlignMambaV1(AlignMamba2):
    r"""AlignMamba (arXiv 2412.00833, as a third party tells it): transported tokens, then a plain Mamba.

    Every token i of a modality goes to its nearest anchor token j, plan :math:`M_{ij} = 1/T_m`; at step j stands the
    mean of the tokens that arrived, :math:`\sum_i M_{ij} x_i / \sum_i M_{ij}`, and no token if none did (our choice).
    The transport is computed when predicting too: the cost that AlignMamba-2 does away with. MMD as in AlignMamba-2.
    A sample without an anchor keeps its tokens as they are.
    """

    config_class = BaselineConfig

    def __init__(self, config: BaselineConfig):
        super().__init__(
            dataclasses.replace(config, **PLAIN, grids={}, scan_orders=["rows"])
        )  # patches leave their grid

    def _fuse(
        self,
        projected: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        *records: list[Any] | None,
        **aligned: dict[str, Tensor] | None,
    ) -> tuple[Tensor, Ordering, dict[str, Tensor]]:
        anchor = self.config.anchor
        if anchor not in projected or self.config.readout == "per_step" or not masks[anchor].any():
            return super()._fuse(projected, masks, *records)  # one token per step: they are aligned as they come
        moved, arrived = dict(projected), dict(masks)
        for m in projected:
            if m != anchor:
                moved[m], arrived[m] = self._transported(projected, masks, m)
        return super()._fuse(moved, arrived, *records)

    def _transported(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor], m: str) -> tuple[Tensor, Tensor]:
        """Tokens of modality m at the anchor's steps, and the mask of the steps that any of them reached."""
        x, anchor_mask = tokens[m], masks[self.config.anchor]
        with torch.no_grad():
            plan = transport(x, tokens[self.config.anchor], masks[m], anchor_mask, method="relaxed").plan
        mass = plan.sum(1)  # (B, T_anchor)
        means = (plan.transpose(1, 2) @ x) / mass.clamp_min(1e-12).unsqueeze(-1)
        stays = masks[m] & ~anchor_mask.any(1, keepdim=True)
        more, missing = (max(0, a.shape[1] - b.shape[1]) for a, b in ((x, means), (means, x)))
        stays, mass = F.pad(stays, (0, missing)), F.pad(mass, (0, more))
        moved = torch.where(stays.unsqueeze(-1), F.pad(x, (0, 0, 0, missing)), F.pad(means, (0, 0, 0, more)))
        return moved, (mass > 0) | stays
