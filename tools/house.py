"""Measure the library's size and order: lines, files, arrows and circles of imports, long functions."""

from __future__ import annotations

import argparse
import ast
import io
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "alignmamba2"
LINES, FILES, MODEL_LINES, FUNCTION_LINES = 22_000, 150, 3_500, 60
# What one reads to know the model, and what of it is numba's.
MODEL, NOT_MODEL = ("batch", "model", "scan", "alignment"), ("scan.cpu",)

# Which part of the package may import which. Arrows run one way; `__init__` and `__main__` may import all.
MAY_IMPORT: dict[str, set[str]] = {
    "cpu": set(),
    "gpu": set(),
    "scan": {"cpu", "gpu"},
    "alignment": {"cpu", "gpu"},
    "metrics": set(),
    "batch": {"gpu"},
    "tasks": {"batch", "gpu", "metrics"},
    "storage": set(),
    "recipes": {"datasets"},
    "trace": {"alignment", "batch"},
    "model": {"alignment", "batch", "encoders", "gpu", "scan", "storage", "tasks", "trace"},
    "effects": {"batch", "model", "trace"},
    "baselines": {"alignment", "batch", "effects", "encoders", "model", "storage"},
    "encoders": {"batch", "storage"},
    "datasets": {"batch", "encoders", "storage", "tasks"},
    "training": {"baselines", "batch", "datasets", "encoders", "model", "recipes", "storage", "tasks"},
    "experiments": {
        *("baselines", "batch", "datasets", "effects", "encoders", "metrics", "model", "recipes", "storage", "tasks"),
        "training",
    },
    "figures": {"effects", "model", "trace"},
    "explorers": {"alignment", "effects", "figures", "metrics", "model", "trace"},
    "launch": {"datasets", "model", "storage", "training"},
    "program": {"batch", "model"},
}


@dataclass(frozen=True)
class Module:
    """A Python file of the package.

    Attributes
    ----------
    name : str
        Dotted, without the package's own name: "scan.interface"; "scan" for ``scan/__init__.py``; "" for the root.
    lines : int
        All lines, blank ones too.
    functions : name and lines of code of every function and method
        Blank lines, comments and docstrings do not count.
    imports : set of the package's modules that it imports, at its head or inside a function
    """

    name: str
    lines: int
    functions: tuple[tuple[str, int], ...] = ()
    imports: frozenset[str] = frozenset()

    @property
    def part(self) -> str:
        return self.name.partition(".")[0]


def read_package(package: Path = PACKAGE) -> dict[str, Module]:
    """Return every module of a package by its name."""
    names = {path: _name(path.relative_to(package)) for path in sorted(package.rglob("*.py"))}
    return {name: _read(path, name, set(names.values()), package.name) for path, name in names.items()}


def _name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def _read(path: Path, name: str, known: set[str], package: str) -> Module:
    source = path.read_text("utf-8")
    tree = ast.parse(source)
    code = code_lines(source, tree)
    functions = tuple(
        (node.name, len(code.intersection(range(node.lineno, node.end_lineno + 1))))
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    here = [package, *filter(None, name.split("."))]
    if path.stem != "__init__":
        here.pop()
    imports = frozenset(target for target in _imports(tree, here, known) if target != name)
    return Module(name, len(source.splitlines()), functions, imports)


def code_lines(source: str, tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that hold code: not blank, no comment, no docstring."""
    quiet = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in quiet:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


def _imports(tree: ast.Module, here: Sequence[str], known: set[str]) -> Iterator[str]:
    """Yield the modules of the package that a file in the folder `here` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            paths = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            paths = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for path in (path for path in paths if path[0] == here[0]):
            full, parent = ".".join(path[1:]), ".".join(path[1:-1])
            yield full if full in known else parent


def circles(modules: Mapping[str, Module]) -> list[list[str]]:
    """Return circles of imports, each as the names along it; one for every import that has to go."""
    graph = {name: set(module.imports) for name, module in modules.items()}
    circles = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return circles
        except CycleError as error:
            circle = error.args[1][::-1]  # graphlib goes from what is imported to what imports it
            circles.append(circle)
            graph[circle[0]].remove(circle[1])


def breaches(modules: Mapping[str, Module], may_import: Mapping[str, set[str]] = MAY_IMPORT) -> list[str]:
    """Return one line for everything that breaks a limit or a rule; empty if the house is in order."""
    lines = [
        f"{what}: {count:,}; at most {limit:,}"
        for what, count, limit in (
            ("importable lines", sum(m.lines for m in modules.values()), LINES),
            ("files", len(modules), FILES),
            ("lines to read to know the model", model_lines(modules), MODEL_LINES),
        )
        if count > limit
    ]
    lines += [
        f"circle of imports: {' → '.join(name or PACKAGE.name for name in circle)}" for circle in circles(modules)
    ]
    parts = {m.part for m in modules.values()} - {"", "__main__"}
    lines += [f"{part}: has no row in MAY_IMPORT" for part in sorted(parts - set(may_import))]
    lines += [f"{part}: has a row in MAY_IMPORT and no file" for part in sorted(set(may_import) - parts)]
    for name, module in modules.items():
        if module.part in may_import:
            allowed = may_import[module.part] | {module.part}
            lines += [f"{name}: imports {t or PACKAGE.name}" for t in sorted(module.imports) if _part(t) not in allowed]
    lines += [
        f"{name}: imports {target}, which is not there"
        for name, module in modules.items()
        for target in sorted(module.imports - modules.keys())
    ]
    lines += [
        f"{name}.{function}: {count} lines of code; at most {FUNCTION_LINES}"
        for name, module in modules.items()
        for function, count in module.functions
        if module.part != "cpu" and count > FUNCTION_LINES
    ]
    return lines


def _part(name: str) -> str:
    return name.partition(".")[0]


def model_lines(modules: Mapping[str, Module]) -> int:
    """Return how many lines one reads to know the model."""
    return sum(m.lines for m in modules.values() if m.part in MODEL and m.name not in NOT_MODEL)


def report(modules: Mapping[str, Module], longest: int = 10) -> str:
    """Return sizes by part and the longest files, as text."""
    parts: dict[str, list[Module]] = {}
    for module in modules.values():
        parts.setdefault(module.part or "__init__", []).append(module)
    lines = [
        f"importable lines {sum(m.lines for m in modules.values()):7,} of {LINES:,}",
        f"files            {len(modules):7,} of {FILES:,}",
        f"to know the model{model_lines(modules):7,} of {MODEL_LINES:,}",
        "",
        "by part: lines, files",
    ]
    sizes = sorted(((sum(m.lines for m in part), len(part), name) for name, part in parts.items()), reverse=True)
    lines += [f"  {count:6,} {files:4d}  {name}" for count, files, name in sizes]
    lines += ["", "longest files"]
    ranked = sorted(modules.values(), key=lambda m: -m.lines)[:longest]
    lines += [f"  {m.lines:6,}  {m.name}" for m in ranked]
    return "\n".join(lines)


def main(argv: Sequence[str] = ()) -> int:
    """Print sizes, then one line per breach. Returns 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m tools house", description=__doc__)
    parser.add_argument("package", nargs="?", type=Path, default=PACKAGE)
    modules = read_package(parser.parse_args(argv).package)
    print(report(modules))
    broken = breaches(modules)
    print("\nin order" if not broken else f"\n{len(broken)} breaches")
    print("\n".join(f"  {line}" for line in broken))
    return int(bool(broken))
