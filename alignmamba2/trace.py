"""The `Trace` of a batch through the model, the material of every picture, and how it is recorded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .alignment import mmd, transport
from .alignment.losses import Pair, aligned_pairs
from .batch import MultimodalBatch

Ordering = Any  # a `model.ordering.Ordering`: the model imports this module, and not the other way round


@dataclass(frozen=True)
class Scan:
    """A selective scan of one sequence, taken apart.

        h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t        y_t = (C_t h_t + D u_t) · SiLU(z_t)

    With Δ, B, C and z as they are, y is linear in u: the shares of earlier tokens in each y_t are exact, and add up.
    Position s stands for the scan's input there; the convolution before it has mixed in the few tokens before s.

    Attributes
    ----------
    u, delta, z : Tensor (L, e), float
        Input, Δ > 0 (softplus done) and gate of L tokens in the order of the sequence.
    B, C : Tensor (L, n)
    A : Tensor (e, n), negative
    D : Tensor (e,)
    modality : L strings
    place : L ints
        The token's number within its modality, from 0.
    words : L strings
        The token as a word, "" where it has none.
    reverse : bool
        The scan reads from the last token to the first.
    """

    u: Tensor
    delta: Tensor
    z: Tensor
    B: Tensor
    C: Tensor
    A: Tensor
    D: Tensor
    modality: Sequence[str] = ()
    place: Sequence[int] = ()
    words: Sequence[str] = ()
    reverse: bool = False

    def remains(self, start: int = 0) -> Tensor:
        """Return the share (L, e, n) of the state at `start` that is left at each token; 0 at tokens read before."""
        delta = self.delta.flip(0) if self.reverse else self.delta
        first = len(delta) - 1 - start if self.reverse else start
        since = delta.cumsum(0) - delta[: first + 1].sum(0)
        left = torch.exp(since.unsqueeze(-1) * self.A)
        left[:first] = 0
        return left.flip(0) if self.reverse else left

    def gate(self) -> Tensor:
        """Return SiLU(z) (L, e): how far each token lets its output through."""
        return F.silu(self.z)

    def outputs(self) -> Tensor:
        """Return y (L, e), float64."""
        rows = [row.sum(0) for row in self._rows()]
        return torch.stack(rows[::-1] if self.reverse else rows)

    def influence(self) -> Tensor:
        """Return the Euclidean lengths (L, L), float64, of the shares of tokens s (columns) in y at tokens t (rows)."""
        return self._matrix(lambda _t, row: row.norm(dim=-1))

    def contributions(self, reader: Tensor) -> Tensor:
        """Return the shares (L, L, C), float64, of tokens s (second) in Σ_e reader[t] · y_t at tokens t (first).

        With `reader` (L, e, C) that of a `Trace`, the sum over both is the scan's share in the logits.
        """
        reader = (reader.flip(0) if self.reverse else reader).double()
        return self._matrix(lambda t, row: row @ reader[t])

    def _matrix(self, measure: Callable[[int, Tensor], Tensor]) -> Tensor:
        rows = [measure(t, row) for t, row in enumerate(self._rows())]
        length = len(rows)
        full = torch.stack([torch.cat([row, row.new_zeros(length - len(row), *row.shape[1:])]) for row in rows])
        return full.flip(0, 1) if self.reverse else full

    def _rows(self) -> Iterator[Tensor]:
        """For each token t in the order of reading, the shares (t + 1, e) of all tokens up to t in y_t."""
        u, delta, gate, b, c = (
            (x.flip(0) if self.reverse else x).double() for x in (self.u, self.delta, self.gate(), self.B, self.C)
        )
        states = (delta * u).unsqueeze(-1) * b.unsqueeze(1)  # (L, e, n): each token's share in the state
        for t in range(len(u)):
            states[:t] *= torch.exp(delta[t].unsqueeze(-1) * self.A)
            row = states[: t + 1] @ c[t]
            row[t] += self.D * u[t]
            yield row * gate[t]


@dataclass(frozen=True)
class Attribution:
    """The share of each token of a sample in a prediction: with the bias, all shares sum to the logits exactly.

    The last layer's scan is taken apart with its Δ, B, C and gates as they are, and the last norm and FFN with theirs
    and their scales ("our choice": this tells the origin of a prediction, not the effect of removing a token).

    Attributes
    ----------
    modality, place, words : L entries
        As in `Scan`.
    scan : Tensor (L, C), float64
        Shares through the last layer's scans, by the token itself and by later ones.
    direct : Tensor (L, C), float64
        Shares past the last layer, along the residual stream.
    bias, logits : Tensor (C,), float64
        logits = bias + Σ scan + Σ direct; C = 1 for regression.
    """

    modality: Sequence[str]
    place: Sequence[int]
    words: Sequence[str]
    scan: Tensor
    direct: Tensor
    bias: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Trace:
    """The record that `AlignMamba2.trace` makes of a batch: detached tensors on the CPU.

    B samples, T_m padded tokens of modality m, d = d_model, K experts that a token uses.

    Attributes
    ----------
    modalities : tuple of str
    pairs : tuple of (modality, anchor)
        The pairs that the alignment compares, by their tokens at its layer (`align_after`).
    ids, words, labels, label_mask, masks
        As in the batch.
    projected, fused : mapping of modality to Tensor (B, T_m, d)
        Tokens before and after fusion; 0 on padding.
    plans, costs : mapping of pair to Tensor (B, T_m, T_anchor)
        Transport plan (0 on padding; sums to 1 where both sides have tokens) and cost.
    transport_distance, discrepancy : mapping of pair to Tensor (B,)
        The two alignment losses, sample by sample.
    expert_names : tuple of K strings
    contributions : one mapping per layer, of modality to Tensor (B, T_m, K)
        Euclidean norm of each expert's output for each token, in the layer's input projection (or, with
        placement="around", in its output map); 0 on padding. Without gates, of the split with Σ_m W_m = 0: only
        W_shared + W_m matters, and each other split of it would have other norms.
    gates : one mapping per layer, of modality to Tensor (B, T_m, K); empty unless routing is "gated"
    prediction : Tensor (B,) or (B, T)
    logits : Tensor (..., C) or None
    sequence : int64 Tensor (n_layers, B, L, 2), or None if traced with scans=False, as all that follows
        For each position of a layer's sequence the number of its modality and of its token; −1 behind the last.
    scans : one list per layer of one mapping per direction
        "u", "delta", "z" (B, L, e), "B", "C" (B, L, n), "A" (e, n), "D" (e,), as in `Scan`.
    direct : Tensor (B, L, C);  reader : Tensor (B, L, e, C);  bias : Tensor (C,)
        Weights of the positions in their logits; see `attribution`.
    ffn_gates : one mapping per layer, of modality to Tensor (B, T_m, ffn_experts), 0 at experts that are not asked;
        empty unless ffn_routing is "gated"
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
    sequence: Tensor | None = None
    scans: Sequence[Sequence[Mapping[str, Tensor]]] = ()
    direct: Tensor | None = None
    reader: Tensor | None = None
    bias: Tensor | None = None
    ffn_gates: Sequence[Mapping[str, Tensor]] = ()

    def expert_shares(self) -> list[dict[str, Tensor]]:
        """Return, per layer, a mapping of modality to the experts' shares (K,) of its contributions; they sum to 1.

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

    def scan(self, sample: int, layer: int = -1, direction: int = 0) -> Scan:
        """Return a scan of one sample, without padding. Direction 1, if the layer has it, reads backwards."""
        names, places, words = self._positions(sample, layer)
        batch = self.scans[layer][direction]
        inputs = {name: x if name in ("A", "D") else x[sample, : len(names)] for name, x in batch.items()}
        return Scan(**inputs, modality=names, place=places, words=words, reverse=direction == 1)

    def attribution(self, sample: int, step: int | None = None) -> Attribution:
        """Return each token's share in the prediction of a sample (see `Attribution`).

        With one prediction per step it is that of `step`, by default the last one.
        """
        names, places, words = self._positions(sample)
        read = torch.ones(len(names), dtype=torch.bool)
        if self.prediction.ndim == 2:
            steps = min(max(places) + 1, self.prediction.shape[1])
            step = steps - 1 if step is None else step
            read = torch.tensor(places) == step
            if step >= steps or not read.any():
                raise IndexError(f"step: found {step}; sample {self.ids[sample]} has {steps} steps")
        elif step is not None:
            raise ValueError(f"step: found {step}; this model predicts once per sample")
        # Rows that belong to other predictions are not read.
        reader = self.reader[sample, : len(names)] * read[:, None, None]
        scans = [self.scan(sample, -1, k).contributions(reader).sum(0) for k in range(len(self.scans[-1]))]
        guess = self.prediction[..., None] if self.logits is None else self.logits
        return Attribution(
            names,
            places,
            words,
            scan=torch.stack(scans).sum(0),
            direct=(self.direct[sample, : len(names)] * read[:, None]).double(),
            bias=self.bias.double(),
            logits=(guess[sample] if self.prediction.ndim == 1 else guess[sample, step]).double(),
        )

    def _positions(self, sample: int, layer: int = -1) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
        """Modality, place in it, and word of each position of a sample's sequence in a layer."""
        if self.sequence is None:
            raise ValueError("this trace has no scans; expected one made by model.trace(batch), with scans=True")
        rows = [(m, t) for m, t in self.sequence[layer, sample].tolist() if m >= 0]
        names = tuple(self.modalities[m] for m, _ in rows)
        places = tuple(t for _, t in rows)
        texts = {m: self.words[sample].get(m, ()) for m in self.modalities}
        words = tuple(texts[m][t] if t < len(texts[m]) else "" for m, t in zip(names, places, strict=True))
        return names, places, words


@torch.no_grad()
def trace_of(model: nn.Module, batch: MultimodalBatch, scans: bool = True) -> Trace:
    """Run a batch through an `AlignMamba2` as in prediction; its mode is left as it was."""
    was_training = model.training
    model.eval()
    try:
        masks, real = model._real_tokens(batch)
        projected = model._tokens(masks, real)
        records: list[dict[str, Any]] = []
        later: dict[str, Tensor] = {}
        tokens, ordering, full = model._fuse(projected, masks, records, aligned=later)
        output = model._read_out(tokens, ordering, full)
        if model.shortcut is not None:
            output, _ = model._with_shortcut(output, real, masks)
        pairs = aligned_pairs(masks, model.config.anchor)
        aligned = {}
        for pair in pairs:
            sides = (*((later or projected)[m] for m in pair), *(masks[m] for m in pair))
            aligned[pair] = (
                transport(*sides, **model.align.transport_loss.options),
                mmd(*sides, **model.align.mmd_loss.options).cpu(),
            )
        straight = _straight(model, real, masks)
        scan_fields = _scan_fields(model, records, full, straight) if scans else {}
    finally:
        model.train(was_training)

    def by_modality(rows: Tensor) -> dict[str, Tensor]:
        return {m: x.cpu() for m, x in model._ungroup(rows, ordering, full).items() if m in masks}

    n_shared = model.config.n_shared
    shared = ["shared"] if n_shared == 1 else [f"shared {i + 1}" for i in range(n_shared)]
    names = {"both": ["specific", *shared], "shared": shared, "specific": ["specific"]}[model.config.experts]
    return Trace(
        modalities=tuple(masks),
        pairs=pairs,
        ids=batch.ids,
        words=batch.words,
        labels=None if batch.labels is None else batch.labels.cpu(),
        label_mask=None if batch.label_mask is None else batch.label_mask.cpu(),
        masks={m: mask.cpu() for m, mask in masks.items()},
        projected={m: x.cpu() for m, x in projected.items()},
        fused=by_modality(tokens),
        plans={pair: result.plan.cpu() for pair, (result, _) in aligned.items()},
        costs={pair: result.cost.cpu() for pair, (result, _) in aligned.items()},
        transport_distance={pair: result.distance.cpu() for pair, (result, _) in aligned.items()},
        discrepancy={pair: discrepancy for pair, (_, discrepancy) in aligned.items()},
        expert_names=tuple(names),
        contributions=[by_modality(r["contribution"]) for r in records],
        gates=[by_modality(r["gate"]) for r in records if r["gate"] is not None],
        ffn_gates=[by_modality(r["ffn_gate"]) for r in records if "ffn_gate" in r],
        prediction=output.prediction.cpu(),
        logits=None if output.logits is None else output.logits.cpu(),
        **scan_fields,
    )


def _scan_fields(
    model: nn.Module,
    records: list[dict[str, Any]],
    masks: Mapping[str, Tensor],
    straight: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The fields of a `Trace` that `Trace.scan` and `Trace.attribution` need, in the order of each layer's sequence."""

    def in_order(rows: Tensor, ordering: Ordering) -> Tensor:
        return ordering.to_sequence(rows.flatten(1)).unflatten(2, rows.shape[1:]).float().cpu()

    names = tuple(straight)
    numbers = {m: names.index(m) if m in names else -1 for m in masks}
    positions = torch.cat([F.pad(mask.nonzero()[:, 1:], (1, 0), value=numbers[m]) for m, mask in masks.items()])
    layers = []
    for layer, record in zip(model.layers, records, strict=True):
        directions = []
        ssms = (layer.ssm, layer.ssm_reverse)[: len(record["scans"])]
        for ssm, inputs in zip(ssms, record["scans"], strict=True):
            constants = {"A": -torch.exp(ssm.A_log.float()).cpu(), "D": ssm.D.detach().float().cpu()}
            directions.append({name: in_order(rows, record["ordering"]) for name, rows in inputs.items()} | constants)
        layers.append(directions)
    last = records[-1]["ordering"]
    direct, reader = _readers(model, records[-1], last, masks)
    bias = model.head.bias
    if model.shortcut is not None:
        direct, bias = direct + torch.cat(list(straight.values())), bias + model.shortcut.bias
    return {
        "sequence": torch.stack([record["ordering"].to_sequence(positions + 1) for record in records]).cpu() - 1,
        "scans": layers,
        "direct": in_order(direct, last),
        "reader": in_order(reader, last),
        "bias": bias.detach().float().cpu(),
    }


def _straight(
    model: nn.Module, real: Mapping[str, tuple[Tensor, Tensor]], masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Each real token's share (N_m, C) in what the shortcut adds to the logits, by modality."""
    shares, start = {m: x.new_zeros(len(x), model.outputs) for m, (x, _) in real.items()}, 0
    for m in model.config.shortcut:
        weight = model.shortcut.weight[:, start : start + model.config.modalities[m]]
        start += weight.shape[1]
        if m in real:
            x, place = real[m]
            count = masks[m].sum(1)[place // masks[m].shape[1]].unsqueeze(1)
            shares[m] = model.project[m].standardised(x) @ weight.T / count
    return shares


def _readers(
    model: nn.Module, record: dict[str, Any], ordering: Ordering, masks: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Each token's weight in its logits, with the scales of the last norms, all gates and the read-out's as they are.

    Then logits = bias + Σ_t direct_t + Σ_t reader_t · y_t, with y_t the output of the last layer's scans at token t.
    direct: (N, C);  reader: (N, e, C).
    """
    layer, tokens = model.layers[-1], record["tokens"]
    after = tokens + layer.project_out(record["mixed"], ordering.counts, record["gate"])
    with torch.enable_grad():  # behind an FFN, what reads its output reads its input through its transpose
        after = after.detach().requires_grad_()
        final = after + model.ffns[-1](after, ordering.counts, still=True) if model.ffns else after
    scale = torch.rsqrt(final.detach().square().mean(-1, keepdim=True) + model.norm.eps)
    fused = final.detach() * scale * model.norm.weight
    weight = model._weights(fused, ordering, masks).unsqueeze(-1) * scale * model.norm.weight
    direct, reader = [], []
    for row in model.head.weight:
        towards = torch.autograd.grad(final, after, weight * row, retain_graph=True)[0]  # (N, d)
        direct.append((tokens * towards).sum(-1))
        with torch.enable_grad():  # the map is linear in `mixed`: its gradient is its transpose
            mixed = record["mixed"].detach().requires_grad_()
            output = layer.project_out(mixed, ordering.counts, record["gate"])
            reader.append(torch.autograd.grad(output, mixed, towards)[0])
    return torch.stack(direct, -1), torch.stack(reader, -1)
