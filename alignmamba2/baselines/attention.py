"""Baselines that read all tokens: MulT, a plain transformer, a plain Mamba, and AlignMamba-2's predecessor."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..alignment import transport
from ..model import AlignMamba2, Ordering
from .base import Baseline, BaselineConfig, mean_token

PLAIN = {"experts": "shared", "routing": "modality", "n_shared": 1, "ffn": 0.0, "lambda_ot": 0.0, "align_after": 0}


class Block(nn.Module):
    """Pre-norm transformer block; queries from one sequence, keys and values from another or the same.

    A sample without a source token takes nothing from the source.
    """

    def __init__(self, d: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm, self.source_norm, self.norm_after = (nn.LayerNorm(d) for _ in range(3))
        self.query, self.key_value, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.feed_forward = nn.Sequential(nn.Linear(d, 4 * d), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * d, d))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, source: Tensor, source_mask: Tensor) -> Tensor:
        q = self.query(self.norm(x))
        k, v = self.key_value(self.source_norm(source)).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        present = source_mask.any(1)
        allowed = (source_mask | ~present.unsqueeze(1))[:, None, None]  # softmax over nothing would be NaN
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(y)) * present.view(-1, 1, 1)
        return x + self.dropout(self.feed_forward(self.norm_after(x)))


def blocks(c: BaselineConfig) -> nn.ModuleList:
    if c.d_model % c.n_heads:
        raise ValueError(f"n_heads: found {c.n_heads}; expected a divisor of d_model, {c.d_model}")
    return nn.ModuleList(Block(c.d_model, c.n_heads, c.dropout) for _ in range(c.n_layers))


def positions(mask: Tensor, d: int) -> Tensor:
    """Return sinusoids (B, T, d) of each real token's index among the real ones: padding changes nothing."""
    index = (mask.cumsum(1) - 1).clamp_min(0).unsqueeze(-1)
    rate = torch.exp(torch.arange(0, d, 2, device=mask.device) * (-math.log(10000.0) / d))
    return torch.stack([(index * rate).sin(), (index * rate).cos()], -1).flatten(-2)[..., :d]


class MulT(Baseline):
    """Multimodal Transformer (Tsai et al. 2019).

    For each modality, n_layers of attention to each of the others; the results side by side, one more layer of
    self-attention, readout; all modalities side by side, head. Without the paper's temporal convolutions: the
    projection takes their place (our choice).
    """

    width_step = 4

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        names = list(c.modalities)
        self.cross = nn.ModuleDict()
        for m, source in ((m, source) for m in names for source in names if source != m):
            # "->" because a module's name may hold no dot and a modality's name is free.
            self.cross[f"{source}->{m}"] = blocks(c)
        wide = c.d_model * max(1, len(names) - 1)
        self.together = nn.ModuleDict({m: Block(wide, c.n_heads, c.dropout) for m in names})
        self.head = nn.Linear(wide * len(names), self.outputs)

    def fuse(self, tokens, masks):
        tokens = {m: x + positions(masks[m], x.shape[-1]).to(x.dtype) for m, x in tokens.items()}
        vectors = []
        for m in tokens:
            views = []
            for source in [n for n in tokens if n != m] or [m]:
                x = tokens[m]
                for block in self.cross[f"{source}->{m}"] if source != m else ():
                    x = block(x, tokens[source], masks[source])
                views.append(x)
            x = torch.cat(views, -1)
            x = self.together[m](x, x, masks[m]) * masks[m].unsqueeze(-1)
            vectors.append(self.read_out(x, masks[m]))
        return self.head(self.dropout(torch.cat(vectors, -1)))


class Transformer(Baseline):
    """All tokens of all modalities, with position and modality embeddings, n_layers of self-attention, mean, head."""

    width_step = 4

    def __init__(self, c: BaselineConfig):
        super().__init__(c)
        self.modality = nn.Parameter(torch.zeros(len(c.modalities), c.d_model).normal_(0, 0.02))
        self.layers = blocks(c)
        self.norm = nn.LayerNorm(c.d_model)
        self.head = nn.Linear(c.d_model, self.outputs)

    def fuse(self, tokens, masks):
        lengths = [x.shape[1] for x in tokens.values()]
        placed = [t + positions(masks[m], t.shape[-1]).to(t.dtype) for m, t in tokens.items()]
        x = torch.cat([t + embedding for t, embedding in zip(placed, self.modality, strict=True)], 1)
        mask = torch.cat(list(masks.values()), 1)
        for layer in self.layers:
            x = layer(x, x, mask)
        x = self.norm(x)
        if self.per_step:  # the mean over the modalities that a step has
            parts, present = torch.stack(x.split(lengths, 1), 2), torch.stack(mask.split(lengths, 1), 2)
            x = mean_token(parts.flatten(0, 1), present.flatten(0, 1)).unflatten(0, parts.shape[:2])
        else:
            x = self.read_out(x, mask)
        return self.head(self.dropout(x))


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
