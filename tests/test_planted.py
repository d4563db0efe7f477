"""`bench planted`: its worlds hold what they say, and its statistics are Student's."""

import math

import numpy as np
import pytest
import torch

from alignmamba2.bench.planted import ALIGNED, QUESTIONS, UNALIGNED, WORLDS, compared, heard, languages, mislabelled
from alignmamba2.report import planted


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


def test_sound_tells_the_label_of_what_was_read_but_not_of_strangers():
    ours, strangers = heard(2), heard(2, strangers=True)
    assert _labels_by_sum(ours, "text") > 0.9
    assert _labels_by_sum(ours, "audio") > 0.5
    assert abs(_labels_by_sum(strangers, "audio")) < 4 / math.sqrt(len(strangers["test"]))


@pytest.mark.parametrize("same", [True, False])
def test_a_word_counts_the_same_in_one_language_only(same):
    samples = [s for dataset in languages(3, same).values() for s in dataset.samples]
    middle = torch.stack(_centres(samples))
    assert len(middle) == 20
    # How often each word was said in a and in b; least squares then finds what each counts.
    counts = torch.stack(
        [
            torch.cat([torch.cdist(s.features[m], middle).argmin(1).bincount(minlength=20) for m in ("a", "b")])
            for s in samples
        ]
    )
    labels = np.array([float(s.label) for s in samples])
    found, *_ = np.linalg.lstsq(counts.numpy().astype(float), labels, rcond=None)
    assert counts.numpy() @ found == pytest.approx(labels, abs=1e-4)
    a, b = (x - x.mean() for x in np.split(found, 2))
    assert np.allclose(a, b, atol=1e-4) == same


def _centres(samples):
    """One token of each word: the first that is far from all before it (noise has sd 0.1, words are units apart)."""
    found = []
    for token in torch.cat([s.features["a"] for s in samples]):
        if all(torch.dist(token, other) > 0.9 for other in found):
            found.append(token)
    return found


def test_every_question_has_its_world():
    assert {q.world for q in QUESTIONS} == set(WORLDS)


def test_both_sides_are_tried_equally_often():
    assert len(ALIGNED) == len(UNALIGNED)
    assert all(len(q.with_part) == len(q.without) for q in QUESTIONS if q.without is not None)


def test_differences_by_the_formula_of_student():
    row = compared({"with": [1.0, 1.0, 1.0], "without": [1.1, 1.2, 1.6]})
    half = 4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3)  # the table's t for 2 degrees of freedom
    assert (row["gain"], row["low"], row["high"]) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert row["p"] > 0.05  # as the interval holds 0
    report = {"date": "2026-01-01T00", "command": "c", "results": {"worlds": [0, 1, 2], "questions": {}}}
    report["results"]["questions"]["late"] = {**row, "p_holm": row["p"]}
    assert any(line.startswith("| late | 1.000 | 1.300 | +0.300 [") for line in planted(report))
