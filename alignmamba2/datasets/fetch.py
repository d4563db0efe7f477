"""Public files, by hash: from their home on the network, or from a folder that mirrors it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pooch

from .base import DataError

MIRROR_VARIABLE = "ALIGNMAMBA2_MIRROR"
ROOT_VARIABLE = "ALIGNMAMBA2_DATA"


def data_root(root: str | Path | None = None) -> Path:
    """Where data sets lie: `root`, else $ALIGNMAMBA2_DATA, else data/ of the clone, or of the working folder."""
    clone = Path(__file__).parents[2] / "data"
    default = clone if (clone / "README.md").is_file() else Path("data")
    return Path(root or os.environ.get(ROOT_VARIABLE) or default)


@dataclass(frozen=True)
class Source:
    """A set of files with a public home.

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
        variable = os.environ.get(MIRROR_VARIABLE)
        folder = Path(variable) / self.folder if variable else None
        return folder if folder and all((folder / name).is_file() for name in self.hashes) else None

    def at_hand(self, root: str | Path | None = None) -> bool:
        """Whether `ensure` needs no network: every file is below the data root, or in the mirror."""
        return not self.missing(data_root(root)) or self.mirror() is not None

    def fetch(self, root: str | Path | None = None, progress: bool = True) -> Path:
        """Bring every file to ``root/folder``, checked; a file that is there and right is left alone.

        Files appear only once they are whole and their hash is right.

        Raises
        ------
        DataError
            Naming the file: it could not be had, or is not the published one.
        """
        folder = data_root(root) / self.folder
        mirror = os.environ.get(MIRROR_VARIABLE)
        downloader = self._copy_from_mirror if mirror else pooch.HTTPDownloader(progressbar=progress)
        registry = {name: f"sha256:{digest}" for name, digest in self.hashes.items()}
        box = pooch.create(path=folder, base_url=self.url, registry=registry, retry_if_failed=0 if mirror else 2)
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

    def _copy_from_mirror(self, url: str, output_file: str, _pooch: pooch.Pooch) -> None:
        source = Path(os.environ[MIRROR_VARIABLE]) / self.folder / url.removeprefix(self.url)
        if not source.is_file():
            raise DataError(f"{source}: not found; {MIRROR_VARIABLE} is set, so nothing is asked of the network")
        shutil.copyfile(source, output_file)

    def ensure(self, name: str, root: str | Path | None = None) -> Path:
        """The folder with every file in it, each with the published hash; a mirror is used without being asked.

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
        for file, digest in self.hashes.items():
            path = base / self.folder / file
            found = pooch.file_hash(path)
            if found != digest:
                raise DataError(
                    f"{path}: SHA-256 {found}, expected {digest}; the file is damaged or another version. "
                    f"Remove it and run: {command}"
                )
        return base / self.folder
