"""Run a folder of commands: ``python -m FOLDER NAME ...`` calls `main` of ``FOLDER/NAME.py``."""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def run_command(package: str, argv: Sequence[str] | None = None) -> int:
    """Run ``main(rest)`` of the module that the first word names; without one, list them. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = commands_of(package)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"python -m {package} NAME [options]; NAME --help says more\n")
        print("\n".join(f"  {name:12s} {line}" for name, line in commands.items()))
        return 0 if arguments else 2
    if arguments[0] not in commands:
        print(f"error: NAME: found {arguments[0]!r}; expected one of {', '.join(commands)}", file=sys.stderr)
        return 2
    try:
        status = importlib.import_module(f"{package}.{arguments[0]}").main(arguments[1:])
    except (ValueError, OSError, ImportError) as error:  # bad input: a line, no traceback
        if os.environ.get("ALIGNMAMBA2_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status if isinstance(status, int) else 0  # a benchmark returns what it measured


def commands_of(package: str) -> dict[str, str]:
    """Return the modules of a folder that have a `main`, each with the first line of its docstring."""
    folder = Path(importlib.import_module(package).__path__[0])
    trees = {path.stem: ast.parse(path.read_text("utf-8")) for path in sorted(folder.glob("[a-z]*.py"))}
    return {
        name: (ast.get_docstring(tree) or "").partition("\n")[0]
        for name, tree in trees.items()
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body)
    }
