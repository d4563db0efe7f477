import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignmamba2.batch import BatchError
from alignmamba2.model.ordering import SCAN_ORDERS, order_tokens, scan_turns, shuffled, sinusoids, token_numbers


def masks_of(draw: torch.Generator, b: int, lengths: list[int]) -> dict[str, torch.Tensor]:
    return {f"m{i}": torch.rand(b, t, generator=draw) > 0.4 for i, t in enumerate(lengths)}


def by_hand(masks: dict[str, torch.Tensor], order: str, last: str) -> list[list[int]]:
    """Each sample's sequence as grouped token numbers, by sorting tuples."""
    number, rows = 0, [[] for _ in next(iter(masks.values()))]
    for rank, (m, mask) in enumerate(masks.items()):
        rank = 9 if order == "interleave" and m == last else rank
        for b, row in enumerate(mask.tolist()):
            total = sum(row)
            for i in range(total):
                time = (2 * i + 1) / (2 * total) if order == "interleave" else 0
                rows[b].append(((time, rank, i), number))
                number += 1
    return [[n for _, n in sorted(row)] for row in rows]


@given(
    st.integers(0, 2**31),
    st.integers(1, 4),
    st.lists(st.integers(1, 7), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from(["", "m0", "m1"]),
)
def test_equals_sorting_by_hand(seed, b, lengths, interleave, last):
    order = "interleave" if interleave else "concat"
    masks = masks_of(torch.Generator().manual_seed(seed), b, lengths)
    ordering = order_tokens(masks, order, last)
    total = sum(int(m.sum()) for m in masks.values())
    tokens = torch.arange(1.0, total + 1).unsqueeze(1)
    expected = by_hand(masks, order, last)
    for reverse in (False, True):
        sequence = ordering.to_sequence(tokens, reverse)
        for row, known in zip(sequence[..., 0].tolist(), expected, strict=True):
            known = [n + 1 for n in (known[::-1] if reverse else known)]
            assert row == known + [0] * (len(row) - len(known))
        assert torch.equal(ordering.to_tokens(sequence, reverse), tokens)


def test_gradients_of_the_two_layouts():
    ordering = order_tokens({"a": torch.tensor([[1, 1, 0], [1, 0, 0]]).bool(), "b": torch.ones(2, 2).bool()})
    tokens = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: ordering.to_sequence(t), tokens)
    assert torch.autograd.gradcheck(lambda t: ordering.to_tokens(ordering.to_sequence(t, True).sin(), True), tokens)


def test_shuffling_stays_within_samples_and_reaches_every_order():
    masks = {
        "a": torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]]).bool(),
        "b": torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool(),
    }
    torch.manual_seed(0)
    seen = set()
    for _ in range(60):
        orders = shuffled(masks, ["a", "b"])
        assert sorted(orders["a"].tolist()) == list(range(5))
        assert sorted(orders["a"][:3].tolist()) == [0, 1, 2]
        assert sorted(orders["b"][4:].tolist()) == [4, 5, 6, 7]
        assert torch.equal(orders["a"][:3], orders["b"][:3])  # equally many: tokens of one number stay together
        seen.add(tuple(orders["a"][:3].tolist()))
    assert len(seen) == 6
    numbers = {m: token_numbers(masks[m])[order] for m, order in orders.items()}
    plain, other = order_tokens(masks, "concat"), order_tokens(masks, "concat", numbers=numbers)
    tokens = torch.arange(1.0, 14).unsqueeze(1)
    a, b = plain.to_sequence(tokens)[..., 0], other.to_sequence(tokens)[..., 0]
    assert torch.equal(a[:, :6].sort(1).values, b[:, :6].sort(1).values)  # a block stays a block
    assert b[0, numbers["a"][0]] == 1  # the first token of "a" stands where its number says


def read(order: str, h: int, w: int) -> list[tuple[int, int]]:
    """The cells of a grid in a scan order, by walking."""
    if order.endswith(" back"):
        return read(order.removesuffix(" back"), h, w)[::-1]
    if order == "columns":
        return [(row, column) for column in range(w) for row in range(h)]
    back = order == "snake"
    return [(row, column) for row in range(h) for column in (range(w)[::-1] if back and row % 2 else range(w))]


@pytest.mark.parametrize("order", SCAN_ORDERS)
def test_a_scan_order_is_a_walk_over_the_grid_wherever_the_padding_lies(order):
    h, w = 3, 4
    mask = torch.zeros(3, 15, dtype=torch.bool)
    mask[0, :12] = mask[2, 3:] = True
    turns = scan_turns(mask, (h, w), order).view(2, h * w)  # the second sample has no picture
    for row in turns.tolist():
        assert [divmod(row.index(turn), w) for turn in range(h * w)] == read(order, h, w)
    with pytest.raises(BatchError, match=r"\{11\} real tokens .* 3 × 4"):
        scan_turns(mask & (torch.arange(15) > 0), (h, w), order)


def test_sinusoids_tell_the_relative_time_or_the_cell_and_no_padding():
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [0, 1, 0, 1, 0, 0], [0, 0, 1, 1, 1, 1]]).bool()
    for grid in (None, (2, 2)):
        masks = mask[[0, 2]] if grid else mask
        x = sinusoids(masks, 7, grid)
        assert x.shape == (int(masks.sum()), 7)
        assert torch.equal(x[:4], x[-4:])
        assert torch.pdist(x[:4]).min() > 0.1
    times = sinusoids(mask, 7)
    halves = torch.tensor([0.25, 0.75]) * torch.pi  # the first angle of two tokens: π t
    torch.testing.assert_close(times[4:6, 0], halves.sin())
    rows, columns = sinusoids(torch.ones(1, 6).bool(), 8, (2, 3)).view(2, 3, 2, 2, 2).unbind(3)
    assert torch.equal(rows[:, 0], rows[:, 2])
    assert torch.equal(columns[0], columns[1])


def test_unknown_order():
    with pytest.raises(ValueError, match="order: found 'shuffle'"):
        order_tokens({"a": torch.ones(1, 1).bool()}, "shuffle")
