"""What a model did with a batch, in full: the material of every picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

Pair = tuple[str, str]


@dataclass(frozen=True)
class Trace:
    """Everything that `AlignMamba2.trace` saw; detached tensors on the CPU.

    B samples, T_m padded tokens of modality m, d = d_model, K experts that a token uses.

    Attributes
    ----------
    modalities : tuple of str
    pairs : tuple of (modality, anchor)
        The pairs that the alignment compares.
    ids, words, labels, label_mask, masks
        As in the batch.
    projected, fused : mapping of modality to Tensor (B, T_m, d)
        Tokens before and after fusion; 0 on padding.
    plans, costs : mapping of pair to Tensor (B, T_m, T_anchor)
        Transport plan (0 on padding; sums to 1 where both sides have tokens) and cost.
    transport_distance, discrepancy : mapping of pair to Tensor (B,)
        The two alignment losses, sample by sample.
    expert_names : tuple of K strings
    contributions : one mapping a layer, of modality to Tensor (B, T_m, K)
        Euclidean norm of what each expert adds to each token, in the layer's input projection (or, with
        placement="around", in its output map); 0 on padding.
    gates : one mapping a layer, of modality to Tensor (B, T_m, K); empty unless routing is "gated"
    prediction : Tensor (B,) or (B, T)
    logits : Tensor (..., C) or None
    """

    modalities: Sequence[str]
    pairs: Sequence[Pair]
    ids: Sequence[str]
    words: Sequence[Mapping[str, Sequence[str]]]
    labels: Tensor | None
    label_mask: Tensor | None
    masks: Mapping[str, Tensor]
    projected: Mapping[str, Tensor]
    fused: Mapping[str, Tensor]
    plans: Mapping[Pair, Tensor]
    costs: Mapping[Pair, Tensor]
    transport_distance: Mapping[Pair, Tensor]
    discrepancy: Mapping[Pair, Tensor]
    expert_names: Sequence[str]
    contributions: Sequence[Mapping[str, Tensor]]
    gates: Sequence[Mapping[str, Tensor]]
    prediction: Tensor
    logits: Tensor | None

    def expert_shares(self) -> list[dict[str, Tensor]]:
        """One mapping a layer, of modality to (K,): each expert's share of the contributions, summing to 1.

        The mean over real tokens of ‖expert k‖ / Σ ‖experts‖. A modality without tokens is left out.
        """
        layers = []
        for layer in self.contributions:
            shares = {}
            for m, norms in layer.items():
                real = norms[self.masks[m]]
                if len(real):
                    shares[m] = (real / real.sum(-1, keepdim=True).clamp_min(1e-12)).mean(0)
            layers.append(shares)
        return layers
