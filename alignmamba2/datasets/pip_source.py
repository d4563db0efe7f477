"""Files that a package index has: the source archive of a package, which pip brings."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pooch

from .base import DataError
from .fetch import Source


@dataclass(frozen=True)
class PipSource(Source):
    """A source whose one file is the source archive of a package; `url` is the package's page, for people.

    Attributes
    ----------
    requirement : such as "vaderSentiment==3.3.2"
    """

    requirement: str = ""

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
