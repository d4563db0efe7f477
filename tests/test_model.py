import dataclasses
import json
import math

import pytest
import torch

from alignmamba2 import AlignMamba2, AlignMamba2Config, MultimodalBatch
from alignmamba2 import trace as trace_module
from alignmamba2.alignment import losses as losses_module
from alignmamba2.batch import BatchError, Sample

from .conftest import WIDTHS, make_samples

LENGTHS = [(5, 7, 3), (1, 4, 9), (6, 0, 2), (3, 3, 3), (2, 2, 2)]
SETTINGS = [
    {},
    {"order": "concat"},
    {"readout": "last"},
    {"readout": "anchor"},
    {"readout": "attention", "positions": "sinusoidal", "modality_embedding": True},
    {"positions": "sinusoidal", "scan_orders": ["snake", "columns back"], "shuffle": ["text"]},
    {"shortcut": ["text", "audio"], "shortcut_loss": 1.0},
    {"routing": "gated", "n_shared": 2},
    {"placement": "around", "direction": "both"},
    {"experts": "specific", "direction": "both", "order": "concat"},
    {"task": "regression"},
]


def make(seed: int = 0, **settings) -> AlignMamba2:
    torch.manual_seed(seed)
    return AlignMamba2(AlignMamba2Config(WIDTHS, d_model=8, d_state=4, **settings)).eval()


def answer(model: AlignMamba2, batch: MultimodalBatch) -> torch.Tensor:
    output = model(batch)
    return output.prediction if output.logits is None else output.logits


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())) or "default")
def test_same_answer_alone_padded_shuffled_or_in_company(settings):
    model, samples = make(**settings), make_samples(LENGTHS)
    together = answer(model, MultimodalBatch.from_samples(samples))
    for i, s in enumerate(samples):
        assert torch.allclose(answer(model, MultimodalBatch.from_samples([s])), together[i : i + 1], atol=1e-5)
    shuffled = [3, 0, 4, 2, 1]
    other = answer(model, MultimodalBatch.from_samples([samples[i] for i in shuffled]))
    assert torch.allclose(other, together[shuffled], atol=1e-5)

    # Padding before, between and behind the tokens, and rubbish on it.
    batch = MultimodalBatch.from_samples(samples)
    features, masks = {}, {}
    for m, x in batch.features.items():
        where = torch.randperm(2 * x.shape[1] + 3)[: x.shape[1]].sort().values
        features[m] = torch.full((len(samples), 2 * x.shape[1] + 3, x.shape[2]), 1e6)
        masks[m] = torch.zeros(features[m].shape[:2], dtype=torch.bool)
        features[m][:, where], masks[m][:, where] = x, batch.masks[m]
    assert torch.allclose(answer(model, MultimodalBatch(features, masks)), together, atol=1e-5)


def test_per_step_predictions_do_not_depend_on_company():
    model = make(readout="per_step")
    samples = make_samples([(4, 4, 4), (7, 7, 7), (1, 1, 1)], per_step=True)
    together = model(MultimodalBatch.from_samples(samples)).logits
    for i, s in enumerate(samples):
        alone = model(MultimodalBatch.from_samples([s])).logits[0]
        assert torch.allclose(alone, together[i, : len(s.label)], atol=1e-5)


def test_a_missing_modality_may_be_absent_or_empty():
    model = make()
    samples = make_samples([(5, 0, 3), (2, 0, 4)])
    batch = MultimodalBatch.from_samples(samples)
    assert torch.allclose(answer(model, batch), answer(model, batch.only("video", "text")), atol=1e-6)
    model.train()  # and training goes on without it
    model(batch).loss.backward()


@pytest.mark.parametrize("settings", [*SETTINGS, {"transport": "relaxed", "mmd_estimator": "unbiased"}], ids=str)
def test_training_reaches_every_weight(settings, ragged):
    model = make(**settings).train()
    batch = ragged if settings.get("task") != "regression" else dataclasses.replace(ragged, labels=ragged.labels * 1.5)
    loss = model(batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # An even, untouched gate passes no gradient to its weights only where experts agree exactly: never here.
    assert silent == []


def test_the_loss_is_the_weighted_sum_of_its_parts(ragged):
    model = make(lambda_ot=0.3, lambda_mmd=0.7, dropout=0.0).train()
    output = model(ragged)
    parts = output.losses
    assert torch.allclose(output.loss, parts["task"] + 0.3 * parts["ot"] + 0.7 * parts["mmd"])
    for kind in ("ot", "mmd"):
        pairs = [v for name, v in parts.items() if name.startswith(kind + "/")]
        assert len(pairs) == 2
        assert torch.allclose(parts[kind], sum(pairs))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_identical_tokens_cost_nothing_whatever_the_dropout(mode):
    """Dropout comes after the alignment: two dropouts of one vector have cosine 1 − p, so that L_OT would be p."""
    widths = {"text": 6, "audio": 6}
    model = AlignMamba2(AlignMamba2Config(widths, d_model=32, d_state=4, dropout=0.5, transport="relaxed", lambda_ot=1))
    model.project["audio"] = model.project["text"]
    samples = [torch.randn(t, 6) for t in (5, 1, 3)]
    batch = MultimodalBatch.from_samples(
        [Sample({"text": x, "audio": x}, torch.tensor(i % 2), id=str(i)) for i, x in enumerate(samples)]
    )
    output = model.train()(batch)
    assert output.losses["ot"] < 1e-5
    assert output.losses["mmd"] < 1e-5
    answers = [model.train(mode == "train")(batch).logits for _ in range(2)]
    assert torch.equal(*answers) == (mode == "eval")  # and dropout there is


def gradients(model, batch):
    """The norms of the gradients on the projected tokens, by autograd: the task's, each loss's and what is added."""
    caught, tokens_of = [], model._tokens
    model._tokens = lambda *parts: caught.append(tokens_of(*parts)) or caught[-1]
    output = model(batch)

    def norm(loss):
        tokens = output.tokens or caught[-1]
        parts = torch.autograd.grad(loss, list(tokens.values()), retain_graph=True, allow_unused=True)
        return math.sqrt(sum(float(g.square().sum()) for g in parts if g is not None))

    losses = {name: norm(output.losses[name]) for name in ("task", "ot", "mmd") if name in output.losses}
    return {**losses, "added": norm(output.loss - output.losses["task"])}, output.losses


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("other", ["ot", "mmd"])
def test_a_share_is_that_of_the_tasks_gradient(other, layer, ragged):
    settings = {"share_ot": 0.1, "share_mmd": 0.3, "dropout": 0.5, "fixed_anchor": True, f"lambda_{other}": 0.0}
    settings["align_after"] = layer
    model, name = make(**settings).train(), {"ot": "mmd", "mmd": "ot"}[other]
    norms, losses = gradients(model, ragged)
    share = settings[f"share_{name}"]
    assert norms["added"] / norms["task"] == pytest.approx(share, rel=1e-4)
    assert losses[f"share/{name}"] == pytest.approx(share, rel=1e-4)
    assert f"share/{other}" not in losses


def test_the_share_that_a_weight_reaches_is_told_and_changes_nothing(ragged, monkeypatch):
    settings = {"lambda_ot": 0.3, "lambda_mmd": 0.7, "dropout": 0.0}
    model, silent = make(**settings).train(), make(**settings).train()
    norms, losses = gradients(model, ragged)
    for name in ("ot", "mmd"):
        assert losses[f"share/{name}"] == pytest.approx(
            settings[f"lambda_{name}"] * norms[name] / norms["task"], rel=1e-4
        )
    monkeypatch.setattr(silent.align, "_measure", lambda *_: None)
    for each in (model, silent):
        each.zero_grad()
        each.align.state["passes"] = 0.0
        each(ragged).loss.backward()
    for p, q in zip(model.parameters(), silent.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_a_share_is_kept_while_the_gradients_change(ragged):
    """A weight is a share of running means, so that it follows: here the task's gradient becomes ten times as large."""
    model = make(share_ot=0.1, lambda_mmd=0.0, dropout=0.0).train()
    model(ragged)
    with torch.no_grad():
        model.head.weight.mul_(10)
    reached = []
    for _ in range(6 * losses_module.MEASURED_EVERY):
        reached.append(float(model(ragged).losses["share/ot"]))
    assert min(reached) < 0.08
    norms, _ = gradients(model, ragged)
    assert norms["added"] / norms["task"] == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize("after", [0, 1, 2])
def test_tokens_are_aligned_after_the_layer_that_is_named_and_before_any_dropout(after, ragged):
    model, plain = (make(align_after=k, dropout=0.5, lambda_ot=1.0) for k in (after, 0))
    assert torch.equal(answer(model, ragged), answer(plain, ragged))
    masks, real = model._real_tokens(ragged)
    tokens, (ordering, *_), full = model._order(model._tokens(masks, real), masks)
    for norm, layer in zip(model.norms[:after], model.layers, strict=False):
        tokens = tokens + layer.mix(norm(tokens), ordering, None)
    parts = dict(zip(full, ordering.split(tokens), strict=True))
    expected = 0.0
    for m in ("audio", "video"):
        values = []
        for i in range(len(ragged)):
            u, v = (parts[k][masks[k].nonzero()[:, 0] == i][None] for k in (m, "text"))
            values += [losses_module.transport(u, v).distance] if u.shape[1] and v.shape[1] else []
        expected = expected + torch.cat(values).mean().detach()
    model.train()
    assert float(model(ragged).losses["ot"].detach()) == pytest.approx(float(expected), rel=1e-2)
    model.eval().aligning = True
    losses = model(ragged).losses
    assert float(losses["ot"].detach()) == pytest.approx(float(expected), rel=1e-2)
    trace = model.trace(ragged, scans=False)
    for (m, anchor), value in trace.transport_distance.items():
        present = (trace.masks[m].any(1) & trace.masks[anchor].any(1)).float()
        assert (value * present).sum() / present.sum() == pytest.approx(float(losses[f"ot/{m}-{anchor}"]), rel=1e-3)


def test_prediction_never_computes_the_alignment(ragged, monkeypatch):
    def refuse(*_args, **_options):
        raise AssertionError("alignment was computed")

    for module, name in ((losses_module, "transport"), (losses_module, "mmd"), (trace_module, "transport")):
        monkeypatch.setattr(module, name, refuse)
    model = make()
    model(ragged)
    with pytest.raises(AssertionError, match="alignment was computed"):
        model.train()(ragged)
    make(lambda_ot=0.0, lambda_mmd=0.0).train()(ragged)


def test_modality_dropout_always_leaves_a_token(ragged):
    model = make(modality_dropout=0.9).train()
    for _ in range(20):
        hidden = model._drop_modalities(ragged.masks)
        assert torch.stack([m.any(1) for m in hidden.values()]).any(0).all()
    assert all(torch.equal(m, ragged.masks[k]) for k, m in model.eval()._drop_modalities(ragged.masks).items())


def test_swapping_moves_whole_tokens_in_training_and_on_request_only():
    model = make(swap={"audio": 1.0}, dropout=0.0)
    projection, x = model.project["audio"], torch.randn(50, 4)
    plain = projection(x)
    swapped = projection.train()(x)
    assert not torch.allclose(swapped, plain)
    # Every token is still some token of the batch.
    distance = (swapped.unsqueeze(1) - plain).norm(dim=-1)
    assert (distance.min(1).values < 1e-5).all()
    projection.eval()
    assert torch.equal(projection(x), plain)
    with model.swapping(seed=1):
        first = projection(x)
    with model.swapping(seed=1):
        assert torch.equal(projection(x), first)
    assert not torch.equal(first, plain)
    assert torch.equal(projection(x), plain)
    assert torch.equal(model.project["text"].train()(torch.ones(1, 6)), model.project["text"].eval()(torch.ones(1, 6)))


def test_statistics_standardise_and_survive_constant_features():
    model = make()
    before = model.project["text"].linear.weight.clone()
    model.set_statistics({"text": (torch.full((6,), 5.0), torch.tensor([0.0, 2, 2, 2, 2, 2]))})
    assert torch.equal(before, model.project["text"].linear.weight)
    assert model.project["text"].scale.tolist() == [1, 0.5, 0.5, 0.5, 0.5, 0.5]


def test_save_and_load_gives_the_same_predictions(tmp_path, ragged):
    model = make(routing="gated", bandwidth=[0.5, 1.0])
    model.set_statistics({"text": (torch.randn(6), torch.rand(6) + 1)})
    model.save_pretrained(tmp_path)
    loaded = AlignMamba2.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(answer(loaded, ragged), answer(model, ragged))
    assert not list(tmp_path.glob("*.part"))


def damage_config(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "model.safetensors: not found"),
        (lambda f: (f / "model.safetensors").write_bytes(b"cut"), ValueError, "model.safetensors"),
        (lambda f: damage_config(f, colour=1), ValueError, r"config.json.*unknown keys \['colour'\]"),
        (lambda f: damage_config(f, d_model=16), ValueError, "model.safetensors"),
        (lambda f: (f / "config.json").write_text("{"), ValueError, "config.json"),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path, damage, error, says):
    make().save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(error, match=says):
        AlignMamba2.from_pretrained(tmp_path)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_trace(settings, ragged):
    model = make(**settings)
    trace = model.trace(ragged)
    output = model(ragged)
    assert torch.equal(trace.prediction, output.prediction)
    assert trace.pairs == (("audio", "text"), ("video", "text"))
    for (m, anchor), plan in trace.plans.items():
        assert plan.shape == (4, *(trace.masks[k].shape[1] for k in (m, anchor)))
        both = trace.masks[m].any(1) & trace.masks[anchor].any(1)
        assert torch.allclose(plan.sum((1, 2)), both.float(), atol=1e-3)
        assert (plan[~trace.masks[m]] == 0).all()
    for layer in trace.expert_shares():
        assert all(torch.isclose(s.sum(), torch.tensor(1.0)) for s in layer.values())
    assert len(trace.contributions) == 2
    assert len(trace.gates) == (2 if settings.get("routing") == "gated" else 0)
    for gate in trace.gates:
        assert torch.allclose(gate["text"][trace.masks["text"]].sum(-1), torch.tensor(1.0))
    assert not model.training


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"modalities": {}}, "modalities: empty"),
        ({"modalities": {"text": 0}}, "text: found 0"),
        ({"readout": "first"}, "readout: found 'first'; expected one of 'mean', 'anchor', 'last', 'attention'"),
        ({"anchor": "smell"}, "anchor"),
        ({"d_model": 0}, "d_model"),
        ({"dropout": 1.0}, "dropout"),
        ({"lambda_ot": -1}, "lambda_ot"),
        ({"share_ot": -1}, "share_ot"),
        ({"marginal_penalty": 0}, "marginal_penalty"),
        ({"window": -0.1}, "window"),
        ({"align_after": 3}, "align_after: found 3; expected a whole number from 0 to 2"),
        ({"negatives": 0.5}, "negatives"),
        ({"epsilon": 0}, "epsilon"),
        ({"n_classes": 1}, "n_classes"),
        ({"grids": {"smell": [7, 7]}}, "grids: found 'smell'"),
        ({"grids": {"text": [7]}}, "grids: found .* of each"),
        ({"scan_orders": ["spiral"]}, "scan_orders: found 'spiral'"),
        ({"positions": "learnt"}, "positions: found 'learnt'"),
        ({"shuffle": ["smell"]}, "shuffle: found 'smell'"),
        ({"shuffle": ["text"], "readout": "per_step"}, "shuffle: found .* steps have an order"),
        ({"swap": {"smell": 0.5}}, "swap: found 'smell'"),
        ({"swap": {"text": 2}}, "swap: found 'text' = 2"),
    ],
)
def test_a_wrong_setting_is_named(settings, says):
    with pytest.raises(ValueError, match=says):
        AlignMamba2Config(**{"modalities": WIDTHS, **settings})


def test_an_unknown_setting_is_named():
    with pytest.raises(ValueError, match=r"unknown keys \['d_modle'\]"):
        AlignMamba2Config.from_dict({"modalities": WIDTHS, "d_modle": 8})


def with_feature(name: str, width: int) -> MultimodalBatch:
    return MultimodalBatch({name: torch.zeros(2, 3, width)}, labels=torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (with_feature("smell", 3), "'smell' is unknown to this model; it has"),
        (with_feature("text", 9), r"features\['text'\]: width 9; this model expects 6"),
        (
            MultimodalBatch({"text": torch.zeros(2, 3, 6)}, {"text": torch.zeros(2, 3).bool()}, ids="ab"),
            r"no real token.*\['a', 'b'\]",
        ),
        (MultimodalBatch({"text": torch.zeros(2, 3, 6)}, labels=torch.tensor([0, 2])), "labels.*from 0 to 1"),
        (MultimodalBatch({"text": torch.zeros(2, 3, 6)}, labels=torch.zeros(2)), "labels.*float32"),
        (MultimodalBatch({"text": torch.zeros(2, 3, 6)}, labels=torch.zeros(2, 3).long()), r"labels: found \(2, 3\)"),
    ],
)
def test_a_batch_that_does_not_fit_is_named(batch, says):
    with pytest.raises(BatchError, match=says):
        make()(batch)


def test_per_step_needs_equally_many_steps(ragged):
    with pytest.raises(BatchError, match="per_step"):
        make(readout="per_step")(ragged)


def test_the_anchor_read_out_is_the_mean_over_the_anchors_tokens():
    torch.manual_seed(0)
    config = AlignMamba2Config({"audio": 3, "text": 4}, d_model=8, n_layers=1, task="regression", readout="anchor")
    model = AlignMamba2(config).eval()
    masks = {
        "audio": torch.ones(3, 2, dtype=torch.bool),
        "text": torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]).bool(),
    }
    batch = MultimodalBatch({"audio": torch.randn(3, 2, 3), "text": torch.randn(3, 3, 4)}, masks)
    projected = model._tokens(*model._real_tokens(batch))
    tokens, ordering, full = model._fuse(projected, masks)
    text = model._ungroup(tokens, ordering, full)["text"]
    audio = model._ungroup(tokens, ordering, full)["audio"]
    pooled = [text[0, :2].mean(0), text[1, 1], audio[2].mean(0)]  # the third has no anchor: the mean over all it has
    expected = model.head(torch.stack(pooled)).squeeze(-1)
    torch.testing.assert_close(model(batch).prediction, expected)


def test_attention_reads_out_a_weighted_mean_of_each_samples_tokens(ragged):
    model = make(readout="attention")
    query = torch.randn(8)
    model.query.data = query
    masks, real = model._real_tokens(ragged)
    tokens, ordering, full = model._fuse(model._tokens(masks, real), masks)
    ungrouped = model._ungroup(tokens, ordering, full)
    pooled = []
    for b in range(len(ragged)):
        own = torch.cat([ungrouped[m][b][masks[m][b]] for m in masks])
        pooled.append((own @ query).softmax(0) @ own)
    torch.testing.assert_close(model(ragged).logits, model.head(torch.stack(pooled)))
    model.query.data = 1e4 * query  # no overflow: the token of the highest score alone
    assert torch.isfinite(model(ragged).logits).all()
    model.query.data = torch.zeros(8)
    mean = make(readout="mean")
    mean.load_state_dict({k: v for k, v in model.state_dict().items() if k != "query"})
    torch.testing.assert_close(model(ragged).logits, mean(ragged).logits)


def test_the_shortcut_is_a_linear_model_of_mean_tokens_that_fusion_adds_to():
    torch.manual_seed(0)
    modalities = {"audio": 3, "text": 4, "video": 2}
    config = AlignMamba2Config(
        modalities, d_model=8, n_layers=1, n_classes=3, shortcut=["text", "audio"], shortcut_loss=0.5, dropout=0.0
    )
    assert config.shortcut == ["audio", "text"]
    model = AlignMamba2(config)
    model.set_statistics({"text": (torch.ones(4), torch.full((4,), 2.0))})
    masks = {"text": torch.tensor([[1, 1, 0], [0, 0, 0]]).bool(), "audio": torch.tensor([[0, 1], [1, 1]]).bool()}
    batch = MultimodalBatch(
        {"audio": torch.randn(2, 2, 3), "text": torch.randn(2, 3, 4)}, masks, labels=torch.tensor([0, 2])
    )
    audio, text = batch.features["audio"], (batch.features["text"] - 1) / 2
    means = [torch.cat([audio[0, 1], text[0, :2].mean(0)]), torch.cat([audio[1].mean(0), torch.zeros(4)])]
    straight = model.shortcut(torch.stack(means))
    with torch.no_grad():
        model.head.weight.zero_()
    output = model.train()(batch)
    torch.testing.assert_close(output.logits - model.head.bias, straight)
    own = torch.nn.functional.cross_entropy(straight, batch.labels)
    torch.testing.assert_close(output.losses["shortcut"], own)
    losses = output.losses
    expected = losses["task"] + 0.5 * own + config.lambda_ot * losses["ot"] + config.lambda_mmd * losses["mmd"]
    torch.testing.assert_close(output.loss, expected)
    with torch.no_grad():
        model.head.weight.normal_()
    whole, trace = model.eval()(batch), model.trace(batch)
    torch.testing.assert_close(trace.logits, whole.logits)
    alone = model(batch.only("audio")).logits  # a missing modality adds nothing
    assert torch.isfinite(alone).all()


def test_a_shortcut_has_no_steps_and_no_swapped_features():
    for wrong in ({"readout": "per_step"}, {"swap": {"text": 0.5}}):
        with pytest.raises(ValueError, match="shortcut: not with"):
            AlignMamba2Config({"text": 4}, shortcut=["text"], **wrong)
