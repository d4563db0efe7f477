"""A trace says what happened: scans taken apart add up to their outputs, attributions to the logits."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from alignmamba2.batch import MultimodalBatch
from alignmamba2.model import AlignMamba2
from alignmamba2.model.config import AlignMamba2Config
from alignmamba2.scan import selective_scan
from alignmamba2.trace import Scan

from .conftest import WIDTHS, make_samples

VARIANTS = {
    "mean": {},
    "last": {"readout": "last"},
    "anchor": {"readout": "anchor"},
    "attention": {"readout": "attention"},
    "scan orders": {"grids": {"audio": [2, 3]}, "scan_orders": ["columns", "snake back"], "modality_embedding": True},
    "shortcut": {"shortcut": ["text", "audio"], "readout": "anchor"},
    "per_step": {"readout": "per_step"},
    "both directions": {"direction": "both", "readout": "per_step"},
    "gated": {"routing": "gated", "n_shared": 2},
    "around": {"placement": "around", "order": "concat"},
    "around, gated": {"placement": "around", "routing": "gated"},
    "regression": {"task": "regression"},
    "FFN by modality": {"ffn": 1.5},
    "FFN with a gate": {"ffn": 1.0, "ffn_routing": "gated", "ffn_top_k": 2, "direction": "both"},
}


def model_and_batch(**settings) -> tuple[AlignMamba2, MultimodalBatch]:
    torch.manual_seed(0)
    model = AlignMamba2(AlignMamba2Config(WIDTHS, **{"d_model": 8, "d_state": 4, "n_classes": 3, **settings})).eval()
    per_step = settings.get("readout") == "per_step"
    lengths = [(4, 4, 4), (6, 6, 6)] if per_step else [(5, 7, 3), (1, 4, 9), (6, 0, 2)]
    if "grids" in settings:
        lengths = [(5, 6, 3), (1, 6, 9), (6, 0, 2)]
    with torch.no_grad():  # at its start a gate is even and a norm does nothing: make them matter
        model.norm.weight.uniform_(0.5, 1.5)
        if model.query is not None:
            model.query.normal_()
        for layer in model.layers:
            if layer.gate is not None:
                layer.gate.weight.normal_()
        for expert in (e for ffn in model.ffns for e in ffn.specific):
            expert.down.weight.normal_()
    return model, MultimodalBatch.from_samples(make_samples(lengths, per_step=per_step))


def scan_alone(length: int = 7, reverse: bool = False) -> Scan:
    draw = torch.Generator().manual_seed(1)
    u, z = torch.randn(2, length, 3, generator=draw)
    b, c = torch.randn(2, length, 2, generator=draw)
    delta = torch.rand(length, 3, generator=draw)
    return Scan(
        u, delta, z, b, c, A=-torch.rand(3, 2, generator=draw), D=torch.rand(3, generator=draw), reverse=reverse
    )


@pytest.mark.parametrize("reverse", [False, True])
def test_what_the_tokens_add_is_what_the_scan_says(reverse):
    scan = scan_alone(reverse=reverse)
    u, delta, b, c, z = ((x.flip(0) if reverse else x).T[None] for x in (scan.u, scan.delta, scan.B, scan.C, scan.z))
    y = selective_scan(u, delta, scan.A, b, c, scan.D, z=z, backend="reference")[0].T
    y = y.flip(0) if reverse else y
    torch.testing.assert_close(scan.outputs().float(), y)
    reader = torch.randn(7, 3, 2, generator=torch.Generator().manual_seed(2))
    parts = scan.contributions(reader)
    torch.testing.assert_close(
        parts.sum(1), torch.einsum("te,tec->tc", y.double(), reader.double()), rtol=1e-4, atol=1e-5
    )
    unread = torch.ones(7, 7).tril(-1) if reverse else torch.ones(7, 7).triu(1)
    assert (parts.abs().sum(-1) * unread).sum() == 0  # nothing comes from tokens that are not read yet
    assert (scan.influence() * unread).sum() == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_influence_is_the_change_that_a_token_makes(reverse):
    scan = scan_alone(reverse=reverse)
    for s in (0, 3, 6):
        without = scan.u.clone()
        without[s] = 0
        silent = Scan(**{**scan.__dict__, "u": without})
        change = (scan.outputs() - silent.outputs()).norm(dim=-1)
        torch.testing.assert_close(scan.influence()[:, s], change)


@pytest.mark.parametrize("reverse", [False, True])
def test_what_remains_is_the_product_of_what_is_kept(reverse):
    scan = scan_alone(reverse=reverse)
    left, kept = scan.remains(2), torch.exp(scan.delta.unsqueeze(-1) * scan.A)
    later = [1, 0] if reverse else [3, 4, 5, 6]
    expected = torch.ones(3, 2)
    torch.testing.assert_close(left[2], expected)
    for t in later:
        expected = expected * kept[t]
        torch.testing.assert_close(left[t], expected)
    assert left[3 if reverse else 1].abs().sum() == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_attributions_add_up_to_the_logits(name):
    model, batch = model_and_batch(**VARIANTS[name])
    trace = model.trace(batch)
    guess = trace.prediction[..., None] if trace.logits is None else trace.logits
    for i in range(len(batch)):
        steps = [None] if trace.prediction.ndim == 1 else [0, 1, 3]
        for step in steps:
            found = trace.attribution(i, step)
            expected = guess[i] if step is None else guess[i, step]
            torch.testing.assert_close(found.logits.float(), expected)
            total = found.bias + found.scan.sum(0) + found.direct.sum(0)
            torch.testing.assert_close(total.float(), expected, rtol=1e-4, atol=1e-5)


def test_positions_follow_the_order_of_the_sequence():
    model, batch = model_and_batch(order="concat")
    scan = model.trace(batch).scan(0)
    assert scan.modality == ("text",) * 5 + ("audio",) * 7 + ("video",) * 3
    assert scan.place == (*range(5), *range(7), *range(3))
    alone = model.trace(MultimodalBatch.from_samples(make_samples([(5, 7, 3)]))).scan(0)
    torch.testing.assert_close(scan.delta, alone.delta)  # padding changes nothing


def test_each_layer_is_traced_in_the_order_that_it_reads():
    model, batch = model_and_batch(**VARIANTS["scan orders"], order="concat", n_layers=3)
    trace = model.trace(batch)
    columns, snake = (0, 3, 1, 4, 2, 5), (3, 4, 5, 2, 1, 0)
    for layer, order in enumerate((columns, snake, columns)):
        scan = trace.scan(0, layer)
        assert scan.place == (*range(5), *order, *range(3))
        turn = scan.place.index(0, 5)  # of the first patch
        changed = batch.features["audio"].clone()
        changed[0, 0] += 1
        other = model.trace(dataclasses.replace(batch, features={**batch.features, "audio": changed})).scan(0, layer)
        differs = (scan.u - other.u).abs().amax(1) > 0
        assert differs[turn]
        if layer == 0:  # later layers have read of it before
            assert not differs[:turn].any()


def test_a_missing_modality_takes_no_place():
    model, batch = model_and_batch()
    assert set(model.trace(batch).scan(2).modality) == {"text", "video"}
    found = model.trace(batch.only("text", "video")).attribution(0)
    assert set(found.modality) == {"text", "video"}
    torch.testing.assert_close(found.bias + found.scan.sum(0) + found.direct.sum(0), found.logits, rtol=1e-4, atol=1e-5)


def test_a_trace_without_scans_says_so():
    model, batch = model_and_batch()
    bare = model.trace(batch, scans=False)
    assert not bare.scans
    with pytest.raises(ValueError, match="scans=True"):
        bare.scan(0)
    with pytest.raises(ValueError, match="once per sample"):
        model.trace(batch).attribution(0, step=1)
    model, batch = model_and_batch(readout="per_step")
    with pytest.raises(IndexError, match="sample-0 has 4 steps"):
        model.trace(batch).attribution(0, step=5)


def test_tracing_leaves_the_mode_and_asks_for_no_gradient():
    model, batch = model_and_batch(direction="both")
    model.train()
    trace = model.trace(batch)
    assert model.training
    assert not any(t.requires_grad for t in (trace.reader, trace.direct, trace.bias, trace.scans[0][1]["D"]))
    assert trace.scan(0, direction=1).reverse
