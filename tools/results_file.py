"""Results files: each part with the command, date, versions and machine that it is of."""

from __future__ import annotations

import json
from pathlib import Path

from alignmamba2.experiments import provenance
from alignmamba2.storage.files import write_text


def keep(path: Path, parts: dict[str, object], command: str) -> Path:
    """Write measurements into a results file, each part with the command and date that it is of.

    Parts of the file that were not measured now stay as they are, so that a long measurement can be made in pieces.
    """
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    now = provenance(command)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({**known, **{n: {**now, "results": r} for n, r in parts.items()}}, indent=1) + "\n")
    return path
