"""Write the tables of README.md and results/README.md from the results files: no number is typed."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from alignmamba2.experiments import comparison, table
from alignmamba2.experiments.benchmarks import BENCHMARKS
from alignmamba2.storage.files import write_text

from .sections import sections

# Published on exactly these files (31 test videos, binary, all three modalities); accuracy in %.
PUBLISHED = (
    ("bc-LSTM (Poria et al., ACL 2017)", "released", 80.3),
    ("contextual inter-modal attention (Ghosal et al., EMNLP 2018)", "released", 82.31),
)
BEGIN, END = "<!-- results: written by `python -m tools report`, do not edit -->", "<!-- /results -->"
MAIN, ABLATIONS, COMPARED = "mosi-utterances.json", "ablations.json", "reproduce.json"
PLANTED = "planted.json"
BESIDE = "concat-mean"  # the simplest fusion
# Results files of the four benchmarks of the paper; the file's name is a benchmark's too.
REAL = {
    "mosi-standard": "CMU-MOSI",
    "mosei": "CMU-MOSEI",
    "nyu": "NYU-Depth V2",
    "nyu-strong": "NYU-Depth V2",
    "mvsa": "MVSA-Single",
}


def results_section(folder: Path) -> str:
    """The Markdown between README's two marks, from the results files in `folder`: one table, a row per recipe."""
    lines = [
        "Test accuracy in %; for MOSI and MOSEI with 0 counted as positive and, behind the stroke, without 0. In",
        "brackets the 95 % interval over seeds and over videos, scenes or posts. *linear*: ridge or logistic",
        "regression on the mean tokens of the same encoders, frozen.",
        "",
        "| | AlignMamba-2, published | best other, published | linear | measured here | seeds | recipe |",
        "|---|---|---|---|---|---|---|",
    ]
    notes, adds, harder = [], [], []
    for name, title in REAL.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            lines.append(f"| {title} | {_published(BENCHMARKS[name].published)} | – | not measured | | `{name}` |")
            continue
        report = json.loads(path.read_text("utf-8"))
        for benchmark in report["benchmarks"].values():
            lines.append(f"| {title} | {_measured(benchmark)} |")
            notes.append(f"- {title}, `{benchmark['recipe']}`: {benchmark['protocol']}.")
            test = benchmark["rows"]["AlignMamba-2"]["test"]
            if test.get("mae"):
                more = (100 * test["accuracy_7"]["mean"], test["mae"]["mean"], test["corr"]["mean"])
                notes.append("  Acc-7 {:.1f}, mean absolute error {:.3f}, Pearson's r {:.3f}.".format(*more))
            adds.append(f"| `{benchmark['recipe']}` | {' | '.join(_less(benchmark['rows']))} |")
            harder += _lost(benchmark["recipe"], benchmark["rows"])
        notes.append(f"  `results/{path.name}`, {report['date'][:10]}: `{report['command']}`")
    lines += [
        "",
        "**What fusion and alignment add**: accuracy of AlignMamba-2 less that of …, in points, on the same test",
        "samples and seeds. An interval that holds 0 shows no difference. All rows: [results/](results/README.md).",
        "",
        "| recipe | linear | best single modality | best other fusion | itself without OT and MMD |",
        "|---|---|---|---|---|",
        *adds,
        "",
        f"**Harder input**: points lost, and in brackets how many fewer than {BESIDE} loses.",
        "",
        *harder,
    ]
    return "\n".join([*lines, "", "Protocols, and the commands that measured:", "", *notes])


def _less(rows: Mapping[str, Any]) -> list[str]:
    """Four cells: what is above a linear model, the best single modality, the best baseline, the model unaligned."""
    kinds = [("linear", ""), ("alone", ""), ("baseline", ""), ("ablation", "without OT and MMD")]
    cells = []
    for group, only in kinds:
        known = {name: row for name, row in rows.items() if row["group"] == group and only in ("", name)}
        if not known:
            cells.append("–")
            continue
        best = max(known, key=lambda name: known[name]["test"]["accuracy"]["mean"])
        named = f" ({best.removesuffix(' alone')})" if group in ("alone", "baseline") else ""
        cells.append(_signed(**known[best]["against_full"]["accuracy"]) + named)
    return cells


def _lost(recipe: str, rows: Mapping[str, Any], beside: str = BESIDE) -> list[str]:
    """A line: accuracy lost where a modality is missing or noisy, and by how much less than in another row."""
    ours, others = (rows.get(name, {}).get("drops", {}) for name in ("AlignMamba-2", beside))
    cases = [
        f"{name} {100 * ours[name]['drop']:.1f} ({_signed(**row['against_full'])})"
        for name, row in others.items()
        if "against_full" in row
    ]
    return [f"- `{recipe}`: {', '.join(cases)}."] if cases else []


def _published(papers: Sequence[Any]) -> str:
    """Two cells: AlignMamba-2's number as published, and the best of the others."""
    papers = [p if isinstance(p, Mapping) else vars(p) for p in papers]
    ours = [p for p in papers if p["method"] == "AlignMamba-2"]
    others = [p for p in papers if not p["method"].startswith("AlignMamba")]
    best = max(others, key=lambda p: p["accuracy"], default=None)
    return f"{ours[0]['accuracy']:.1f} | " + (f"{_both(best)} ({best['method']})" if best else "–")


def _signed(difference: float, low: float, high: float, **_: Any) -> str:
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _both(paper: Mapping[str, Any]) -> str:
    non0 = paper["accuracy_non0"]
    return f"{paper['accuracy']:.1f}" + ("" if non0 is None else f" / {non0:.1f}")


def _measured(benchmark: Mapping[str, Any]) -> str:
    rows = benchmark["rows"]
    cells = [_published(benchmark["published"])]
    for name in ("linear", "AlignMamba-2"):
        if name not in rows:
            cells.append("–")
            continue
        test, (low, high) = rows[name]["test"], rows[name]["interval"]["accuracy"]
        scores = [test[m] for m in ("accuracy", "accuracy_non0") if test.get(m)]
        if name == "linear":
            cells.append(" / ".join(f"{100 * x['mean']:.1f}" for x in scores))
        else:
            text = " / ".join(f"{100 * x['mean']:.1f}" for x in scores)
            cells.append(f"**{text}** [{100 * low:.1f}, {100 * high:.1f}]")
    return " | ".join([*cells, str(len(rows["AlignMamba-2"]["seeds"])), f"`{benchmark['recipe']}`"])


def utterances(folder: Path) -> list[str]:
    """Return lines of Markdown: what was measured on CMU-MOSI as utterance features."""
    main, ablations = (json.loads((folder / name).read_text("utf-8")) for name in (MAIN, ABLATIONS))
    lines = [
        f"Test accuracy and weighted F1 in %, mean ± sd over {_seeds(main)}. The epoch is chosen on validation videos,",
        "taken from the 62 training videos; the 31 test videos are looked at once a model.",
        "",
        table(main["results"]),
        "",
        "| published, accuracy | text | |",
        "|---|---|---|",
        *(f"| {name} | {text} | {accuracy:g} |" for name, text, accuracy in PUBLISHED),
        "",
        f"And with one thing changed at a time (recipe `{_recipe(ablations)}`, {_seeds(ablations)}):",
        "",
        table(ablations["results"]),
        "",
        *(
            f"`results/{name}`, {r['date'][:10]}: `{r['command']}`  "
            for name, r in ((MAIN, main), (ABLATIONS, ablations))
        ),
    ]
    return [*lines, "", *measured_by_reproduce(folder / COMPARED)] if (folder / COMPARED).is_file() else lines


def other_results(folder: Path) -> str:
    """The page beside the results files: the real benchmarks in full, utterances, miniatures, everything measured."""
    lines = ["# Everything that was measured", "", "Written by `python -m tools report`, do not edit."]
    for name, title in REAL.items():
        if (folder / f"{name}.json").is_file():
            lines += ["", f"## {title}", "", *measured_by_reproduce(folder / f"{name}.json")]
    lines += ["", "## CMU-MOSI as utterance features", "", *utterances(folder)]
    for path in sorted(folder.glob("reproduce-*.json")):
        lines += ["", f"## {path.stem}", "", *measured_by_reproduce(path)]
    if (folder / PLANTED).is_file():
        lines += ["", "## planted", "", *planted(json.loads((folder / PLANTED).read_text("utf-8")))]
    return "\n".join([*lines, *sections(folder)]) + "\n"


def planted(report: Mapping[str, Any]) -> list[str]:
    """Return lines of Markdown: what `python -m studies planted` measured."""
    results = report["results"]
    lines = [
        f"Is found what is planted, and nothing where nothing is? Synthetic, {len(results['worlds'])} worlds "
        "(`python -m studies planted --help` says what each is); gain: by how much the mean absolute error is smaller "
        "with the part than without it, with its 95 % interval (Student's t over worlds; p corrected by Holm):",
        "",
        "| synthetic | with | without | gain | p |",
        "|---|---|---|---|---|",
    ]
    for title, row in results["questions"].items():
        p = "< 0.001" if row["p_holm"] < 0.001 else f"{row['p_holm']:.3f}"
        gain = f"{row['gain']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
        lines.append(f"| {title} | {row['mae_with']:.3f} | {row['mae_without']:.3f} | {gain} | {p} |")
    mass = ", ".join(f"{name} {fmean(values):.1f}" for name, values in results["partners"].items())
    lines += ["", f"Mass that the transport plans of `late` put on true partners, over chance: {mass}."]
    for part, said in (
        ("clans", "Normalised mutual information of experts that a gate chose and clans"),
        ("effects", "Mean change of predictions when a modality's own expert is switched off"),
    ):
        if part in results:
            numbers = ", ".join(f"{name} {fmean(values):.2f}" for name, values in results[part].items())
            lines += ["", f"{said}: {numbers}."]
    return [*lines, "", f"`results/{PLANTED}`, {report['date'][:10]}: `{report['command']}`  "]


def measured_by_reproduce(path: Path) -> list[str]:
    """Return lines of Markdown: what `reproduce` measured, a table per benchmark."""
    report = json.loads(path.read_text("utf-8"))
    seeds = report["seeds"]
    return [
        "Against baselines on the same batch and trainer, as wide as makes them equally large (`reproduce`; "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}). In brackets, 95 % intervals over "
        "seeds and samples; p of a paired permutation test against the full model, corrected for the number of rows "
        "(Holm):",
        *comparison(report),
        "",
        f"`results/{path.name}`, {report['date'][:10]}: `{report['command']}`  ",
    ]


def write_report(readme: Path, folder: Path) -> None:
    """Put the tables between README's two marks, and those of other data into README.md in the results' folder.

    Raises
    ------
    ValueError
        If the marks are not there.
    """
    text = readme.read_text("utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{readme}: found no lines {BEGIN!r} … {END!r} to write between")
    section = f"{BEGIN}\n{results_section(folder)}\n{END}"
    write_text(readme, pattern.sub(lambda _: section, text))
    write_text(folder / "README.md", other_results(folder))


def _seeds(results: Mapping[str, Any]) -> str:
    seeds = [run["seed"] for run in next(iter(results["results"].values()))["runs"]]
    return f"seeds {seeds[0]}–{seeds[-1]}" if len(seeds) > 1 else f"seed {seeds[0]}"


def _recipe(results: Mapping[str, Any]) -> str:
    return next(iter(results["results"].values()))["recipe"]["name"]


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools report", description=__doc__)
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--folder", type=Path, default=Path("results"))
    arguments = parser.parse_args(argv)
    write_report(arguments.readme, arguments.folder)
    print(f"written: {arguments.readme}, {arguments.folder / 'README.md'}")
