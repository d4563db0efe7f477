"""Write requirements.lock: the exact versions, in this environment, of what `make` installs."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HEAD = """# Exact versions of what `make` installs, as constraints: pip install -c requirements.lock ...
# Written on Python {python} by `python -m tools lock`, do not edit. pyproject.toml has the ranges.
"""


def asked(makefile: Path = ROOT / "Makefile") -> tuple[list[Requirement], list[Requirement]]:
    """Return what the Makefile installs, the package with its extras among it; and what without its dependencies."""
    wanted: tuple[list[Requirement], list[Requirement]] = ([], [])
    for line in re.findall(r"\$\(PIP\) (.+)", makefile.read_text("utf-8")):
        words = [word.strip('"') for word in line.split() if re.search(r"==|\[", word)]
        wanted["--no-deps" in line].extend(Requirement(word.replace(".[", "alignmamba2[")) for word in words)
    return wanted


def closure(wanted: Sequence[Requirement], alone: Sequence[Requirement] = ()) -> dict[str, str]:
    """Return name and version of each package that these need here, without build tags such as +cpu.

    Of `alone`, what they need is left out. A `ValueError` names what is not installed.
    """
    versions = {canonicalize_name(r.name): distribution(r.name).version for r in alone}
    seen: set[tuple[str, str]] = set()
    todo = [(r.name, extra) for r in wanted for extra in ("", *r.extras)]
    while todo:
        name, extra = todo.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        if name == PROJECT["name"]:  # as the file says now, and not as it did when the clone was installed
            todo += _needs(PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"], "")
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError as error:
            raise ValueError(
                f"{name}: not installed here; run `make test` first, and call this with its Python"
            ) from error
        versions[canonicalize_name(name)] = package.version.partition("+")[0]
        todo += _needs(package.requires or (), extra)
    return dict(sorted(versions.items()))


def _needs(requirements: Sequence[str], extra: str) -> Iterator[tuple[str, str]]:
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            yield from ((requirement.name, e) for e in ("", *requirement.extras))


def main(argv: Sequence[str]) -> None:
    """Write the file, beside the Makefile."""
    import platform

    parser = argparse.ArgumentParser(prog="python -m tools lock", description=__doc__)
    parser.add_argument("--file", type=Path, default=ROOT / "requirements.lock")
    path = parser.parse_args(argv).file
    versions = closure(*asked())
    lines = [f"{name}=={version}\n" for name, version in versions.items()]
    path.write_text(HEAD.format(python=platform.python_version()) + "".join(lines), encoding="utf-8")
    print(f"written: {path}, {len(lines)} packages")
