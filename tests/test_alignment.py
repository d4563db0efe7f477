"""The alignment losses as modules."""

import pytest
import torch
from torch import nn

from alignmamba2.alignment import DualAlignment, MMDLoss, TransportLoss, mmd, transport


def batch(b=4, d=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = {m: torch.randn(b, t, d, generator=generator) for m, t in (("audio", 5), ("text", 7), ("video", 6))}
    masks = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in tokens.items()}
    masks["audio"][1, 3:] = False
    masks["video"][2] = False
    return tokens, masks


def test_losses_are_means_over_samples_that_hold_both():
    tokens, masks = batch()
    pair = tokens["video"], tokens["text"], masks["video"], masks["text"]
    present = [0, 1, 3]
    distance = transport(*pair, epsilon=0.2).distance
    torch.testing.assert_close(TransportLoss(epsilon=0.2)(*pair), distance[present].mean())
    torch.testing.assert_close(MMDLoss(bandwidth=2.0)(*pair), mmd(*pair, bandwidth=2.0)[present].mean())
    torch.testing.assert_close(MMDLoss(pooled=True)(*pair), mmd(*pair, pooled=True))
    assert TransportLoss()(*pair[:2], masks["video"] & False, masks["text"]).item() == 0
    assert "epsilon=0.2" in repr(TransportLoss(epsilon=0.2))


def test_dual_alignment_is_the_weighted_sum_over_pairs():
    tokens, masks = batch()
    align = DualAlignment(0.5, 2.0, pair_weights={"audio": 3.0}, transport={"epsilon": 0.1}, mmd={"bandwidth": 2.0})
    out = align(tokens, masks)
    assert list(out.transport_by_pair) == [("audio", "text"), ("video", "text")]
    expected = {"transport": 0.0, "mmd": 0.0}
    for m, weight in (("audio", 3.0), ("video", 1.0)):
        pair = tokens[m], tokens["text"], masks[m], masks["text"]
        expected["transport"] += weight * TransportLoss(epsilon=0.1)(*pair)
        expected["mmd"] += weight * MMDLoss(bandwidth=2.0)(*pair)
    torch.testing.assert_close(out.transport, expected["transport"])
    torch.testing.assert_close(out.mmd, expected["mmd"])
    torch.testing.assert_close(out.loss, 0.5 * expected["transport"] + 2.0 * expected["mmd"])


def test_anchor():
    tokens, masks = batch()
    names = list(tokens)
    assert DualAlignment().pairs(names) == [("audio", "text"), ("video", "text")]
    assert DualAlignment().pairs(["rgb", "depth"]) == [("depth", "rgb")]
    assert DualAlignment().pairs(["rgb"]) == []
    assert DualAlignment(anchor="video").pairs(names) == [("audio", "video"), ("text", "video")]
    assert len(DualAlignment(anchor="all").pairs(names)) == 3
    assert DualAlignment(pair_weights={"audio": 0.0}).pairs(names) == [("video", "text")]
    with pytest.raises(ValueError, match="anchor: found 'smell'"):
        DualAlignment(anchor="smell")(tokens, masks)


def test_warm_up():
    linear, cosine = (DualAlignment(warmup_steps=10, schedule=s) for s in ("linear", "cosine"))
    assert [linear.warmth(s) for s in (0, 5, 10, 99, None)] == [0, 0.5, 1, 1, 1]
    assert [round(cosine.warmth(s), 3) for s in (0, 5, 10)] == [0, 0.5, 1]
    assert DualAlignment().warmth(0) == 1
    tokens, masks = batch()
    torch.testing.assert_close(linear(tokens, masks, step=3).loss, 0.3 * linear(tokens, masks).loss)
    with pytest.raises(ValueError, match="schedule"):
        DualAlignment(schedule="step")


def test_a_weight_of_zero_computes_nothing():
    tokens, masks = batch()
    out = DualAlignment(0.0, 0.0)(tokens, masks)
    assert out.loss.item() == 0
    assert out.transport_by_pair == out.mmd_by_pair == {}


def test_gradients_reach_every_modality_and_missing_ones_get_none():
    tokens, masks = batch()
    tokens = {m: x.requires_grad_() for m, x in tokens.items()}
    DualAlignment()(tokens, masks).loss.backward()
    for m, x in tokens.items():
        assert torch.isfinite(x.grad).all()
        assert x.grad.abs().sum() > 0
        assert (x.grad * ~masks[m][:, :, None]).abs().sum() == 0


@pytest.mark.parametrize("method", ["sinkhorn", "relaxed", "unbalanced"])
def test_training_with_the_loss_finds_planted_partners(method):
    # Token i of "audio" is token i of "text", turned by a fixed rotation; a linear map has to undo the rotation.
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(16, 8, 12, generator=generator)
    turn = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    turn = torch.matrix_exp(turn - turn.T)
    audio, layer = text @ turn, nn.Linear(12, 12, bias=False)
    nn.init.eye_(layer.weight)
    loss, optimizer = TransportLoss(epsilon=0.05, method=method), torch.optim.Adam(layer.parameters(), lr=0.02)

    def share():
        plan = transport(layer(audio), text, epsilon=0.05).plan
        return plan.diagonal(dim1=1, dim2=2).sum().item() / 16

    before = share()
    for _ in range(60):
        optimizer.zero_grad()
        loss(layer(audio), text).backward()
        optimizer.step()
    assert before < 0.4
    assert share() > 0.9


def test_a_fixed_anchor_gets_no_gradient_and_changes_no_value():
    tokens = {m: torch.randn(3, t, 8, requires_grad=True) for m, t in (("text", 5), ("audio", 7), ("video", 4))}
    free, fixed = DualAlignment(1.0, 1.0), DualAlignment(1.0, 1.0, fixed_anchor=True)
    assert torch.equal(free(tokens).loss, fixed(tokens).loss)
    for align, moves in ((free, True), (fixed, False)):
        gradients = torch.autograd.grad(align(tokens).loss, list(tokens.values()), allow_unused=True)
        text, *others = gradients
        assert (text is not None) == moves
        assert all(g.abs().sum() > 0 for g in others)
