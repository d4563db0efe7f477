"""mosi-standard and mosi-words: made-up files of the published forms, joined and spoiled; the real ones."""

import dataclasses
import hashlib
import json
import pickle

import h5py
import numpy as np
import pytest
import torch

from alignmamba2 import load_dataset
from alignmamba2.datasets import DataError, inspect, mosi_standard, mosi_utterances
from alignmamba2.datasets.formats.hdf5 import reading
from alignmamba2.encoders import INSTALL, MiniLM, text_encoder
from alignmamba2.encoders import text as text_encoders
from studies.datasets import mosi_words
from tests.test_datasets import CLIPS, mirror_of_utterances

VIDEOS = {v: sorted(clips) for videos in CLIPS.values() for v, clips in videos.items()}
OPTIONS = {"text": "words"}


def spoken(folder):
    """(words, binary label) of each video in the order spoken, read from transcripts.csv by hand."""
    rows = [line.strip().strip('"').split('","') for line in (folder / "transcripts.csv").read_text().splitlines()]
    by_name = {name: (words, int(label)) for name, words, _, label in rows}
    return {v: [by_name[f"{v}_{clip}"] for clip in clips] for v, clips in VIDEOS.items()}


def write_labels(path, labels):
    """A `.csd` as the SDK writes it; its rows are not in the order of their times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for v, values in labels.items():
            group = file.create_group(f"Opinion Segment Labels/data/{v}")
            group["features"] = np.array(values, "f4")[:, None]
            group["intervals"] = np.array([[9.0 - k, 10.0 - k] for k in range(len(values))])


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A mirror of both sources; vidB validates, vid_D tests. Labels are ±(k + 1) / 4, or 0 for the first positive."""
    folder = mirror_of_utterances(tmp_path, monkeypatch)
    monkeypatch.setattr(mosi_standard, "UTTERANCES", mosi_utterances.SOURCE)
    monkeypatch.setattr(mosi_standard, "ROWS", mosi_utterances.ROWS)
    monkeypatch.setattr(mosi_standard, "FOLDS", {"valid": ("vidB",), "test": ("vid_D",)})
    monkeypatch.setattr(mosi_standard, "SIZES", {"train": 4, "valid": 2, "test": 2})
    labels = {v: [(k + 1) / 4 * (1 if y else -1) for k, (_, y) in enumerate(s)] for v, s in spoken(folder).items()}
    positive = next((v, k) for v, values in labels.items() for k, y in enumerate(values) if y > 0)
    labels[positive[0]][positive[1]] = 0.0  # neutral counts as positive in the binary labels
    publish(monkeypatch, tmp_path, labels)
    return folder, labels


def publish(monkeypatch, tmp_path, labels):
    """Write the official labels into the mirror, and take them for the published ones."""
    path = tmp_path / "mirror" / "mosi_standard" / mosi_standard.LABELS
    write_labels(path, labels)
    (tmp_path / "data" / "mosi_standard" / mosi_standard.LABELS).unlink(missing_ok=True)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    monkeypatch.setattr(mosi_standard, "SOURCE", dataclasses.replace(mosi_standard.SOURCE, hashes=hashes))


def test_utterances_have_their_words_sound_and_official_label(mirror):
    folder, labels = mirror
    splits = load_dataset("mosi-standard", **OPTIONS)
    assert {split: {s.group for s in d} for split, d in splits.items()} == {
        "train": {"vidA", "vidC"}, "valid": {"vidB"}, "test": {"vid_D"},
    }  # fmt: skip
    places = {line.split('"')[1]: i for i, line in enumerate((folder / "transcripts.csv").read_text().splitlines())}
    for dataset in splits.values():
        assert (dataset.task, dataset.readout, dataset.synthetic) == ("regression", "mean", False)
        assert "4 / 2 / 2 utterances, official labels in [-3, 3], text+audio, text=words" in dataset.protocol
        for v in {s.group for s in dataset}:
            assert [s.id for s in dataset if s.group == v] == [f"{v}[{k}]" for k in range(len(labels[v]))]
        for s in dataset:
            k = int(s.id[:-1].split("[")[1])
            assert float(s.label) == np.float32(labels[s.group][k])
            assert s.words["text"] == spoken(folder)[s.group][k][0].lower().split()
            assert s.features["text"].shape == (len(s.words["text"]), 64)
            # write_mosi's sound says which row of transcripts.csv it belongs to.
            assert s.features["audio"].tolist() == [[places[f"{s.group}_{VIDEOS[s.group][k]}"]] * 73]
    assert load_dataset("mosi-standard", modalities=["audio"])["test"].modalities == {"audio": 73}


def test_without_encoding_text_is_ids_for_an_encoder_inside_the_model(mirror, monkeypatch):
    def ids(name, sentences, max_length):
        assert (name, max_length) == ("a/bert", 64)
        return [torch.tensor([1, *map(len, s.split()), 2]) for s in sentences]

    monkeypatch.setattr(text_encoders, "token_ids", ids)
    monkeypatch.setattr(text_encoders.PieceIds, "pieces", lambda self, s: ["[CLS]", *s.split(), "[SEP]"])
    data = load_dataset("mosi-standard", "train", text="a/bert", encode=False)
    assert data.encoders == {"text": "a/bert"}
    assert data.modalities == {"text": 0, "audio": 73}
    for s in data:
        assert s.features["text"].tolist() == [1, *map(len, s.words["text"][1:-1]), 2]
    assert set(data.samples.keys) == {"text"}
    assert set(data.samples.without(["text"])[0].features) == {"audio"}
    assert load_dataset("mosi-standard", "train", text="a/bert", modalities=["audio"], encode=False).encoders == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": "released"}, "text: refused. 24 of the 31 standard test videos"),
        ({"modalities": ["text", "video"]}, "modalities: refused. 24 of the 31 standard test videos"),
        ({"modalities": ["smell"]}, "modalities: found 'smell'"),
        ({"encode": False, **OPTIONS}, "text: found 'words' with encode=False"),
    ],
)
def test_what_knows_the_test_labels_and_wrong_options_are_refused(mirror, options, says):
    with pytest.raises(ValueError, match=says):
        load_dataset("mosi-standard", **options)


def flipped(labels):
    v, k = next((v, k) for v, values in labels.items() for k, y in enumerate(values) if y)
    return {**labels, v: [*labels[v][:k], -labels[v][k], *labels[v][k + 1 :]]}, rf"{v}\[{k}\] \(.*binary label is"


@pytest.mark.parametrize(
    "spoil",
    [
        flipped,
        lambda x: ({**x, "vidB": x["vidB"][:1]}, "vidB has 1 labels; 2 utterances are known"),
        lambda x: ({v: y for v, y in x.items() if v != "vidC"}, "1 videos are in one source alone; vidC has no labels"),
        lambda x: ({**x, "vidZ": [1.0]}, "1 videos are in one source alone; vidZ has no transcripts"),
        lambda x: (
            {**x, "vidC": [4.0 * (1 if x["vidC"][0] >= 0 else -1)]},
            r"vidC has labels that are not in \[-3, 3\]",
        ),
    ],
)
def test_sources_that_do_not_fit_are_named(mirror, monkeypatch, tmp_path, spoil):
    labels, says = spoil(mirror[1])
    publish(monkeypatch, tmp_path, labels)
    with pytest.raises(DataError, match=rf"{mosi_standard.LABELS}: .*{says}"):
        load_dataset("mosi-standard", **OPTIONS)


def test_standard_folds_of_another_size_are_refused(mirror, monkeypatch):
    monkeypatch.setattr(mosi_standard, "SIZES", {"train": 5, "valid": 2, "test": 1})
    with pytest.raises(DataError, match=r"folds of .* utterances; expected"):
        load_dataset("mosi-standard", **OPTIONS)


@pytest.mark.parametrize(
    ("folds", "says"),
    [
        ({"train": ["vidA"], "valid": ["vidB"], "test": ["vid_D"]}, "leaves out 1 of 4 videos, such as vidC"),
        ({"train": ["vidA", "vidC", "vidX"], "valid": ["vidB"], "test": ["vid_D"]}, "names the unknown 1 .* vidX"),
        ({"train": ["vidA", "vidC", "vidB"], "valid": ["vidB"], "test": ["vid_D"]}, "names twice 1 .* vidB"),
        ({"train": ["vidA", "vidC"], "test": ["vidB", "vid_D"]}, "found lists of .*expected train, valid, test"),
        ("no JSON", "expected plain data"),
    ],
)
def test_folds_that_leave_videos_out_are_named(mirror, tmp_path, folds, says):
    path = tmp_path / "own.json"
    path.write_text(folds if isinstance(folds, str) else json.dumps(folds))
    with pytest.raises(DataError, match=rf"own.json: {says}"):
        load_dataset("mosi-standard", folds=path, **OPTIONS)


def test_own_folds_are_said_not_to_be_the_standard_ones(mirror, tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"train": ["vid_D"], "valid": ["vidC"], "test": ["vidB", "vidA"]}))
    splits = load_dataset("mosi-standard", folds=path, **OPTIONS)
    assert [s.group for s in splits["test"]] == ["vidA"] * 3 + ["vidB"] * 2
    assert "folds of own.json, NOT the standard ones, 2 / 1 / 5 utterances" in splits["test"].protocol


def test_the_real_labels():
    if not all(source.at_hand() for source in mosi_standard.ENTRY.sources()):
        pytest.skip("the real CMU-MOSI is not here: python -m alignmamba2 data fetch mosi-standard")
    splits = load_dataset("mosi-standard", **OPTIONS)
    assert [len(d) for d in splits.values()] == [1284, 229, 686]
    assert [len({s.rsplit("[", 1)[0] for s in d.samples.ids}) for d in splits.values()] == [52, 10, 31]
    lines = sorted(
        f"{name} {float(y):.6g}" for d in splits.values() for name, y in zip(d.samples.ids, d.labels, strict=True)
    )
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "297353851c6f1e7bd35fec41f2cd2664de59f0261c0c5ac0eef7b24b26baa301"
    # Zadeh's own release of the labels, another file by other hands (pliang279/MFN), has the same in each split.
    folder = mosi_standard.SOURCE.mirror()
    others = {split: folder and folder.parent / "mosi_labels" / f"y_{split}.h5" for split in splits}
    if not all(path and path.is_file() for path in others.values()):
        pytest.skip("mosi_labels is not in $ALIGNMAMBA2_MIRROR")
    for split, path in others.items():
        with reading(path, "numbers in 'data'") as file:
            other = np.sort(np.asarray(file["data"]).reshape(-1).astype("f4"))
        assert np.allclose(np.sort(torch.stack(list(splits[split].labels)).numpy()), other, atol=1e-5)


def test_the_real_trap():
    """24 of the 31 standard test videos train in Poria's split: what the refusal says."""
    if not mosi_utterances.SOURCE.at_hand():
        pytest.skip("the real CMU-MOSI is not here: python -m alignmamba2 data fetch mosi-standard")
    trained = set(mosi_utterances.read_videos(mosi_utterances.SOURCE.ensure("mosi-utterances"), "train"))
    assert len(set(mosi_standard.FOLDS["test"]) & trained) == 24


def test_check_reads_the_labels(mirror, tmp_path):
    contents = inspect(tmp_path / "mirror" / "mosi_standard")
    assert [len(part.ids) for part in contents.parts.values()] == [4, 2, 2]
    assert not contents.problems
    assert contents.format.startswith("official labels")


# --- mosi-words -----------------------------------------------------------------------------------------------------


def entry(name, words, label=1.0, frames=None):
    n = len(words) if frames is None else frames
    draw = np.random.default_rng(len(words))
    features = [draw.standard_normal((n, width)).astype("f4") for width in (47, 74)]
    return (np.arange(n), *features, list(words)), np.array([[label]], "f4"), name


ENTRIES = [entry(f"vid{i}[{k}]", ["so", "good", *"abc"[:k]], (k - 1) / 2) for i in range(10) for k in range(1 + i % 3)]


@pytest.fixture
def words(tmp_path, monkeypatch):
    """A function that publishes these entries in a mirror."""
    monkeypatch.setenv("ALIGNMAMBA2_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))

    def write(entries):
        path = tmp_path / "mirror" / "mosi_words" / "dev.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(entries))
        hashes = {"dev.pkl": hashlib.sha256(path.read_bytes()).hexdigest()}
        monkeypatch.setattr(mosi_words, "SOURCE", dataclasses.replace(mosi_words.SOURCE, hashes=hashes))
        return path

    return write


def test_every_word_has_its_sound_and_face(words):
    words(ENTRIES)
    splits = load_dataset("mosi-words")
    groups = {split: {s.group for s in d} for split, d in splits.items()}
    assert [len(videos) for videos in groups.values()] == [6, 2, 2]
    assert len(set().union(*groups.values())) == 10
    known = {name: (features, label) for features, label, name in ENTRIES}
    samples = [s for d in splits.values() for s in d]
    assert len(samples) == len(ENTRIES)
    for s in samples:
        (_, video, audio, text), label = known[s.id]
        assert np.array_equal(s.features["video"], video)
        assert np.array_equal(s.features["audio"], audio)
        assert list(s.words["text"]) == text
        assert s.features["text"].shape == (len(text), 64)
        assert float(s.label) == label.item()
        assert {pair: p.tolist() for pair, p in s.partners.items()} == {
            ("video", "text"): list(range(len(text))), ("audio", "text"): list(range(len(text))),
        }  # fmt: skip
    assert "not comparable with published numbers" in splits["test"].protocol
    assert groups != {split: {s.group for s in d} for split, d in load_dataset("mosi-words", split_seed=1).items()}


def test_a_word_is_the_mean_of_its_pieces_in_context(words):
    if not MiniLM.is_present():
        pytest.skip(f"MiniLM is not installed: {INSTALL}")
    words([*ENTRIES[1:], entry("vid0[0]", ["gosh", "bad"])])
    sample = next(s for d in load_dataset("mosi-words", text="minilm").values() for s in d if s.id == "vid0[0]")
    encoder = text_encoder("minilm")
    assert encoder.pieces("gosh bad") == ["[CLS]", "go", "##sh", "bad", "[SEP]"]
    with torch.no_grad():
        hidden = encoder.model(**encoder.inputs(["gosh bad"])).last_hidden_state[0]
    expected = torch.stack([(hidden[1] + hidden[2]) / 2, hidden[3]])
    torch.testing.assert_close(sample.features["text"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (entry("v[0]", ["one", "two"], frames=3), r"'v\[0\]' has 2 words and features .*one frame per word"),
        (entry("v[0]", []), r"'v\[0\]' has 0 words"),
        (entry("v[0]", ["one"], label=3.5), r"'v\[0\]' has the label 3.5; expected one in \[-3, 3\]"),
        (entry("v[0]", ["one"], label=np.nan), r"'v\[0\]' has the label nan"),
        (("features", "label"), "entry 2 is no"),
        ((7, 7, 7), "entry 2 is no"),
    ],
)
def test_wrong_entries_are_named(words, bad, says):
    words([*ENTRIES[:2], bad])
    with pytest.raises(DataError, match=rf"dev.pkl: {says}"):
        load_dataset("mosi-words")


def test_another_pickle_is_refused(words):
    words({"train": 1})
    with pytest.raises(DataError, match=r"dev.pkl: a dict; expected a list"):
        load_dataset("mosi-words")


def test_check_reads_the_words(words):
    contents = inspect(words(ENTRIES))
    assert contents.parts["all"].fields["audio"].shape[1] == 74
    assert len(contents.parts["all"].ids) == len(ENTRIES)
    assert not contents.problems


def test_the_real_words():
    if not mosi_words.SOURCE.at_hand():
        pytest.skip("the real words are not here: python -m alignmamba2 data fetch studies.datasets.mosi_words:ENTRY")
    splits = load_dataset("mosi-words")
    samples = [s for d in splits.values() for s in d]
    assert len(samples) == 229
    assert sum(len(s.words["text"]) for s in samples) == 2524
    assert {s.group for s in samples} == set(mosi_standard.FOLDS["valid"])
    if all(source.at_hand() for source in mosi_standard.ENTRY.sources()):
        official = {s.id: s for s in load_dataset("mosi-standard", "valid", **OPTIONS)}
        assert {s.id: float(s.label) for s in samples} == {i: float(s.label) for i, s in official.items()}
        # Words by other hands, so the join of transcripts by order is right; a few words are missing there.
        pairs = [(set(s.words["text"]), set(official[s.id].words["text"])) for s in samples]
        assert sum(len(a & b) / len(a | b) for a, b in pairs) / len(pairs) > 0.97
