"""Miniatures: generated data sets in the formats of the real ones."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ...storage.files import whole_folder
from ..base import DataError, Dataset


def write_generated(folder: Path, write: Callable[[Path], None]) -> list[Path]:
    """Let `write` fill a new folder, which appears whole or not at all; return the paths of its files."""
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: not empty; name another folder")
    with whole_folder(folder) as part:
        write(part)
    return sorted(p for p in folder.rglob("*") if p.is_file())


def seeded(splits: Mapping[str, Dataset], seed: int) -> dict[str, Dataset]:
    """Return the splits of a generated set with its seed in every protocol."""
    return {
        split: replace(d, protocol=d.protocol.replace("synthetic", f"synthetic, seed {seed}", 1))
        for split, d in splits.items()
    }
