"""AlignMamba-2: project, align (in training), order, fuse, read out."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..alignment import DualAlignment
from ..batch import MultimodalBatch
from ..gpu.host import on_host, send
from ..trace import Trace, trace_of
from .base import FusionModel, ModelOutput, padded, real_places
from .config import AlignMamba2Config
from .experts import ExpertFFN
from .layers import ModalityAwareMamba
from .ordering import Ordering, order_tokens, scan_turns, select_rows, shuffled, sinusoids, token_numbers


class AlignMamba2(FusionModel):
    """Multimodal fusion with a Modality-Aware Mamba and a dual alignment (arXiv 2603.18462).

    1. Project every modality's features (B, T_m, D_m) to tokens (B, T_m, d).
    2. In training only: L_OT and L_MMD between each modality and the anchor (see `DualAlignment`, `align_after`).
    3. Order all real tokens of a sample into one sequence; padding is squeezed out.
    4. n_layers × x + ModalityAwareMamba(norm(x)), and with `ffn` x + ExpertFFN(x).
    5. Norm, read out, head.

    A modality may be missing from a batch, or from a sample (no real tokens). Padding never changes an answer.
    """

    mixer = ModalityAwareMamba  # a subclass with other layers names its own

    def __init__(self, config: AlignMamba2Config):
        super().__init__(config)
        c = self.config
        self.align = DualAlignment(
            c.lambda_ot,
            c.lambda_mmd,
            share_ot=c.share_ot,
            share_mmd=c.share_mmd,
            anchor=c.anchor,
            fixed_anchor=c.fixed_anchor,
            most=c.align_most,
            transport={name: getattr(c, name) for name in ("epsilon", "marginal_penalty", "window")}
            | {"method": c.transport, "negatives": c.negatives},
            mmd={"bandwidth": c.bandwidth, "estimator": c.mmd_estimator},
        )
        self.modality = nn.Parameter(0.02 * torch.randn(len(self.project), c.d_model)) if c.modality_embedding else None
        self.norms = nn.ModuleList(nn.RMSNorm(c.d_model, eps=1e-5) for _ in range(c.n_layers))
        choices = {name: getattr(c, name) for name in ("experts", "routing", "placement", "direction", "n_shared")}
        self.layers = nn.ModuleList(
            self.mixer(tuple(c.modalities), c.d_model, c.d_state, c.d_conv, c.expand, **choices)
            for _ in range(c.n_layers)
        )
        ffn = (max(1, round(c.ffn * c.d_model)), c.experts, c.ffn_routing, c.ffn_experts, c.ffn_top_k)
        ffns = (ExpertFFN(len(c.modalities), c.d_model, *ffn) for _ in range(c.n_layers if c.ffn else 0))
        self.ffns = nn.ModuleList(ffns)
        self.norm = nn.RMSNorm(c.d_model, eps=1e-5)
        self.query = nn.Parameter(torch.zeros(c.d_model)) if c.readout == "attention" else None  # starts as the mean
        self.head = nn.Linear(c.d_model, self.outputs)
        if c.shortcut:  # training begins close to the straight line
            with torch.no_grad():
                self.head.weight.mul_(0.01)

    def added_losses(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.align(tokens, masks) if self.config.anchor in tokens else {}

    def total_loss(self, losses: dict[str, Tensor], tokens: Mapping[str, Tensor]) -> Tensor:
        task = super().total_loss(losses, tokens)
        losses |= self.align.measure(task, losses, tokens)
        total = self.align.add_to(task, losses)
        return total + self.config.lambda_balance * losses["balance"] if "balance" in losses else total

    def predict(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> ModelOutput:
        balance: list[Tensor] | None = [] if self.training else None
        aligned: dict[str, Tensor] | None = {} if self.training or self.aligning else None
        output = self._read_out(*self._fuse(tokens, masks, None, balance, aligned=aligned))
        output.tokens = aligned or {}
        if balance:
            output.losses["balance"] = torch.stack(balance).mean()
        return output

    def trace(self, batch: MultimodalBatch, *, scans: bool = True, device: torch.device | str | None = None) -> Trace:
        """Run a batch as in prediction, and keep everything worth looking at (see `Trace`).

        Here, and only here, are transport plans and discrepancies computed outside training. `scans=False` leaves
        out the inputs of the selective scans: some (3 + n_classes) · d_inner numbers per token and layer. `device` is
        where the model goes, and stays; the batch follows it.
        """
        return trace_of(self, batch.to(next(self.to(device).parameters()).device), scans)

    @torch.compiler.disable(recursive=False)  # torch.compile makes one graph of a layer, and all layers share it
    def _fuse(
        self,
        projected: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        records: list[dict[str, Any]] | None = None,
        balance: list[Tensor] | None = None,
        aligned: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, Ordering, dict[str, Tensor]]:
        """Grouped tokens (N, d) after fusion, their last ordering, and all modalities' masks (absent ones empty).

        `aligned` takes up the tokens to align, if they are a layer's.
        """
        tokens, orderings, full = self._order(projected, masks)
        after = self.config.align_after
        for i, (norm, layer) in enumerate(zip(self.norms, self.layers, strict=True)):
            tokens = self.dropout(tokens) if i == after else tokens
            dropout = self.dropout if i >= after else nn.Identity()
            ordering = orderings[i % len(orderings)]
            record = None if records is None else {"tokens": tokens, "ordering": ordering}
            tokens = self._pass(norm, layer, tokens, ordering, record, dropout)
            if self.ffns:
                tokens = tokens + dropout(self.ffns[i](tokens, ordering.counts, record, balance))
            if records is not None and record is not None:
                records.append(record)
            if i + 1 == after and aligned is not None:
                aligned |= {m: x for m, x in self._ungroup(tokens, ordering, full).items() if m in masks}
                # Grouped from these again, so that the task's gradient passes through them.
                tokens = torch.cat([select_rows(x.flatten(0, 1), real_places(masks[m])) for m, x in aligned.items()])
        return self.norm(tokens), ordering, full

    @torch.compiler.disable  # computation that depends on the values of masks is no graph for torch.compile
    def _order(
        self, projected: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Tensor, list[Ordering], dict[str, Tensor]]:
        """Grouped tokens (N, d) before fusion, their orderings, and all modalities' masks (absent ones empty)."""
        c, first = self.config, next(iter(masks.values()))
        absent = send(torch.zeros(len(first), 1, dtype=torch.bool), first.device)
        full = {m: masks.get(m, absent) for m in c.modalities}
        here = {m: on_host(mask) for m, mask in full.items()}  # a GPU's host would wait for each look at them there
        tokens, orderings, random = [], [], {}
        for i, m in enumerate(full):
            if m in masks:
                x = select_rows(projected[m].flatten(0, 1), real_places(masks[m]))
                if c.positions != "none":
                    x = x + send(sinusoids(here[m], c.d_model, c.grids.get(m)), x.device).to(x.dtype)
                tokens.append(x if self.modality is None else x + self.modality[i].to(x.dtype))
        if self.training:
            random = {m: token_numbers(here[m])[order] for m, order in shuffled(here, c.shuffle).items()}
        last = c.anchor if c.ties == "anchor last" else ""
        for order in c.scan_orders[: c.n_layers]:
            turns = {m: scan_turns(here[m], grid, order) for m, grid in c.grids.items()}
            orderings.append(order_tokens(here, c.order, last, turns | random).to(first.device))
        rows = torch.cat(tokens)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))  # the residual stream, in mixed precision too
        return rows, orderings, full

    def _pass(
        self,
        norm: nn.Module,
        layer: nn.Module,
        tokens: Tensor,
        ordering: Ordering,
        record: dict[str, Any] | None,
        dropout: nn.Module,
    ) -> Tensor:
        return tokens + dropout(layer.mix(norm(tokens), ordering, record))

    def _read_out(self, tokens: Tensor, ordering: Ordering, masks: Mapping[str, Tensor]) -> ModelOutput:
        return self._output(self.head(self.dropout(self._pool(tokens, ordering, masks))))

    def _pool(self, tokens: Tensor, ordering: Ordering, masks: Mapping[str, Tensor]) -> Tensor:
        """Fused tokens, grouped (N, d) → (B, d), or (B, T, d) with one prediction per step."""
        shape, place = ordering.size[:1], ordering.sample
        if self.config.readout == "anchor_steps":  # other tokens weigh nothing, wherever they are put
            shape = masks[self.config.anchor].shape
            place = torch.cat([real_places(mask) * (m == self.config.anchor) for m, mask in masks.items()])
        if self.config.readout == "per_step":
            self._check_steps(masks)
            present = [mask for mask in masks.values() if on_host(mask).any() or not len(mask)]
            shape, place = present[0].shape, torch.cat([real_places(mask) for mask in present])
        weighted = tokens * self._weights(tokens, ordering, masks).to(tokens.dtype).unsqueeze(-1)
        pooled = tokens.new_zeros(math.prod(shape), tokens.shape[-1]).index_add(0, place, weighted)
        return pooled.view(*shape, tokens.shape[-1])

    def _weights(self, tokens: Tensor, ordering: Ordering, masks: Mapping[str, Tensor]) -> Tensor:
        """The weight (N,) of each fused token in the mean that is read out."""
        c, scores = self.config, torch.zeros(len(tokens), device=tokens.device)
        anchor = ordering.split(scores)[list(c.modalities).index(c.anchor)]  # a view
        if c.readout == "per_step":
            present = [mask for mask in masks.values() if on_host(mask).any() or not len(mask)]
            weights = (1 / torch.stack(present).sum(0)).flatten()
            return torch.cat([weights[real_places(mask)] for mask in present])
        if c.readout == "anchor_steps":
            anchor.fill_(1)
            return scores
        if c.readout == "attention":
            scores = (tokens.float() * self.query.float()).sum(-1)  # not over √d, so that it soon chooses
        elif c.readout == "anchor":  # a weight of e^−1e9 = 0, except where a sample has no others
            scores.sub_(1e9)
            anchor.zero_()
        elif c.readout == "last":
            early = ordering.place % ordering.size[1] < ordering.lengths[ordering.sample] - 1
            scores.masked_fill_(early, -1e9)
        return ordering.softmax(scores)

    @staticmethod
    def _ungroup(rows: Tensor, ordering: Ordering, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Grouped (N, k) → {modality: (B, T_m, k)}, 0 on padding."""
        parts = zip(ordering.split(rows), masks.items(), strict=True)
        return {m: padded(part, real_places(mask), mask) for part, (m, mask) in parts}
