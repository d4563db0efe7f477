"""`rated-sentences`: what is read of the archive, written as speech is transcribed, each sentence once."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import tarfile

import pytest

from alignmamba2.datasets import load_dataset, rated_sentences

RATINGS = rated_sentences.RATINGS.format("movieReviewSnippets")
LINES = [
    "1\t2.5\tA ''fine'' film!",
    "2\t-1\tNot so fine...",
    "3\t0.5\ta FINE film",
    "4\t1\t...",
    "5\t-3.5\tBad, isn't it?",
]


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path))
    inner = tar({RATINGS: "\n".join(LINES).encode()})
    content = tar({rated_sentences.INNER: inner})
    path = tmp_path / "spoken_reviews" / rated_sentences.ARCHIVE
    path.parent.mkdir()
    path.write_bytes(content)
    hashes = {rated_sentences.ARCHIVE: hashlib.sha256(content).hexdigest()}
    monkeypatch.setattr(rated_sentences, "SOURCE", dataclasses.replace(rated_sentences.SOURCE, hashes=hashes))
    monkeypatch.setattr(rated_sentences, "SHARES", {"train": 0.34, "valid": 0.33, "test": 0.33})
    return path


def test_sentences_and_labels(archive, monkeypatch):
    seen = []

    def token_ids(name, sentences, longest):
        seen.append((name, longest))
        return [rated_sentences.torch.tensor([len(s)]) for s in sentences]

    monkeypatch.setattr(rated_sentences, "token_ids", token_ids)
    splits = load_dataset("rated-sentences", text="mpnet")
    samples = {s.id: s for part in splits.values() for s in part}
    assert seen == [("mpnet", rated_sentences.LONGEST)]
    assert {i: " ".join(s.words["text"]) for i, s in samples.items()} == {
        "1": "a fine film",  # the third is the same, as it is said, and the fourth says nothing
        "2": "not so fine",
        "5": "bad isn't it",
    }
    assert {i: float(s.label) for i, s in samples.items()} == {"1": 2.5, "2": -1, "5": -3.5}
    assert [len(part) for part in splits.values()] == [1, 1, 1]
    assert splits["train"].encoders == {"text": "mpnet"}
    assert "VADER" in splits["train"].protocol


def test_a_rating_out_of_range_is_named(archive):
    inner = tar({RATINGS: b"1\t4.5\tfine"})
    archive.write_bytes(tar({rated_sentences.INNER: inner}))
    with pytest.raises(rated_sentences.DataError, match=r"line 1: rating 4\.5; expected -4 to 4"):
        rated_sentences.read_reviews(archive)
