import dataclasses
import json

import pytest
import torch
import transformers
from accelerate.utils import set_seed

from alignmamba2 import AlignMamba2, cpu, evaluate, fit, load_dataset
from alignmamba2.alignment import losses
from alignmamba2.baselines import KINDS, build_model
from alignmamba2.model import layers
from alignmamba2.recipes import Recipe
from alignmamba2.training import build, fitting, predict, training_notes

SMALL = {"model.d_model": 16, "model.d_state": 4, "model.n_layers": 1, "training.max_epochs": 3}
SMALL |= {"training.batch_size": 16, "model.lambda_ot": 1.0, "model.lambda_mmd": 0.1}


@pytest.fixture(scope="module")
def splits():
    """mini-mosi, cut short."""
    return {k: dataclasses.replace(d, samples=d.samples[:120]) for k, d in load_dataset("mini-mosi").items()}


@pytest.fixture(scope="module")
def fitted(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fit")
    return fit("mini-mosi", seed=3, overrides=SMALL, datasets=splits, folder=folder, progress=False)


def test_it_learns_and_keeps_the_best_epoch(fitted):
    rows = fitted.history
    assert [r["epoch"] for r in rows] == [0, 1, 2]
    assert rows[-1]["train/task"] < rows[0]["train/task"]
    assert fitted.best_epoch == min(rows, key=lambda r: r["valid/loss"])["epoch"]
    found = evaluate(fitted.model, fitted.datasets["valid"])
    assert found["accuracy"] == pytest.approx(rows[fitted.best_epoch]["valid/accuracy"])
    assert found["mae"] == pytest.approx(rows[fitted.best_epoch]["valid/loss"], abs=1e-5)


def test_history_holds_the_parts_of_the_loss(fitted):
    for row in fitted.history:
        whole = row["train/task"] + row["train/ot"] + 0.1 * row["train/mmd"]
        assert row["train/loss"] == pytest.approx(whole, rel=1e-3)
        assert row["train/mmd"] == pytest.approx(row["train/mmd/audio-text"] + row["train/mmd/video-text"], rel=1e-3)


def test_history_holds_the_alignment_of_unseen_samples_without_dropout(splits, fitted):
    """Of the first validation batch, which is as much as eight steps allow: by a trace of the model itself."""
    first = splits["valid"].batch(range(16))
    set_seed(3)
    models = {"untrained": build(fitted.recipe, splits["train"]), "valid": fitted.model}
    rows = {"untrained": fitted.history[0], "valid": fitted.history[fitted.best_epoch]}
    for when, model in models.items():
        trace = model.trace(first)
        for kind, values in (("ot", trace.transport_distance), ("mmd", trace.discrepancy)):
            for (m, anchor), value in values.items():
                assert rows[when][f"{when}/{kind}/{m}-{anchor}"] == pytest.approx(float(value.mean()), rel=1e-5)
            whole = sum(float(value.mean()) for value in values.values())
            assert rows[when][f"{when}/{kind}"] == pytest.approx(whole, rel=1e-5)
    assert not any(name.startswith("untrained") for row in fitted.history[1:] for name in row)
    assert set(fitted.model(first).losses) == {"task"}


def test_alignment_warms_up_along_a_line(splits):
    """λ rises from 0 over the share of the steps that the recipe names; the parts of the loss are noted as they are."""
    overrides = SMALL | {"training.alignment_warmup": 1.0}
    result = fit("mini-mosi", seed=3, overrides=overrides, datasets=splits, progress=False)
    steps = 8  # 120 samples in batches of 16; the loss of an epoch is a mean over samples, the last batch has 8
    sizes = [16] * 7 + [8]
    for row in result.history:
        shares = [size * (row["epoch"] * steps + i) / (3 * steps) for i, size in enumerate(sizes)]
        warmth = sum(shares) / 120
        aligned = row["train/ot"] + 0.1 * row["train/mmd"]
        assert (row["train/loss"] - row["train/task"]) / aligned == pytest.approx(warmth, rel=0.1)
    assert result.model.align.warmth == 1.0
    with pytest.raises(ValueError, match="alignment_warmup: found -1"):
        fit("mini-mosi", overrides={"training.alignment_warmup": -1}, datasets=splits, progress=False)


def test_same_seed_same_weights_other_seed_others(fitted, splits):
    again, other = (fit("mini-mosi", seed=s, overrides=SMALL, datasets=splits, progress=False) for s in (3, 4))
    weights = [r.model.state_dict() for r in (fitted, again, other)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert any(not torch.equal(weights[0][k], weights[2][k]) for k in weights[0])


def test_the_test_split_is_not_touched(splits):
    result = fit("mini-mosi", overrides=SMALL, datasets={k: splits[k] for k in ("train", "valid")}, fast=True)
    assert len(result.history) == 2


def test_what_is_written_can_be_read(fitted):
    model = AlignMamba2.from_pretrained(fitted.folder)
    test = fitted.datasets["test"]
    assert all(torch.equal(a, b) for a, b in zip(predict(model, test), predict(fitted.model, test), strict=True))
    notes = json.loads((fitted.folder / "training.json").read_text())
    assert notes["seed"] == 3
    assert notes["recipe"]["model"]["d_model"] == 16
    assert notes["history"] == fitted.history


def test_refit_trains_on_both_splits_for_as_long(splits, fitted):
    refitted = fit("mini-mosi", seed=3, overrides={**SMALL, "training.refit": True}, datasets=splits, progress=False)
    for row, known in zip(refitted.history, fitted.history, strict=True):
        assert row == pytest.approx(known, rel=1e-6)
    assert refitted.best_epoch == fitted.best_epoch
    mean, _ = refitted.datasets["train"].statistics()["text"]
    assert not torch.equal(refitted.model.project["text"].mean, mean)
    both = dataclasses.replace(splits["train"], samples=[*splits["train"].samples, *splits["valid"].samples])
    assert torch.equal(refitted.model.project["text"].mean, both.statistics()["text"][0])


def test_a_leak_cannot_choose_the_epoch(splits):
    """Where a feature is the label, validation with swapping does not see it; without swapping it does."""
    splits = dict(splits)
    for name in ("train", "valid"):
        samples = [
            dataclasses.replace(s, features={**s.features, "leak": s.label.expand(len(s.features["text"]), 1)})
            for s in splits[name].samples
        ]
        splits[name] = dataclasses.replace(splits[name], samples=samples)
    scores = {}
    for share in (0.0, 1.0):
        change = {**SMALL, "model.swap": {"leak": share}}
        result = fit("mini-mosi", overrides=change, datasets=splits, progress=False)
        scores[share] = result.history[-1]["valid/accuracy"], evaluate(result.model, splits["valid"])["accuracy"]
    assert scores[0.0][0] == pytest.approx(scores[0.0][1])
    assert scores[0.0][0] > scores[1.0][0] + 0.05


def test_statistics_come_from_the_training_split(fitted):
    mean, _ = fitted.datasets["train"].statistics()["text"]
    assert torch.equal(build(fitted.recipe, fitted.datasets["train"]).project["text"].mean, mean)


def test_an_unknown_monitor_is_named(splits):
    change = {**SMALL, "training.monitor": "valid/acuracy"}
    with pytest.raises((ValueError, RuntimeError), match=r"valid/acuracy"):
        fit("mini-mosi", overrides=change, datasets=splits, progress=False)


def test_mixed_precision_keeps_states_losses_and_predictions_in_float32(splits, monkeypatch):
    change = {**SMALL, "model.dropout": 0.0}
    plain = fit("mini-mosi", overrides=change, datasets=splits, progress=False)
    scanned, aligned, products = set(), set(), set()
    scan, transport, linear = cpu.selective_scan, losses.transport, layers.F.linear

    def spied_scan(*tensors, **options):
        scanned.update(x.dtype for x in tensors if x is not None)
        return scan(*tensors, **options)

    def spied_transport(x, *rest, **options):
        found = transport(x, *rest, **options)
        aligned.update((x.dtype, found.cost.dtype))
        return found

    def spied_linear(*tensors):
        products.add(linear(*tensors).dtype)
        return linear(*tensors)

    monkeypatch.setattr(cpu, "selective_scan", spied_scan)
    monkeypatch.setattr(losses, "transport", spied_transport)
    monkeypatch.setattr(layers.F, "linear", spied_linear)
    mixed = fit("mini-mosi", overrides=change, datasets=splits, progress=False, precision="bf16-mixed")
    assert scanned == aligned == {torch.float32}
    assert torch.bfloat16 in products
    assert {x.dtype for x in mixed.model.state_dict().values()} == {torch.float32}
    for row, expected in zip(mixed.history, plain.history, strict=True):
        assert row["train/loss"] == pytest.approx(expected["train/loss"], rel=0.02)
        assert row["train/loss"] != expected["train/loss"]


@pytest.mark.parametrize("kind", ["alignmamba2", *KINDS])
def test_every_model_predicts_in_float32_under_bfloat16(kind, splits):
    torch.manual_seed(0)
    model = build(Recipe.load("mini-mosi", {"model.kind": kind, "model.d_model": 8}), splits["train"]).eval()
    batch = splits["train"].batch(range(6))
    with torch.no_grad():
        plain = model(batch)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(batch)
    assert mixed.prediction.dtype == mixed.loss.dtype == torch.float32
    assert torch.allclose(mixed.prediction, plain.prediction, atol=0.05)


@pytest.mark.cuda
def test_a_step_on_the_gpu_equals_one_on_the_cpu():
    datasets = load_dataset("mini-mosi")
    torch.manual_seed(0)
    model = build(Recipe.load("mini-mosi", SMALL), datasets["train"]).eval()
    batch = datasets["train"].batch(range(4))
    here = model(batch).loss
    there = model.cuda()(batch.to("cuda")).loss
    assert torch.allclose(here, there.cpu(), atol=1e-4)


def test_the_last_epoch_can_be_kept_whatever_validation_says(splits):
    overrides = {**SMALL, "training.monitor": "epoch", "training.max_epochs": 3, "training.patience": 1}
    models = []
    result = fit(
        "mini-mosi",
        seed=3,
        overrides={**overrides, "training.learning_rate": 1.0},  # so large that validation gets worse
        datasets=splits,
        progress=False,
        callbacks=[type("Last", (), {"on_start": lambda _, model, epochs: models.append(model)})()],
    )
    assert [row["epoch"] for row in result.history] == [0, 1, 2]
    assert result.best_epoch == 2
    assert all(torch.equal(x, models[0].state_dict()[name].cpu()) for name, x in result.model.state_dict().items())


def test_a_start_is_trained_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    small = 'dataset = "mini-mosi"\n[model]\nd_model = 8\nd_state = 2\nn_layers = 1\n[training]\nmax_epochs = 1\n'
    (tmp_path / "first.toml").write_text(small)
    (tmp_path / "then.toml").write_text(f'{small}start = "{tmp_path / "first.toml"}"\n')
    recipe = Recipe.load(tmp_path / "then.toml")
    folder = fitting.trained_start(recipe, progress=False)
    assert training_notes(folder)["recipe"]["name"] == "first"
    assert folder.is_relative_to(tmp_path / "cache")
    monkeypatch.setattr(fitting, "fit", None)
    assert fitting.trained_start(recipe) == folder
    assert fitting.trained_start(Recipe.load(tmp_path / "first.toml")) is None


def test_encoders_start_from_what_others_have_learnt_and_nothing_else_does(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path)

    def model(train):
        torch.manual_seed(train)
        encoders = {"text": {"name": str(tmp_path), "train": train}}
        built = build_model({"modalities": {"text": 0}, "encoders": encoders, "d_model": 8})
        for p in built.parameters():
            torch.nn.init.normal_(p) if p.requires_grad else None
        return built

    first, then, deeper = model(1), model(1), model(2)
    head = then.head.weight.detach().clone()
    for p in first.encode.parameters():
        torch.nn.init.normal_(p) if p.requires_grad else None
    fitting._start_encoders(then, first)
    for name, x in first.encode.state_dict().items():
        assert torch.equal(then.encode.state_dict()[name], x), name
    assert torch.equal(then.head.weight, head)
    with pytest.raises(ValueError, match=r"training\.start: its encoder of 'text' is .* with train = 1; expected"):
        fitting._start_encoders(deeper, first)
