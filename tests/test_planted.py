"""`bench planted`: its worlds hold what they say, and its statistics are Student's."""

import math

import numpy as np
import pytest

from alignmamba2.bench.planted import QUESTIONS, WORLDS, compared, rules, sentences
from alignmamba2.report import planted


def test_where_nothing_is_planted_labels_are_those_of_others():
    known, nothing = sentences(1), sentences(1, labels=False)
    for split in known:
        a, b = ([float(x) for x in d[split].labels] for d in (known, nothing))
        assert sorted(a) == sorted(b)
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(len(a))
        first, second = (d[split].samples[0].features["audio"] for d in (known, nothing))
        assert first.equal(second)


@pytest.mark.parametrize("same", [True, False])
def test_labels_follow_the_rule(same):
    for sample in rules(2, same)["test"].samples[:20]:
        a, b = (sample.features[m][:, 0] @ sample.features[m][:, 1] for m in "ab")
        assert float(sample.label) == pytest.approx(float(a + b if same else a - b), abs=1e-4)


def test_every_question_has_its_world():
    assert {q.world for q in QUESTIONS} == set(WORLDS)


def test_differences_by_the_formula_of_student():
    row = compared({"with": [1.0, 1.0, 1.0], "without": [1.1, 1.2, 1.6]})
    half = 4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3)  # the table's t for 2 degrees of freedom
    assert (row["gain"], row["low"], row["high"]) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert row["p"] > 0.05  # as the interval holds 0
    report = {"date": "2026-01-01T00", "command": "c", "results": {"worlds": [0, 1, 2], "questions": {}}}
    report["results"]["questions"]["lag"] = {**row, "p_holm": row["p"]}
    assert any(line.startswith("| lag | 1.000 | 1.300 | +0.300 [") for line in planted(report))
