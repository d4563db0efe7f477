"""Experts: deviations that start at 0, and shares that no choice of the shared expert can change."""

from __future__ import annotations

import pytest
import torch

from alignmamba2 import AlignMamba2, AlignMamba2Config
from alignmamba2.model.layers import ModalityAwareLinear
from alignmamba2.recipes import TrainingConfig
from alignmamba2.training.optimizer import optimizer_of

from .conftest import WIDTHS


def small(**settings) -> AlignMamba2:
    torch.manual_seed(0)
    return AlignMamba2(AlignMamba2Config(WIDTHS, **{"d_model": 8, "d_state": 4, "n_classes": 3, **settings})).eval()


@pytest.mark.parametrize(("experts", "n_shared"), [("both", 1), ("both", 3), ("shared", 1), ("specific", 1)])
def test_a_new_layer_starts_with_the_variance_of_a_linear_layer(experts, n_shared):
    torch.manual_seed(0)
    layer = ModalityAwareLinear(2, 400, 300, experts, n_shared)
    deviation = 0 if layer.specific is None else layer.specific
    start = deviation + (0 if layer.shared is None else layer.shared.sum(0))  # with an even gate, the sum of all
    assert float(start.detach().std()) == pytest.approx(400**-0.5 / 3**0.5, rel=0.02)
    if experts == "both":
        assert not layer.specific.any()


@pytest.mark.parametrize(("experts", "decay"), [("both", 0.5), ("specific", 0.25)])
def test_deviations_have_a_decay_of_their_own(experts, decay):
    model = small(experts=experts, direction="both")
    groups = optimizer_of(model, TrainingConfig(weight_decay=0.25, expert_decay=0.5)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    names = dict(model.named_parameters())
    assert set(decays) == {id(p) for p in names.values()}
    for name, p in names.items():
        if name.endswith("specific"):
            assert decays[id(p)] == decay, name
        elif p.ndim > 1 and not name.endswith("A_log"):
            assert decays[id(p)] == 0.25, name
        else:
            assert decays[id(p)] == 0, name
