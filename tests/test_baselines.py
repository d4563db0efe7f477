"""Every baseline: padding and company change nothing, any subset of modalities works, it learns, it is read again."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from torch import nn

from alignmamba2.baselines import KINDS, build_model, load_model, matching_width, parameter_count
from alignmamba2.baselines.base import side_by_side
from alignmamba2.batch import BatchError, MultimodalBatch, Sample
from tests.conftest import WIDTHS, make_samples

SETTINGS = {"modalities": WIDTHS, "d_model": 8, "n_layers": 2, "d_state": 4, "dropout": 0.1, "n_classes": 3}


def settings(kind, **changes):
    return {**SETTINGS, "kind": kind, **changes}


def model_of(kind, **changes):
    torch.manual_seed(0)
    return build_model(settings(kind, **changes)).eval()


def steps_of(samples):
    """One label a step: all modalities as long as the text."""
    return [
        dataclasses.replace(s, features={m: x[:4] for m, x in s.features.items()}, label=torch.tensor([0, 1, 2, 0]))
        for s in samples
    ]


@pytest.mark.parametrize("readout", ["mean", "last", "per_step"])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_company_change_nothing(kind, readout):
    samples = make_samples([(5, 7, 9), (4, 4, 4), (6, 5, 5), (9, 9, 4)])
    if readout == "per_step":
        cut = [4, 2, 3, 4]
        samples = [
            dataclasses.replace(s, features={m: x[:n] for m, x in s.features.items()}, label=torch.zeros(n).long())
            for s, n in zip(samples, cut, strict=True)
        ]
    model = model_of(kind, readout=readout)
    with torch.no_grad():
        together = model(MultimodalBatch.from_samples(samples)).logits
        alone = [model(MultimodalBatch.from_samples([s])).logits[0] for s in samples]
    for found, expected in zip(together, alone, strict=True):
        found = found[: len(expected)] if readout == "per_step" else found
        assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_where_the_padding_lies_changes_nothing(kind):
    (sample,) = make_samples([(5, 7, 3)])
    plain = MultimodalBatch.from_samples([sample])
    features, masks = {}, {}
    for m, x in plain.features.items():  # in front, and a hole in the middle, full of rubbish
        t = x.shape[1]
        where = torch.tensor([i + 2 + (i >= t // 2) for i in range(t)])
        features[m] = torch.full((1, t + 4, x.shape[2]), 1e6).index_copy(1, where, x)
        masks[m] = torch.zeros(1, t + 4, dtype=torch.bool).index_fill(1, where, True)
    model = model_of(kind)
    with torch.no_grad():
        assert torch.allclose(model(plain).logits, model(MultimodalBatch(features, masks)).logits, atol=1e-5)


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_any_subset_of_modalities(kind, per_step):
    samples = make_samples([(4, 4, 4), (4, 4, 4)])
    samples = steps_of(samples) if per_step else samples
    model = model_of(kind, readout="per_step" if per_step else "mean")
    batch = MultimodalBatch.from_samples(samples)
    for names in (("text",), ("audio",), ("audio", "video"), ("text", "video")):
        emptied = [
            dataclasses.replace(s, features={m: x if m in names else x[:0] for m, x in s.features.items()})
            for s in samples
        ]
        with torch.no_grad():
            without = model(batch.only(*names)).logits
            empty = model(MultimodalBatch.from_samples(emptied)).logits
        assert torch.isfinite(without).all()
        assert torch.allclose(without, empty, atol=1e-5), names


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight_and_are_finite(kind, ragged):
    model = model_of(kind, n_classes=2).train()
    loss = model(ragged).loss
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
    assert all(torch.isfinite(v) for v in model(ragged).losses.values())


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_fits_a_rule(kind, task):
    """The label is the sign of the mean of one feature of the text: every fusion can learn that."""
    samples = [
        Sample(s.features, label, s.id)
        for s in make_samples([(4, 3, 3)] * 48, seed=1)
        for label in [
            (s.features["text"][:, 0].mean() > 0).long()
            if task == "classification"
            else s.features["text"][:, 0].mean()
        ]
    ]
    batch = MultimodalBatch.from_samples(samples)
    model = model_of(kind, task=task, n_classes=2, dropout=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    first = None
    for _ in range(60):
        loss = model(batch).losses["task"]
        first = first if first is not None else float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first


@pytest.mark.parametrize("kind", ["alignmamba2", *KINDS])
def test_shuffling_changes_the_order_in_training_and_nothing_else(kind):
    samples = make_samples([(4, 3, 3)] * 3)
    batch, changed = (
        MultimodalBatch.from_samples(samples),
        MultimodalBatch.from_samples(
            [dataclasses.replace(s, features={**s.features, "text": s.features["text"].flip(0)}) for s in samples]
        ),
    )
    none = {"dropout": 0.0, "lambda_ot": 0.0, "lambda_mmd": 0.0}
    model, plain = model_of(kind, shuffle=["text"], **none), model_of(kind, **none)
    with torch.no_grad():
        expected, other = plain(batch).logits, plain(changed).logits
        assert torch.equal(model(batch).logits, expected)  # in prediction the order is the given one
        torch.manual_seed(0)
        found = torch.stack([model.train()(batch).logits for _ in range(20)])
    in_order = torch.allclose(expected, other, atol=1e-6)  # a mean does not know the order
    assert in_order == torch.allclose(found, expected.expand_as(found), atol=1e-6)
    text = batch.features["text"][:1]
    orders = [text[:, list(p)] for p in itertools.permutations(range(4))]
    with torch.no_grad():
        every = [
            plain(dataclasses.replace(batch.only("text"), features={"text": x.expand(3, -1, -1)})).logits[0]
            for x in orders
        ]
        alone = [model(batch.only("text")).logits[0] for _ in range(5)]
    assert all(any(torch.allclose(a, b, atol=1e-5) for b in every) for a in alone)


@pytest.mark.parametrize("kind", KINDS)
def test_modality_dropout_is_missing_modalities(kind):
    """With everything dropped but one modality, training sees what prediction sees without the others."""
    samples = make_samples([(4, 3, 3)] * 64)
    batch = MultimodalBatch.from_samples([Sample(samples[0].features, s.label, s.id) for s in samples])
    model = model_of(kind, dropout=0.0, modality_dropout=0.5, lambda_ot=0.0, lambda_mmd=0.0, n_classes=2).train()
    with torch.no_grad():
        found = model(batch).logits
        model.eval()
        allowed = torch.stack(
            [
                model(batch.only(*names)).logits[0]
                for names in (
                    ("text",), ("audio",), ("video",), ("text", "audio"), ("text", "video"), ("audio", "video"),
                    ("text", "audio", "video"),
                )
            ]
        )  # fmt: skip
    distance = (found[:, None] - allowed[None]).abs().amax(-1)
    assert (distance.min(1).values < 1e-5).all()
    assert len(set(distance.argmin(1).tolist())) == 7


@pytest.mark.parametrize("kind", ["alignmamba2", *KINDS])
def test_what_is_written_can_be_read(kind, tmp_path, ragged):
    model = model_of(kind, n_classes=2)
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert type(again) is type(model)
    with torch.no_grad():
        assert torch.equal(again(ragged).logits, model(ragged).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_widths_for_equal_parameters(kind):
    values = settings(kind, modalities={"text": 64, "audio": 32, "video": 32})
    target = parameter_count({**values, "kind": "alignmamba2", "d_model": 32})
    width = matching_width(values, target)
    found = parameter_count({**values, "d_model": width})
    step = KINDS[kind].width_step
    assert width % step == 0
    for other in (width - step, width + step):
        assert other < 1 or abs(parameter_count({**values, "d_model": other}) - target) >= abs(found - target)
    assert found == sum(p.numel() for p in build_model({**values, "d_model": width}).parameters())
    with pytest.raises(ValueError, match="as small as"):
        matching_width(values, 3)


def test_common_steps_are_looked_up_by_relative_time():
    text = torch.arange(1.0, 5.0).view(1, 4, 1)
    video = torch.tensor([10.0, 20.0]).view(1, 2, 1)
    masks = {"text": torch.ones(1, 4, dtype=torch.bool), "video": torch.ones(1, 2, dtype=torch.bool)}
    x, mask = side_by_side({"text": text, "video": video}, masks, "text", per_step=False)
    assert x[0].tolist() == [[1, 10], [2, 10], [3, 20], [4, 20]]
    assert mask.all()
    masks["text"] = torch.zeros(1, 4, dtype=torch.bool)
    x, mask = side_by_side({"text": text, "video": video}, masks, "text", per_step=False)
    assert x[0].tolist() == [[0, 10], [0, 20]]


def test_tensor_fusion_is_the_outer_product():
    model = model_of("tfn", readout="per_step")
    z = {m: torch.randn(1, 2, 9) for m in WIDTHS}
    model.vectors = lambda tokens, masks: z
    found = []
    model.head = nn.Module()
    model.head.forward = lambda product: found.append(product) or torch.zeros(1, 2, 3)
    model.fuse({}, {})
    expected = torch.einsum("bti,btj,btk->btijk", *z.values()).flatten(2)
    assert torch.allclose(found[0], expected)


def test_low_rank_fusion_is_a_tensor_of_that_rank():
    model = model_of("lmf", readout="per_step")
    z = {m: torch.randn(1, 1, 9) for m in WIDTHS}
    model.vectors = lambda tokens, masks: z
    whole = torch.einsum("r,rio,rjo,rko->ijko", model.weights, *(model.factors[m] for m in WIDTHS))
    h = torch.einsum("i,j,k,ijko->o", *(v[0, 0] for v in z.values()), whole) + model.bias
    assert torch.allclose(model.fuse({}, {})[0, 0], model.head(h), atol=1e-5)


def test_alignmamba_v1_moves_tokens_to_the_nearest_anchor_token():
    model = model_of("alignmamba-v1")
    anchor = torch.eye(4)[:3].unsqueeze(0)  # three steps, three directions
    tokens = torch.stack([torch.eye(4)[2] * 2, torch.eye(4)[0], torch.eye(4)[2] * 4]).unsqueeze(0)
    full = torch.ones(1, 3, dtype=torch.bool)
    x, there = model._transported({"text": anchor, "audio": tokens}, {"text": full, "audio": full}, "audio")
    assert there.tolist() == [[True, False, True]]
    assert torch.allclose(x[0, 0], torch.eye(4)[0])
    assert torch.allclose(x[0, 2], torch.eye(4)[2] * 3)


def test_mistakes_are_named(ragged):
    with pytest.raises(ValueError, match=r"model\.kind: found 'lstm'"):
        build_model(settings("lstm"))
    with pytest.raises(AttributeError, match="'EarlyLSTM' object has no attribute 'trace'"):
        model_of("early-lstm", n_classes=2).trace(ragged)
    with pytest.raises(BatchError, match="equally many steps"):
        model_of("bc-lstm", readout="per_step")(ragged)
