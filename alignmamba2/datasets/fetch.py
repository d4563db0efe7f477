"""Public files, by hash: from their home on the network, or from a folder that mirrors them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pooch

from ..storage.files import file_hash
from .base import DataError

MIRROR_VARIABLE = "ALIGNMAMBA2_MIRROR"
ROOT_VARIABLE = "ALIGNMAMBA2_DATA"


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder of all data sets.

    In this order: `root`; $ALIGNMAMBA2_DATA; data/ of the working folder; data/ of the nearest folder above it that has
    a data/README.md, as a clone has; data/ of the working folder, which then does not exist yet.
    """
    if chosen := root or os.environ.get(ROOT_VARIABLE):
        return Path(chosen)
    here = Path("data")
    above = (folder / "data" for folder in Path.cwd().parents)
    return here if here.is_dir() else next((data for data in above if (data / "README.md").is_file()), here)


def find_folder(root: str | Path | None, names: Sequence[str], members: Sequence[str]) -> Path | None:
    """Return the data root, or the first folder of these names in it, that has one of these files or folders in it."""
    base = data_root(root)
    folders = (base, *(base / name for name in names))
    return next((folder for folder in folders if any((folder / member).exists() for member in members)), None)


@dataclass(frozen=True)
class Source:
    """Files with a public home.

    Attributes
    ----------
    folder : name of the folder below the data root, and below a mirror
    url : the home, ending in "/"
    hashes : mapping of relative path to SHA-256
    """

    folder: str
    url: str
    hashes: Mapping[str, str]

    def missing(self, root: Path) -> list[str]:
        return [name for name in self.hashes if not (root / self.folder / name).is_file()]

    def mirror(self) -> Path | None:
        """This source's folder in $ALIGNMAMBA2_MIRROR, if the variable is set and every file is there."""
        mirror = os.environ.get(MIRROR_VARIABLE)
        return Path(mirror) / self.folder if mirror and not self.missing(Path(mirror)) else None

    def at_hand(self, root: str | Path | None = None) -> bool:
        """Return whether `ensure` needs no network: every file is below the data root, or in the mirror."""
        return not self.missing(data_root(root)) or self.mirror() is not None

    def hashes_in(self, folder: Path) -> tuple[dict[str, str], list[str]]:
        """Return the SHA-256 of the files that a folder has, and the names of those that are not the published ones."""
        cache = data_root() / "cache"
        hashes = {name: file_hash(folder / name, cache) for name in self.hashes if (folder / name).is_file()}
        return hashes, [name for name, digest in hashes.items() if digest != self.hashes[name]]

    def fetch(self, root: str | Path | None = None, progress: bool = True) -> Path:
        """Bring every file to ``root/folder``, checked; a file that is there and right is left alone.

        A file appears only when it is whole and has the right hash.

        Raises
        ------
        DataError
            Naming the file that could not be had, or is not the published one.
        """
        folder = data_root(root) / self.folder
        mirror = os.environ.get(MIRROR_VARIABLE)
        downloader, retries = (self._copy_from_mirror, 0) if mirror else self._downloader(progress)
        registry = {name: f"sha256:{digest}" for name, digest in self.hashes.items()}
        box = pooch.create(path=folder, base_url=self.url, registry=registry, retry_if_failed=retries)
        logger = pooch.get_logger()
        level = logger.level
        logger.setLevel("WARNING")  # pooch's own lines would break the progress bar
        try:
            for name in self.hashes:
                try:
                    box.fetch(name, downloader=downloader)
                except DataError:
                    raise
                except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
                    origin = f"{MIRROR_VARIABLE}={mirror}" if mirror else self.url
                    raise DataError(f"{folder / name}: could not be fetched from {origin}: {error}") from error
        finally:
            logger.setLevel(level)
        return folder

    def _downloader(self, progress: bool) -> tuple[Callable, int]:
        """Return pooch's downloader for the home, and how often to try again; other homes override this."""
        return pooch.HTTPDownloader(progressbar=progress), 2

    def _copy_from_mirror(self, url: str, output_file: str, _pooch: pooch.Pooch) -> None:
        source = Path(os.environ[MIRROR_VARIABLE]) / self.folder / url.removeprefix(self.url)
        if not source.is_file():
            raise DataError(f"{source}: not found; {MIRROR_VARIABLE} is set, so nothing is asked of the network")
        shutil.copyfile(source, output_file)

    def ensure(self, name: str, root: str | Path | None = None) -> Path:
        """Return the folder with every file in it, each with the published hash; copies from a mirror unasked.

        Raises
        ------
        DataError
            Naming the files that are missing or changed, and the command that brings them.
        """
        base = data_root(root)
        command = f"python -m alignmamba2 data fetch {name}"
        missing = self.missing(base)
        if missing and self.mirror():
            return self.fetch(base, progress=False)
        if missing:
            raise DataError(f"{base / self.folder}: missing {missing}. Bring them with: {command}")
        for file, expected in self.hashes.items():
            path = base / self.folder / file
            digest = pooch.file_hash(path)
            if digest != expected:
                raise DataError(
                    f"{path}: SHA-256 {digest}, expected {expected}; the file is damaged or another version. "
                    f"Remove it and run: {command}"
                )
        return base / self.folder
