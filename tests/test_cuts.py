"""A file cut off at 200 random places: always a clear error that names it. Other formats: beside their own tests."""

from __future__ import annotations

import numpy as np
import pytest

from alignmamba2.datasets import DataError, inspect, mosi, rated_sentences
from alignmamba2.datasets.formats import nyu_files
from alignmamba2.datasets.formats.images import read_picture
from studies.datasets import ict_mmmo
from tests.stress.fuzz_targets import TARGETS

CUTS = 200


def cut_anywhere(path, read, least=1):
    """`least` bytes at least are missing: of a PNG, the last are checksums and a mark of the end."""
    whole = path.read_bytes()
    read()
    for size in np.random.default_rng(0).integers(0, len(whole) - least, CUTS):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=path.name.replace(".", r"\.")):
            read()


def test_ict_mmmo(tmp_path):
    TARGETS["ict-mmmo"].make(tmp_path)
    path = tmp_path / "audio_valid.h5"
    cut_anywhere(path, lambda: ict_mmmo.read_split(tmp_path, "valid"))
    with pytest.raises(DataError, match=r"audio_valid\.h5"):
        inspect(tmp_path)


def test_labels_of_mosi(tmp_path):
    import h5py

    for split, size in zip(mosi.SPLITS, mosi.STANDARD["mosi"], strict=True):
        with h5py.File(tmp_path / mosi.LABELS[split], "w") as file:
            file["data"] = np.zeros((size, 1), np.float32)
    cut_anywhere(tmp_path / mosi.LABELS["test"], lambda: inspect(tmp_path))


def test_the_archive_of_reviews(tmp_path):
    TARGETS["reviews-archive"].make(tmp_path)
    path = tmp_path / "a.tar.gz"
    cut_anywhere(path, lambda: rated_sentences.read_reviews(path))


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_pictures(kind, tmp_path):
    TARGETS["picture"].make(tmp_path)
    path = tmp_path / f"a.{kind}"
    cut_anywhere(path, lambda: read_picture(path), least=24)


def test_frames_in_folders(tmp_path):
    TARGETS["nyu-folders"].make(tmp_path)
    folder = tmp_path / nyu_files.FOLDERS
    cut_anywhere(folder / "train" / "kitchen" / "1.png", lambda: nyu_files.FolderFrames(folder).picture(0), least=24)
