"""Experts: deviations that start at 0, an FFN of them, and statistics of both that oracles confirm."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from alignmamba2 import AlignMamba2, AlignMamba2Config, MultimodalBatch
from alignmamba2.baselines import build_model, parameter_count
from alignmamba2.effects import change, expert_effects, fusion_parameters, routing_statistics, switched_off, switches
from alignmamba2.model.experts import ExpertFFN
from alignmamba2.model.layers import ModalityAwareLinear
from alignmamba2.recipes import TrainingConfig
from alignmamba2.training.optimizer import optimizer_of

from .conftest import WIDTHS, make_samples

GATED = {"ffn": 1.5, "ffn_routing": "gated"}
LENGTHS = [(5, 7, 3), (1, 4, 9), (6, 0, 2), (3, 3, 3)]


def small(**settings) -> AlignMamba2:
    """A small model whose deviations are no longer 0."""
    torch.manual_seed(0)
    model = AlignMamba2(AlignMamba2Config(WIDTHS, **{"d_model": 8, "d_state": 4, "n_classes": 3, **settings})).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "specific" in name:
                p.normal_(0, 0.3)
    return model


def batch(per_step: bool = False) -> MultimodalBatch:
    lengths = [(n, n, n) for n, _, _ in LENGTHS] if per_step else LENGTHS
    return MultimodalBatch.from_samples(make_samples(lengths, per_step=per_step))


@pytest.mark.parametrize(("experts", "n_shared"), [("both", 1), ("both", 3), ("shared", 1), ("specific", 1)])
def test_a_new_layer_starts_with_the_variance_of_a_linear_layer(experts, n_shared):
    torch.manual_seed(0)
    layer = ModalityAwareLinear(2, 400, 300, experts, n_shared)
    deviation = 0 if layer.specific is None else layer.specific
    start = deviation + (0 if layer.shared is None else layer.shared.sum(0))  # with an even gate, the sum of all
    assert float(start.detach().std()) == pytest.approx(400**-0.5 / 3**0.5, rel=0.02)
    if experts == "both":
        assert not layer.specific.any()


@pytest.mark.parametrize(("experts", "decay"), [("both", 0.5), ("specific", 0.25)])
def test_deviations_have_a_decay_of_their_own(experts, decay):
    model = small(experts=experts, direction="both", ffn=1.0)
    groups = optimizer_of(model, TrainingConfig(weight_decay=0.25, expert_decay=0.5)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    names = dict(model.named_parameters())
    assert set(decays) == {id(p) for p in names.values()}
    for name, p in names.items():
        plain = p.ndim < 2 or name.endswith("A_log")
        assert decays[id(p)] == (0 if plain else decay if "specific" in name else 0.25), name


@pytest.mark.parametrize("placement", ["projections", "around"])
def test_shares_are_those_of_the_layer_and_not_of_how_it_is_written(placement):
    model = small(placement=placement).double()
    samples = batch()
    samples.features.update({m: x.double() for m, x in samples.features.items()})
    before, effects = model.trace(samples), expert_effects(model, [samples])
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ModalityAwareLinear) and module.specific is not None:
                shift = torch.randn_like(module.shared[0])
                module.shared += shift
                module.specific -= shift
    after = model.trace(samples)
    torch.testing.assert_close(after.logits, before.logits)
    for old, new in zip(before.expert_shares(), after.expert_shares(), strict=True):
        for m in WIDTHS:
            torch.testing.assert_close(new[m], old[m], rtol=0, atol=1e-6)
            assert 0.05 < new[m][0] < 0.95
    assert expert_effects(model, [samples]) == pytest.approx(effects, abs=1e-6)


def dense(ffn: ExpertFFN, x: torch.Tensor, counts: tuple[int, ...], top_k: int) -> torch.Tensor:
    """Every expert on every token, and a gate that is 0 for all but the chosen: an FFN by its formulas."""
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * ffn.scale
    experts, kinds = [*ffn.specific, *ffn.shared], torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    gate = torch.zeros(len(x), len(experts), dtype=x.dtype)
    for i, token in enumerate(x):
        if ffn.gate is None:
            gate[i, len(ffn.specific) :] = 1
            if ffn.specific:
                gate[i, kinds[i]] = 1
            continue
        p = (ffn.gate.weight @ token).softmax(0)
        best = sorted(range(len(p)), key=lambda e: -p[e].item())[:top_k]
        total = sum(p[e] for e in best) if top_k > 1 else 1
        for e in best:
            gate[i, e] = p[e] / total
    y = torch.zeros_like(x)
    for e, expert in enumerate(experts):
        a, b = (x @ expert.up.weight.T).chunk(2, -1)
        y += gate[:, e : e + 1] * ((a * a.sigmoid() * b) @ expert.down.weight.T)
    return y


def ffn_of(experts="both", routing="modality", n_experts=4, top_k=1) -> ExpertFFN:
    torch.manual_seed(1)
    ffn = ExpertFFN(3, 5, 7, experts, routing, n_experts, top_k).double()
    for p in ffn.parameters():
        torch.nn.init.normal_(p)
    return ffn


KINDS = [("both", "modality", 1), ("shared", "modality", 1), ("specific", "modality", 1)]
KINDS += [("both", "gated", k) for k in (1, 2, 4)]


@pytest.mark.parametrize(("experts", "routing", "top_k"), KINDS)
@pytest.mark.parametrize("counts", [(4, 0, 6), (0, 0, 1), (3, 3, 3)])
def test_an_ffn_is_a_dense_loop_over_its_experts(experts, routing, top_k, counts):
    ffn = ffn_of(experts, routing, top_k=top_k)
    x = torch.randn(sum(counts), 5, dtype=torch.float64, requires_grad=True)
    expected, y = dense(ffn, x, counts, top_k), ffn(x, counts)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(ffn(x, counts, still=True), expected)
    towards = torch.randn_like(y)
    wanted = torch.autograd.grad(expected, [x, *ffn.parameters()], towards, allow_unused=True)
    for a, b in zip(torch.autograd.grad(y, [x, *ffn.parameters()], towards), wanted, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)  # an expert that nobody asks
    assert torch.autograd.gradcheck(lambda tokens: ffn(tokens, counts), x)


def test_no_token_is_dropped_if_all_choose_one_expert():
    ffn = ffn_of(routing="gated")
    with torch.no_grad():
        ffn.gate.weight.zero_()
        ffn.gate.weight[2] = 100
    x, balance = torch.rand(50, 5, dtype=torch.float64) + 0.1, []
    y = ffn(x, (50, 0, 0), balance=balance)
    torch.testing.assert_close(y, dense(ffn, x, (50, 0, 0), 1))
    assert (y.abs().sum(1) > 0).all()
    assert float(balance[0].detach()) == pytest.approx(4)  # collapse: E


def test_an_even_gate_has_a_balance_loss_of_one_that_pulls_towards_evenness():
    ffn = ffn_of(routing="gated", n_experts=3)
    balance = []
    with torch.no_grad():
        ffn.gate.weight.copy_(20 * torch.eye(3, 5))
        ffn.scale.fill_(1)
    ffn(torch.eye(3, 5, dtype=torch.float64).repeat(4, 1), (12, 0, 0), balance=balance)
    assert float(balance[0].detach()) == pytest.approx(1, abs=1e-9)
    x = torch.eye(3, 5, dtype=torch.float64)[[0, 0, 0, 0, 0, 1, 2]]
    with torch.no_grad():
        ffn.gate.weight.copy_(0.3 * torch.eye(3, 5))
    ffn(x, (7, 0, 0), balance=balance)
    assert float(balance[1].detach()) > 1
    balance[1].backward()
    assert ffn.gate.weight.grad[0, 0] > 0 > ffn.gate.weight.grad[1, 1] - ffn.gate.weight.grad[0, 1]


@pytest.mark.parametrize("settings", [{"ffn": 1.5}, GATED, {**GATED, "ffn_top_k": 2}])
def test_padding_and_other_samples_never_change_an_answer(settings):
    model, samples = small(**settings), make_samples(LENGTHS)
    together = model(MultimodalBatch.from_samples(samples)).logits
    for i, sample in enumerate(samples):
        torch.testing.assert_close(model(MultimodalBatch.from_samples([sample])).logits[0], together[i])


def test_an_ffn_of_deviations_starts_as_the_shared_one():
    torch.manual_seed(0)
    both = AlignMamba2(AlignMamba2Config(WIDTHS, d_model=8, ffn=1.0)).eval()
    shared = AlignMamba2(AlignMamba2Config(WIDTHS, d_model=8, ffn=1.0, experts="shared")).eval()
    kept = {name: p for name, p in both.state_dict().items() if "specific" not in name}
    shared.load_state_dict(kept)
    torch.testing.assert_close(both(batch()).logits, shared(batch()).logits)
    both.train()(batch()).loss.backward()
    for ffn in both.ffns:
        assert all(expert.down.weight.grad.any() for expert in ffn.specific)


def test_the_balance_counts_in_training_alone_and_the_model_is_saved(tmp_path):
    model = small(**GATED, dropout=0.0, lambda_balance=0.5, lambda_ot=0.0, lambda_mmd=0.0)
    assert "balance" not in model(batch()).losses
    output = model.train()(batch())
    torch.testing.assert_close(output.loss, output.losses["task"] + 0.5 * output.losses["balance"])
    assert 1 <= float(output.losses["balance"].detach()) <= 4
    output.loss.backward()
    assert all(ffn.gate.weight.grad.any() for ffn in model.ffns)
    copy.deepcopy(model).save_pretrained(tmp_path)
    again = AlignMamba2.from_pretrained(tmp_path)
    assert again(batch()).logits.equal(model.eval()(batch()).logits)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"ffn": -1.0}, "ffn: found -1.0"),
        ({"ffn_routing": "random"}, "ffn_routing: found 'random'"),
        ({"ffn_top_k": 5}, "ffn_top_k: found 5; there are 4 experts"),
        ({"ffn_experts": 0}, "ffn_experts: found 0"),
        ({"lambda_balance": -0.1}, "lambda_balance"),
    ],
)
def test_wrong_settings_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        AlignMamba2Config(WIDTHS, **settings)


@pytest.mark.parametrize("settings", [{"ffn": 1.0}, {**GATED, "task": "regression"}, {"readout": "per_step"}])
def test_effects_are_those_of_a_copy_without_the_expert(settings):
    model = small(**settings)
    per_step = settings.get("readout") == "per_step"
    samples, before = batch(per_step), {name: p.clone() for name, p in model.state_dict().items()}
    effects = expert_effects(model.train(), [samples.only("text", "audio"), samples])
    assert model.training
    model.eval()
    assert all(p.equal(before[name]) for name, p in model.state_dict().items())
    assert list(effects) == list(switches(model))
    reduced = copy.deepcopy(model)
    with torch.no_grad():
        for layer in reduced.layers:
            for linear in (layer.in_proj, layer.out_proj):
                linear.specific[1] = linear.specific.mean(0)
        if settings.get("ffn_routing") != "gated":
            for ffn in reduced.ffns:
                ffn.specific[1].down.weight.zero_()
    moved = []
    for part in (samples.only("text", "audio"), samples):
        a, b = model(part), reduced(part)
        if a.logits is None:
            moved += (a.prediction - b.prediction).abs().tolist()
        else:
            gap = (a.logits.softmax(-1) - b.logits.softmax(-1)).clamp_min(0).sum(-1)  # what one class loses others get
            moved += gap[part.label_mask].tolist() if per_step else gap.tolist()
    assert effects["audio"] == pytest.approx(np.mean(moved), rel=1e-4)
    assert effects["audio"] > 1e-4
    assert ("layer 2, expert 3" in effects) == (settings.get("ffn_routing") == "gated")
    with switched_off(model, *effects):
        assert change(model(samples), reduced(samples)).shape == samples.labels.flatten().shape
    assert all(p.equal(before[name]) for name, p in model.state_dict().items())


def test_the_statistics_of_a_gate_are_counts_and_scikit_learns():
    model = small(**GATED)
    trace = model.trace(batch())
    for layer, told in zip(trace.ffn_gates, routing_statistics(trace), strict=True):
        kinds, experts = [], []
        for number, (m, gate) in enumerate(layer.items()):
            chosen = gate[trace.masks[m]].argmax(-1)
            experts += chosen.tolist()
            kinds += [number] * len(chosen)
            assert (gate > 0).sum(-1).eq(trace.masks[m]).all()  # one expert per token, none of padding
        load = np.bincount(experts, minlength=4) / len(experts)
        np.testing.assert_allclose(told["load"], load)
        some = load[load > 0]
        assert told["entropy"] == pytest.approx(-(some * np.log(some)).sum() / np.log(4))
        assert told["agreement"] == pytest.approx(normalized_mutual_info_score(kinds, experts), abs=1e-9)


@pytest.mark.parametrize("routing", ["modality", "gated"])
@pytest.mark.parametrize("placement", ["projections", "around"])
def test_active_parameters_are_those_that_a_token_meets(routing, placement):
    settings = {"modalities": WIDTHS, "d_model": 8, "d_state": 4, "placement": placement}
    plain = parameter_count({**settings, "experts": "shared"})
    mixed = {**settings, "routing": routing}
    maps = 2 * (8 * 32 + 16 * 8 if placement == "projections" else 8 * 8)  # of both layers
    gates = 2 * 2 * 9 if routing == "gated" else 0
    assert parameter_count(mixed, active=True) == plain + gates + (maps if gates else 0)
    assert parameter_count(mixed) == plain + gates + 3 * maps
    expert = 3 * 8 * 12
    stored, active = (parameter_count({**mixed, **GATED, "ffn_top_k": 2}, active=x) for x in (False, True))
    assert stored - parameter_count(mixed) == 2 * (4 * expert + 4 * 8 + 8)
    assert active - parameter_count(mixed, active=True) == 2 * (2 * expert + 4 * 8 + 8)
    stored, active = (parameter_count({**mixed, "ffn": 1.5}, active=x) for x in (False, True))
    assert stored - parameter_count(mixed) == 2 * (4 * expert + 8)
    assert active - parameter_count(mixed, active=True) == 2 * (2 * expert + 8)
    baseline = build_model({**mixed, **GATED, "kind": "mamba", "routing": "modality"})
    assert fusion_parameters(baseline, active=True) == fusion_parameters(baseline)  # a plain Mamba has no FFN
