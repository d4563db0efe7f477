"""The dual alignment: the one place where the pairs of modalities, both weights λ and their warm-up are decided."""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, distributed, nn

from ..gpu.host import unseen
from .costs import common_dtype, expand_mask
from .mean_discrepancy import mmd
from .optimal_transport import transport

Pair = tuple[str, str]

LOSSES = ("ot", "mmd")
# The gradients of the losses are measured every so many passes, which costs the half of a backward pass; of a new
# measurement so much is taken into the running means that decide a weight.
MEASURED_EVERY, NEWEST = 16, 0.5


def aligned_pairs(modalities: Collection[str], anchor: str) -> tuple[Pair, ...]:
    """Return the pairs (modality, anchor) that are aligned: one per other modality, none without the anchor."""
    return tuple((m, anchor) for m in modalities if m != anchor and anchor in modalities)


def at_times(x: Tensor, mask: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real tokens of x (B, T, d), mask (B, T), at relative times (k,) or (B, k) in [0, 1), and their mask.

    The i-th of n real tokens covers the times from i / n to (i + 1) / n. A sample of at most k real tokens keeps all.
    """
    k, count = time.shape[-1], mask.sum(1, keepdim=True)
    steps = torch.arange(k, device=x.device)
    last = count - 1  # a time just below 1, times n, may round to n
    index = torch.where(count > k, (time * count).long().minimum(last), steps)
    real = (~mask).byte().argsort(dim=1, stable=True)  # the places of real tokens come first, in their order
    rows = real.gather(1, index.expand(len(x), k))
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1])), steps < count


class _PairLoss(nn.Module):
    """The mean of a loss per sample over the samples that hold both modalities.

    A sample that lacks one of the two says nothing about their alignment, and must not dilute it.
    """

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options

    def per_sample(self, x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None) -> Tensor:
        """x (B, Tx, d), y (B, Ty, d), masks (B, T) bool → ()."""
        values = self.per_sample(x, y, x_mask, y_mask)
        present = torch.ones_like(values)
        for mask in (x_mask, y_mask):
            if mask is not None:
                present = present * mask.any(1)
        return (values * present).sum() / present.sum().clamp_min(1)

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.options.items())


class TransportLoss(_PairLoss):
    """L_OT: the mean of ``transport(..., **options).distance`` over the samples that hold both modalities.

    With K `negatives` it is a contrast ("our choice", after InfoNCE): how little of the probability ∝ exp(−distance/τ)
    lies on a sample's own anchor tokens, among them and those of the K samples that follow in the batch, in nats. Time
    and memory grow with 1 + K.
    """

    def __init__(self, negatives: int = 0, temperature: float = 0.1, **options) -> None:
        super().__init__(**options)
        self.negatives, self.temperature = negatives, temperature

    def per_sample(self, x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> Tensor:
        own = transport(x, y, x_mask, y_mask, **self.options).distance
        y_mask, scores = expand_mask(y_mask, y), [-own / self.temperature]
        for k in range(1, 1 + min(self.negatives, len(y) - 1)):
            other, mask = y.roll(-k, 0), y_mask.roll(-k, 0)
            distance = transport(x, other, x_mask, mask, **self.options).distance
            scores.append(torch.where(mask.any(1), -distance / self.temperature, -torch.inf))
        return own if not self.negatives else -torch.stack(scores, 1).log_softmax(1)[:, 0]


class MMDLoss(_PairLoss):
    """L_MMD: the mean of ``mmd(..., **options)`` over the samples that hold both modalities."""

    def per_sample(self, x: Tensor, y: Tensor, x_mask: Tensor | None, y_mask: Tensor | None) -> Tensor:
        return mmd(x, y, x_mask, y_mask, **self.options)


class DualAlignment(nn.Module):
    """Σ over the pairs (modality, anchor) of λ_OT · L_OT + λ_MMD · L_MMD.

    Parameters
    ----------
    lambda_ot, lambda_mmd : float
        0.001 and 0.01 ("third-party implementation"). A loss whose λ is 0 is not computed.
    share_ot, share_mmd : float
        In place of λ: how large the gradient of λ L is to be, as a share of the task's, both with respect to the tokens
        that are aligned ("our choice": 0.1 means the same on each data set). 0: λ is as it is set. See `measure`.
    anchor : str
        The modality that the others are aligned with (language: "AlignMamba v1, third-party write-up").
    fixed_anchor : bool
        The others come to the anchor and the anchor stays: no gradient of these losses reaches its tokens ("our
        choice"). Where both sides move they can meet in a single point, which costs nothing and says nothing; a strong
        λ finds it, and the plan ends up uniform.
    most : int
        Tokens per modality and sample that are compared ("our choice"): a longer sequence is cut into so many stretches
        of equal time, and of each one token is taken, at the same random place in all modalities (in eval mode, in the
        middle). So time and memory grow with the length, and not with its square.
    transport, mmd : mapping
        Options of `transport` and `mmd`.

    Attributes
    ----------
    warmth : float
        A factor on both λ, 1 unless a trainer warms them up: it then sets the number before each step.
    state : mapping of name to float
        All that `measure` keeps: "passes", the running means of the gradients' norms by loss ("task", "ot", "mmd"), and
        "share/ot", "share/mmd", the shares that λ reached at the last measurement, warmth included.
    """

    def __init__(
        self,
        lambda_ot: float = 0.001,
        lambda_mmd: float = 0.01,
        *,
        share_ot: float = 0.0,
        share_mmd: float = 0.0,
        anchor: str = "text",
        fixed_anchor: bool = False,
        most: int = 512,
        transport: Mapping | None = None,
        mmd: Mapping | None = None,
    ) -> None:
        super().__init__()
        self.lambdas, self.shares = {"ot": lambda_ot, "mmd": lambda_mmd}, {"ot": share_ot, "mmd": share_mmd}
        self.anchor, self.fixed_anchor, self.most = anchor, fixed_anchor, most
        self.warmth, self.state = 1.0, {"passes": 0.0}
        self.transport_loss, self.mmd_loss = TransportLoss(**(transport or {})), MMDLoss(**(mmd or {}))

    @torch.compiler.disable  # computation that depends on the values of masks is no graph for torch.compile
    def forward(self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Return the losses of tokens (B, T_m, d) by name; a modality without a mask (B, T_m) has no padding.

        "ot" and "mmd" () are sums over the pairs, before λ. Each pair's value, such as "ot/audio-text", is detached. A
        loss whose λ is 0 has no entry; without a pair there is none at all.
        """
        if self.anchor not in tokens:
            raise ValueError(f"anchor: found {self.anchor!r}; expected one of {list(tokens)}")
        tokens, masks = self._thinned(tokens, masks or {})
        # Costs and kernels live on small differences: not in half precision, and nor are sums of their gradients.
        tokens = {m: x.to(common_dtype(x, x)) for m, x in tokens.items()}
        anchor_tokens = tokens[self.anchor].detach() if self.fixed_anchor else tokens[self.anchor]
        pairs = aligned_pairs(tokens, self.anchor)
        losses: dict[str, Tensor] = {}
        for name, loss in zip(LOSSES, (self.transport_loss, self.mmd_loss), strict=True):
            if self.lambdas[name] and pairs:
                with unseen(self.training):
                    values = [loss(tokens[m], anchor_tokens, masks.get(m), masks.get(self.anchor)) for m, _ in pairs]
                losses[name] = sum(values)
                losses |= {f"{name}/{m}-{a}": value.detach() for (m, a), value in zip(pairs, values, strict=True)}
        return losses

    def _thinned(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor]]:
        """Tokens and masks of which no modality has more than `most` steps."""
        first, k = tokens[self.anchor], self.most
        long = [m for m, x in tokens.items() if x.shape[1] > k]
        if not long:
            return tokens, masks
        place = torch.rand(len(first), k, device=first.device) if self.training else 0.5
        time = (torch.arange(k, device=first.device) + place) / k
        tokens, masks = dict(tokens), dict(masks)
        for m in long:
            tokens[m], masks[m] = at_times(tokens[m], expand_mask(masks.get(m), tokens[m]), time)
        return tokens, masks

    @torch.compiler.disable  # the weights are other numbers each step, and would be another graph
    def add_to(self, task_loss: Tensor, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the task's loss plus those of `forward`, each weighted with its λ as of this step."""
        return task_loss + sum(self._weight(name) * losses[name] for name in LOSSES if name in losses)

    def _weight(self, name: str) -> float:
        share, norms = self.shares[name], self.state
        return self.warmth * (share * norms["task"] / norms[name] if share and name in norms else self.lambdas[name])

    @torch.compiler.disable
    def measure(
        self, task_loss: Tensor, losses: Mapping[str, Tensor], tokens: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Measure, in every `MEASURED_EVERY`-th pass, ‖∂L/∂tokens‖ of the task's loss and of those of `forward`.

        The norm is over the tokens (B, T_m, d) of all modalities, and of all processes that train together: so they
        agree on λ = share · ‖∂L_task‖ / ‖∂L‖, of which both norms are running means. The graph is kept. Return the
        shares "share/ot" and "share/mmd" () of the last measurement.
        """
        self.state["passes"] += 1
        places = [x for x in tokens.values() if x.requires_grad]
        if places and losses.keys() & LOSSES and self.state["passes"] % MEASURED_EVERY == 1:
            self._measure((task_loss, *(losses.get(name) for name in LOSSES)), places)
        return {name: task_loss.detach().new_full((), x) for name, x in self.state.items() if name.startswith("share/")}

    def _measure(self, losses: Sequence[Tensor | None], places: Sequence[Tensor]) -> None:
        squares = torch.zeros(len(losses), device=places[0].device)
        for i, loss in enumerate(losses):
            if loss is not None and loss.requires_grad:
                gradients = torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)
                squares[i] = sum(g.detach().float().square().sum() for g in gradients if g is not None)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(squares)
        norms = dict(zip(("task", *LOSSES), squares.sqrt().tolist(), strict=True))
        if not (norms["task"] > 0 and math.isfinite(sum(norms.values()))):
            return  # nothing to compare with, or a trainer sees and says more of it
        for name, norm in norms.items():
            if norm > 0:
                self.state[name] = NEWEST * norm + (1 - NEWEST) * self.state.get(name, norm)
            if name in self.state and name in LOSSES:
                self.state[f"share/{name}"] = self._weight(name) * norm / norms["task"]
