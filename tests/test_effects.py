"""`studies effects`: what it measures of a recipe, and that a trained model is not trained again."""

from __future__ import annotations

import pytest
import torch

from alignmamba2.baselines import load_model
from alignmamba2.datasets import load_dataset
from alignmamba2.recipes import Recipe
from alignmamba2.training import loader
from studies import effects, partners

RECIPE = """
dataset = "mini-mosi"
[model]
d_model = 8
d_state = 2
n_layers = 1
share_ot = 0.2
share_mmd = 0.1
[training]
max_epochs = 2
monitor = "epoch"
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("effects")
    (folder / "small.toml").write_text(RECIPE)
    recipe = Recipe.load(folder / "small.toml")
    return recipe, folder, effects.effects(recipe, [0, 1], folder)


def test_shares_of_the_gradient_are_those_that_the_recipe_asks_for(measured):
    share = measured[2]["gradient_share"]
    assert share["ot"] == pytest.approx(0.2, rel=0.3)
    assert share["mmd"] == pytest.approx(0.1, rel=0.3)


def test_what_is_told_of_prediction_is_what_the_saved_model_does(measured):
    _, folder, row = measured
    test, valid = (load_dataset("mini-mosi")[split] for split in ("test", "valid"))
    model = load_model(folder / "small" / "seed-0")
    plans = model.trace(test.batch(), scans=False).plans
    masses, chances = [], []
    for pair, plan in plans.items():
        for i, sample in enumerate(test):
            true = torch.zeros_like(plan[i])
            for step, word in enumerate(sample.partners[pair].tolist()):
                if word >= 0:
                    true[step, word] = 1
            masses.append(float((plan[i] * true).sum()))
            chances.append(float(true.sum()) / (len(sample.features[pair[0]]) * len(sample.features[pair[1]])))
    partners = row["runs"][0]["true_partners"]
    assert partners["trained"] == pytest.approx(sum(masses) / len(masses), rel=1e-4)
    assert partners["chance"] == pytest.approx(sum(chances) / len(chances), rel=1e-4)
    # Without the audio's own experts, by hand: the mean of all stands in for them.
    batches = list(loader(valid, 64))
    before = torch.cat([model(batch).prediction for batch in batches])
    with torch.no_grad():
        for projection in (model.layers[0].in_proj, model.layers[0].out_proj):
            number = list(model.config.modalities).index("audio")
            projection.specific[number] = projection.specific.mean(0)
    after = torch.cat([model(batch).prediction for batch in batches])
    assert row["runs"][0]["expert_off"]["audio"] == pytest.approx(float((after - before).abs().mean()), rel=1e-3)


def test_means_and_a_second_call_that_trains_nothing(measured, monkeypatch):
    recipe, folder, row = measured
    for name in ("trained", "untrained"):
        each = [run["mmd_eval"][name] for run in row["runs"]]
        assert row["mmd_eval"][name] == pytest.approx(sum(each) / 2)
        assert row["sd"]["mmd_eval"][name] == pytest.approx(abs(each[0] - each[1]) / 2**0.5)
    monkeypatch.setattr(effects, "fit", None)
    assert effects.effects(recipe, [0, 1], folder) == row


def test_in_the_world_without_fillers_each_step_belongs_to_a_word():
    splits, known = partners.without_fillers(), load_dataset("mini-mosi")
    assert {split: len(d) for split, d in splits.items()} == {split: len(d) for split, d in known.items()}
    assert "no fillers" in splits["test"].protocol
    for sample in splits["test"].samples[:20]:
        words = torch.arange(len(sample.words["text"]))
        assert all(torch.equal(sample.partners[m, "text"], words) for m in ("audio", "video"))
        assert {len(x) for x in sample.features.values()} == {len(words)}
    assert any((s.partners["audio", "text"] < 0).any() for s in known["test"].samples[:20])
