import numpy as np
import pytest
import torch
import torchmetrics.functional.classification  # noqa: F401 (the library imports it late, which takes seconds)
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from alignmamba2.metrics import (
    calibration_error,
    classification_metrics,
    holm,
    interval,
    mean_and_sd,
    paired_test,
    regression_metrics,
)


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 4))
def test_classification_against_scikit_learn(seed, n, classes):
    draw = torch.Generator().manual_seed(seed)
    p, t = (torch.randint(0, classes, (n,), generator=draw) for _ in "pt")
    found = classification_metrics(p, t, classes)
    assert found["accuracy"] == pytest.approx(float((p == t).double().mean()))
    assert found["f1"] == pytest.approx(f1_score(t, p, average="weighted", zero_division=0), abs=1e-6)
    assert found["f1_macro"] == pytest.approx(f1_score(t, p, average="macro", zero_division=0), abs=1e-6)


@given(st.integers(0, 2**31), st.integers(2, 60))
def test_regression_against_the_definitions(seed, n):
    rng = np.random.default_rng(seed)
    # Halves and zeros are common, so that ties and the Has0/Non0 difference matter.
    p, t = rng.integers(-8, 9, n) / 2, rng.integers(-6, 7, n) / 2
    found = regression_metrics(torch.tensor(p), torch.tensor(t))
    assert found["accuracy"] == pytest.approx(np.mean((p >= 0) == (t >= 0)))
    assert found["f1"] == pytest.approx(f1_score(t >= 0, p >= 0, average="weighted"), abs=1e-6)
    kept = t != 0
    if kept.any():
        assert found["accuracy_non0"] == pytest.approx(np.mean((p[kept] > 0) == (t[kept] > 0)))
        non0 = f1_score(t[kept] > 0, p[kept] > 0, average="weighted", zero_division=0)
        assert found["f1_non0"] == pytest.approx(non0, abs=1e-6)
    else:
        assert found["accuracy_non0"] is found["f1_non0"] is None
    for k, limit in ((7, 3), (5, 2)):
        same = np.round(np.clip(p, -limit, limit)) == np.round(np.clip(t, -limit, limit))
        assert found[f"accuracy_{k}"] == pytest.approx(same.mean())
    assert found["mae"] == pytest.approx(np.abs(p - t).mean())
    if p.std() > 0 and t.std() > 0:
        assert found["corr"] == pytest.approx(np.corrcoef(p, t)[0, 1])
    else:
        assert found["corr"] is None


@pytest.mark.parametrize(
    ("p", "t"), [([1.0], [1.0, 2.0]), ([], []), ([float("nan")], [1.0]), ([[1.0]], [[1.0]])], ids=str
)
def test_what_cannot_be_measured_is_refused(p, t):
    with pytest.raises(ValueError, match="metrics"):
        regression_metrics(torch.tensor(p), torch.tensor(t))


@pytest.mark.parametrize(
    ("p", "t", "says"),
    [
        ([3, 0], [0, 1], "prediction holds 3; expected integers from 0 to 1"),
        ([-1, 0], [0, 1], "prediction holds -1"),
        ([0, 1], [0, 5], "target holds 5"),
        ([0.5, 1.0], [0, 1], "prediction holds 0.5"),
    ],
)
def test_classes_out_of_range_are_named(p, t, says):
    with pytest.raises(ValueError, match=says):
        classification_metrics(torch.tensor(p), torch.tensor(t), 2)


def test_calibration_refuses_what_is_no_probability():
    target = torch.tensor([0, 1])
    for logits in ([[2.0, -1.0], [0.0, 1.0]], [[float("nan"), 1.0], [0.0, 1.0]]):
        with pytest.raises(ValueError, match="probabilities outside"):
            calibration_error(torch.tensor(logits), target)
    with pytest.raises(ValueError, match="target holds 2"):
        calibration_error(torch.tensor([[0.5, 0.5]]), torch.tensor([2]))
    with pytest.raises(ValueError, match=r"expected \(N, C\)"):
        calibration_error(torch.tensor([0.5, 0.5]), target)


def test_mean_and_sd():
    assert mean_and_sd([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))
    assert mean_and_sd([2.0]) == (2.0, 0.0)
    assert mean_and_sd([1.0, None]) is None


@given(st.integers(0, 2**31), st.integers(1, 80), st.integers(2, 5))
def test_calibration_against_the_definition(seed, n, classes):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(classes), n)
    target = rng.integers(0, classes, n)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == target
    expected = 0.0
    for low, high in zip(np.arange(10) / 10, np.arange(1, 11) / 10, strict=True):
        inside = (confidence >= low) & (confidence < high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    found = calibration_error(torch.tensor(probabilities), torch.tensor(target), bins=10)
    assert found == pytest.approx(expected, abs=1e-6)


def test_edge_cases_of_regression():
    zeros = torch.zeros(4)
    found = regression_metrics(zeros, torch.tensor([0.0, 0.0, -1.0, 2.0]))
    assert found["corr"] is None
    assert found["accuracy"] == 0.75  # 0 counts as positive on both sides
    assert found["accuracy_non0"] == 0.5  # and as not positive where zeros are left out
    assert regression_metrics(torch.ones(3), torch.zeros(3))["accuracy_non0"] is None
    for value in (0.1, 1 / 3, -2.7):  # sums of such numbers are rounded
        assert regression_metrics(torch.full((1000,), value), torch.linspace(-3, 3, 1000))["corr"] is None
        assert regression_metrics(torch.linspace(-3, 3, 1000), torch.full((1000,), value))["corr"] is None
    halves = regression_metrics(torch.tensor([0.5, 1.5, 2.5, -0.5]), torch.tensor([0.0, 2.0, 2.0, 0.0]))
    assert halves["accuracy_7"] == 1.0  # half to even
    beyond = regression_metrics(torch.tensor([9.0, -9.0]), torch.tensor([3.0, -3.0]))
    assert (beyond["accuracy_7"], beyond["mae"]) == (1.0, 6.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    units, covered = np.repeat(np.arange(60), 2), 0
    for i in range(100):
        level = rng.standard_normal(60)  # predictions of a unit share what they have
        scores = (level + 0.3 * rng.standard_normal(60))[units][None]
        low, high = interval(scores, units, draws=200, seed=i)
        covered += low <= 0 <= high
    assert 86 <= covered <= 100


def test_the_paired_test_finds_what_is_there_and_seldom_what_is_not():
    rng = np.random.default_rng(1)
    units = np.repeat(np.arange(40), 3)
    shared = rng.standard_normal(40)[units]
    found = []
    for i in range(60):
        a, b = (shared + rng.standard_normal(40)[units] + 0.1 * rng.standard_normal((3, 120)) for _ in "ab")
        found.append(paired_test(a, b, units, draws=300, seed=i)["p"])
    assert np.mean(np.array(found) < 0.05) < 0.15
    better = paired_test(shared + 1 + 0.1 * rng.standard_normal((3, 120)), shared[None], units)
    assert better["p"] < 0.01
    assert better["low"] < 1 < better["high"] + 0.05
    assert better["difference"] == pytest.approx(1, abs=0.05)
    same = paired_test(shared[None], shared[None], units)
    assert (same["difference"], same["low"], same["high"], same["p"]) == (0, 0, 0, 1)


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
