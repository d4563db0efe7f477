"""The alignment losses as modules."""

import math

import pytest
import torch
from torch import nn

from alignmamba2.alignment import DualAlignment, MMDLoss, TransportLoss, mmd, transport
from alignmamba2.alignment.losses import aligned_pairs, at_times


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
    assert TransportLoss()(*pair[:2], masks["video"] & False, masks["text"]).item() == 0
    assert "epsilon=0.2" in repr(TransportLoss(epsilon=0.2))


def test_dual_alignment_is_the_weighted_sum_over_pairs():
    tokens, masks = batch()
    align = DualAlignment(0.5, 2.0, transport={"epsilon": 0.1}, mmd={"bandwidth": 2.0})
    losses = align(tokens, masks)
    assert list(losses) == ["ot", "ot/audio-text", "ot/video-text", "mmd", "mmd/audio-text", "mmd/video-text"]
    for name, loss in (("ot", TransportLoss(epsilon=0.1)), ("mmd", MMDLoss(bandwidth=2.0))):
        values = [loss(tokens[m], tokens["text"], masks[m], masks["text"]) for m in ("audio", "video")]
        torch.testing.assert_close(losses[name], sum(values))
        for m, value in zip(("audio", "video"), values, strict=True):
            torch.testing.assert_close(losses[f"{name}/{m}-text"], value)
    task = torch.tensor(7.0)
    torch.testing.assert_close(align.add_to(task, losses), 7 + 0.5 * losses["ot"] + 2.0 * losses["mmd"])
    align.warmth = 0.25
    torch.testing.assert_close(align.add_to(task, losses), 7 + 0.125 * losses["ot"] + 0.5 * losses["mmd"])


def test_pairs_are_all_others_with_the_anchor():
    tokens, masks = batch()
    assert aligned_pairs(tokens, "text") == (("audio", "text"), ("video", "text"))
    assert aligned_pairs(tokens, "video") == (("audio", "video"), ("text", "video"))
    assert aligned_pairs(["rgb"], "rgb") == aligned_pairs(["rgb", "depth"], "text") == ()
    assert "ot/text-video" in DualAlignment(anchor="video")(tokens, masks)
    assert DualAlignment()({"text": tokens["text"]}) == {}
    with pytest.raises(ValueError, match="anchor: found 'smell'"):
        DualAlignment(anchor="smell")(tokens, masks)


def test_a_weight_of_zero_computes_nothing():
    tokens, masks = batch()
    assert DualAlignment(0.0, 0.0)(tokens, masks) == {}
    assert {name.split("/")[0] for name in DualAlignment(0.0, 0.01)(tokens, masks)} == {"mmd"}
    assert DualAlignment(0.0, 0.0).add_to(torch.tensor(3.0), {}) == 3


@pytest.mark.parametrize("drawn", [False, True])
def test_long_sequences_are_compared_at_a_token_per_stretch_of_time(drawn):
    generator = torch.Generator().manual_seed(3)
    x = torch.arange(60.0).view(3, 20, 1).expand(-1, -1, 2)
    mask = torch.rand(3, 20, generator=generator) < 0.8
    mask[1] = torch.arange(20) % 5 == 2  # 4 real tokens, fewer than there are times
    mask[2] = False
    places = torch.rand(3, 6, generator=generator) if drawn else 0.5
    time = (torch.arange(6) + places) / 6
    found, real = at_times(x, mask, time)
    assert real.sum(1).tolist() == [6, 4, 0]
    whole = x[0, mask[0], 0].tolist()
    expected = [whole[math.floor(t * len(whole))] for t in (time[0] if drawn else time).tolist()]
    assert found[0, :, 0].tolist() == expected
    assert sorted(expected) == expected
    assert found[1, :4, 1].tolist() == x[1, mask[1], 1].tolist()


def test_the_last_moment_of_a_long_sequence_is_still_in_it():
    x, last = torch.arange(100_003.0).view(1, -1, 1), torch.nextafter(torch.tensor([1.0]), torch.tensor([0.0]))
    found, _ = at_times(x, torch.ones(1, 100_003, dtype=torch.bool), last)
    assert 100_001 <= float(found) <= 100_002


def test_sequences_up_to_the_limit_are_compared_whole_and_nothing_is_drawn():
    tokens, masks = batch()
    state = torch.get_rng_state()
    exact = DualAlignment(most=7)(tokens, masks)
    assert torch.equal(torch.get_rng_state(), state)
    some = DualAlignment(most=6)(tokens, masks)
    assert not torch.equal(torch.get_rng_state(), state)
    assert float(exact["mmd"]) == float(DualAlignment()(tokens, masks)["mmd"]) != float(some["mmd"])
    evaluated = DualAlignment(most=6).eval()
    assert float(evaluated(tokens, masks)["ot"]) == float(evaluated(tokens, masks)["ot"])


def test_a_part_of_the_tokens_pulls_where_all_do():
    """The mean gradient over draws points where the exact one does, seen at the projection that all tokens share."""
    torch.manual_seed(0)
    walk = torch.randn(2, 4, 400, 8).cumsum(2) / 10
    features = {"audio": walk[0] + 1, "text": walk[1, :, :300]}
    weight = torch.randn(8, 8).requires_grad_()

    def gradient(align):
        losses = align({"audio": features["audio"] @ weight, "text": features["text"]}, {})
        return {n: torch.autograd.grad(losses[n], weight, retain_graph=True)[0].flatten() for n in ("ot", "mmd")}

    exact, align = gradient(DualAlignment()), DualAlignment(most=64)
    draws = [gradient(align) for _ in range(8)]
    for name, g in exact.items():
        mean = torch.stack([draw[name] for draw in draws]).mean(0)
        assert torch.cosine_similarity(mean, g, dim=0) > 0.97
        assert min(torch.cosine_similarity(draw[name], g, dim=0) for draw in draws) > 0.8


def test_gradients_reach_every_modality_and_missing_ones_get_none():
    tokens, masks = batch()
    tokens = {m: x.requires_grad_() for m, x in tokens.items()}
    losses = DualAlignment()(tokens, masks)
    (losses["ot"] + losses["mmd"]).backward()
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
    totals = [sum(align(tokens)[name] for name in ("ot", "mmd")) for align in (free, fixed)]
    assert torch.equal(*totals)
    for total, moves in zip(totals, (True, False), strict=True):
        text, *others = torch.autograd.grad(total, list(tokens.values()), allow_unused=True)
        assert (text is not None) == moves
        assert all(g.abs().sum() > 0 for g in others)


def test_a_contrast_is_the_share_of_ones_own_text():
    """By one sample at a time; whoever lacks a modality is nobody's negative, and says nothing itself."""
    tokens, masks = batch()
    masks["text"] = masks["text"].clone()
    masks["text"][3] = False
    loss = TransportLoss(epsilon=0.2, negatives=2)
    x, y = tokens["audio"].requires_grad_(), tokens["text"].requires_grad_()
    value = loss(x, y, masks["audio"], masks["text"])
    expected = []
    for i in range(3):
        scores = []
        for j in (i, (i + 1) % 4, (i + 2) % 4):
            if j < 3:
                u, v = x[i][masks["audio"][i]][None], y[j][masks["text"][j]][None]
                scores.append(float(transport(u, v, epsilon=0.2).distance.detach()) / 0.1)
        expected.append(scores[0] + math.log(sum(math.exp(-s) for s in scores)))
    assert value.item() == pytest.approx(sum(expected) / 3, rel=1e-3)
    value.backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad[3].abs().sum() == 0
    assert x.grad[:3].abs().sum() > 0
    alone = TransportLoss(epsilon=0.2, negatives=2)(x[:1], y[:1])
    assert alone.item() == 0


def test_a_contrast_tells_whose_text_it_is():
    """What is heard is a sum of one's own code and noise; a linear map has to find the code's half."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(24, 5, 6, generator=generator)
    audio = torch.cat([3 * torch.randn(24, 5, 6, generator=generator), text], 2)
    layer = nn.Linear(12, 6, bias=False)
    loss, optimizer = TransportLoss(epsilon=0.1, negatives=4), torch.optim.Adam(layer.parameters(), lr=0.02)
    before = loss(layer(audio), text).item()
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(layer(audio), text)
        value.backward()
        optimizer.step()
    assert before > 1.0
    assert value.item() < 0.5
