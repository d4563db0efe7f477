"""From modalities side by side to one sequence, and back.

Tokens live in two layouts. *Grouped*: (N, d), the N real tokens of a batch, one modality after the other, no padding;
a linear map with one weight per modality is one matrix product per slice. *Sequence*: (B, L, d), the tokens of each
sample in the order in which the scan reads them, padding only at the end, out of sight of a causal scan. An `Ordering`
holds the index from one to the other: padding squeezed out, interleaved or concatenated, forwards or backwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batch import BatchError
from ..gpu.host import on_host, send

SCAN_ORDERS = ("rows", "columns", "snake", "rows back", "columns back", "snake back")


class _Select(torch.autograd.Function):
    """rows[index], where the index names no row twice: the backward is a copy, not a slow sum."""

    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = rows.shape[0]
        return rows.index_select(0, index)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (index,) = ctx.saved_tensors
        return grad.new_zeros(ctx.size, *grad.shape[1:]).index_copy(0, index, grad), None


class _Place(torch.autograd.Function):
    """Rows put at index (no place twice) among zeros: the adjoint of `_Select`."""

    @staticmethod
    def forward(ctx, rows: Tensor, index: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(index)
        return rows.new_zeros(size, *rows.shape[1:]).index_copy_(0, index, rows)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (index,) = ctx.saved_tensors
        return grad.index_select(0, index), None, None


def select_rows(rows: Tensor, index: Tensor) -> Tensor:
    """(M, d) → (N, d): the rows at `index` (N,), which names none twice."""
    return _Select.apply(rows, index)


def place_rows(rows: Tensor, index: Tensor, size: int) -> Tensor:
    """(N, d) → (size, d): rows put at `index` (N,), which names no place twice, among zeros."""
    return _Place.apply(rows, index, size)


@dataclass(frozen=True)
class Ordering:
    """The place of each grouped token in its sample's sequence."""

    counts: tuple[int, ...]  # real tokens of each modality, in the model's order of modalities; they sum to N
    place: Tensor  # int64 (N,): grouped token i stands at divmod(place[i], L), which is (sample, position)
    reverse_place: Tensor  # int64 (N,): the same, each sample read from its last token to its first
    size: tuple[int, int]  # (B, L)
    lengths: Tensor  # int64 (B,): real tokens of each sample

    def to_sequence(self, tokens: Tensor, reverse: bool = False) -> Tensor:
        """Grouped (N, d) → sequence (B, L, d), zeros behind each sample's last token."""
        b, length = self.size
        place = self.reverse_place if reverse else self.place
        return place_rows(tokens, place, b * length).view(b, length, tokens.shape[-1])

    def to_tokens(self, sequence: Tensor, reverse: bool = False) -> Tensor:
        """Sequence (B, L, d) → grouped (N, d)."""
        place = self.reverse_place if reverse else self.place
        return select_rows(sequence.flatten(0, 1), place)

    @property
    def sample(self) -> Tensor:
        """The sample (N,) that each grouped token belongs to."""
        return self.place // self.size[1]

    def softmax(self, scores: Tensor) -> Tensor:
        """Return the softmax of scores (N,) over the tokens of each sample."""
        sample, none = self.sample, scores.new_zeros(self.size[0])
        top = none.scatter_reduce(0, sample, scores.detach(), "amax", include_self=False)
        weights = torch.exp(scores - top[sample])
        return weights / none.index_add(0, sample, weights)[sample]

    def to(self, device: torch.device) -> Ordering:
        """Return the same ordering on a device, which is not waited for."""
        place, reverse_place, lengths = (send(x, device) for x in (self.place, self.reverse_place, self.lengths))
        return Ordering(self.counts, place, reverse_place, self.size, lengths)

    def split(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Grouped (N, d) → one slice per modality."""
        return tokens.split(self.counts)


def shuffled(masks: Mapping[str, Tensor], modalities: Sequence[str]) -> dict[str, Tensor]:
    """Return for each of `modalities` the numbers (N_m,) of its real tokens in a random order within each sample.

    One order for all of them: where each has as many tokens, such as patches of two pictures of a place, those that
    belong together stay together.
    """
    orders = {}
    length = max((masks[m].shape[1] for m in modalities), default=0)
    key = torch.rand(len(next(iter(masks.values()))), length, dtype=torch.float64)
    for m in modalities:
        mask = on_host(masks[m])
        sample = mask.nonzero()[:, 0]
        orders[m] = send(torch.argsort(sample + key[sample, token_numbers(mask)]), masks[m].device)
    return orders


def token_numbers(mask: Tensor) -> Tensor:
    """Return the number (N,) of each real token within its sample: 0, 1, …"""
    return mask.cumsum(1)[mask] - 1


def order_tokens(
    masks: Mapping[str, Tensor],
    order: str = "interleave",
    last: str = "",
    numbers: Mapping[str, Tensor] | None = None,
) -> Ordering:
    """Order the real tokens of all modalities, masks (B, T_m), into one sequence per sample.

    "interleave" sorts by relative time, ties in the order of the modalities: the i-th of T real tokens has the time
    (i + ½) / T, so that neither padding nor its place changes anything (AlignMamba v1, as told by a third party,
    interleaves per step; relative time carries that over to unequal lengths: our choice). "concat" puts one modality
    behind the other. Modality `last`, if any, follows all others of the same time. `numbers` (N_m,) say when the real
    tokens of a modality are read, 0, 1, … within each sample; by default as they come.
    """
    if order not in ("interleave", "concat"):
        raise ValueError(f"order: found {order!r}; expected 'interleave' or 'concat'")
    sample, time, counts = [], [], []
    for rank, (m, mask) in enumerate(masks.items()):
        row = mask.nonzero()[:, 0]  # (N_m,), ascending
        index = numbers[m] if numbers and m in numbers else token_numbers(mask)
        total = mask.sum(1)[row]
        sample.append(row)
        # float64: (i + ½)/T of different lengths must compare equal exactly where they are equal.
        relative = (2 * index + 1).double() / (2 * total).double()
        time.append(relative if order == "interleave" else relative + rank)
        counts.append(len(row))
    blocks = torch.arange(sum(counts), device=row.device).split(counts)
    ties = torch.cat([block for _, block in sorted(zip(masks, blocks, strict=True), key=lambda pair: pair[0] == last)])
    return arrange(torch.cat(sample), torch.cat(time), counts, len(mask), ties)


def arrange(
    sample: Tensor, time: Tensor, counts: Sequence[int], batch_size: int, ties: Tensor | None = None
) -> Ordering:
    """Return the `Ordering` of grouped tokens that belong to `sample` (N,) and are read in the order of `time` (N,).

    Ties keep the order of `ties` (N,), by default the grouped one: modality by modality, step by step.
    """
    order = torch.arange(len(sample), device=sample.device) if ties is None else ties
    for key in (time, sample):  # stable sorts, the less important key first
        order = order[torch.argsort(key[order], stable=True)]
    lengths = torch.bincount(sample, minlength=batch_size)
    start = lengths.cumsum(0) - lengths
    position = torch.empty_like(sample)
    position[order] = torch.arange(len(sample), device=sample.device) - start[sample[order]]
    longest = int(lengths.max()) if len(sample) else 0
    return Ordering(
        counts=tuple(counts),
        place=sample * longest + position,
        reverse_place=sample * longest + lengths[sample] - 1 - position,
        size=(batch_size, longest),
        lengths=lengths,
    )


def scan_turns(mask: Tensor, grid: Sequence[int], order: str) -> Tensor:
    """Return the turn (N,) in a scan order of each real token of a grid (h, w), h · w of a sample, row by row, or none.

    "snake" reads every second row backwards.
    """
    height, width = grid
    wrong = set(mask.sum(1).tolist()) - {0, height * width}
    if wrong:
        raise BatchError(f"masks: {wrong} real tokens in samples; a grid of {height} × {width} has all of them or none")
    number = token_numbers(mask)
    row, column = number // width, number % width
    if order.startswith("snake"):
        column = torch.where(row % 2 == 1, width - 1 - column, column)
    turn = column * height + row if order.startswith("columns") else row * width + column
    return height * width - 1 - turn if order.endswith("back") else turn


def sinusoids(mask: Tensor, d: int, grid: Sequence[int] | None = None) -> Tensor:
    """Return sines and cosines (N, d) of each real token's relative time or, on a grid, of its relative row and column.

    Of angles from π t to 100 π t, with t in (0, 1), in geometric progression (our choice).
    """
    number = token_numbers(mask)
    axes = [(number + 0.5) / mask.sum(1, keepdim=True).expand_as(mask)[mask]]
    if grid:
        axes = [(number // grid[1] + 0.5) / grid[0], (number % grid[1] + 0.5) / grid[1]]
    rates = math.pi * 100 ** torch.linspace(0, 1, math.ceil(d / (2 * len(axes))), device=mask.device)
    angles = torch.cat([t.unsqueeze(1) * rates for t in axes], 1)
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :d]
