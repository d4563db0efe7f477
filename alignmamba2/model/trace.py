"""What a model did with a batch, in full: the material of every picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[str, str]


@dataclass(frozen=True)
class Scan:
    """One selective scan of one sequence, taken apart.

        h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t u_t        y_t = (C_t h_t + D u_t) · SiLU(z_t)

    With Δ, B, C and z as they are, y is linear in u: what each earlier token adds to each y_t is exact, and adds up.
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
        Which token of its modality it is, from 0.
    words : L strings
        What the token stands for; "" where nothing is known.
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

    def kept(self) -> Tensor:
        """(L, e, n): the share exp(Δ_t A) of the old state that is kept at each token."""
        return torch.exp(self.delta.unsqueeze(-1) * self.A)

    def remains(self, start: int = 0) -> Tensor:
        """(L, e, n): what is left at each token of what the state held at `start`; 0 where it is not read yet."""
        delta = self.delta.flip(0) if self.reverse else self.delta
        first = len(delta) - 1 - start if self.reverse else start
        since = delta.cumsum(0) - delta[: first + 1].sum(0)
        left = torch.exp(since.unsqueeze(-1) * self.A)
        left[:first] = 0
        return left.flip(0) if self.reverse else left

    def gate(self) -> Tensor:
        """(L, e): SiLU(z), what each token lets through."""
        return F.silu(self.z)

    def outputs(self) -> Tensor:
        """(L, e), float64: y."""
        rows = [row.sum(0) for row in self._rows()]
        return torch.stack(rows[::-1] if self.reverse else rows)

    def influence(self) -> Tensor:
        """(L, L), float64: the Euclidean length of what token s (column) adds to y at token t (row)."""
        return self._matrix(lambda _t, row: row.norm(dim=-1))

    def contributions(self, reader: Tensor) -> Tensor:
        """(L, L, C), float64: what token s (second) adds to Σ_e reader[t] · y_t at token t (first).

        Parameters
        ----------
        reader : Tensor (L, e, C)
            Such as that of `Trace`: then the sum over both is what the scan adds to the logits.
        """
        reader = (reader.flip(0) if self.reverse else reader).double()
        return self._matrix(lambda t, row: row @ reader[t])

    def _matrix(self, of) -> Tensor:
        rows = [of(t, row) for t, row in enumerate(self._rows())]
        length = len(rows)
        full = torch.stack([torch.cat([row, row.new_zeros(length - len(row), *row.shape[1:])]) for row in rows])
        return full.flip(0, 1) if self.reverse else full

    def _rows(self) -> Iterator[Tensor]:
        """For each token t as it is read: (t + 1, e), what every token up to t adds to y_t."""
        u, delta, gate, b, c = (
            (x.flip(0) if self.reverse else x).double() for x in (self.u, self.delta, self.gate(), self.B, self.C)
        )
        put = (delta * u).unsqueeze(-1) * b.unsqueeze(1)  # (L, e, n): each token's own state
        for t in range(len(u)):
            put[:t] *= torch.exp(delta[t].unsqueeze(-1) * self.A)
            row = put[: t + 1] @ c[t]
            row[t] += self.D * u[t]
            yield row * gate[t]


@dataclass(frozen=True)
class Attribution:
    """What each token of a sample adds to a prediction, exactly: the sum of all is the logits.

    The last layer's scan is taken apart with its Δ, B, C and gates as they are, and the last norm with its scale as it
    is ("our choice": this says where a prediction comes from, not what would happen without a token).

    Attributes
    ----------
    modality, place, words : L entries
        As in `Scan`.
    scan : Tensor (L, C), float64
        What each token adds through the last layer's scans: to its own and to later tokens.
    direct : Tensor (L, C), float64
        What each token adds past the last layer, along the residual stream.
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
    sequence : int64 Tensor (B, L, 2), or None if traced with scans=False, as all that follows
        For each position of the fused sequence: which modality, and which token of it; −1 behind the last.
    scans : one list a layer of one mapping a direction
        "u", "delta", "z" (B, L, e), "B", "C" (B, L, n), "A" (e, n), "D" (e,), as in `Scan`.
    direct : Tensor (B, L, C);  reader : Tensor (B, L, e, C);  bias : Tensor (C,)
        How positions count for their logits; see `attribution`.
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

    def scan(self, sample: int, layer: int = -1, direction: int = 0) -> Scan:
        """One scan of one sample, without padding. Direction 1 is the reverse one, where there is one."""
        names, places, words = self._positions(sample)
        given = self.scans[layer][direction]
        own = {name: given[name][sample, : len(names)] for name in ("u", "delta", "z", "B", "C")}
        return Scan(
            **own, A=given["A"], D=given["D"], modality=names, place=places, words=words, reverse=direction == 1
        )

    def attribution(self, sample: int, step: int | None = None) -> Attribution:
        """What each token of a sample adds to its prediction (see `Attribution`).

        Parameters
        ----------
        sample : int
        step : int, optional
            Which step's prediction, with one prediction a step; left out, the last one.
        """
        names, places, words = self._positions(sample)
        read = torch.ones(len(names), dtype=torch.bool)
        if self.prediction.ndim == 2:
            step = max(places) if step is None else step
            read = torch.tensor(places) == step
            if not read.any():
                raise IndexError(f"step: found {step}; sample {self.ids[sample]} has {max(places) + 1} steps")
        elif step is not None:
            raise ValueError(f"step: found {step}; this model predicts once a sample")
        # Rows whose own prediction is not asked for are not read.
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

    def _positions(self, sample: int) -> tuple[tuple[str, ...], tuple[int, ...], tuple[str, ...]]:
        """Modality, place in it, and words, of each position of a sample's sequence."""
        if self.sequence is None:
            raise ValueError("this trace has no scans; expected one made by model.trace(batch), with scans=True")
        rows = [(m, t) for m, t in self.sequence[sample].tolist() if m >= 0]
        names = tuple(self.modalities[m] for m, _ in rows)
        known = {m: self.words[sample].get(m, ()) for m in self.modalities}
        words = tuple(known[m][t] if t < len(known[m]) else "" for m, (_, t) in zip(names, rows, strict=True))
        return names, tuple(t for _, t in rows), words
