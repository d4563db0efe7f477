"""Prediction as a program of `torch.export`."""

import copy

import pytest
import torch

import alignmamba2 as am
from alignmamba2.baselines import build_model

KINDS = [
    {},
    {"task": "classification", "n_classes": 3, "shortcut": ["text", "audio"]},
    {"direction": "both", "ffn": 2.0, "readout": "attention"},
    {"positions": "sinusoidal", "modality_embedding": True, "order": "concat", "experts": "shared"},
    {"readout": "anchor_steps", "ties": "anchor last"},
]


def form(seed: int) -> am.MultimodalBatch:
    draw = torch.Generator().manual_seed(seed)
    features = {m: torch.randn(3, t, d, generator=draw) for m, t, d in (("text", 6, 8), ("audio", 9, 5))}
    masks = {m: torch.ones(x.shape[:2], dtype=torch.bool) for m, x in features.items()}
    masks["text"][1, 4:] = False
    masks["audio"][2] = False  # is missing
    return am.MultimodalBatch(features, masks)


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_a_program_predicts_as_the_model_does(settings, tmp_path):
    torch.manual_seed(0)
    model = am.AlignMamba2(am.AlignMamba2Config(modalities={"text": 8, "audio": 5}, d_model=16, n_layers=2, **settings))
    before = copy.deepcopy(model.state_dict())
    torch.export.save(am.export_program(model, form(0)), tmp_path / "model.pt2")
    assert model.training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    program = torch.export.load(tmp_path / "model.pt2").module()
    for seed in (0, 1):
        batch = form(seed)
        found, right = program(dict(batch.features)), model.eval()(batch)
        torch.testing.assert_close(found["prediction"], right.prediction, atol=1e-5, rtol=1e-5)
        assert ("logits" in found) == (right.logits is not None)
        if right.logits is not None:
            torch.testing.assert_close(found["logits"], right.logits, atol=1e-5, rtol=1e-5)
    scores = "logits" if "logits" in found else "prediction"
    assert not torch.allclose(program(dict(form(0).features))[scores], found[scores])


def test_a_program_is_for_one_form_and_one_kind_of_model():
    config = am.AlignMamba2Config(modalities={"text": 8, "audio": 5}, d_model=16)
    program = am.export_program(am.AlignMamba2(config), form(0)).module()
    with pytest.raises(AssertionError, match="Guard failed"):
        program({m: x[:, :4] for m, x in form(0).features.items()})
    with pytest.raises(TypeError, match="found Transformer; expected an AlignMamba2"):
        am.export_program(build_model({**vars(config), "kind": "transformer"}), form(0))
