"""What experts do: which tokens a gate sends them, what predictions owe them, and how many weights a token meets."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .batch import MultimodalBatch
from .model import AlignMamba2, FusionModel, ModalityAwareMamba, ModelOutput, Trace
from .model.experts import ExpertFFN


@torch.no_grad()
def expert_effects(model: AlignMamba2, batches: Iterable[MultimodalBatch]) -> dict[str, float]:
    """Return the mean `change` of predictions when an expert is switched off, by the names of `switches`."""
    changes: dict[str, list[Tensor]] = {name: [] for name in switches(model)}
    mode = model.training
    model.eval()
    for batch in batches:
        batch = batch.to(next(model.parameters()).device)
        trained = model(batch)
        for name, moved in changes.items():
            with switched_off(model, name):
                moved.append(change(trained, model(batch), batch.label_mask))
    model.train(mode)
    return {name: float(torch.cat(moved).mean()) for name, moved in changes.items()}


def change(trained: ModelOutput | Trace, other: ModelOutput | Trace, known: Tensor | None = None) -> Tensor:
    """Return how far each `known` prediction (N,) moved: |Δ|, or of classes ½ Σ_c |Δ p_c|, between 0 and 1."""
    if trained.logits is None or other.logits is None:
        moved = (other.prediction - trained.prediction).abs()
    else:
        moved = (other.logits.softmax(-1) - trained.logits.softmax(-1)).abs().sum(-1) / 2
    return moved.flatten() if known is None else moved[known]


@contextmanager
def switched_off(model: AlignMamba2, *experts: str) -> Iterator[None]:
    """Within, these experts add nothing, in any layer; `switches` has their names."""
    off = [pair for name in experts for pair in switches(model)[name]]
    before = [weight.clone() for weight, _ in off]
    try:
        for weight, silent in off:
            weight.copy_(silent)
        yield
    finally:
        for (weight, _), trained in zip(off, before, strict=True):
            weight.copy_(trained)


def routing_statistics(trace: Trace) -> list[dict[str, Any]]:
    """Return, for each layer whose FFN has a gate, "load", "entropy" and "agreement" of the tokens' choices.

    "load": each expert's share of them; "entropy": that of the load over log E, 1 if all experts have equally many;
    "agreement": normalised mutual information 2 I / (H + H) of expert and modality, 1 if either tells the other.
    """
    layers = []
    for gates in trace.ffn_gates:
        table = torch.stack([(gate[trace.masks[m]] > 0).sum(0) for m, gate in gates.items()]).double()
        table = table / table.sum()
        load, both, *alone = table.sum(0), *(torch.special.entr(t).sum() for t in (table, table.sum(0), table.sum(1)))
        shared = 2 * (sum(alone) - both) / sum(alone).clamp_min(1e-12)
        entropy = alone[0] / torch.tensor(max(len(load), 2)).log()
        layers.append({"load": load.tolist(), "entropy": float(entropy), "agreement": float(shared.clamp(0, 1))})
    return layers


def fusion_parameters(model: FusionModel, active: bool = False) -> int:
    """Return the number of trainable numbers of a model without its encoders.

    `active`: those of its fusion that a token meets; W_shared + W_m is one matrix, and k of E experts are asked.
    """
    inside = {id(p) for p in model.encode.parameters()}
    idle = 0
    for part in model.modules() if active else ():
        if isinstance(part, ModalityAwareMamba):
            for linear in filter(None, (part.in_proj, part.out_proj, part.around)):
                weights = [w for kind in (linear.shared, linear.specific) if kind is not None for w in kind]
                asked = 1 if part.gate is None else part.gate.out_features
                idle += sum(w.numel() for w in weights[asked:])
        elif isinstance(part, ExpertFFN):
            experts = [*part.specific, *part.shared]
            idle += (len(experts) - part.top_k) * sum(p.numel() for p in experts[0].parameters())
    return sum(p.numel() for p in model.parameters() if id(p) not in inside) - idle


def switches(model: AlignMamba2) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return, by an expert's name, the weights it adds through, each with its values where the expert adds nothing.

    A modality's name means its own experts in all layers, "shared" the shared ones, "layer 1, expert 2" one behind a
    gate. Linear experts are off in the split with Σ_m W_m = 0: tokens meet the mean of all W_m in place of their own.
    """
    weights: dict[str, list[tuple[Tensor, Tensor]]] = {}
    modalities = list(model.config.modalities)
    for number, layer in enumerate(model.layers, start=1):
        for projection in (layer.in_proj, layer.out_proj, layer.around):
            if projection is None or projection.specific is None:
                continue
            own = projection.specific.detach()
            mean = own.mean(0) if layer.gate is None else torch.zeros_like(own[0])
            for m, weight in zip(modalities, own, strict=True):
                weights.setdefault(m, []).append((weight, mean))
            if projection.shared is not None:
                weights.setdefault("shared", []).append((projection.shared.detach(), -mean))
        for ffn in model.ffns[number - 1 : number]:
            gated = [f"layer {number}, expert {e + 1}" for e in range(len(ffn.shared))]
            names = [*modalities[: len(ffn.specific)], *(gated if ffn.gate is not None else ["shared"])]
            for name, expert in zip(names, [*ffn.specific, *ffn.shared], strict=False):
                weight = expert.down.weight.detach()
                weights.setdefault(name, []).append((weight, torch.zeros_like(weight)))
    return weights
