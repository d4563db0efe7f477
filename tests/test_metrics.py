import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from alignmamba2.metrics import classification_metrics, mean_and_sd, regression_metrics


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(2, 4))
def test_classification_against_scikit_learn(seed, n, classes):
    draw = torch.Generator().manual_seed(seed)
    p, t = (torch.randint(0, classes, (n,), generator=draw) for _ in "pt")
    found = classification_metrics(p, t, classes)
    assert found["accuracy"] == pytest.approx(float((p == t).double().mean()))
    assert found["f1"] == pytest.approx(f1_score(t, p, average="weighted", zero_division=0), abs=1e-6)


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
    else:
        assert found["accuracy_non0"] is None
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


def test_mean_and_sd():
    assert mean_and_sd([1.0, 3.0]) == pytest.approx((2.0, 2**0.5))
    assert mean_and_sd([2.0]) == (2.0, 0.0)
    assert mean_and_sd([1.0, None]) is None
