"""data check: what it says of every miniature, of the real files that are here, and of files with something wrong."""

import os
from pathlib import Path

import numpy as np
import pytest

import studies.datasets  # noqa: F401 (registers ict-mmmo)
from alignmamba2.__main__ import main
from alignmamba2.datasets import DataError, inspect
from alignmamba2.datasets.contents import Contents, Field, Part, histograms, leaks, lengths, problems, report
from alignmamba2.datasets.mini import mosi as mini_mosi
from alignmamba2.figures.contents import contents as plot
from alignmamba2.figures.contents import contents_page

REAL = os.environ.get("ALIGNMAMBA2_MIRROR", "")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))


def contents_of(**parts):
    return Contents(Path("x"), "made up", parts)


def part(labels=(0.0, 1.0), **more):
    return Part(labels=np.array(labels), **more)


def test_leaks_are_counted_by_kind():
    one = part(ids=["a", "b"], texts=["same", "other"], groups=["v", "w"])
    two = part(ids=["b", "c"], texts=["same", "same"], groups=["x", "x"])
    three = part(ids=["d", "e"], texts=["", ""], groups=["w", "v"])
    found = leaks(contents_of(train=one, valid=two, test=three))
    assert [(k.kind, k.first, k.second, k.count, k.total) for k in found] == [
        ("text", "train", "valid", 2, 2),
        ("id", "train", "valid", 1, 2),
        ("video", "train", "test", 2, 2),
    ]
    text = report(contents_of(train=one, valid=two, test=three))
    assert "2 of 2 texts of valid are also in train, such as 'same'" in text
    assert "2 of 2 videos of test are also in train, such as 'v'" in text


def test_nothing_shared_is_said_and_nothing_known_too():
    apart = contents_of(train=part(ids=["a", "b"]), test=part(ids=["c", "d"]))
    assert "no id is in two splits" in report(apart)
    assert "no video" not in report(apart)
    assert "cannot be told" in report(contents_of(train=part(), test=part()))


def test_histograms_count_every_sample_once():
    rng = np.random.default_rng(0)
    for labels in (rng.uniform(-3, 3, 500), rng.integers(0, 5, 500), rng.choice(["yes", "no"], 500)):
        counts = histograms(contents_of(train=part(labels), test=part(labels[:100])))
        assert sum(counts["train"].values()) == 500
        assert sum(counts["test"].values()) == 100
        assert list(counts["train"]) == list(counts["test"])
    assert histograms(contents_of(train=part([2, 0, 2]))) == {"train": {"0": 1, "2": 2}}


def test_what_is_wrong_is_found():
    broken = part(
        [1.0, 1.0, 1.0],
        fields={"audio": Field.of(np.array([[np.nan, np.inf], [1, -np.inf]], np.float32))},
        lengths={"text": np.array([3, 0, 2])},
        ids=["a", "a", "b"],
    )
    found = " | ".join(problems(contents_of(train=broken)))
    assert "train/audio: 1 NaN and 2 infinite values" in found
    assert "train: 1 samples have no text" in found
    assert "train: 1 ids stand there more than once, such as 'a'" in found
    assert "train: all labels are alike" in found
    assert problems(contents_of(train=part(ids=["a", "b"]))) == []
    assert "2 labels are NaN" in problems(contents_of(train=part([np.nan, np.inf, 1, 2])))[0]


def test_fields_are_counted_block_by_block():
    array = np.zeros((5000, 1000), np.float32)  # more than one block
    array[[0, 4999], [0, 999]] = np.nan, np.inf
    assert Field.of(array) == Field((5000, 1000), "float32", 1, 1)


@pytest.mark.parametrize("name", ["mini-mosi", "mini-mosei"])
@pytest.mark.parametrize("kind", mini_mosi.FORMATS)
def test_every_miniature_is_recognised(name, kind, tmp_path, capsys):
    folder = tmp_path / "made"
    assert main(["data", "make", name, "--format", kind, "--folder", str(folder), "--size", "64"]) == 0
    made = [Path(line) for line in capsys.readouterr().out.splitlines()[1:]]
    path = made[0].parent if kind == "csd" else made[0]
    page = tmp_path / "page.html"
    assert main(["data", "check", str(path), "--page", str(page)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[1].endswith(", synthetic")
    assert {"mmsa": "MMSA pickle", "mult": "MulT pickle", "csd": "CSD folder"}[kind.split("-")[0]] in text
    assert ("unaligned" in text.splitlines()[1]) == kind.endswith(("unaligned", "noalign"))
    assert "no video is in two splits" in text
    assert "train: 64 samples, 8 videos" in text
    assert "infinite values" in text or kind == "csd"
    assert main(["data", "check", str(folder)]) == 0  # the tree around it will do
    assert capsys.readouterr().out.splitlines()[:2] == text.splitlines()[:2]
    html = page.read_text("utf-8")
    assert "no video is in two splits" in html
    assert "plotly" in html


def test_the_figure_has_every_split_and_modality():
    whole = contents_of(
        train=part(["<b>", "c"], lengths={"text": np.array([1, 2])}),
        test=part(["c", "c"], lengths={"text": np.array([3, 4]), "audio": np.array([5, 6])}),
    )
    figure = plot(histograms(whole), lengths(whole), "title")
    assert {t.name for t in figure.data} == {"train", "test", "text", "audio"}
    for bar in figure.data[:2]:
        assert sum(bar.y) == pytest.approx(1)
    assert len(plot({}, {}, "nothing").data) == 0
    assert "&lt;script&gt;" in contents_page(figure, "<script>")


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"hello", b"<!doctype html>"])
def test_what_is_no_data_is_named(content, tmp_path, capsys):
    for name in ("x.pkl", "x.dat"):
        (tmp_path / name).write_bytes(content)
        assert main(["data", "check", str(tmp_path / name)]) == 1
        assert name in capsys.readouterr().err
    with pytest.raises(DataError, match="nowhere: not found"):
        inspect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["make", "mosi"], "nothing to make; there are mini-mosi"),
        (["make", "mini-mosi", "--format", "h5"], "format: found 'h5'; mini-mosi can be written as mmsa, "),
        (["make", "mini-mosi", "--size", "0"], "size: found 0"),
    ],
)
def test_mistakes_are_one_clear_line(words, says, capsys, tmp_path):
    assert main(["data", *words, *(["--folder", str(tmp_path)] if words[0] == "make" else [])]) == 1
    assert says in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# --- the real files, where they are ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("mosi_utterances", ["train: 1447 samples, 62 videos", "no video is in two splits", "nothing wrong was found"]),
        ("mosi_labels", ["train: 1284 samples", "valid: 229 samples", "test: 686 samples", "nothing wrong"]),
        ("ict_mmmo", ["valid: 40 samples", "test: 80 samples"]),
        (
            "mvsa_single",
            ["28 of 518 texts of valid are also in train", "21 of 519 texts of test are also in train"],
        ),
        ("nyuv2", ["train: 795 samples", "test: 654 samples", "no id is in two splits", "nothing wrong was found"]),
        ("nyuv2/frames", ["train: 795 samples", "no scene is in two splits", "341 of 795 training labels derived"]),
        ("mosi_standard", ["train: 1284 samples, 52 videos", "no video is in two splits", "nothing wrong was found"]),
        ("mosi_words", ["all: 229 samples, 10 videos", "nothing wrong was found"]),
    ],
)
def test_the_real_files(place, says):
    path = Path(REAL) / place
    if not REAL or not path.is_dir():
        pytest.skip(f"no {place} here: set ALIGNMAMBA2_MIRROR to the folder that holds it")
    text = report(inspect(path))
    for sentence in says:
        assert sentence in text
