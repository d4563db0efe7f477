"""ICT-MMMO, on made-up files of the published form and, where they are here, on the real ones."""

from __future__ import annotations

import dataclasses
import hashlib

import h5py
import numpy as np
import pytest
import torch

from alignmamba2 import load_dataset
from alignmamba2.datasets import DataError, is_present
from studies.datasets import ict_mmmo

PADDING = 3  # of the first sample of every split


def write_array(path, array):
    with h5py.File(path, "w") as file:
        file["d1"] = array


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Made-up files in a mirror, and a data root still empty."""
    folder = tmp_path / "mirror" / "ict_mmmo"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, size in ict_mmmo.SIZES.items():
        for m, width in ict_mmmo.MODALITIES.items():
            x = rng.standard_normal((size, ict_mmmo.STEPS, width))
            x[0, :PADDING] = 0
            if m == "video":
                x[0, PADDING] = 0  # no face at the first word: not padding
            if (m, split) != ("text", "train"):
                write_array(folder / ict_mmmo.FILES[m].format(split), x)
        write_array(folder / f"y_{split}.h5", rng.integers(2, 11, size) / 2)
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    source = dataclasses.replace(ict_mmmo.SOURCE, hashes=hashes)
    monkeypatch.setattr(ict_mmmo, "SOURCE", source)
    monkeypatch.setenv("ALIGNMAMBA2_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))
    return folder


def test_front_padding_is_cut_for_all_modalities_alike(files):
    splits = load_dataset("ict-mmmo")
    for split, dataset in splits.items():
        assert len(dataset) == ict_mmmo.SIZES[split]
        present = [m for m in dataset.modalities if (m, split) != ("text", "train")]
        assert {len(dataset[0].features[m]) for m in present} == {ict_mmmo.STEPS - PADDING}
        assert {len(dataset[1].features[m]) for m in present} == {ict_mmmo.STEPS}
        assert not dataset[0].features["video"][0].any()


def test_labels_are_centred_on_neutral(files):
    with h5py.File(files / "y_test.h5") as file:
        stars = file["d1"][:]
    labels = torch.stack(list(load_dataset("ict-mmmo", "test").labels)).numpy()
    np.testing.assert_allclose(labels, stars - 3)
    assert labels.min() >= -2
    assert labels.max() <= 2


def test_text_missing_in_train_is_said_and_masked(files, tmp_path):
    splits = load_dataset("ict-mmmo")
    assert not splits["train"].batch().masks["text"].any()
    assert splits["test"].batch().masks["text"].any(1).all()
    assert any("text_train_emb.h5" in note for note in splits["train"].notes)
    assert all("no text in train" in d.protocol for d in splits.values())
    assert "no text" not in load_dataset("ict-mmmo", "train", modalities=["audio", "video"]).protocol

    text = np.random.default_rng(1).standard_normal((220, 20, 300))
    write_array(tmp_path / "data" / "ict_mmmo" / "text_train_emb.h5", text)
    train = load_dataset("ict-mmmo", "train")
    assert train.batch().masks["text"].any(1).all()
    assert "no text" not in train.protocol
    assert "text_train_emb.h5" in train.hashes


def test_steps_are_aligned_by_word(files):
    sample = load_dataset("ict-mmmo", "test")[0]
    assert sample.partners["audio", "text"].tolist() == list(range(len(sample.features["text"])))


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("audio_test.h5", np.zeros((80, 20, 73)), r"\(80, 20, 73\).*expected \(80, 20, 74\)"),
        ("video_valid.h5", np.full((40, 20, 36), np.nan), "finite"),
        ("y_test.h5", np.zeros(80), "expected 1 to 5"),
    ],
)
def test_a_wrong_array_is_named(files, monkeypatch, name, array, message):
    write_array(files / name, array)
    hashes = {**ict_mmmo.SOURCE.hashes, name: hashlib.sha256((files / name).read_bytes()).hexdigest()}
    monkeypatch.setattr(ict_mmmo, "SOURCE", dataclasses.replace(ict_mmmo.SOURCE, hashes=hashes))
    with pytest.raises(DataError, match=rf"{name}.*{message}"):
        load_dataset("ict-mmmo")


def test_unknown_modalities_are_refused():
    with pytest.raises(ValueError, match=r"modalities: found \['face'\]"):
        load_dataset("ict-mmmo", modalities=["face"])


def test_the_real_files(tmp_path):
    if not is_present("ict-mmmo"):
        pytest.skip("the real ICT-MMMO is not here: python -m alignmamba2 data fetch ict-mmmo")
    splits = load_dataset("ict-mmmo")
    assert {s: len(d) for s, d in splits.items()} == ict_mmmo.SIZES
    for dataset in splits.values():
        labels = torch.stack(list(dataset.labels))
        assert labels.min() == -2
        assert labels.max() == 2
        assert not (2 * labels % 1).any()  # half stars at most
        for sample in dataset.samples:
            lengths = {len(x) for x in sample.features.values()} - {0}
            assert len(lengths) == 1
            assert 1 <= lengths.pop() <= ict_mmmo.STEPS
