"""Bring data, train, evaluate, ablate and reproduce on the command line: ``python -m alignmamba2 VERB``."""

import argparse
import ast
import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

Option = tuple[tuple[str, ...], dict[str, Any]]  # of argparse's `add_argument`


def option(*names: str, **settings: Any) -> Option:
    return names, settings


@dataclass(frozen=True)
class Verb:
    """A word of the command line: what help says of it, what does it, its options."""

    help: str
    do: Callable[[argparse.Namespace], int | None]
    options: Sequence[Option] = ()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help lists what there is\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and do what it says. Returns the exit status."""
    # Threads that wait sleep: where other programs run too, those that spin take a training five times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if os.getcwd() not in sys.path:  # as with `python -m`, a data set's "module:function" may lie here
        sys.path.append(os.getcwd())
    arguments = parser().parse_args(argv)
    try:
        return arguments.do(arguments) or 0
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    except Exception as error:  # a message, no trace; of an error that the library does not word itself, its kind too
        if os.environ.get("ALIGNMAMBA2_DEBUG"):
            raise
        from .storage.files import printable

        known = isinstance(error, (ValueError, OSError, ImportError))
        kind = "" if known else f"{type(error).__name__} (ALIGNMAMBA2_DEBUG=1 shows where): "
        print(f"error: {kind}{printable(' '.join(str(error).split())) or 'no more is known'}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs. Nothing heavy is imported before a verb is done."""
    root = _Parser(prog=_program(), description=__doc__.replace("`", ""))
    verbs = root.add_subparsers(required=True, metavar="VERB")
    data = verbs.add_parser("data", help="bring, make and check data sets")
    _add_verbs(data.add_subparsers(required=True, metavar="WHAT"), DATA)
    _add_verbs(verbs, VERBS)
    return root


def _add_verbs(choices: Any, verbs: Mapping[str, Verb]) -> None:
    for name, verb in verbs.items():
        parser = choices.add_parser(name, help=verb.help)
        for names, settings in verb.options:
            parser.add_argument(*names, **settings)
        parser.set_defaults(do=verb.do)


def _machines(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("accelerator", "devices", "precision", "accumulate", "num_workers", "compile")
    return {name: getattr(arguments, name) for name in names}


def _devices(text: str) -> int | str:
    return int(text) if re.fullmatch(r"[+-]?\d+", text) else text


def _first() -> bool:
    """Whether this process speaks and writes: of those that train together, the first."""
    return os.environ.get("RANK", "0") == "0"


def _program() -> str:
    return "alignmamba2" if Path(sys.argv[0]).stem == "alignmamba2" else "python -m alignmamba2"


def _seeds(text: str) -> list[int]:
    ends = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    seeds = range(int(ends[1]), int(ends[2] or ends[1]) + 1) if ends else ()
    if not seeds:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a seed, or the first and the last, such as 1-5")
    return list(seeds)


def setting(text: str) -> tuple[str, Any]:
    """Return key and value of ``KEY=VALUE``: true, false, a Python literal, or else a string; of A,B, a tuple."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected KEY=VALUE")
    try:
        return key, ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    except (ValueError, SyntaxError):  # plain words are strings
        words = re.fullmatch(r"[^][(){}'\"]+,[^][(){}'\"]*", value)
        return key, tuple(setting(f"{key}={x}")[1] for x in value.split(",") if x) if words else value


def _fetch(arguments: argparse.Namespace) -> None:
    from .datasets import ENTRIES, entry_of

    entry = entry_of(arguments.name)
    if entry.source is None:
        known = ", ".join(name for name, entry in ENTRIES.items() if entry.source)
        raise ValueError(f"data set {arguments.name!r}: nothing to fetch; there are {known}")
    options = [name for name in ("pictures", "frames") if getattr(arguments, name)]
    folders = [str(source.fetch(arguments.root)) for source in entry.sources(*options)]
    print(f"{arguments.name}: all files are in {', '.join(folders)}, with the published hashes")


def _list(arguments: argparse.Namespace) -> None:
    from .datasets import ENTRIES

    for name, entry in ENTRIES.items():
        print(f"{name:20s} {'present' if entry.present() else entry.command}")


def _check(arguments: argparse.Namespace) -> None:
    from .datasets import inspect
    from .datasets.contents import histograms, lengths, report

    contents = inspect(arguments.path)
    text = report(contents)
    print(text, end="")
    if arguments.page:
        from .figures.contents import contents as plot
        from .figures.contents import contents_page
        from .storage.files import write_text

        kind = f"{'synthetic, ' if contents.synthetic else ''}{contents.format}"
        figure = plot(histograms(contents), lengths(contents), arguments.path.name, kind)
        write_text(arguments.page, contents_page(figure, text))
        print(f"\npage to open: {arguments.page}")


def _make(arguments: argparse.Namespace) -> None:
    from .datasets import ENTRIES
    from .datasets.fetch import data_root

    entry = ENTRIES.get(arguments.name)
    if entry is None or entry.make is None:
        known = ", ".join(name for name, e in ENTRIES.items() if e.make)
        raise ValueError(f"data set {arguments.name!r}: nothing to make; there are {known}")
    kind = arguments.format or entry.formats[0]
    if kind not in entry.formats:
        raise ValueError(f"format: found {kind!r}; {arguments.name} can be written as {', '.join(entry.formats)}")
    if arguments.size is not None and arguments.size < 1:
        raise ValueError(f"size: found {arguments.size}; expected at least 1")
    folder = arguments.folder or data_root() / arguments.name
    paths = entry.make(folder, format=kind, seed=arguments.seed, size=arguments.size)
    print(f"{arguments.name}, synthetic, as {kind}:", *paths, sep="\n")


def _train(arguments: argparse.Namespace) -> None:
    from .experiments import grid, ranked, run_variants, table

    options, results, best = _options(arguments), {}, {}
    overrides = options.pop("overrides")
    for recipe in arguments.recipes:
        rows = run_variants(recipe, arguments.seeds, grid(recipe, overrides), **options)
        if len(rows) > 1:
            metric, rows = ranked(rows)
            head = f"Validation split, mean ± sd over seeds, best {metric} first; shares in %"
            options["say"](f"\n{head}\n\n{table(rows, 'valid', metric)}\n")
        results |= rows
        best |= dict([*rows.items()][:1])
    _report(results, arguments, "results", best)


def _ablate(arguments: argparse.Namespace) -> None:
    from .experiments import run_variants

    (recipe,) = arguments.recipes
    results = run_variants(recipe, arguments.seeds, **_options(arguments))
    _report(results, arguments, "ablations", results)


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    for folder in filter(None, (arguments.folder, arguments.results and arguments.results.parent)):
        folder.mkdir(parents=True, exist_ok=True)  # now, not after the training
    return {
        "overrides": dict(arguments.overrides),
        "fast": arguments.fast,
        "folder": arguments.folder,
        "progress": not arguments.quiet,
        "overwrite": arguments.overwrite,
        "machines": {**_machines(arguments), "trackers": arguments.trackers},
        "say": print if _first() else lambda _: None,
    }


def _report(results: dict[str, Any], arguments: argparse.Namespace, name: str, shown: dict[str, Any]) -> None:
    from .experiments import run_name, summary_of, table, write_results

    if not _first():
        return
    print("\nTest split, mean ± sd over seeds, in %; each model chosen on validation\n\n" + table(shown))
    name, numbers = run_name(name, dict(arguments.overrides)), itertools.count(2)
    path = arguments.folder / f"{name}.json"
    while path.exists() and not arguments.overwrite:  # results of other recipes, say
        path = arguments.folder / f"{name}-{next(numbers)}.json"
    path = arguments.results or path
    print(f"\nwritten: {write_results(path, results, _command(), summary_of(results))}")


def _command() -> str:
    return f"{_program()} {shlex.join(sys.argv[1:])}"


def _evaluate(arguments: argparse.Namespace) -> None:
    from .experiments import evaluate_folders, table, write_results

    results = evaluate_folders(arguments.folders, arguments.split, arguments.trust)
    print(f"{arguments.split} split, mean ± sd over models, in %\n\n" + table(results, arguments.split))
    if arguments.results:
        print(f"\nwritten: {write_results(arguments.results, results, _command())}")


def _reproduce(arguments: argparse.Namespace) -> None:
    from .experiments import benchmark_names, comparison, reproduce

    if arguments.jobs < 1:
        raise ValueError(f"--jobs: found {arguments.jobs}; expected at least 1")
    report = reproduce(
        benchmark_names(arguments.names),
        arguments.seeds,
        folder=arguments.folder,
        fast=arguments.fast,
        jobs=arguments.jobs,
        command=_command(),
        only=arguments.only,
        equal=arguments.equal,
        progress=not arguments.quiet and _first(),
        machines=_machines(arguments),
        say=print if _first() else lambda _: None,
    )
    if not _first():
        return
    for path in filter(None, (arguments.folder / "report.json", arguments.results)):
        _write(path, report)
    print("\n" + "\n".join(comparison(report)))
    print(f"\nwritten: {arguments.folder / 'report.json'}")
    print(f"its page, with intervals and tests, from a clone: python -m tools page {arguments.folder}")


def _write(path: Path, report: Mapping[str, Any]) -> None:
    from .storage.files import write_text

    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(report, indent=1) + "\n")


def _search(arguments: argparse.Namespace) -> None:
    from .experiments import search

    space = {key: values if isinstance(values, (list, tuple)) else [values] for key, values in arguments.space}
    names = ("kinds", "trials", "folds", "seed", "folder", "fast")
    options = {name: getattr(arguments, name) for name in names}
    report = search(arguments.recipe, space, **options, command=_command(), progress=not arguments.quiet)
    path = arguments.results or Path("runs") / f"search-{Path(arguments.recipe).stem}.json"
    _write(path, report)
    for kind, place in report["chosen"].items():
        trial = report["trials"][place]
        print(f"{kind}: {trial['change'] or 'the recipe as it is'}, {trial['epochs']} epochs")
    print(f"written: {path}")


def _results(arguments: argparse.Namespace) -> None:
    from .experiments import results
    from .experiments.results import latex

    table = results(arguments.folder)
    if table.empty:
        raise ValueError(f"{arguments.folder}: no finished run found; expected a folder that train or reproduce wrote")
    print(table.to_csv(index=False) if arguments.to == "csv" else latex(table), end="")


def _course(arguments: argparse.Namespace) -> None:
    from .launch import copy_course

    folder = copy_course(arguments.folder)
    print(f"{len([*folder.glob('*.ipynb')])} notebooks are in {folder}; open them with: {_program()} start {folder}")


def _start(arguments: argparse.Namespace, target: Path | None = None) -> int:
    from .launch import start

    options = {"browser": not arguments.no_browser, "port": arguments.port, "allow_root": arguments.allow_root}
    return start(target or arguments.target, **options)


def _explore(arguments: argparse.Namespace) -> int:
    from .launch import write_explorers

    return _start(arguments, write_explorers(arguments.checkpoint, arguments.folder, arguments.split, arguments.trust))


def _doctor(arguments: argparse.Namespace) -> None:
    import torch

    from .gpu import packages
    from .scan import available_backends
    from .training.environment import ADD_COMPILER, no_compiler

    print("backends of the selective scan")
    for backend in available_backends():
        print(f"  {backend.name:10s} {'works' if backend.works else 'missing':8s} {backend.reason}")
        if backend.fix:
            print(f"  {'':19s} add it with: {backend.fix}")
    if torch.cuda.is_available():
        function, reason, fix = packages.causal_conv1d()
        print("causal convolution")
        word, more = ("works", "") if function else ("missing", "; our own does without")
        print(f"  {'':10s} {word:8s} {reason}{more}")
        if fix:
            print(f"  {'':19s} add it with: {fix}")
    why = no_compiler()
    print("torch.compile, for train --compile")
    print(f"  {'':10s} {'missing' if why else 'works':8s} {why or 'there is a C++ compiler'}")
    if why:
        print(f"  {'':19s} add it with: {ADD_COMPILER}")


NAME = option("name")
DATA = {
    "fetch": Verb(
        "download a data set's files from their public home, checked by hash",
        _fetch,
        [
            NAME,
            option("--root", help="folder of all data sets (default: $ALIGNMAMBA2_DATA, else data/)"),
            option("--pictures", action="store_true", help="of mvsa: the pictures and texts too, 125 MB"),
            option("--frames", action="store_true", help="of nyu: the colour pictures and depth maps too, 105 MB"),
        ],
    ),
    "check": Verb(
        "say what a file or folder of data holds, leaks between splits, and what is wrong",
        _check,
        [
            option("path", type=Path),
            option("--page", type=Path, metavar="OUT.html", help="also write it as a page with plots"),
        ],
    ),
    "make": Verb(
        "write a generated data set in the real files' format",
        _make,
        [
            NAME,
            option("--format", help="the real format to write (default: the first of its formats)"),
            option("--folder", type=Path, help="where to (default: a folder of that name among the data sets)"),
            option("--seed", type=int, default=0),
            option("--size", type=int, help="training samples"),
        ],
    ),
    "list": Verb("list the data sets, and whether their files are here", _list),
}

MACHINES = [
    option("--accelerator", default="auto", help="cpu, gpu, mps or auto (default: auto)"),
    option("--devices", type=_devices, default=1, help="processes here that share each batch, or auto"),
    option("--precision", help="32-true or bf16-mixed; default the recipe's"),
    option("--accumulate", type=int, default=1, help="parts that each batch is taken in (default: 1)"),
    option("--num-workers", type=int, default=0, help="processes that read ahead (default: 0)"),
    option("--compile", action="store_true", help="train through torch.compile (needs a C++ compiler)"),
]

SETTINGS = {"metavar": "KEY=VALUE,...", "action": "append", "default": [], "type": setting}
SWEEP = "change a setting; train takes each value of KEY=A,B, or the list if KEY is one; [A],[B] are two lists then"
RUNS = [  # of `train` and `ablate`
    option("--seed", "--seeds", dest="seeds", type=_seeds, default=[1111], help="1111, or 1111-1115"),
    option("--set", dest="overrides", help=SWEEP, **SETTINGS),
    option("--folder", type=Path, default=Path("runs"), help="where models go (default: runs)"),
    option("--results", type=Path, help="default: results.json or ablations.json in --folder, --set in the name"),
    option("--overwrite", action="store_true", help="train anew where the folder has a finished run"),
    option("--fast", action="store_true", help="two epochs: to see that everything runs"),
    option("--quiet", action="store_true", help="no progress bars"),
    option("--tracker", dest="trackers", action="append", default=[], help="csv, tensorboard, wandb, ..."),
    *MACHINES,
]

RECIPE = {"metavar": "RECIPE", "help": "a recipe's name, or a .toml file"}
MODEL = {"type": Path, "metavar": "FOLDER", "help": "a folder that train wrote"}
TRUST = option("--trust", action="store_true", help="follow folders, modules and hub models that its files name")
SERVER = [
    option("--port", type=int, default=8888, help="the first one free from here on (default: 8888)"),
    option("--no-browser", action="store_true", help="only print the address"),
    option("--allow-root", action="store_true", help="JupyterLab may run as root, as in a container"),
]
VERBS = {
    "train": Verb(
        "train recipes, one run per seed; report test accuracy and F1",
        _train,
        [option("recipes", nargs="+", **RECIPE), *RUNS],
    ),
    "evaluate": Verb(
        "evaluate trained models; mean ± sd over the folders",
        _evaluate,
        [
            option("folders", nargs="+", **MODEL),
            option("--split", default="test", choices=("train", "valid", "test")),
            TRUST,
            option("--results", type=Path, help="write a results file"),
        ],
    ),
    "ablate": Verb(
        "train a recipe and its ablations on the same protocol", _ablate, [option("recipes", nargs=1, **RECIPE), *RUNS]
    ),
    "search": Verb(
        "choose settings by k-fold cross-validation, as many for each kind of model; write all that was tried",
        _search,
        [
            option("recipe", **RECIPE),
            option("--try", dest="space", **SETTINGS),
            option("--kinds", nargs="+", default=["alignmamba2"], help="alignmamba2 and baselines, at equal size"),
            option("--trials", type=int, default=8, help="settings per kind, with the recipe's own (default: 8)"),
            option("--folds", type=int, default=5),
            option("--seed", type=int, default=0),
            option("--folder", type=Path, default=Path("runs/search"), help="of finished trainings"),
            option("--results", type=Path, help="default: runs/search-RECIPE.json"),
            option("--fast", action="store_true", help="two epochs per training: to see that everything runs"),
            option("--quiet", action="store_true", help="no progress bar"),
        ],
    ),
    "reproduce": Verb(
        "train AlignMamba-2, baselines and ablations on benchmarks; one report",
        _reproduce,
        [
            option("names", nargs="*", default=["all"], metavar="BENCHMARK", help="names, 'mini-*', or all"),
            option("--seed", "--seeds", dest="seeds", type=_seeds, default=_seeds("1111-1115")),
            option("--fast", action="store_true", help="two epochs per run: to see that everything runs"),
            option("--jobs", type=int, default=1, help="runs at a time"),
            option("--only", nargs="+", metavar="VARIANT", help="these rows alone"),
            option("--equal", choices=("stored", "active"), help="baselines' parameters; default: the recipe's"),
            option("--folder", type=Path, default=Path("runs/reproduce"), help="of finished runs and the report"),
            option("--results", type=Path, help="also write the report's numbers here"),
            option("--quiet", action="store_true", help="no progress bar"),
            *MACHINES,
        ],
    ),
    "results": Verb(
        "print the finished runs below a folder, as CSV or a LaTeX table",
        _results,
        [
            option("folder", nargs="?", type=Path, default=Path("runs"), help="default: runs"),
            option("--to", choices=("csv", "latex"), default="csv", help="a row per run, or mean ± sd (booktabs)"),
        ],
    ),
    "course": Verb(
        "copy the course's notebooks into a folder",
        _course,
        [option("folder", type=Path, metavar="FOLDER", help="where folders notebooks and results go")],
    ),
    "start": Verb(
        "open JupyterLab on the course, on this machine alone, behind a token",
        _start,
        [option("target", nargs="?", type=Path, default=Path("notebooks"), help="default: notebooks"), *SERVER],
    ),
    "explore": Verb(
        "open JupyterLab with every explorer on a trained model and its data",
        _explore,
        [
            option("checkpoint", **MODEL),
            option("--split", default="test", help="of the data (default: test)"),
            option("--folder", type=Path, default=Path("runs/explore"), help="where the notebook goes"),
            TRUST,
            *SERVER,
        ],
    ),
    "doctor": Verb("say what works on this machine, and the command that adds what is missing", _doctor),
}

if __name__ == "__main__":
    sys.exit(main())
