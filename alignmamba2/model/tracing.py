"""How a `Trace` is made: the model run once, as in prediction, and written down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..alignment import mmd, transport
from ..batch import MultimodalBatch
from .ordering import Ordering
from .trace import Trace


@torch.no_grad()
def trace_of(model: nn.Module, batch: MultimodalBatch, scans: bool = True) -> Trace:
    """`AlignMamba2.trace`; the model is left in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        masks, projected = model._project(batch)
        records: list[dict[str, Any]] = []
        tokens, ordering, full = model._fuse(projected, masks, records)
        output = model._predict(tokens, ordering, full)
        c = model.config
        plans, costs, distances, discrepancies = {}, {}, {}, {}
        for pair in (p for p in c.pairs if p[0] in masks and p[1] in masks):
            sides = (*(projected[m] for m in pair), *(masks[m] for m in pair))
            result = transport(*sides, **model.align.transport_loss.options)
            plans[pair], costs[pair] = result.plan.cpu(), result.cost.cpu()
            distances[pair] = result.distance.cpu()
            discrepancies[pair] = mmd(*sides, **model.align.mmd_loss.options).cpu()
        taken_apart = _scans(model, records, ordering, full, tuple(masks)) if scans else {}
    finally:
        model.train(was_training)

    def by_modality(rows: Tensor) -> dict[str, Tensor]:
        return {m: x.cpu() for m, x in model._ungroup(rows, ordering, full).items() if m in masks}

    shared = ["shared"] if c.n_shared == 1 else [f"shared {i + 1}" for i in range(c.n_shared)]
    names = {"both": ["specific", *shared], "shared": shared, "specific": ["specific"]}[c.experts]
    return Trace(
        modalities=tuple(masks),
        pairs=tuple(plans),
        ids=batch.ids,
        words=batch.words,
        labels=None if batch.labels is None else batch.labels.cpu(),
        label_mask=None if batch.label_mask is None else batch.label_mask.cpu(),
        masks={m: mask.cpu() for m, mask in masks.items()},
        projected={m: x.cpu() for m, x in projected.items()},
        fused=by_modality(tokens),
        plans=plans,
        costs=costs,
        transport_distance=distances,
        discrepancy=discrepancies,
        expert_names=tuple(names),
        contributions=[by_modality(r["contribution"]) for r in records],
        gates=[by_modality(r["gate"]) for r in records if r["gate"] is not None],
        prediction=output.prediction.cpu(),
        logits=None if output.logits is None else output.logits.cpu(),
        **taken_apart,
    )


def _scans(
    model: nn.Module,
    records: list[dict[str, Any]],
    ordering: Ordering,
    masks: Mapping[str, Tensor],
    names: tuple[str, ...],
) -> dict[str, Any]:
    """What `Trace.scan` and `Trace.attribution` need, in the order of the sequence."""

    def in_order(rows: Tensor) -> Tensor:
        return ordering.to_sequence(rows.flatten(1)).unflatten(2, rows.shape[1:]).float().cpu()

    where = [
        F.pad(mask.nonzero()[:, 1:], (1, 0), value=names.index(m) if m in names else -1) for m, mask in masks.items()
    ]
    layers = []
    for layer, record in zip(model.layers, records, strict=True):
        ssms = [ssm for ssm in (layer.ssm, layer.ssm_reverse) if ssm is not None]
        layers.append(
            [
                {name: in_order(rows) for name, rows in given.items()}
                | {"A": -torch.exp(ssm.A_log.float()).cpu(), "D": ssm.D.detach().float().cpu()}
                for ssm, given in zip(ssms, record["scans"], strict=True)
            ]
        )
    direct, reader = _readers(model, records[-1], ordering, masks)
    return {
        "sequence": (ordering.to_sequence(torch.cat(where) + 1) - 1).cpu(),  # −1 behind the last token
        "scans": layers,
        "direct": in_order(direct),
        "reader": in_order(reader),
        "bias": model.head.bias.detach().float().cpu(),
    }


def _readers(
    model: nn.Module, record: dict[str, Any], ordering: Ordering, masks: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """How each token counts for its logits, with the scale of the last norm and the gate as they are.

    Then logits = bias + Σ_t direct_t + Σ_t reader_t · y_t, with y_t what the last layer's scans say at token t.
    direct: (N, C);  reader: (N, e, C).
    """
    layer, given = model.layers[-1], (ordering.counts, record["gate"])
    after = record["tokens"] + layer.project_out(record["mixed"], *given)
    scale = torch.rsqrt(after.square().mean(-1, keepdim=True) + model.norm.eps)
    weight = _readout_weights(model.config.readout, ordering, masks).unsqueeze(-1) * scale * model.norm.weight
    direct, reader = [], []
    for row in model.head.weight:
        towards = weight * row  # (N, d)
        direct.append((record["tokens"] * towards).sum(-1))
        with torch.enable_grad():  # the map is linear in `mixed`: its gradient is its transpose
            mixed = record["mixed"].detach().requires_grad_()
            reader.append(torch.autograd.grad(layer.project_out(mixed, *given), mixed, towards)[0])
    return torch.stack(direct, -1), torch.stack(reader, -1)


def _readout_weights(readout: str, ordering: Ordering, masks: Mapping[str, Tensor]) -> Tensor:
    """(N,): the weight of each token in the mean that it is read out with."""
    lengths = ordering.lengths[ordering.sample]
    if readout == "mean":
        return 1 / lengths
    if readout == "last":
        return (ordering.place % ordering.size[1] == lengths - 1).float()
    present = [mask for mask in masks.values() if mask.any()]
    share = 1 / torch.stack(present).sum(0).clamp_min(1)
    return torch.cat([share[mask] for mask in present])
