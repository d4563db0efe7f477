"""Tasks: classes, numbers, several of either, one per step of the anchor; labels that are not known; own losses."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score
from torch.nn import functional as F

import alignmamba2 as am
from alignmamba2.baselines import KINDS, load_model
from alignmamba2.batch import BatchError, MultimodalBatch, Sample
from alignmamba2.metrics import multilabel_metrics, multitarget_metrics
from alignmamba2.model import ModelOutput
from alignmamba2.tasks import TASKS
from alignmamba2.training import TrainingError
from alignmamba2.training.best import Best

N, K = 40, 3
SMALL = {"model.d_model": 8, "model.d_state": 2, "training.max_epochs": 2}


def quiet(**columns):
    return am.Dataset.from_arrays(say=lambda _: None, **columns)


def features(seed: int = 0) -> dict:
    draw = np.random.default_rng(seed)
    return {"a": [draw.normal(size=(3, 4)) for _ in range(N)], "b": list(draw.normal(size=(N, 2)))}


def numbers(missing: bool = False) -> np.ndarray:
    table = np.random.default_rng(1).normal(size=(N, K))
    if missing:
        table[::4, 0], table[5] = np.nan, np.nan
    return table


def labels(missing: bool = False) -> np.ndarray:
    table = (numbers() > 0.3).astype(float)
    return np.where(np.isnan(numbers(missing)), np.nan, table)


def small_fit(data, **options):
    options["overrides"] = {**SMALL, **options.pop("overrides", {})}
    return am.fit(data, progress=False, **options)


def task_of(name: str, **settings):
    widths = {"a": 4}
    return TASKS[name](am.AlignMamba2Config(widths, task=name, n_classes=K, **settings))


def batch_of(label, mask=None) -> MultimodalBatch:
    return MultimodalBatch({"a": torch.zeros(len(label), 1, 4)}, labels=label, label_mask=mask)


def test_binary_cross_entropy_by_hand():
    scores, label = torch.randn(5, K, generator=torch.Generator().manual_seed(0)), torch.tensor(labels()[:5]).long()
    p = torch.sigmoid(scores.double())
    by_hand = -(label * p.log() + (1 - label) * (1 - p).log()).mean()
    task = task_of("multilabel")
    assert task.loss(ModelOutput(*task.predicted(scores)), batch_of(label)) == pytest.approx(float(by_hand), rel=1e-5)
    weights = torch.tensor([1.0, 2.0, 5.0])
    by_hand = -(weights * label * p.log() + (1 - label) * (1 - p).log()).mean()
    task = task_of("multilabel", class_weights=weights.tolist())
    assert task.loss(ModelOutput(*task.predicted(scores)), batch_of(label)) == pytest.approx(float(by_hand), rel=1e-5)
    assert torch.equal(task.predicted(scores)[0], (p > 0.5).long())


def test_several_numbers_by_hand():
    scores, label = torch.randn(6, K), torch.randn(6, K)
    task = task_of("multitarget")
    assert task.loss(ModelOutput(scores), batch_of(label)) == pytest.approx(float((scores - label).abs().mean()))
    task = task_of("multitarget", class_weights=[1, 0, 3])
    by_hand = ((scores - label).abs() * torch.tensor([1.0, 0.0, 3.0])).mean()
    assert task.loss(ModelOutput(scores), batch_of(label)) == pytest.approx(float(by_hand))


def test_class_weights_are_those_of_torch_and_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    scores, label, weights = torch.randn(7, K), torch.tensor([0, 1, 1, 0, 1, 2, 1]), [0.5, 2.0, 1.0]
    task = task_of("classification", class_weights=weights)
    expected = F.cross_entropy(scores, label, torch.tensor(weights))
    assert task.loss(ModelOutput(*task.predicted(scores)), batch_of(label)) == pytest.approx(float(expected))
    np.testing.assert_allclose(
        task.balanced([*label], K), compute_class_weight("balanced", classes=np.arange(K), y=label.numpy())
    )
    data = quiet(**features(), label=np.arange(N) % 4 == 0)
    known = np.array([int(x) for x in data["train"].labels])
    result = small_fit(data, overrides={"model.class_weights": "balanced"})
    weights = compute_class_weight("balanced", classes=np.arange(2), y=known)
    np.testing.assert_allclose(result.model.config.class_weights, weights)


@pytest.mark.parametrize("name", ["classification", "regression", "multilabel", "multitarget"])
def test_labels_that_are_not_known_are_as_if_left_out(name):
    """Of whole samples: the loss, its gradient and all metrics are those of the other samples alone."""
    table = {"multilabel": labels(), "multitarget": numbers(), "regression": numbers()[:, 0]}.get(name)
    table = np.arange(N) % K if table is None else table
    kind = torch.int64 if name in ("classification", "multilabel") else torch.float32
    rows = [torch.tensor(x).to(kind) for x in table]
    gone = {2, 7, 11}
    samples = [
        Sample({"a": x}, None if i in gone else y, i)
        for i, (x, y) in enumerate(zip(features()["a"], rows, strict=True))
    ]
    config = am.AlignMamba2Config({"a": 4}, task=name, n_classes=K, d_model=8, n_layers=1, dropout=0.0)
    torch.manual_seed(0)
    model = am.AlignMamba2(config)
    found = []
    for part in (samples, [s for i, s in enumerate(samples) if i not in gone]):
        batch = MultimodalBatch.from_samples(part)
        model.zero_grad()
        model.train()(batch).loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        found.append((gradient, model.eval()(batch), batch))
    (gradient, output, batch), (other_gradient, other, fewer) = found
    torch.testing.assert_close(gradient, other_gradient, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.loss, other.loss)
    task = model.task
    with torch.no_grad():
        assert task.metrics(*task.rows(output, batch)) == pytest.approx(task.metrics(*task.rows(other, fewer)))


def test_a_part_of_several_labels_may_be_unknown():
    label, mask = torch.tensor([[1, 0, 1], [0, 1, 1]]), torch.tensor([[True, False, True], [False, False, False]])
    scores = torch.randn(2, K)
    samples = [
        Sample({"a": torch.zeros(1, 4)}, y, i, label_mask=m) for i, (y, m) in enumerate(zip(label, mask, strict=True))
    ]
    batch = MultimodalBatch.from_samples(samples)
    assert torch.equal(batch.label_mask, mask)
    task = task_of("multilabel")
    output = ModelOutput(*task.predicted(scores))
    expected = F.binary_cross_entropy_with_logits(scores[mask], label[mask].float())
    assert task.loss(output, batch) == pytest.approx(float(expected))
    prediction, rows, _ = task.rows(output, batch)
    assert rows.tolist() == [[1, -1, 1], [-1, -1, -1]]
    right = float((prediction == label)[mask].double().mean())
    assert task.metrics(prediction, rows, None)["accuracy"] == pytest.approx(right)


def test_metrics_of_several_labels_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    guess, label = draw.integers(0, 2, (2, 50, K))
    found = multilabel_metrics(torch.tensor(guess), torch.tensor(label))
    for name, average in (("f1", "weighted"), ("f1_macro", "macro")):
        assert found[name] == pytest.approx(f1_score(label, guess, average=average))
    assert found["accuracy"] == pytest.approx((guess == label).mean())
    assert found["exact"] == pytest.approx((guess == label).all(1).mean())


def test_metrics_of_several_targets():
    guess, label = np.random.default_rng(0).normal(size=(2, 50, K))
    label[:7, 1] = np.nan
    found = multitarget_metrics(torch.tensor(guess), torch.tensor(label), ["x", "y", "z"])
    known = ~np.isnan(label[:, 1])
    assert found["mae/y"] == pytest.approx(np.abs(guess - label)[known, 1].mean())
    assert found["corr/y"] == pytest.approx(np.corrcoef(guess[known, 1], label[known, 1])[0, 1])
    assert found["mae"] == pytest.approx(np.nanmean(np.abs(guess - label), 0).mean())
    label[:, 2] = 1
    assert multitarget_metrics(torch.tensor(guess), torch.tensor(label))["corr"] is None


@pytest.mark.parametrize("kind", ["alignmamba2", "concat-mean"])
@pytest.mark.parametrize("task", ["multilabel", "multitarget"])
def test_several_labels_go_all_the_way(task, kind, tmp_path):
    """from_frame → fit → evaluate → predict → save → load; with unknown labels, in part and in whole."""
    table = labels(missing=True) if task == "multilabel" else numbers(missing=True)
    frame = pd.DataFrame({**features(), **dict(zip("xyz", table.T, strict=True))})
    told = []
    data = am.Dataset.from_frame(frame, a="a", b="b", label=["x", "y", "z"], say=told.append)
    assert f"3 {'labels' if task == 'multilabel' else 'targets'}: x, y, z (11 missing)" in told[0]
    assert (data["train"].task, data["train"].n_classes, data["train"].classes) == (task, 3, ["x", "y", "z"])
    result = small_fit(data, overrides={"model.kind": kind}, folder=tmp_path / "run")
    found = am.evaluate(result.model, data["test"])
    assert found.keys() >= ({"accuracy", "exact", "f1"} if task == "multilabel" else {"mae", "mae/x", "corr/z"})
    prediction, known = am.predict(result.model, data["test"])
    assert prediction.shape == known.shape == (len(data["test"]), 3)
    again = load_model(tmp_path / "run")
    assert am.evaluate(again, data["test"]) == found
    answer = am.predict(again, frame.drop(columns=["x", "y", "z"]))
    assert list(answer.columns) == (["prediction", "x", "y", "z"] if task == "multilabel" else ["x", "y", "z"])
    row = answer.loc[int(data["test"][0].id)]
    if task == "multilabel":
        assert row["prediction"] == [n for n, k in zip("xyz", prediction[0], strict=True) if k]
        assert ((row[["x", "y", "z"]] > 0.5) == prediction[0].bool().numpy()).all()
    else:
        np.testing.assert_allclose(row.to_numpy(float), prediction[0], rtol=1e-4, atol=1e-5)


def test_lists_of_names_are_several_labels():
    names = [["drama"], ["comedy", "drama"], [], None] * (N // 4)
    data = quiet(**features(), label=names)
    assert data["train"].classes == ["comedy", "drama"]
    rows = {int(s.id): s.label for part in data.values() for s in part}
    assert rows[1].tolist() == [1, 1]
    assert rows[0].tolist() == [0, 1]
    assert rows[2].tolist() == [0, 0]
    assert rows[3] is None


def test_missing_labels_of_classes_and_numbers_are_told_and_passed_over(tmp_path):
    for label in (["yes", "no", None, "no"] * (N // 4), np.where(np.arange(N) % 4 == 2, np.nan, np.arange(N))):
        told = []
        data = am.Dataset.from_arrays(**features(), label=label, say=told.append)
        assert f"({N // 4} missing)" in told[0]
        result = small_fit(data)
        prediction, known = am.predict(result.model, data["test"])
        unknown = known.isnan() if known.is_floating_point() else known < 0
        assert len(prediction) == len(data["test"])
        assert unknown.sum() == sum(x is None for x in data["test"].labels)
        part = dataclasses.replace(data["test"], samples=[s for s in data["test"] if s.label is not None])
        assert am.evaluate(result.model, data["test"]) == am.evaluate(result.model, part)


def test_a_split_without_any_label_is_refused():
    split = ["train"] * 20 + ["valid"] * 10 + ["test"] * 10
    data = quiet(**features(), label=[0, 1] * 10 + [None] * 10 + [0, 1] * 5, split=split)
    with pytest.raises(TrainingError, match="split 'valid': no label of its 10 samples is known"):
        small_fit(data)


def test_an_own_loss_that_is_the_task_s_gives_the_same_model():
    data = quiet(**features(), label=np.arange(N) % 3)
    own = small_fit(data, loss=F.cross_entropy).model.state_dict()
    for name, x in small_fit(data).model.state_dict().items():
        assert torch.equal(own[name], x)
    other = small_fit(data, loss=lambda scores, label: F.multi_margin_loss(scores, label)).model.state_dict()
    assert not torch.equal(other["head.weight"], own["head.weight"])


def test_own_metrics_stand_in_history_and_results():
    from torchmetrics.classification import MulticlassAccuracy, MultilabelAUROC

    data = quiet(**features(), label=np.arange(N) % 3)
    metrics = {"own": MulticlassAccuracy(3, average="micro"), "sum": lambda p, y: p.sum(1).mean()}
    result = small_fit(data, metrics=metrics, overrides={"training.monitor": "valid/own"})
    for row in result.history:
        assert row["valid/own"] == pytest.approx(row["valid/accuracy"])
        assert row["valid/sum"] == pytest.approx(1)  # they are probabilities
    found = am.evaluate(result.model, data["test"])  # the model knows them as long as it is here
    assert found["own"] == pytest.approx(found["accuracy"])
    assert am.evaluate(result.model, data["test"], metrics={"one": lambda p, y: 1})["one"] == 1
    several = quiet(**features(), label=labels(missing=True))
    found = am.evaluate(
        small_fit(several).model, several["train"], metrics={"auroc": MultilabelAUROC(K, ignore_index=-1)}
    )
    assert 0 <= found["auroc"] <= 1
    with pytest.raises(ValueError, match="metrics: 'broken' makes no number of"):
        am.evaluate(result.model, data["test"], metrics={"broken": lambda p, y: p})


@pytest.mark.parametrize(
    ("monitor", "sign"),
    [("valid/loss", 1), ("valid/mae/x", 1), ("valid/ot", 1), ("valid/mse", 1), ("valid/f1", -1), ("valid/own", -1)],
)
def test_whether_less_is_better(monitor, sign):
    from torchmetrics import MeanSquaredError

    assert Best(monitor, 1, {"mse": MeanSquaredError(), "own": len}).sign == sign


def test_labels_per_token_of_the_anchor_where_lengths_differ(tmp_path):
    """Each label is the sign of its own step's sound; the text has another length and knows nothing."""
    draw = np.random.default_rng(0)
    sound = [draw.normal(size=(int(draw.integers(2, 6)), 1)) for _ in range(3 * N)]
    text = [draw.normal(size=(int(draw.integers(1, 9)), 2)) for _ in range(3 * N)]
    label = [(x[:, 0] > 0).astype(int).tolist() for x in sound]
    label[0] = None
    label[1] = [None, *label[1][1:]]
    told = []
    data = am.Dataset.from_arrays(text=text, sound=sound, label=label, steps="sound", say=told.append)
    assert "2 classes: 0, 1, one per token of sound (2 missing)" in told[0]
    result = am.fit(data, progress=False, overrides={"training.max_epochs": 25, "model.d_model": 16})
    assert result.model.config.anchor == "sound"
    assert am.evaluate(result.model, data["test"])["accuracy"] > 0.9
    batch = data["test"].batch(range(4))
    output = result.model(batch)
    assert output.prediction.shape == batch.labels.shape == batch.masks["sound"].shape
    prediction, known = am.predict(result.model, data["test"])
    assert len(prediction) == len(known) == sum(len(s.features["sound"]) for s in data["test"] if s.label is not None)
    # Padding changes nothing: a sample alone is predicted as in company.
    alone = result.model(data["test"].batch([1])).logits[0]
    torch.testing.assert_close(alone, output.logits[1, : len(alone)], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="sample '3': found 1; sound has"):
        quiet(text=text, sound=sound, label=[*label[:3], [1], *label[4:]], steps="sound")
    with pytest.raises(BatchError, match="anchor_steps"):
        KINDS["transformer"](load_config(result.model.config)).train()(batch)


def load_config(config):
    from alignmamba2.baselines import BaselineConfig

    return BaselineConfig.from_dict({**dataclasses.asdict(config), "kind": "transformer"})


def test_a_model_takes_tensors_in_place_of_a_batch():
    x, mask, label = torch.randn(2, 3, 4), torch.tensor([[1, 1, 0], [1, 1, 1]]), torch.tensor([0, 1])
    model = am.AlignMamba2(am.AlignMamba2Config({"a": 4}, d_model=8, n_layers=1)).eval()
    expected = model(MultimodalBatch({"a": x}, {"a": mask}, labels=label))
    output = model(a=x, masks={"a": mask}, labels=label)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.loss, expected.loss)
    with pytest.raises(BatchError, match=r"features\['b'\]|modality 'b' is unknown"):
        model(b=x)


MISTAKES = [
    ({"label": numbers()[:, :1]}, "expected equally many, 2 at least"),
    ({"label": [[1, 0]] * (N - 1) + [[1]]}, "expected equally many"),
    ({"label": [[0, 1]] * (N - 1) + [1]}, "found several .* and one"),
    ({"label": [[0, 2]] * N, "task": "multilabel"}, r"found \[0, 2\]; expected 0 and 1 alone"),
    ({"label": [[0, 1]] * N, "task": "classification"}, "task 'classification'"),
    ({"label": [0, 1] * (N // 2), "task": "multilabel"}, "task 'multilabel'"),
    ({"label": [None] * N}, "found none; expected"),
    ({"label": [[0, 1]] * N, "label_names": ["x"]}, r"names \['x'\]"),
    ({"label": [0, 1] * (N // 2), "steps": "a"}, "expected one per token of 'a'"),
    ({"label": [[0, 1]] * N, "steps": "a"}, "sample '0': found 2; a has 3 tokens"),
    ({"label": [[0, 1, 1]] * N, "steps": "c"}, "steps: found 'c'; expected a modality of numbers"),
    (
        {"label": [["x", "y"], ["z", "x"]] * (N // 2), "task": "multitarget"},
        "found .'str'., task 'multitarget'; expected several numbers",
    ),
    ({"label": [["x", "y"], [1, 0]] * (N // 2)}, "found texts and others"),
]


@pytest.mark.parametrize(("columns", "says"), MISTAKES)
def test_labels_that_do_not_fit_are_refused(columns, says):
    with pytest.raises(ValueError, match=says):
        quiet(**features(), **columns)


def test_settings_that_do_not_fit_the_task_are_refused():
    for settings, says in (
        ({"task": "multilabel", "n_classes": 1}, "n_classes: found 1; expected at least 2"),
        ({"class_weights": [1.0]}, r"class_weights: found \[1.0\]; expected 2 numbers"),
        ({"class_weights": [1.0, -1.0]}, "class_weights: found"),
        ({"class_weights": [1.0, 1.0], "task": "regression"}, "class_weights: found"),
        ({"class_weights": "balance"}, "class_weights: found 'balance'"),
    ):
        with pytest.raises(ValueError, match=says):
            am.AlignMamba2Config({"a": 2}, **settings)
    task = task_of("multilabel")
    with pytest.raises(BatchError, match="found 2; expected 0 or 1 for each label"):
        task.loss(ModelOutput(*task.predicted(torch.zeros(1, K))), batch_of(torch.tensor([[0, 1, 2]])))
    with pytest.raises(ValueError, match="class_weights: found 'balanced'; expected a sequence"):
        small_fit(quiet(**features(), label=numbers()), overrides={"model.class_weights": "balanced"})
