import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignmamba2 import MultimodalBatch
from alignmamba2.batch import BatchError, Sample

from .conftest import WIDTHS, make_samples


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=5))
def test_collation_keeps_every_token_and_marks_the_rest(lengths):
    samples = make_samples(lengths)
    batch = MultimodalBatch.from_samples(samples)
    for m in WIDTHS:
        assert batch.masks[m].sum(1).tolist() == [len(s.features[m]) for s in samples]
        for i, s in enumerate(samples):
            assert torch.equal(batch.features[m][i][batch.masks[m][i]], s.features[m])
        assert (batch.features[m][~batch.masks[m]] == 0).all()


def test_labels_a_step_are_padded_and_masked():
    batch = MultimodalBatch.from_samples(make_samples([(2, 2, 2), (4, 4, 4)], per_step=True))
    assert batch.labels.shape == (2, 4)
    assert batch.label_mask.sum(1).tolist() == [2, 4]


def test_padding_may_hold_anything_and_is_zeroed():
    x = torch.ones(1, 3, 2)
    x[0, 2] = torch.nan
    batch = MultimodalBatch({"text": x}, {"text": torch.tensor([[True, True, False]])})
    assert (batch.features["text"][0, 2] == 0).all()


def test_to_and_only(ragged):
    moved = ragged.to("cpu")
    assert all(torch.equal(moved.features[m], ragged.features[m]) for m in WIDTHS)
    assert moved.ids == ragged.ids
    assert ragged.only("audio").modalities == ("audio",)
    with pytest.raises(BatchError, match="smell"):
        ragged.only("smell")


@pytest.mark.cuda
def test_pinned_and_moved_to_the_gpu(ragged):
    assert ragged.pin_memory().to("cuda", non_blocking=True).device.type == "cuda"


x = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"features": {}}, "features: empty"),
        ({"features": {"text": torch.zeros(2, 3)}}, r"features\['text'\].*\(2, 3\)"),
        ({"features": {"text": torch.zeros(2, 3, 4, dtype=torch.long)}}, "torch.int64; expected .* a float"),
        ({"features": {"text": x, "audio": torch.zeros(3, 3, 4)}}, r"features\['audio'\]: found 3"),
        ({"features": {"text": x}, "masks": {"txt": x[..., 0] > 0}}, "txt"),
        ({"features": {"text": x}, "masks": {"text": x[..., 0] + 0.5}}, r"masks\['text'\].*torch.bool"),
        ({"features": {"text": x}, "masks": {"text": torch.ones(2, 4, dtype=torch.bool)}}, r"masks\['text'\]"),
        ({"features": {"text": x}, "labels": torch.zeros(3)}, "labels"),
        ({"features": {"text": x}, "labels": torch.tensor([0.0, torch.nan])}, "labels: 1 NaN"),
        ({"features": {"text": x}, "label_mask": x[..., 0] > 0}, "without labels"),
        ({"features": {"text": x}, "ids": ["a"]}, "ids: found 1"),
        (
            {"features": {"text": torch.full((2, 3, 4), torch.inf)}, "ids": "ab"},
            r"24 NaN or infinite.*2 samples \(a, b",
        ),
    ],
)
def test_a_wrong_field_is_named(fields, says):
    with pytest.raises(BatchError, match=says):
        MultimodalBatch(**fields)


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (Sample({"text": torch.zeros(2, 6)}, torch.tensor(0), "odd"), "'odd': modalities"),
        (Sample({**make_samples([(1, 1, 1)])[0].features, "text": torch.zeros(2, 9)}, torch.tensor(0), "odd"), "'odd'"),
        (Sample(make_samples([(1, 1, 1)])[0].features, torch.zeros(3), "odd"), "another kind of label"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(odd, says):
    with pytest.raises(BatchError, match=says):
        MultimodalBatch.from_samples([*make_samples([(1, 2, 3)]), odd])
