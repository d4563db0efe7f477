"""MVSA-Single: files of exactly the real formats, made small; the generated pairs; damaged files."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from alignmamba2 import load_dataset
from alignmamba2.datasets import DataError, inspect, is_present, mvsa
from alignmamba2.datasets.formats.images import patches
from alignmamba2.datasets.formats.mvsa_files import (
    CLASSES,
    LABELS,
    SOURCE,
    SPLITS,
    TWEETS,
    by_protocol,
    read_folder,
    read_jsonl,
    read_labels,
    read_text,
    repaired,
)
from alignmamba2.datasets.mini import mvsa as mini_mvsa
from alignmamba2.encoders import text as text_encoders
from alignmamba2.encoders.text import WordEncoder

P, U, N = CLASSES
ANNOTATIONS = [(P, P)] * 8 + [(U, U)] * 6 + [(N, N)] * 6 + [(P, U), (U, P), (N, U), (U, N), (P, N), (N, P)]
TEXTS = [f"tweet {i} … “so {i}”" if i % 2 else f"tweet {i} plain" for i in range(1, len(ANNOTATIONS) + 1)]
OPTIONS = {"text": "words"}


def write_original(folder, end="\n"):
    """labelResultAll.txt, data/{id}.txt as gb18030, data/{id}.jpg."""
    (folder / "data").mkdir(parents=True)
    rows = ["ID\ttext,image", *(f"{i}\t{a},{b}" for i, (a, b) in enumerate(ANNOTATIONS, start=1)), ""]
    (folder / LABELS).write_bytes(end.join(rows).encode())
    for i, text in enumerate(TEXTS, start=1):
        (folder / "data" / f"{i}.txt").write_bytes((text + end).encode("gb18030"))
        Image.new("RGB", (40 + i, 30), (i, 2 * i, 3 * i)).save(folder / "data" / f"{i}.jpg")


def write_jsonl(folder, end="\n"):
    """QMF's splits of the pairs that agree; their texts misread as latin-1."""
    parts = dict.fromkeys(SPLITS, "")
    for i, (a, b) in enumerate(ANNOTATIONS, start=1):
        if a == b:
            row = {"id": str(i), "label": a, "text": TEXTS[i - 1].encode("gb18030").decode("latin-1") + " "}
            parts[("train", "train", "valid", "test")[i % 4]] += json.dumps({**row, "img": f"data/{i}.jpg"}) + end
    for split, name in SPLITS.items():
        (folder / name).write_bytes(parts[split].encode())


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR", raising=False)
    write_original(tmp_path / "MVSA_Single")
    write_jsonl(tmp_path / "MVSA_Single")
    return tmp_path


def labels_of(splits):
    return {s.id: int(s.label) for d in splits.values() for s in d.samples}


# --- protocols ------------------------------------------------------------------------------------------------------


def test_agree_keeps_pairs_whose_annotations_are_equal(root):
    splits = load_dataset("mvsa", **OPTIONS)
    assert labels_of(splits) == {str(i): CLASSES.index(a) for i, (a, b) in enumerate(ANNOTATIONS, 1) if a == b}
    assert [len(d) for d in splits.values()] == [10, 5, 5]
    assert "agree-2592, QMF's split, 10 / 5 / 5" in splits["test"].protocol
    assert splits["train"].modalities == {"text": 64, "image": 56}


def test_merged_lets_neutral_yield_and_leaves_contradictions_out(root):
    splits = load_dataset("mvsa", protocol="merged-4511", **OPTIONS)
    expected = {str(i): CLASSES.index(a) for i, (a, b) in enumerate(ANNOTATIONS, 1) if a == b}
    expected |= {"21": 0, "22": 0, "23": 2, "24": 2}
    assert labels_of(splits) == expected
    assert "merged-4511, split of our own (split_seed 0)" in splits["train"].protocol
    other = load_dataset("mvsa", protocol="merged-4511", split_seed=1, **OPTIONS)
    assert other["test"].samples.ids != splits["test"].samples.ids


def test_without_jsonl_the_split_is_our_own_and_says_so(root):
    for name in SPLITS.values():
        (root / "MVSA_Single" / name).unlink()
    splits = load_dataset("mvsa", **OPTIONS)
    assert "split of our own" in splits["train"].protocol
    assert [len(d) for d in splits.values()] == [12, 4, 4]


@pytest.mark.parametrize("seed", range(3))
def test_splits_by_class_have_exact_sizes_and_shares(seed):
    labels = np.repeat((0, 1, 2), (2683, 470, 1358))
    parts = np.array(mvsa.split_by_class(labels, mvsa.SHARES["merged-4511"], seed))
    assert [int((parts == s).sum()) for s in SPLITS] == [3611, 450, 450]
    for c, n in enumerate((2683, 470, 1358)):
        assert abs((parts[labels == c] == "test").sum() - 450 * n / 4511) <= 2


def test_texts_of_both_layouts_are_the_same(root):
    folder = root / "MVSA_Single"
    ours = {p.id: p.text for p in read_jsonl(folder)}
    assert ours == {p.id: p.text for p in read_folder(folder, merge=False)}
    assert ours["1"] == TEXTS[0]
    assert repaired("déjà vu") == "déjà vu"  # no gb18030
    assert repaired("“well”") == "“well”"  # no latin-1


def test_texts_in_utf_8_are_read_as_such(tmp_path):
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "1.txt").write_bytes(mark + "déjà “vu” 😀".encode())
        assert read_text(tmp_path / "1.txt") == "déjà “vu” 😀"
    write_jsonl(tmp_path)
    path = tmp_path / SPLITS["train"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["text"], rows[1]["text"] = "déjà “vu”", "ésprit"  # as gb18030, the second is another text
    path.write_text("\n".join(json.dumps(row) for row in rows))
    assert [p.text for p in read_jsonl(tmp_path)[:2]] == ["déjà “vu”", "ésprit"]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../x.jpg", "data/../../x.jpg", "C:x.jpg", "..\\x.jpg", "a\0b", "\x1b[31m"]
)
def test_no_picture_lies_outside_the_folder(tmp_path, name):
    write_jsonl(tmp_path)
    path = tmp_path / SPLITS["train"]
    row, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(row), "img": name}), *others]))
    with pytest.raises(DataError, match=r"train\.jsonl: line 1: expected .* is no path inside the folder"):
        read_jsonl(tmp_path)


@pytest.mark.parametrize(
    "line", ["[" * 100_000, '{"id": "\\ud800", "text": "", "label": "neutral", "img": "x"}', "[]", "5"]
)
def test_a_hostile_line_is_named(tmp_path, line):
    write_jsonl(tmp_path)
    (tmp_path / SPLITS["train"]).write_text(line)
    with pytest.raises(DataError, match=r"train\.jsonl: line 1: expected"):
        read_jsonl(tmp_path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_both_line_endings(tmp_path, end):
    write_original(tmp_path, end)
    write_jsonl(tmp_path, end)
    assert list(read_labels(tmp_path / LABELS).values()) == ANNOTATIONS
    assert {p.id: p.text for p in read_jsonl(tmp_path)} == {p.id: p.text for p in read_folder(tmp_path, merge=False)}
    assert all(p.text == p.text.strip() for p in read_folder(tmp_path, merge=True))


def test_texts_that_are_also_in_train_are_counted(root):
    folder = root / "MVSA_Single"
    pairs = read_jsonl(folder)
    train, test = (next(p for p in pairs if p.split == s) for s in ("train", "test"))
    path = folder / SPLITS["test"]
    old = json.dumps(test.text.encode("gb18030").decode("latin-1"))[1:-1]
    new = json.dumps(train.text.encode("gb18030").decode("latin-1"))[1:-1]
    path.write_text(path.read_text().replace(old, new))
    assert "texts that are also in train: 0 of valid, 1 of test" in load_dataset("mvsa", "test", **OPTIONS).notes


# --- pictures -------------------------------------------------------------------------------------------------------


def spoil(root):
    """Pair 2: no picture; pair 5: cut off; pair 8: text instead of a picture. All in use."""
    data = root / "MVSA_Single" / "data"
    (data / "2.jpg").unlink()
    (data / "5.jpg").write_bytes((data / "5.jpg").read_bytes()[:-60])
    (data / "8.jpg").write_bytes(b"<html>404</html>")


def test_missing_and_corrupt_pictures_are_counted(root):
    spoil(root)
    with pytest.raises(DataError, match=r"of 20 pictures, 1 missing, 2 unreadable, the first .*pictures='mask'"):
        load_dataset("mvsa", **OPTIONS)
    dropped = load_dataset("mvsa", pictures="drop", **OPTIONS)
    assert set(labels_of(dropped)) == {str(i) for i in range(1, 21)} - {"2", "5", "8"}
    masked = load_dataset("mvsa", pictures="mask", **OPTIONS)
    tokens = {s.id: len(s.features["image"]) for d in masked.values() for s in d.samples}
    assert {i for i, n in tokens.items() if not n} == {"2", "5", "8"}
    assert set(tokens.values()) == {0, 49}
    for splits, how in ((dropped, "drop"), (masked, "mask")):
        assert f"pictures 1 missing, 2 unreadable: {how}" in splits["test"].protocol
        assert "pictures: 1 missing, 2 unreadable, of 20" in splits["test"].notes
    alone = load_dataset("mvsa", pictures="none", **OPTIONS)
    assert alone["train"].modalities == {"text": 64}
    assert "pictures: 1 missing, 2 unreadable, of 20" in inspect(root / "MVSA_Single").problems


def test_a_masked_picture_is_a_modality_without_tokens(root):
    spoil(root)
    batch = load_dataset("mvsa", "train", pictures="mask", **OPTIONS).batch()
    empty = ~batch.masks["image"].any(1)
    assert {batch.ids[i] for i in empty.nonzero().flatten()} == {"5", "8"}  # 2 is for validation
    assert batch.masks["text"].any(1).all()


def test_the_picture_of_a_tweet_is_shown_and_none_where_it_is_missing(root):
    spoil(root)
    tweets = load_dataset("mvsa", "train", pictures="mask", **OPTIONS)
    assert list(tweets.show) == ["image"]
    for i, tweet in enumerate(tweets.samples):
        picture = tweets.show["image"](tweet)
        assert (picture is None) == (tweet.id in ("5", "8"))
        if picture is not None:
            assert np.array_equal(picture, tweets.samples.item(i, "image"))
    assert tweets.classes == ["positive", "neutral", "negative"]


def test_pictures_that_come_later_are_seen(root):
    kept = root / "7.jpg"
    shutil.move(root / "MVSA_Single" / "data" / "7.jpg", kept)
    with pytest.raises(DataError, match="1 missing"):
        load_dataset("mvsa", **OPTIONS)
    shutil.move(kept, root / "MVSA_Single" / "data" / "7.jpg")
    assert load_dataset("mvsa", **OPTIONS)


# --- damaged files --------------------------------------------------------------------------------------------------


def edit(path, old, new):
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), 1))


@pytest.mark.parametrize(
    ("file", "damage", "options", "says"),
    [
        ("train.jsonl", lambda p: edit(p, "positive", "happy"), {}, r"train.jsonl: line 1: expected .*tuple.index"),
        ("test.jsonl", lambda p: p.unlink(), {}, r"test.jsonl: not found"),
        ("dev.jsonl", lambda p: p.write_bytes(b"\xff\xfe"), {}, r"dev.jsonl: no utf-8 text"),
        ("dev.jsonl", lambda p: p.write_bytes(b""), {}, r"dev.jsonl: no pairs"),
        ("dev.jsonl", lambda p: edit(p, '"id": "2"', '"id": "1"'), {}, r"in the .jsonl files more than once"),
        (LABELS, lambda p: edit(p, "1\tpositive,positive", "1\tneutral,neutral"), {}, r"they differ at pair 1\b"),
        (LABELS, lambda p: edit(p, "ID", "Id"), {}, r"first line is 'Id.*expected 'ID"),
        (LABELS, lambda p: edit(p, "2\tpositive", "1\tpositive"), {}, r"line 3 names pair 1 a second time"),
        (LABELS, lambda p: edit(p, "\n26\tnegative,positive", ""), {"protocol": "merged-4511"}, r"no row for 1 texts"),
        ("data/3.txt", lambda p: p.unlink(), {"protocol": "merged-4511"}, r"no text of 1 of 24 pairs, the first 3.txt"),
    ],
)  # fmt: skip
def test_damaged_files_are_named(root, file, damage, options, says):
    damage(root / "MVSA_Single" / file)
    with pytest.raises(DataError, match=says):
        load_dataset("mvsa", **options, **OPTIONS)


def test_files_cut_anywhere_are_clear_errors(root):
    draw = np.random.default_rng(0)
    for name in (*SPLITS.values(), LABELS):
        path = root / "MVSA_Single" / name
        whole = path.read_bytes()
        for size in draw.integers(0, len(whole) - 2, 200):
            path.write_bytes(whole[:size])
            # A pair in disagreement at the end of the annotations can only be missed by who reads the texts.
            with pytest.raises(DataError, match=rf"{name}|MVSA_Single"):
                _ = [load_dataset("mvsa", protocol=protocol, **OPTIONS) for protocol in mvsa.PROTOCOLS]
        path.write_bytes(whole)
    assert load_dataset("mvsa", **OPTIONS)


def test_without_encoding_samples_hold_ids_and_pictures_for_encoders_inside_the_model(root, monkeypatch):
    asked = []

    def ids(name, sentences, max_length):
        asked.append((name, max_length))
        return [torch.tensor([1, *map(len, s.split()), 2]) for s in sentences]

    monkeypatch.setattr(text_encoders, "token_ids", ids)
    monkeypatch.setattr(text_encoders.PieceIds, "pieces", lambda self, s: ["[CLS]", *s.split(), "[SEP]"])
    spoil(root)
    data = load_dataset("mvsa", "train", pictures="mask", text="a/bert", image="a/vit", encode=False)
    assert data.encoders == {"text": "a/bert", "image": "a/vit"}
    assert data.only("text").encoders == {"text": "a/bert"}
    for sample in data:
        text = TEXTS[int(sample.id) - 1]
        assert sample.features["text"].tolist() == [1, *map(len, text.split()), 2]
        assert sample.words["text"] == ["[CLS]", *text.split(), "[SEP]"]
        pictures = sample.features["image"]
        assert (pictures.shape[1:], pictures.dtype) == ((256, 256, 3), torch.uint8)
        assert len(pictures) == (sample.id not in ("5", "8"))
        if len(pictures):
            color = torch.tensor([1, 2, 3]) * int(sample.id)
            assert (pictures.float() - color).abs().max() < 4  # of a JPEG
    assert set(asked) == {("a/bert", 128)}
    assert data.batch().masks["image"].sum() == len(data) - 2
    with pytest.raises(ValueError, match="text: found 'words' with encode=False"):
        load_dataset("mvsa", pictures="none", encode=False, **OPTIONS)
    with pytest.raises(ValueError, match="image: found 'patches' with encode=False"):
        load_dataset("mvsa", encode=False)


def test_it_is_present_where_pictures_are(root):
    assert is_present("mvsa")
    shutil.rmtree(root / "MVSA_Single" / "data")
    assert not is_present("mvsa")
    assert load_dataset("mvsa", "test", pictures="none", **OPTIONS)


def test_merged_needs_the_texts(root):
    shutil.rmtree(root / "MVSA_Single" / "data")
    with pytest.raises(DataError, match=r"data: not found; merged-4511 needs the texts"):
        load_dataset("mvsa", protocol="merged-4511", **OPTIONS)


@pytest.mark.parametrize("options", [{"protocol": "all"}, {"pictures": "some"}, {"lens": 1}])
def test_wrong_options_are_refused(root, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        load_dataset("mvsa", **options)


def test_pairs_without_text_are_missing_texts(root):
    (root / "MVSA_Single" / "data" / "3.txt").write_bytes(b" \n")
    splits = load_dataset("mvsa", protocol="merged-4511", **OPTIONS)
    assert {s.id for d in splits.values() for s in d.samples if not len(s.features["text"])} == {"3"}
    assert "texts: 1 are empty, and count as missing: 3" in splits["train"].notes
    with pytest.raises(DataError, match=r"pairs \['3'\] \(1\) have neither"):
        load_dataset("mvsa", protocol="merged-4511", pictures="none", **OPTIONS)


# --- texts ----------------------------------------------------------------------------------------------------------


def test_words_by_their_letters(tmp_path):
    tokens = WordEncoder().encode(["Happy happy unhappy", "_"], tmp_path)
    assert [t.shape for t in tokens] == [(3, 64), (1, 64)]
    first, second, third = torch.nn.functional.normalize(tokens[0], dim=1)
    assert torch.equal(first, second)
    assert 0.3 < first @ third < 0.95
    assert abs(first @ torch.nn.functional.normalize(tokens[1][0], dim=0)) < 0.4


# --- the real texts -------------------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path):
    if SOURCE.mirror() is None:
        pytest.skip("the real MVSA-Single texts are not here: python -m alignmamba2 data fetch mvsa")
    return SOURCE.fetch(tmp_path)


def test_the_real_texts(real, tmp_path):
    splits = load_dataset("mvsa", root=tmp_path, pictures="none", **OPTIONS)
    assert [len(d) for d in splits.values()] == [1555, 518, 519]
    assert "texts that are also in train: 28 of valid, 21 of test" in splits["test"].notes
    assert not any("SHA-256" in note for note in splits["test"].notes)
    counts = Counter(read_labels(real / LABELS).values())
    assert sum(counts.values()) == 4869
    assert sum(n for (a, b), n in counts.items() if {a, b} == {P, N}) == 358
    (note,) = inspect(real).notes
    assert "annotations agree in 2592; 4511 when neutral yields" in note


def test_the_real_pictures(tmp_path):
    if SOURCE.mirror() is None or TWEETS.mirror() is None:
        pytest.skip("no real pictures in $ALIGNMAMBA2_MIRROR: python -m alignmamba2 data fetch mvsa --pictures")
    assert is_present("mvsa", tmp_path)
    splits = load_dataset("mvsa", root=tmp_path, **OPTIONS)
    assert [len(d) for d in splits.values()] == [1555, 518, 519]
    assert "pictures: 0 missing, 0 unreadable, of 2592" in splits["test"].notes
    counts = torch.stack([x for d in splits.values() for x in d.labels]).bincount().tolist()
    annotations = Counter(read_labels(tmp_path / "mvsa_single" / LABELS).values())
    assert counts == [annotations[name, name] for name in CLASSES]
    picture = splits["test"].samples.item(0, "image")
    assert picture.shape == (224, 224, 3)
    assert picture.std() > 10
    # The texts of QMF's .jsonl, repaired, are those beside the pictures; there, some hold line ends.
    folder = tmp_path / "mvsa_single" / "data"
    samples = splits["valid"].samples
    for i in range(0, 518, 20):
        assert samples.item(i, "text").split() == read_text(folder / f"{samples.ids[i]}.txt").split()


# --- mini-mvsa ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini")
    return root, load_dataset("mini-mvsa", root=root, size=120)


def test_mini_mvsa_has_the_real_format(generated):
    root, splits = generated
    (folder,) = (root / "cache").glob("mini-mvsa-*")
    rows = [json.loads(line) for name in SPLITS.values() for line in (folder / name).read_text().splitlines()]
    assert {tuple(row) for row in rows} == {("id", "label", "text", "img")}
    assert all((folder / row["img"]).is_file() for row in rows)
    misread = [row["text"] for row in rows if not row["text"].isascii()]
    assert misread
    assert all("…" in repaired(t) or "“" in repaired(t) for t in misread)
    counts = Counter(read_labels(folder / LABELS).values())
    assert len(list((folder / "data").glob("*.txt"))) == len(list((folder / "data").glob("*.jpg"))) == counts.total()
    as_real = load_dataset("mvsa", "train", root=folder, **OPTIONS)
    assert len(as_real) == 120
    assert as_real.synthetic
    assert inspect(folder).synthetic
    for d in splits.values():
        assert d.synthetic
        assert d.protocol.startswith("synthetic")
    assert contents_agree(folder)


def contents_agree(folder):
    return {s: len(p.texts) for s, p in inspect(folder).parts.items()} == {"train": 120, "valid": 40, "test": 40}


def test_mini_mvsa_words_name_what_is_in_the_patches(generated):
    _, splits = generated
    seen = {}
    for s in splits["train"].samples:
        for patch, word in enumerate(s.partners["image", "text"].tolist()):
            if word >= 0:
                seen.setdefault(s.words["text"][word], []).append(s.features["image"][patch, :48].reshape(16, 3))
    assert set(seen) == set(mini_mvsa.THINGS)
    for thing, color in mini_mvsa.THINGS.items():
        # What is on these patches has its colour more than that of any other thing.
        blocks = torch.stack(seen[thing]).reshape(-1, 3) * 255
        near = {t: ((blocks - torch.tensor(c)).norm(dim=1) < 25).float().mean() for t, c in mini_mvsa.THINGS.items()}
        assert max(near, key=near.get) == thing, (thing, color)


def test_mini_mvsa_moods_are_as_planted():
    """What text and picture look like follows annotations and veils; read off the words alone here."""
    draw = np.random.default_rng(0)
    for text, image, veil in ((P, P, ""), (N, N, "text"), (U, P, ""), (P, N, ""), (U, U, "")):
        pair = mini_mvsa.draw_pair(draw, text, image, veil)
        moods = {m for m, words in mini_mvsa.MOODS.items() if set(words) & set(pair.words)}
        assert moods == ({text} - {U} if veil != "text" else set())
        assert pair.annotations == (text, image)


def test_mini_mvsa_needs_both_modalities_when_they_complete_each_other(generated):
    root, _ = generated
    splits = load_dataset("mini-mvsa", root=root, size=120, protocol="merged-4511")
    for d in splits.values():
        for s in d.samples:
            said = {m for m, words in mini_mvsa.MOODS.items() if set(words) & set(s.words["text"])}
            assert said in (set(), {CLASSES[int(s.label)]})
    alone = [bool(set(s.words["text"]) & {*mini_mvsa.MOODS[P], *mini_mvsa.MOODS[N]}) for s in splits["train"].samples]
    strong = [int(y) != 1 for y in splits["train"].labels]
    share = np.mean([a for a, is_strong in zip(alone, strong, strict=True) if is_strong])
    assert 0.5 < share < 0.75  # the others are known from the picture alone


def test_protocols_by_hand():
    labels = {str(i): pair for i, pair in enumerate(ANNOTATIONS)}
    assert by_protocol(labels, merge=False) == {i: a for i, (a, b) in labels.items() if a == b}
    merged = by_protocol(labels, merge=True)
    assert {i for i in labels if i not in merged} == {i for i, pair in labels.items() if {*pair} == {P, N}}
    assert all(merged[i] in labels[i] and (merged[i] != U or {*labels[i]} == {U}) for i in merged)


def test_what_tokens_are_made_of_and_one_side_alone(generated):
    root, _ = generated
    splits = load_dataset("mini-mvsa", root=root, size=120)
    test = splits["test"]
    picture, sample = test.samples.item(3, "image"), test[3]
    torch.testing.assert_close(torch.from_numpy(patches(picture)), sample.features["image"])
    assert test.samples.item(3, "text").split() == list(sample.words["text"])
    alone = test.only("text")
    assert alone.modalities == {"text": test.modalities["text"]}
    assert (alone[3].id, alone[3].words, alone[3].partners) == (sample.id, sample.words, {})
    assert torch.equal(torch.stack(list(alone.labels)), torch.stack(list(test.labels)))
    assert alone.protocol.endswith("only text")
    torch.testing.assert_close(alone.statistics()["text"], test.statistics()["text"])
    with pytest.raises(ValueError, match=r"only: found \['sound'\]; mini-mvsa has \['text', 'image'\]"):
        test.only("sound")


def test_mini_mvsa_is_repeatable(tmp_path):
    one, two = (mini_mvsa.make(tmp_path / name, seed=5, size=9) for name in "ab")
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]
    other = mini_mvsa.make(tmp_path / "c", seed=6, size=9)
    assert [p.read_bytes() for p in one] != [p.read_bytes() for p in other]
    with pytest.raises(DataError, match="not empty"):
        mini_mvsa.make(tmp_path / "a", size=9)
    assert not list(tmp_path.glob("*.part"))
