"""The alignment as `nn.Module` losses, for the model and for any other PyTorch code."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .mean_discrepancy import mmd
from .optimal_transport import transport


def _mean_over_present(values: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> Tensor:
    # A sample that lacks one of the two modalities says nothing about their alignment, and must not dilute it.
    present = torch.ones_like(values)
    for mask in (x_mask, y_mask):
        if mask is not None:
            present = present * mask.any(1)
    return (values * present).sum() / present.sum().clamp_min(1)


class TransportLoss(nn.Module):
    """Mean of `transport(...).distance` over the samples that hold both modalities.

    Parameters
    ----------
    **options
        Of `transport`: epsilon, cost, method, ...
    """

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None) -> Tensor:
        """x (B, Tx, d), y (B, Ty, d), masks (B, T) bool → ()."""
        return _mean_over_present(transport(x, y, x_mask, y_mask, **self.options).distance, x_mask, y_mask)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.options.items())


class MMDLoss(nn.Module):
    """Mean of `mmd(...)` over the samples that hold both modalities, or the MMD² of the pooled tokens.

    Parameters
    ----------
    **options
        Of `mmd`: bandwidth, scales, estimator, kernel, pooled.
    """

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None) -> Tensor:
        """x (B, Tx, d), y (B, Ty, d), masks (B, T) bool → ()."""
        value = mmd(x, y, x_mask, y_mask, **self.options)
        return value if self.options.get("pooled") else _mean_over_present(value, x_mask, y_mask)

    extra_repr = TransportLoss.extra_repr


@dataclass(frozen=True)
class AlignmentOutput:
    """What `DualAlignment` returns: scalars; keys of the mappings are (modality, anchor).

    Attributes
    ----------
    loss : Tensor ()
        λ_OT · transport + λ_MMD · mmd, with λ as of this step.
    transport, mmd : Tensor ()
        Sums over the pairs, weighted by the pairs' weights, before λ.
    transport_by_pair, mmd_by_pair : mappings of (modality, anchor) to Tensor ()
        Each pair's value before its weight; detached.
    """

    loss: Tensor
    transport: Tensor
    mmd: Tensor
    transport_by_pair: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    mmd_by_pair: dict[tuple[str, str], Tensor] = field(default_factory=dict)


class DualAlignment(nn.Module):
    """λ_OT · L_OT + λ_MMD · L_MMD, summed over the pairs (modality, anchor).

    Parameters
    ----------
    transport_weight, mmd_weight : float
        λ_OT and λ_MMD. 0.001 and 0.01 ("third-party implementation"). A term whose weight is 0 is not computed.
    anchor : str or None
        The modality that the others are aligned to; "all": every pair, in the order of the tokens. None: "text" if
        there is one (language is the anchor: "AlignMamba v1, third-party write-up"), else the first modality.
    pair_weights : mapping of modality to float
        Weight of the pair (modality, anchor), 1 unless given; 0 leaves the pair out. With anchor="all" the key
        is (modality, modality).
    fixed_anchor : bool
        The others come to the anchor and the anchor stays: no gradient of these losses reaches its tokens ("our
        choice"). Where both sides move they can meet in a single point, which costs nothing and says nothing; a strong
        λ finds it, and the plan ends up uniform.
    warmup_steps : int
        λ grows from 0 to its value over so many steps ("our choice"; 0: at once).
    schedule : "linear" | "cosine"
        The way it grows.
    transport, mmd : mapping
        Options of `transport` and `mmd`.
    """

    def __init__(
        self,
        transport_weight: float = 0.001,
        mmd_weight: float = 0.01,
        *,
        anchor: str | None = None,
        pair_weights: Mapping[str | tuple[str, str], float] | None = None,
        fixed_anchor: bool = False,
        warmup_steps: int = 0,
        schedule: str = "linear",
        transport: Mapping | None = None,
        mmd: Mapping | None = None,
    ) -> None:
        super().__init__()
        if schedule not in ("linear", "cosine"):
            raise ValueError(f"schedule: found {schedule!r}; expected 'linear' or 'cosine'")
        self.transport_weight, self.mmd_weight = transport_weight, mmd_weight
        self.anchor, self.pair_weights = anchor, dict(pair_weights or {})
        self.fixed_anchor = fixed_anchor
        self.warmup_steps, self.schedule = warmup_steps, schedule
        self.transport_loss, self.mmd_loss = TransportLoss(**(transport or {})), MMDLoss(**(mmd or {}))

    def warmth(self, step: int | None) -> float:
        """The factor on both λ at this step: 0 at step 0, 1 from `warmup_steps` on, and 1 for None."""
        if step is None or step >= self.warmup_steps:
            return 1.0
        share = step / self.warmup_steps
        return share if self.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * share)

    def pairs(self, names: list[str]) -> list[tuple[str, str]]:
        """The pairs (modality, anchor) that are aligned, of the modalities with these names."""
        if self.anchor == "all":
            pairs = [(m, n) for i, n in enumerate(names) for m in names[i + 1 :]]
        else:
            anchor = self.anchor or ("text" if "text" in names else names[0])
            if anchor not in names:
                raise ValueError(f"anchor: found {anchor!r}; expected one of {names}, 'all' or None")
            pairs = [(m, anchor) for m in names if m != anchor]
        return [pair for pair in pairs if self._pair_weight(pair) != 0]

    def _pair_weight(self, pair: tuple[str, str]) -> float:
        return self.pair_weights.get(pair if self.anchor == "all" else pair[0], 1.0)

    def forward(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None, *, step: int | None = None
    ) -> AlignmentOutput:
        """Align.

        Parameters
        ----------
        tokens : mapping of modality to Tensor (B, T_m, d)
        masks : mapping of modality to bool Tensor (B, T_m); a modality left out has no padding
        step : int, optional
            Training steps so far, for the warm-up; None: after it.
        """
        masks = masks or {}
        values: dict[str, dict[tuple[str, str], Tensor]] = {"transport": {}, "mmd": {}}
        terms = (("transport", self.transport_weight, self.transport_loss), ("mmd", self.mmd_weight, self.mmd_loss))
        totals = {}
        for name, weight, loss in terms:
            total = next(iter(tokens.values())).new_zeros((), dtype=torch.float32)
            for pair in self.pairs(list(tokens)) if weight else ():
                m, anchor = pair
                y = tokens[anchor].detach() if self.fixed_anchor else tokens[anchor]
                value = loss(tokens[m], y, masks.get(m), masks.get(anchor))
                values[name][pair] = value.detach()
                total = total + self._pair_weight(pair) * value
            totals[name] = total
        warmth = self.warmth(step)
        loss = warmth * (self.transport_weight * totals["transport"] + self.mmd_weight * totals["mmd"])
        return AlignmentOutput(loss, totals["transport"], totals["mmd"], values["transport"], values["mmd"])
