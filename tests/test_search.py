"""`search`: folds that keep groups together, equally many settings per kind, a file of all that was tried."""

from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch

from alignmamba2.__main__ import main, setting
from alignmamba2.experiments import grid, ranked, search

MODULE = importlib.import_module("alignmamba2.experiments.search")
RECIPE = """
dataset = "mini-mosi"
[model]
d_model = 16
d_state = 2
n_layers = 1
[training]
max_epochs = 2
monitor = "valid/mae"
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("search") / "small.toml"
    path.write_text(RECIPE)
    return path


def test_groups_stay_together_and_every_sample_is_validated_once():
    names = [f"video {i % 7}" if i % 3 else "" for i in range(60)]
    classes = [torch.tensor(i % 2) for i in range(60)]
    for labels in (classes, []):
        folds = MODULE._folds(names, labels, 4, 0)
        assert sorted(i for _, valid in folds for i in valid) == list(range(60))
        for train, valid in folds:
            assert sorted([*train, *valid]) == list(range(60))
            assert not {names[i] for i in train if names[i]} & {names[i] for i in valid}
        assert folds == MODULE._folds(names, labels, 4, 0) != MODULE._folds(names, labels, 4, 1)
    with pytest.raises(ValueError, match="folds: found 9; expected 2 to 7, the number of groups"):
        MODULE._folds([f"video {i % 7}" for i in range(60)], [], 9, 0)


def test_a_space_is_tried_whole_or_drawn_from_and_the_recipe_comes_first():
    space = {"a": [1, 2], "b": [3, 4, 5]}
    whole = MODULE._settings(space, 7, 0)
    assert whole[0] == {}
    assert len(whole) == 7
    assert len({json.dumps(x, sort_keys=True) for x in whole}) == 7
    drawn = MODULE._settings(space, 4, 0)
    assert drawn[0] == {}
    assert len(drawn) == 4
    assert all(x in whole for x in drawn)
    assert MODULE._settings({}, 8, 0) == [{}]


def test_commas_are_several_values_but_of_a_setting_that_takes_a_list():
    def tried(recipe, *words):
        return list(grid(recipe, dict(map(setting, words))).values())

    assert tried("mini-mosi") == [{}]
    assert tried("mini-mosi", "model.d_model=8,16", "training.learning_rate=1e-3,3e-4", "model.d_state=2") == [
        {"model.d_model": d, "training.learning_rate": r, "model.d_state": 2} for d in (8, 16) for r in (1e-3, 3e-4)
    ]
    words = [
        "model.kind=alignmamba2,lmf",
        "training.refit=true,false",
        "model.encoders.text.train=1,2",
        "data.noise=0,1",
    ]
    assert len(tried("mini-mosi", *words)) == 16
    assert {t["model.kind"] for t in tried("mini-mosi", *words)} == {"alignmamba2", "lmf"}
    one = [
        ("model.shortcut=text,image", ("text", "image")),
        ("model.shortcut=['text','image']", ["text", "image"]),
        ("model.class_weights=1,2", (1, 2)),
        ("model.class_weights=()", ()),
        ("model.grids.image=12,16", (12, 16)),
        ("model.bandwidth=1,2", (1, 2)),
        ("model.readout='a,b'", "a,b"),
        ("model.dropout=[0.1,0.2]", [0.1, 0.2]),
    ]
    for word, value in one:
        assert tried("mini-mvsa", word) == [{word.partition("=")[0]: value}]
    assert tried("rated-sentences", "data.kinds=films,tweets") == [{"data.kinds": ("films", "tweets")}]
    assert tried("mini-mvsa", "model.shortcut=[],['text']") == [{"model.shortcut": []}, {"model.shortcut": ["text"]}]


def test_validation_can_choose_among_what_a_sweep_trains():
    """`mosi-standard` trains on its validation split, too, and does not look at it."""
    assert [c["training.refit"] for c in grid("mosi-standard", {"model.dropout": (0.1, 0.2)}).values()] == [False] * 2
    assert list(grid("mosi-standard", {"model.dropout": 0.1}).values()) == [{"model.dropout": 0.1}]

    def order(*monitors):
        scores = {"a": (0.5, 0.9), "b": (0.7, 0.8), "c": (0.6, 0.7)}
        rows = {
            name: {
                "recipe": {"training": {"monitor": monitor}},
                "valid": {"accuracy": {"mean": accuracy}, "loss": {"mean": loss}},
            }
            for monitor, (name, (accuracy, loss)) in zip(monitors, scores.items(), strict=True)
        }
        metric, rows = ranked(rows)
        return metric, "".join(rows)

    assert order(*["valid/loss"] * 3) == ("loss", "cba")
    assert order(*["valid/accuracy"] * 3) == order(*["epoch"] * 3) == ("accuracy", "bca")
    assert order("valid/accuracy", "valid/loss", "valid/loss") == ("accuracy", "bca")


def test_a_sweep_trains_each_setting_once_and_orders_by_validation(tmp_path, monkeypatch, capsys):
    seeds = importlib.import_module("alignmamba2.experiments.seeds")
    trained, fit = [], seeds.fit
    monkeypatch.setattr(seeds, "fit", lambda *a, **o: trained.append(o["folder"].parent.name) or fit(*a, **o))
    sizes = ["--set", "model.n_layers=1", "--set", "model.d_state=2"]
    words = ["train", "mini-mosi", "--fast", "--quiet", "--seeds", "1", "--folder", str(tmp_path), *sizes, "--set"]
    assert main([*words, "model.d_model=4,16"]) == 0
    printed = capsys.readouterr().out
    (path,) = tmp_path.glob("results+*.json")
    losses = {n: row["runs"][0]["valid"]["loss"] for n, row in json.loads(path.read_text())["results"].items()}
    order = sorted(losses, key=losses.get)
    validation, test = printed.split("Validation split, ")[1].split("Test split, ")
    assert [line.split(" ")[1] for line in validation.splitlines() if line.startswith("| mini-mosi")] == order
    assert f"| {losses[order[0]]:.3f} |" in validation
    assert [line.split(" ")[1] for line in test.splitlines() if line.startswith("| mini-mosi")] == order[:1]
    assert main([*words, "model.d_model=4,8"]) == 0
    assert [name.rpartition("=")[2] for name in trained] == ["4", "16", "8"]  # the first is there


def test_each_kind_is_given_the_same_settings_and_nothing_is_trained_twice(small, tmp_path, monkeypatch, capsys):
    space = {"model.dropout": [0.5]}
    options = {"kinds": ["alignmamba2", "transformer"], "folds": 2, "folder": tmp_path, "progress": False}
    report = search(small, space, **options)
    changes = {kind: [t["change"] for t in report["trials"] if t["kind"] == kind] for kind in options["kinds"]}
    assert changes["alignmamba2"] == changes["transformer"] == [{}, {"model.dropout": 0.5}]
    ours, other = (next(t["parameters"] for t in report["trials"] if t["kind"] == kind) for kind in options["kinds"])
    assert abs(other / ours - 1) < 0.2
    for trial in report["trials"]:
        mean = np.array(trial["curves"]).mean(0)
        assert np.shape(trial["curves"]) == (2, 2)  # folds, epochs
        assert trial["epochs"] == mean.argmin() + 1
        assert trial["score"]["valid/mae"]["mean"] == pytest.approx(mean.min())
    for kind, place in report["chosen"].items():
        scores = [t["score"]["valid/mae"]["mean"] for t in report["trials"] if t["kind"] == kind]
        assert report["trials"][place]["score"]["valid/mae"]["mean"] == min(scores)

    monkeypatch.setattr(MODULE, "fit", None)  # every training is read from its file, by the command line too
    words = ["search", str(small), "--try", "model.dropout=0.5,", "--kinds", *options["kinds"], "--folds", "2"]
    results = tmp_path / "results.json"
    assert main([*words, "--folder", str(tmp_path), "--results", str(results), "--quiet"]) == 0
    written = json.loads(results.read_text())
    assert written["trials"] == report["trials"]
    assert written["chosen"] == report["chosen"]
    assert "alignmamba2: " in capsys.readouterr().out
    assert main([*words, "--folder", str(tmp_path), "--results", str(results), "--quiet", "--folds", "1"]) == 1
    assert "folds: found 1; expected 2 to" in capsys.readouterr().err
