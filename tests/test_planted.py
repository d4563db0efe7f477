"""`studies.planted`: its worlds hold what they say, and its statistics are Student's."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from alignmamba2 import AlignMamba2, AlignMamba2Config
from studies.planted import (
    BEYOND,
    CLANS,
    CODE,
    CONSTANT,
    LANGUAGES,
    LATE,
    QUESTIONS,
    VARIANTS,
    VOCABULARY,
    WORLDS,
    Found,
    clans,
    clans_told,
    compared,
    heard,
    keep_order,
    kept,
    languages,
    mislabelled,
    mispair,
    share_all,
    share_maps,
    share_projection,
)
from tools.report import planted


def test_where_nothing_is_planted_labels_are_those_of_others():
    known = heard(1)
    for split, dataset in mislabelled(known, 1).items():
        a, b = ([float(x) for x in d.labels] for d in (known[split], dataset))
        assert sorted(a) == sorted(b)
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(len(a))
        assert known[split].samples[0].features["audio"].equal(dataset.samples[0].features["audio"])


def _labels_by_sum(splits, modality):
    """How well a linear map of a sample's summed features, fitted to the training split, tells the test labels."""
    pieces = {}
    for split in ("train", "test"):
        sums = torch.stack([s.features[modality].sum(0) for s in splits[split].samples])
        pieces[split] = sums.double().numpy(), np.array([float(x) for x in splits[split].labels])
    (x, y), (x_test, y_test) = pieces["train"], pieces["test"]
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)
    return np.corrcoef(x_test @ weights, y_test)[0, 1]


def _tokens(dataset, modality):
    return torch.cat([s.features[modality] for s in dataset.samples]).double().numpy()


def _sums(dataset, modality):
    return torch.stack([s.features[modality].sum(0) for s in dataset.samples]).double().numpy()


def _labels(dataset):
    return np.array([float(x) for x in dataset.labels])


def _fitted(x, y):
    """By least squares, the shortest of all solutions."""
    return np.linalg.lstsq(x, y, rcond=None)[0]


def _correlation(a, b):
    return np.corrcoef(a, b)[0, 1]


def test_pairs_teach_to_hear_and_labels_do_not():
    train, _, test = heard(2).values()
    read = np.concatenate([s.features["text"][s.partners["audio", "text"]] for s in train.samples])
    by_text = _fitted(_sums(train, "text"), _labels(train))
    by_pairs = _fitted(_tokens(train, "audio"), read) @ by_text
    by_labels = _fitted(_sums(train, "audio"), _labels(train))
    assert _correlation(_sums(test, "text") @ by_text, _labels(test)) > 0.95
    paired, labelled = (_correlation(_sums(test, "audio") @ w, _labels(test)) for w in (by_pairs, by_labels))
    assert paired > 0.98 > labelled


def test_prompt_sound_keeps_the_order_of_words_and_late_sound_does_not():
    kept = {
        late: np.mean(
            [float((p == torch.arange(len(p))).float().mean()) for s in dataset.samples for p in s.partners.values()]
        )
        for late, dataset in ((0, heard(2, late=0)["test"]), (LATE, heard(2)["test"]))
    }
    assert kept[0] == 1
    assert kept[LATE] < 0.25


def test_strangers_say_nothing_of_the_label():
    test = heard(2, strangers=True)["test"]
    polar = _fitted(_sums(test, "text"), _labels(test))
    truth = heard(2)["train"]  # the same words and maps
    read = np.concatenate([s.features["text"][s.partners["audio", "text"]] for s in truth.samples])
    said = _sums(test, "audio") @ _fitted(_tokens(truth, "audio"), read) @ polar
    assert abs(_correlation(said, _labels(test))) < 4 / math.sqrt(len(test))
    assert not any(s.partners for s in test.samples)


@pytest.mark.parametrize("same", [True, False])
def test_a_word_counts_the_same_in_one_language_only(same):
    samples = [s for dataset in languages(3, same).values() for s in dataset.samples]
    modalities = list(samples[0].features)
    tokens = {m: torch.stack([s.features[m] for s in samples]).flatten(0, 1) for m in modalities}  # (steps of all, k)
    centres = _centres(tokens["a"])
    assert len(centres) == VOCABULARY
    said = [
        torch.nn.functional.one_hot(torch.cdist(tokens[m], centres).argmin(1), VOCABULARY).double() for m in modalities
    ]
    labels = torch.cat([s.label for s in samples]).double().numpy()
    found = _fitted(torch.cat(said, 1).numpy(), labels).reshape(LANGUAGES, VOCABULARY)  # what each word counts
    left = torch.cat(said, 1).numpy() @ found.reshape(-1) - labels
    assert np.abs(left).mean() < 0.1 * np.abs(labels).mean()
    found -= found.mean(1, keepdims=True)
    alike = np.corrcoef(found)[np.triu_indices(LANGUAGES, 1)]
    assert alike.min() > 0.9 if same else np.abs(alike).mean() < 0.5


@pytest.mark.parametrize("same", [True, False])
def test_clans_multiply_directions_of_their_own(same):
    """A quadratic form of a token's numbers, fitted per clan to all labels at once, is the label; and it is the product
    of two directions, which are those of other clans in `one clan` only."""
    samples = [s for dataset in clans(3, same).values() for s in dataset.samples]
    columns = []
    for m in "ab":
        clan = np.array([[int(w) for w in s.words[m]] for s in samples]).reshape(-1)
        x = torch.stack([s.features[m] for s in samples]).double().numpy().reshape(len(clan), -1)[:, -CODE:]
        square = np.einsum("ti,tj->tij", x, x)[:, *np.triu_indices(CODE)]
        columns.append(np.concatenate([square * (clan == c)[:, None] for c in range(CLANS)], 1))
    labels = torch.cat([s.label for s in samples]).double().numpy()
    forms = _fitted(columns[0] + columns[1], labels)
    assert np.abs((columns[0] + columns[1]) @ forms - labels).mean() < 0.35 * np.abs(labels).mean()  # noise of 0.1
    alike = np.corrcoef(forms.reshape(CLANS, -1))[np.triu_indices(CLANS, 1)]
    assert alike.min() > 0.95 if same else alike.max() < 0.9


def test_a_gate_that_knows_the_clan_tells_all_of_it():
    dataset = clans(3)["test"]
    model = _model("gate", dataset.modalities, readout="per_step").eval()
    assert 0 <= clans_told(model, dataset) < 0.9
    clan = [[int(w) for w in s.words[m]] for m in "ab" for s in dataset.samples]

    def knowing(x):  # tokens come modality by modality, sample by sample
        return 9.0 * torch.nn.functional.one_hot(torch.tensor(clan).flatten(), CLANS).to(x.dtype)

    model.ffns[0].gate.forward = knowing
    assert clans_told(model, dataset) == pytest.approx(1)


def test_one_ffn_for_all_has_the_width_that_is_said():
    dataset = languages(3)["train"]

    def ffn(name, change):
        model = _model(name, dataset.modalities, readout="per_step")
        change(model)
        model(dataset.batch(range(4))).loss.backward()
        assert all(p.specific.grad is None for layer in model.layers for p in (layer.in_proj, layer.out_proj))
        experts = [sum(p.numel() for p in e.parameters()) for e in (*model.ffns[0].specific, *model.ffns[0].shared)]
        return sum(experts), sum(experts[: model.ffns[0].top_k])

    stored, active = ffn("expert FFN", share_maps)
    assert ffn("one FFN, stored", share_all) == (stored, stored)
    assert ffn("one FFN, active", share_all) == (active, active)
    (gate, two), (as_two, _), (as_all, _) = (
        ffn_sizes(name) for name in ("gate", "plain FFN, active", "plain FFN, stored")
    )
    assert (gate, two) == (as_all, as_two)


def ffn_sizes(name):
    ffn = _model(name, {"a": 8, "b": 8}, readout="per_step").ffns[0]
    experts = [sum(p.numel() for p in e.parameters()) for e in ffn.shared]
    return sum(experts), sum(experts[: ffn.top_k])


def _centres(tokens):
    """What many tokens lie close to, one by one: the words' codes."""
    found = []
    while len(tokens):
        near = (tokens - tokens[0]).norm(dim=1) < 0.6
        found.append(tokens[near].mean(0))
        tokens = tokens[(tokens - found[-1]).norm(dim=1) >= 0.6]
    return torch.stack(found)


def test_every_question_has_its_world_and_its_variants():
    assert {q.world for q in QUESTIONS} == set(WORLDS)
    assert {x for q in QUESTIONS for x in (q.part, q.other)} == {*VARIANTS, CONSTANT}
    titles = [q.title for q in QUESTIONS]
    assert len(set(titles)) == len(titles)
    assert {x for pair in BEYOND.values() for x in pair} <= set(titles)


def _model(variant, modalities, **more):
    settings = {k.removeprefix("model."): v for k, v in VARIANTS[variant].overrides.items() if k.startswith("model.")}
    settings |= {"task": "regression", "modality_dropout": 0.0, **more}
    torch.manual_seed(0)
    return AlignMamba2(AlignMamba2Config(modalities=modalities, **settings)).train()


def _losses(model, batch):
    return {name: float(value.detach()) for name, value in model(batch).losses.items()}


def test_mispaired_losses_meet_another_sample_and_labels_do_not():
    dataset = heard(2)["train"]
    batch = dataset.batch(range(6))
    truth, mispaired = (_model("aligned", dataset.modalities) for _ in range(2))
    mispair(mispaired)
    a, b = _losses(truth, batch), _losses(mispaired, batch)
    assert a["task"] == b["task"]
    shifted = dict(batch.features), dict(batch.masks)
    for values in shifted:
        values["audio"] = values["audio"].roll(1, 0)
    c = _losses(truth, dataclasses.replace(batch, features=shifted[0], masks=shifted[1]))
    for name in ("ot", "mmd"):
        assert b[name] == pytest.approx(c[name], rel=1e-5)
        assert b[name] != pytest.approx(a[name], rel=1e-3)


def test_in_order_means_in_order():
    model = _model("aligned", {"text": 4, "audio": 4})
    keep_order(model)
    x = torch.randn(2, 5, 16)
    masks = {m: torch.tensor([[True] * 5, [True] * 3 + [False] * 2]) for m in ("text", "audio")}
    assert model.align({"text": x, "audio": 2 * x}, masks)["ot"] == pytest.approx(0, abs=1e-6)
    moved = x.clone()
    moved[:, :3] = x[:, [1, 2, 0]]
    cost = 1 - torch.nn.functional.cosine_similarity(x, moved, dim=-1)[masks["text"]]
    assert model.align({"text": x, "audio": moved}, masks)["ot"] == pytest.approx(float(cost.mean()), rel=1e-5)


def test_of_a_shared_projection_norms_alone_are_the_modalities_own():
    dataset = languages(3)["train"]
    model = _model("experts", dataset.modalities, readout="per_step")
    share_projection(model)
    model(dataset.batch(range(4))).loss.backward()
    first, *others = model.project.values()
    assert all(p.linear is first.linear for p in others)
    assert all(p.norm.bias.grad.abs().sum() > 0 and p.norm is not first.norm for p in others)
    before = first.linear(torch.ones(1, CODE))
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    after = [p.linear(torch.ones(1, CODE)) for p in model.project.values()]
    assert not after[0].equal(before)
    assert all(x.equal(after[0]) for x in after)


def test_wider_is_as_large_as_a_width_allows():
    def size(name, **change):
        with torch.device("meta"):
            model = _model(name, dict.fromkeys("abcdefgh", CODE), **change)
            share_projection(model)
        return sum(p.numel() for p in model.parameters())

    target = size("experts")
    closest = min(range(6, 30), key=lambda width: abs(size("wider", d_model=width) - target))
    assert VARIANTS["wider"].overrides["model.d_model"] == closest


def test_differences_by_the_formula_of_student():
    row = compared({"with": [1.0, 1.0, 1.0], "without": [1.1, 1.2, 1.6]})
    half = 4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3)  # the table's t for 2 degrees of freedom
    assert (row["gain"], row["low"], row["high"]) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert row["p"] > 0.05  # as the interval holds 0
    report = {"date": "2026-01-01T00", "command": "c", "results": {"worlds": [0, 1, 2], "questions": {}}}
    report["results"]["questions"]["late"] = {**row, "p_holm": row["p"]}
    report["results"]["partners"] = {"aligned": [2.0, 3.0, 4.0], "most": [9.0, 9.0, 9.0]}
    report["results"]["clans"] = {"untrained": [0.1, 0.2], "four clans": [0.5, 0.7]}
    assert any("aligned 3.0, most 9.0" in line for line in planted(report))
    assert any("untrained 0.15, four clans 0.60" in line for line in planted(report))
    assert any(line.startswith("| late | 1.000 | 1.300 | +0.300 [") for line in planted(report))


def test_a_finished_world_is_read_and_not_measured_again(tmp_path, monkeypatch):
    found = Found([{"with": 1.0, "without": 2.0}], {"most": 3.0}, {"untrained": 0.1}, {"one language": 0.2})
    measured = []
    monkeypatch.setattr("studies.planted.measure", lambda world, fast: measured.append((world, fast)) or found)
    assert kept(3, tmp_path / "new", False) == kept(3, tmp_path / "new", False) == found
    kept(4, tmp_path / "new", False)
    kept(3, tmp_path / "new", True)
    assert measured == [(3, False), (4, False), (3, True)]
