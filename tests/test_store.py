"""The store: what goes in comes out, whole or not at all, and without being read before it is asked for."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from alignmamba2 import load_dataset
from alignmamba2.datasets import DataError, store
from alignmamba2.datasets.formats.unpickle import read_pickle
from alignmamba2.datasets.store import Split, StoredSamples
from alignmamba2.storage import files
from alignmamba2.storage.files import FileError
from alignmamba2.storage.token_store import read_notes, write_tokens
from benchmarks import big

WIDTHS = {"text": 3, "audio": 2}


def split_of(lengths, seed=0, **more):
    rng = np.random.default_rng(seed)
    tokens = {m: [rng.standard_normal((n[k], d)) for n in lengths] for k, (m, d) in enumerate(WIDTHS.items())}
    split = Split(
        widths=WIDTHS,
        lengths={m: np.array([len(x) for x in xs]) for m, xs in tokens.items()},
        tokens=lambda m: iter(tokens[m]),
        labels=rng.uniform(-3, 3, len(lengths)),
        ids=[f"é {i}" for i in range(len(lengths))],
        **more,
    )
    return split, tokens


def written(folder, split):
    shutil.rmtree(folder, ignore_errors=True)  # one that is whole stays, as the same key has the same content
    store.write(folder, {"train": split}, {})
    return StoredSamples(folder / "train.safetensors")


def test_what_goes_in_comes_out(tmp_path):
    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=5))
    def check(lengths):
        split, tokens = split_of(lengths)
        samples = written(tmp_path / "s", split)
        assert len(samples) == len(lengths)
        for i, sample in enumerate(samples):
            for m in WIDTHS:
                assert np.array_equal(sample.features[m], tokens[m][i].astype(np.float32))
                assert samples.lengths(m)[i] == len(tokens[m][i])
            assert sample.id == split.ids[i]
            assert float(sample.label) == np.float32(split.labels[i])

    check()


def test_the_file_is_a_safetensors_file(tmp_path):
    """Read by the format's own library."""
    split, tokens = split_of([(2, 3), (0, 1)], bert=np.arange(12).reshape(2, 3, 2), texts=["a b", ""])
    samples = written(tmp_path / "s", split)
    found = load_file(tmp_path / "s" / "train.safetensors")
    assert np.array_equal(found["audio"], np.concatenate(tokens["audio"]).astype(np.float32))
    assert found["index"][:, :2].tolist() == [[0, 0], [2, 3], [2, 4]]
    assert np.array_equal(found["bert"], split.bert)
    assert samples.bert(1).tolist() == [[6, 7], [8, 9], [10, 11]]
    assert samples[0].words == {"text": ["a", "b"]}
    assert tuple(samples.texts) == ("a b", "")


def test_slices_are_views_and_ends_are_ends(tmp_path):
    samples = written(tmp_path / "s", split_of([(i, 1) for i in range(6)])[0])
    some = samples[4:1:-1]
    assert [s.id for s in some] == ["é 4", "é 3", "é 2"]
    assert [s.id for s in some[1:]] == ["é 3", "é 2"]
    assert torch.equal(some.labels, samples.labels[[4, 3, 2]])
    assert samples[-1].id == "é 5"
    for index in (6, -7):
        with pytest.raises(IndexError):
            samples[index]


def test_labels_and_lengths_are_had_without_reading_features(tmp_path):
    samples = written(tmp_path / "s", split_of([(2, 2)] * 3)[0])
    assert samples[2:0:-1].ids == ["é 2", "é 1"]
    for name in WIDTHS:
        samples._tokens.arrays[name] = None  # would fail if it were read
    assert len(samples.labels) == 3
    assert samples.lengths("text").tolist() == [2, 2, 2]
    assert samples[1:].labels.shape == (2,)


def test_partners_come_back(tmp_path):
    split, _ = split_of([(2, 3), (1, 1)], partners={"audio": np.array([0, -1, 1, 0])})
    samples = written(tmp_path / "s", split)
    assert [s.partners["audio", "text"].tolist() for s in samples] == [[0, -1, 1], [0]]


def test_what_is_not_finite_is_0_and_counted(tmp_path):
    split, tokens = split_of([(2, 2), (1, 1)])
    tokens["audio"][0][:] = [[np.nan, 1], [np.inf, -np.inf]]
    samples = written(tmp_path / "s", split)
    assert samples[0].features["audio"].tolist() == [[0, 1], [0, 0]]
    assert read_notes(tmp_path / "s")["replaced"] == {"train": {"text": {}, "audio": {"é 0": 3}}}


def test_a_store_is_whole_or_not_there(tmp_path):
    split, _ = split_of([(2, 2)])

    def fails(_):
        yield np.zeros((2, 3))
        raise DataError("the source is cut off")

    with pytest.raises(DataError, match="cut off"):
        written(tmp_path / "s", dataclasses.replace(split, tokens=fails))
    with pytest.raises(DataError, match="text: fewer samples with tokens were read than the 1 expected"):
        written(tmp_path / "s", dataclasses.replace(split, tokens=lambda m: iter([])))
    for shape in ((2, 4), (1, 3), (2,)):
        with pytest.raises(DataError, match=r"text of 'é 0': found tokens .*; expected \(2, 3\)"):
            written(tmp_path / "s", dataclasses.replace(split, tokens=lambda m, shape=shape: iter([np.zeros(shape)])))
    assert not list(tmp_path.iterdir())


def test_modalities_of_unlike_length_and_headers_without_end_are_refused(tmp_path):
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="audio: found 1 samples; expected 2"):
        write_tokens(tmp_path / "x", {"text": (2, [x, x]), "audio": (2, [x])})
    with pytest.raises(ValueError, match="header takes"):
        write_tokens(tmp_path / "x", {f"{i:0999d}": (2, [x]) for i in range(10)})


def test_every_damaged_byte_is_found(tmp_path):
    """On opening, or when the sample that holds it is read; the others are still read."""
    split, tokens = split_of([(2, 3), (0, 1), (4, 2)], bert=np.arange(18).reshape(3, 3, 2), texts=["a b", "", "c"])
    written(tmp_path / "s", split)
    path = tmp_path / "s" / "train.safetensors"
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    places = json.loads(content[8:begin])
    found = 0
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        held = [m for m in WIDTHS if places[m]["data_offsets"][0] <= at - 4096 < places[m]["data_offsets"][1]]
        if not held:
            with pytest.raises(FileError, match=r"train\.safetensors: no whole file of a store .* it is made again"):
                StoredSamples(path)
            continue
        samples, refused = StoredSamples(path), []
        for i in range(3):
            try:
                sample = samples[i]
            except FileError as error:
                refused.append((i, str(error)))
            else:
                assert all(np.array_equal(sample.features[m], tokens[m][i].astype(np.float32)) for m in WIDTHS)
        ((i, message),) = refused
        assert f"sample {i} does not have the CRC-32" in message
        found += 1
    assert found > 10


def test_a_store_whose_notes_are_damaged_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    big.write_pickle(tmp_path / "x.pkl", {"train": 2, "valid": 1, "test": 1})
    first = load_dataset("mosei", root=tmp_path / "x.pkl")
    notes = next(tmp_path.rglob("store.json"))
    notes.write_text(notes.read_text().replace('"unaligned"', '"aligned"'))
    again = load_dataset("mosei", root=tmp_path / "x.pkl")
    assert first["train"].protocol == again["train"].protocol
    assert read_notes(notes.parent)["alignment"] == "unaligned"


def test_no_room_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DataError, match=r"GB are needed, 0\.0 GB are free"):
        written(tmp_path / "s", split_of([(2, 2)])[0])
    assert not list(tmp_path.iterdir())


def test_a_hash_is_taken_again_only_when_the_file_changed(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("one")
    first = files.file_hash(path, tmp_path)
    monkeypatch.setattr(files.pooch, "file_hash", lambda _: "again")
    assert files.file_hash(path, tmp_path) == first
    path.write_text("three")
    assert files.file_hash(path, tmp_path) == "again"
    (tmp_path / "hashes.json").write_text("cut")
    assert files.file_hash(path, tmp_path) == "again"


def test_statistics_of_a_store_are_those_of_all_tokens(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    big.write_pickle(tmp_path / "x.pkl", {"train": 3, "valid": 1, "test": 1})
    train = load_dataset("mosei", "train", root=tmp_path / "x.pkl")
    for m, (mean, sd) in train.statistics().items():
        tokens = torch.cat([s.features[m] for s in train]).double()
        assert torch.allclose(mean, tokens.mean(0).float(), atol=1e-6)
        assert torch.allclose(sd, tokens.std(0, correction=0).float(), atol=1e-6)


def test_a_store_opens_without_its_source_being_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    path = tmp_path / "x.pkl"
    big.write_pickle(path, {"train": 2, "valid": 1, "test": 1})
    first = load_dataset("mosei", root=path)
    notes = json.loads(next(tmp_path.rglob("store.json")).read_text())
    assert notes["sizes"] == {"train": 2, "valid": 1, "test": 1}
    monkeypatch.setattr("alignmamba2.datasets.store.write_store", None)
    again = load_dataset("mosei", root=path)
    assert torch.equal(first["test"][0].features["audio"], again["test"][0].features["audio"])


def test_the_big_pickle_is_one_that_pickle_reads(tmp_path):
    import pickle

    big.write_pickle(tmp_path / "x.pkl", {"train": 2, "valid": 1})
    expected, found = pickle.loads((tmp_path / "x.pkl").read_bytes()), read_pickle(tmp_path / "x.pkl")
    for split in expected:
        assert list(found[split]) == list(expected[split])
        for name, shape in big.SHAPES.items():
            assert expected[split][name].shape[1:] == shape
            assert np.array_equal(found[split][name][:], expected[split][name])
