"""MOSI and MOSEI from every format: the real keys, shapes and types, and every trap that the real files have."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignmamba2 import load_dataset
from alignmamba2.datasets import ENTRIES, DataError, is_present, mosi
from alignmamba2.datasets.formats import csd, mosi_pickles
from alignmamba2.datasets.mini import mosi as mini_mosi
from alignmamba2.datasets.store import StoredSamples
from alignmamba2.storage.files import FileError

WIDTHS = {"mini-mosi": (5, 20), "mini-mosei": (74, 35)}
STEPS = {"mini-mosi": (375, 500), "mini-mosei": (500, 500)}
SIZE = 12


def make(name, kind, folder, size=SIZE):
    return ENTRIES[name].make(folder, format=kind, seed=0, size=size)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def by_pickle(path):
    """What MMSA's and MulT's own loaders do; only with files that were just made here."""
    return pickle.loads(path.read_bytes())


# --- the miniatures are what the benchmarks' loaders expect ---------------------------------------------------------


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("kind", ["mmsa", "mmsa-unaligned"])
def test_mmsa_keys_shapes_and_types(name, kind, tmp_path):
    (path,) = make(name, kind, tmp_path)
    aligned = kind == "mmsa"
    assert path.parts[-3:] == (name[5:].upper(), "Processed", f"{'' if aligned else 'un'}aligned_50.pkl")
    tree = by_pickle(path)
    assert list(tree) == ["train", "valid", "test"]
    steps = (50, 50) if aligned else STEPS[name]
    for size, split in zip((SIZE, SIZE // 4, SIZE // 2), tree.values(), strict=True):
        shapes = {
            "text": ((size, 50, 768), np.float32),
            "text_bert": ((size, 3, 50), np.int64),
            "audio": ((size, steps[0], WIDTHS[name][0]), np.float32),
            "vision": ((size, steps[1], WIDTHS[name][1]), np.float32),
            "regression_labels": ((size,), np.float32),
            "classification_labels": ((size,), np.int64),
        }
        if not aligned:
            shapes |= {"audio_lengths": ((size,), np.int64), "vision_lengths": ((size,), np.int64)}
        assert {k: (split[k].shape, split[k].dtype) for k in shapes} == shapes
        words = {"raw_text", "id", "annotations"}
        assert set(split) == set(shapes) | words
        assert all(split[k].shape == (size,) and split[k].dtype.kind == "U" for k in words)
        assert all(len(i.split("$_$")) == 2 for i in split["id"])
        y = split["regression_labels"]
        assert np.abs(y).max() <= 3
        assert np.array_equal(split["classification_labels"], np.sign(y) + 1)
        assert set(split["annotations"]) <= {"Negative", "Neutral", "Positive"}
        ids, mask, segments = split["text_bert"].transpose(1, 0, 2)
        assert (ids[:, 0] == 101).all()
        assert ((ids == 102).sum(1) == 1).all()
        assert np.array_equal(mask, ids > 0)
        assert not segments.any()
        tail = np.arange(50) >= mask.sum(1, keepdims=True)
        assert not split["text"][tail].any()
    assert any(np.isneginf(s["audio"]).any() for s in by_pickle(make(name, kind, tmp_path, 60)[0]).values())


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("kind", ["mult", "mult-noalign"])
def test_mult_keys_shapes_and_types(name, kind, tmp_path):
    (path,) = make(name, kind, tmp_path)
    stem = {"mini-mosi": "mosi", "mini-mosei": "mosei_senti"}[name]
    assert path.name == f"{stem}_data{'' if kind == 'mult' else '_noalign'}.pkl"
    steps = (50, 50) if kind == "mult" else STEPS[name]
    for split in by_pickle(path).values():
        size = len(split["labels"])
        assert set(split) == {"vision", "text", "audio", "labels", "id"}
        assert split["labels"].shape == (size, 1, 1)
        assert split["text"].shape == (size, 50, 300)
        assert split["audio"].shape == (size, steps[0], WIDTHS[name][0])
        assert split["vision"].shape == (size, steps[1], WIDTHS[name][1])
        assert split["id"].shape == (size, 3)
        assert split["id"].dtype.kind == ("S" if name == "mini-mosi" else "U")
        assert split["text"][:, -1].any(1).all()
        assert not split["text"][:, 0].any()


def test_csd_has_the_sdks_tree(tmp_path):
    import h5py

    *paths, folds = make("mini-mosi", "csd", tmp_path)
    assert len(paths) == 5
    for path in paths:
        with h5py.File(path) as file:
            (root,) = file
            assert root != path.stem  # the trap: a root's name is not the file's
            for group in file[root]["data"].values():
                assert group["intervals"].shape == (len(group["features"]), 2)
            for entry in file[root]["metadata"].values():
                assert entry.shape == (1,)
                json.loads(entry[0])
    words = csd.Csd(paths[0])
    said = np.concatenate([words.read(v)[0] for v in words.videos])
    assert said.dtype.kind == "S"
    assert b"sp" in said
    with h5py.File(paths[0]) as file:
        assert b"synthetic" in file[f"{words.root}/metadata/computational sequence description"][0]
    assert set(json.loads(folds.read_text())) == {"train", "valid", "test"}


# --- they load, and what was planted is there ------------------------------------------------------------------------


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("kind", mini_mosi.FORMATS)
def test_every_format_loads(name, kind, root, tmp_path):
    paths = make(name, kind, root)
    assert is_present(name[5:])
    splits = load_dataset(name[5:])
    assert {s: len(d) for s, d in splits.items()} == {"train": SIZE, "valid": SIZE // 4, "test": SIZE // 2}
    train = splits["train"]
    assert train.synthetic
    assert train.protocol.startswith("synthetic, ")
    assert "NOT the standard split" in train.protocol
    assert set(train.modalities) == {"text", "audio", "video"}
    assert len(train.hashes) == len(paths)
    assert torch.isfinite(train.batch().features["audio"]).all()
    aligned = kind in ("mmsa", "mult", "csd")
    assert ("unaligned" not in train.protocol) == aligned
    for sample in train:
        assert sample.label.dtype == torch.float32
        lengths = {m: len(x) for m, x in sample.features.items()}
        assert (len(set(lengths.values())) == 1) == aligned
    # From the words alone, a bound of the label: emphasis adds at most half a word, a smile a quarter.
    polarity = dict(zip(mini_mosi.VOCABULARY, mini_mosi.POLARITY, strict=True))
    for sample, text in zip(train, train.samples.texts, strict=False):
        words = [polarity[w] for w in text.split()]
        if words:
            most = sum(1.5 * p if p > 0 else 0.5 * p for p in words) + len(words) / 4
            assert float(sample.label) <= max(min(most, 3), -3) + 1e-5


def test_the_features_are_those_of_the_file(root):
    (path,) = make("mini-mosi", "mmsa-unaligned", root)
    split = by_pickle(path)["train"]
    train = load_dataset("mosi", "train")
    for i, sample in enumerate(train):
        audio = split["audio"][i, : split["audio_lengths"][i]]
        assert np.array_equal(sample.features["audio"], np.where(np.isfinite(audio), audio, 0))
        assert np.array_equal(sample.features["video"], split["vision"][i, : split["vision_lengths"][i]])
        assert np.array_equal(sample.features["text"], split["text"][i, : split["text_bert"][i, 1].sum()])
        assert sample.id == split["id"][i]
        assert np.array_equal(train.samples.bert(i), split["text_bert"][i])
    assert np.array_equal(torch.stack(list(train.labels)), split["regression_labels"])


@pytest.mark.parametrize("kind", ["mmsa", "mmsa-unaligned"])
def test_the_ids_of_text_bert_are_for_an_encoder_inside_the_model(kind, root):
    (path,) = make("mini-mosi", kind, root)
    split = by_pickle(path)["train"]
    train = load_dataset("mosi", "train", text="ids")
    assert train.encoders == {"text": "bert-base-uncased"}
    assert train.modalities["text"] == 0
    assert ", text ids, " in train.protocol
    for i, sample in enumerate(train):
        ids, mask, _ = split["text_bert"][i]
        assert sample.features["text"].dtype == torch.int64
        assert sample.features["text"].tolist() == ids[mask == 1].tolist()
        assert sample.group == split["id"][i].split("$_$")[0]
        assert "text" not in sample.words
        for partner in sample.partners.values():
            assert partner.max() < len(sample.features["text"])
    assert train.batch().features["text"].dtype == torch.int64


def test_ids_need_a_pickle_that_has_them(root):
    (path,) = make("mini-mosi", "mmsa", root)
    tree = by_pickle(path)
    for split in tree.values():
        del split["text_bert"]
    path.write_bytes(pickle.dumps(tree))
    with pytest.raises(DataError, match="no text_bert in it"):
        load_dataset("mosi", text="ids")
    path.unlink()
    make("mini-mosi", "mult", root)
    with pytest.raises(DataError, match="none fits alignment=None, text='ids'"):
        load_dataset("mosi", text="ids")


def test_csd_words_and_frames_belong_together(root):
    """Aligned, a word's sound is the mean of its frames; unaligned, each frame knows its word."""
    make("mini-mosi", "csd", root)
    aligned, free = (load_dataset("mosi", "train", alignment=a) for a in ("aligned", "unaligned"))
    for a, b in zip(aligned, free, strict=True):
        assert a.words["text"] == b.words["text"]
        assert "sp" not in a.words["text"]
        assert torch.allclose(a.features["text"], b.features["text"])
        partner = b.partners["audio", "text"]
        assert len(partner) == len(b.features["audio"])
        known = partner[partner >= 0]
        assert (known.diff() >= 0).all()  # in order
        assert set(known.tolist()) == set(range(len(a.words["text"])))
        # A frame in a word's middle shows that word and no other: all frames of a word are alike.
        for i in range(len(a.words["text"])):
            frames = b.features["audio"][partner == i]
            assert (frames - frames[0]).abs().max() < 1e-4


# --- the traps ---------------------------------------------------------------------------------------------------


def tree_of(lengths, steps, front=False, aligned=False, seed=0):
    """An MMSA tree with these real lengths (text, audio, vision) of each utterance."""
    rng = np.random.default_rng(seed)

    def padded(column, width):
        rows = np.zeros((len(lengths), steps[column], width), np.float32)
        for row, n in zip(rows, lengths, strict=True):
            n = n[column]
            row[steps[column] - n if front else 0 :][:n] = rng.standard_normal((n, width))
        return rows

    split = {
        "text": padded(0, 4),
        "audio": padded(1, 3),
        "vision": padded(2, 2),
        "regression_labels": rng.uniform(-3, 3, len(lengths)).astype(np.float32),
        "id": np.array([f"v{i}$_$0" for i in range(len(lengths))]),
    }
    return dict.fromkeys(("train", "valid", "test"), split)


def store(root, tree, protocol=4):
    path = root / "mosi" / "x.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(tree, protocol))
    return path


LENGTHS = st.lists(st.tuples(*[st.integers(0, 7)] * 3), min_size=1, max_size=6)


@pytest.mark.parametrize("front", [False, True])
def test_padding_is_found_wherever_it_is(front, root):
    @settings(max_examples=25, deadline=None)
    @given(LENGTHS)
    def check(lengths):
        tree = tree_of(lengths, (7, 8, 9), front)
        train = load_dataset("mosi", "train", root=store(root, tree))
        for i, (sample, sizes) in enumerate(zip(train, lengths, strict=True)):
            for (m, key), n in zip({"text": "text", "audio": "audio", "video": "vision"}.items(), sizes, strict=True):
                rows = tree["train"][key][i]
                assert np.array_equal(sample.features[m], rows[len(rows) - n :] if front else rows[:n])

    check()


def test_aligned_modalities_keep_the_same_steps(root):
    tree = tree_of([(3, 2, 0), (4, 5, 1)], (6, 6, 6), front=True)
    train = load_dataset("mosi", "train", root=store(root, tree))
    assert [{len(x) for x in s.features.values()} for s in train] == [{3}, {5}]
    assert train[0].partners["audio", "text"].tolist() == [0, 1, 2]


def test_lengths_that_cut_values_off_are_not_believed(root):
    tree = tree_of([(3, 4, 5), (2, 2, 2)], (6, 7, 8))
    tree["train"] |= {"audio_lengths": np.array([2, 3]), "vision_lengths": np.array([900, 2])}
    train = load_dataset("mosi", "train", root=store(root, tree))
    assert [len(s.features["audio"]) for s in train] == [4, 3]  # 3: longer than what is not 0, so believed
    assert [len(s.features["video"]) for s in train] == [5, 2]
    assert "train/audio_lengths: 1 of 2 lengths do not fit" in " ".join(train.notes)


def test_lists_are_read_like_arrays(root):
    """MMSA's README shows lists where its files have arrays."""
    tree = tree_of([(3, 4, 5), (2, 2, 2)], (600, 7, 8))  # text large enough to stay in the file
    tree["train"]["text"] = np.resize(tree["train"]["text"], (2, 600, 40))  # one dict in all three splits
    lists = {s: {k: [np.ascontiguousarray(v) for v in x] for k, x in t.items()} for s, t in tree.items()}
    expected = load_dataset("mosi", "train", root=store(root, tree))
    found = load_dataset("mosi", "train", root=store(root, lists))
    for a, b in zip(expected, found, strict=True):
        assert all(torch.equal(x, b.features[m]) for m, x in a.features.items())
        assert a.id == b.id


def test_values_that_are_no_numbers_are_counted(root):
    tree = tree_of([(3, 3, 3)] * 4, (5, 5, 5))
    tree["train"]["audio"] = tree["train"]["audio"].astype(np.float64)
    tree["train"]["audio"][0, 0, :2] = -np.inf, np.nan
    tree["train"]["audio"][1, 1, 0] = 1e300  # infinite as float32
    train = load_dataset("mosi", "train", root=store(root, tree))
    assert train[0].features["audio"][0, :2].tolist() == [0, 0]
    named = f"in 2 samples: {train[0].id!r} (2), {train[1].id!r} (1)"
    assert f"train/audio: 3 values were no finite numbers, set to 0, {named}" in train.notes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t["train"].pop("audio"), "neither MMSA's nor MulT's"),
        (lambda t: t["valid"].update(regression_labels=np.array([9.0] * 4)), "4 labels are not in"),
        (lambda t: t["valid"].update(regression_labels=np.zeros((4, 4, 2))), r"\(4, 4, 2\).*one number per utterance"),
        (lambda t: t["test"].update(audio=np.zeros((3, 5, 3))), "rows; regression_labels has 4"),
        (lambda t: t["test"].update(text=np.zeros((4, 5, 6))), "widths differ"),
        (lambda t: t["test"].update(text=np.zeros((4, 5))), r"test/text: shape \(4, 5\)"),
        (lambda t: t.pop("test"), "neither MMSA's nor MulT's"),
    ],
)
def test_wrong_trees_are_named(change, says, root):
    tree = {split: dict(x) for split, x in tree_of([(3, 3, 3)] * 4, (5, 5, 5)).items()}
    change(tree)
    with pytest.raises(DataError, match=rf"x\.pkl.*{says}"):
        load_dataset("mosi", root=store(root, tree))


def test_the_wrong_data_set_and_the_wrong_file_are_named(root, tmp_path):
    make("mini-mosei", "mmsa", tmp_path / "there")
    with pytest.raises(DataError, match="as in CMU-MOSEI; load it as 'mosei'"):
        load_dataset("mosi", root=next((tmp_path / "there").rglob("*.pkl")))
    with pytest.raises(DataError, match=r"mosi: no pickle and no \.csd"):
        load_dataset("mosi")
    make("mini-mosi", "mmsa", root)
    make("mini-mosi", "mmsa-unaligned", root)
    with pytest.raises(DataError, match=r"several fit .*aligned_50\.pkl is aligned, text bert"):
        load_dataset("mosi")
    assert "unaligned" in load_dataset("mosi", "train", alignment="unaligned").protocol
    assert len(list((root / "cache").glob("store-*"))) == 2  # MOSEI's by name, and this one: the other is not converted
    with pytest.raises(DataError, match="none fits"):
        load_dataset("mosi", text="glove")
    with pytest.raises(ValueError, match="alignment: found 'word'"):
        load_dataset("mosi", alignment="word")


def test_folds_come_from_json_the_sdks_file_or_a_pickle(tmp_path):
    *_, folds = make("mini-mosi", "csd", tmp_path)
    folder, lists = folds.parent, json.loads(folds.read_text())
    expected = [s.id for s in load_dataset("mosi", "train", root=folder)]
    folds.unlink()
    with pytest.raises(DataError, match=r"folds\.json: not found.*cmu_mosi_std_folds\.py"):
        load_dataset("mosi", root=folder)
    code = "import os\n" + "".join(f"standard_{s}_fold={v!r}\n" for s, v in lists.items())
    (tmp_path / "cmu_mosi_std_folds.py").write_text(code)
    (pickled,) = make("mini-mosi", "mmsa", tmp_path)
    for file in (tmp_path / "cmu_mosi_std_folds.py", pickled):
        assert [s.id for s in load_dataset("mosi", "train", root=folder, folds=file)] == expected
    lists["test"] = lists["train"]
    folds.write_text(json.dumps(lists))
    with pytest.raises(DataError, match="videos are in both train and test"):
        load_dataset("mosi", root=folder)


# --- cut files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mmsa", "mult", "csd"])
def test_a_file_cut_anywhere_is_a_clear_error(kind, tmp_path):
    make("mini-mosi", kind, tmp_path, 4)
    path = max((p for p in tmp_path.rglob("*") if p.suffix in (".pkl", ".csd")), key=lambda p: p.stat().st_size)
    whole = path.read_bytes()
    cut = path.with_name(f"cut{path.suffix}")
    for size in np.random.default_rng(0).integers(0, len(whole) - 1, 200):
        cut.write_bytes(whole[:size])
        with pytest.raises(DataError, match=rf"cut\{path.suffix}"):
            csd.Csd(cut) if kind == "csd" else mosi_pickles.read(cut)


@pytest.mark.parametrize(
    ("features", "intervals", "says"),
    [
        (np.zeros((0, 74)), np.zeros((0, 2)), ""),
        (np.zeros(0), np.zeros(0), ""),
        (np.zeros((3, 7)), np.zeros((3, 2)), r"features \(3, 7\) float64; those of synthetic0000 are \(T, 74\)"),
        (np.zeros((3, 74)), np.zeros((2, 2)), r"intervals \(2, 2\); features \(3, 74\)"),
        (np.zeros((3, 74)), np.full((3, 2), np.nan), "6 of its intervals' times are NaN or infinite"),
        (np.full((3, 74), 1j), np.zeros((3, 2)), r"features \(3, 74\) complex128"),
    ],
)
@pytest.mark.parametrize("alignment", ["aligned", "unaligned"])
def test_a_video_without_frames_is_silent_and_one_of_another_shape_is_named(
    features, intervals, says, alignment, tmp_path, root
):
    import h5py

    make("mini-mosi", "csd", tmp_path)
    (path,) = (p for p in tmp_path.rglob("*COVAREP*.csd"))
    with h5py.File(path, "a") as file:
        video = file[next(iter(file))]["data"]["synthetic0001"]
        for name, values in (("features", features), ("intervals", intervals)):
            del video[name]
            video[name] = values
    if says:
        with pytest.raises(DataError, match=rf"COVAREP\.csd: .*synthetic0001: {says}"):
            load_dataset("mosi", root=path.parent, alignment=alignment)
        return
    sound = [
        s.features["audio"]
        for d in load_dataset("mosi", root=path.parent, alignment=alignment).values()
        for s in d
        if s.id.startswith("synthetic0001")
    ]
    assert sound
    assert not any(x.any() for x in sound)


def test_a_store_cut_anywhere_is_a_clear_error(root):
    make("mini-mosi", "mmsa", root, 4)
    load_dataset("mosi")
    (path,) = root.rglob("train.safetensors")
    whole = path.read_bytes()
    for size in np.random.default_rng(0).integers(0, len(whole) - 1, 200):
        path.write_bytes(whole[:size])
        with pytest.raises(FileError, match=r"train\.safetensors: no whole file of a store"):
            StoredSamples(path)


def test_published_hashes_are_known():
    assert all(len(digest) == 64 for digest in mosi.KNOWN_FILES)
    assert len(mosi.KNOWN_FILES) == 4


# --- hostile or odd, and told by name ---------------------------------------------------------------------------------


def csd_with(folder, name, features, intervals):
    """Generated .csd files with another first video in one of them."""
    import h5py

    make("mini-mosi", "csd", folder)
    (path,) = (p for p in folder.rglob(f"*{name}.csd"))
    with h5py.File(path, "a") as file:
        video = file[next(iter(file))]["data"]["synthetic0000"]
        for key, values in (("features", features), ("intervals", intervals)):
            del video[key]
            video[key] = values
    return path.parent


def test_work_on_a_video_of_a_csd_is_bounded(tmp_path, root):
    spans = np.tile([0.0, 1e4], (1 << 17, 1))
    with pytest.raises(DataError, match="for 131072 intervals; no video has so many"):
        csd.read(csd_with(tmp_path / "a", "Labels", np.ones((len(spans), 1), "f4"), spans))
    with pytest.raises(DataError, match="overlap each other many times over"):
        csd.read(csd_with(tmp_path / "b", "Labels", np.ones((500, 1), "f4"), spans[:500]))


def test_features_by_utterance_are_named_as_the_reason(tmp_path, root):
    import h5py

    make("mini-mosi", "csd", tmp_path)
    (path,) = tmp_path.rglob("*Facet*.csd")
    with h5py.File(path, "a") as file:
        videos = file[next(iter(file))]["data"]
        for video in list(videos):
            videos.move(video, f"{video}[0]")
    with pytest.raises(DataError, match=r"Facet_42\.csd: has 'synthetic0000\[0\]', and none of the videos"):
        csd.read(path.parent)


def mult(folder, **change):
    """A MulT pickle with parts of its training split exchanged."""
    (path,) = make("mini-mosi", "mult", folder)
    tree = by_pickle(path)
    tree["train"] |= change
    path.write_bytes(pickle.dumps(tree, 4))
    return path


@pytest.mark.parametrize("kind", [list, np.array, lambda x: np.array(x, object)])
@pytest.mark.parametrize("code", [str, str.encode])
def test_texts_longer_than_a_block_are_texts(tmp_path, kind, code):
    texts = ["é" * (1 << 16), *"abcdefghijk"]
    part = mosi_pickles.read(mult(tmp_path, raw_text=kind([code(t) for t in texts]), id=kind([code(t) for t in texts])))
    assert part.splits["train"].texts == part.splits["train"].ids == texts


def test_an_unused_key_takes_no_room(tmp_path):
    rows = [["x" * 60_000, *"a" * 300] for _ in range(300)]  # as an array of texts, 20 GB
    assert not mosi_pickles.read(mult(tmp_path, junk=rows)).problems


def test_half_a_pair_of_surrogates_is_replaced(tmp_path):
    texts = ["\ud800", *"abcdefghijk"]
    assert mosi_pickles.read(mult(tmp_path, raw_text=texts)).splits["train"].texts[0] == "?"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("folds.json", '{"train": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        ("folds.py", "standard_train_fold = " + "-" * 100_000 + "1"),
        ("folds.py", "standard_train_fold = " + "1+" * 50_000 + "1j"),
        ("folds.json", '{"train": ["\\ud800"]}'),
    ],
)
def test_hostile_folds_are_an_error_of_one_line(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}: expected plain data; .+"):
        csd.fold_lists(tmp_path / name)
