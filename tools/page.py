"""Write the report of `reproduce` as one HTML page, which opens without a server."""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alignmamba2.storage.files import write_text

STYLE = """
:root { color-scheme: light dark; --text: #222; --quiet: #555; --page: #fff; --line: #ddd; --shade: #f4f4f4;
  --ours: #eaf4fb; --warn: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --text: #f2f2f2; --quiet: #b4bac0; --page: #15181c; --line: #363b41;
  --shade: #23282e; --ours: #172c3a; --warn: #3a2f14; } }
body { margin: 0; color: var(--text); background: var(--page);
  font: 16px/1.55 "DejaVu Sans", Verdana, Arial, sans-serif; }
main { max-width: 1380px; margin: 0 auto; padding: 28px 24px 80px; }
h1 { font-size: 30px; }
h2 { font-size: 23px; margin-top: 52px; border-top: 1px solid var(--line); padding-top: 18px; }
h3 { font-size: 17px; margin: 26px 0 6px; }
nav a { color: inherit; } nav span { margin-right: 18px; white-space: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; margin: 6px 0 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 8px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--quiet); }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
tr.ours td { font-weight: bold; background: var(--ours); }
tr.group td { padding-top: 12px; color: var(--quiet); font-style: italic; }
td small { font-weight: normal; }
.synthetic { background: var(--warn); border-left: 4px solid #E69F00; padding: 6px 14px; }
.missing { background: var(--shade); border-left: 4px solid #999; padding: 6px 14px; }
p, li { max-width: 900px; overflow-wrap: anywhere; } small { color: var(--quiet); }
code { font-size: 13px; background: var(--shade); padding: 1px 4px; }
"""
# By task; the first has an interval.
MEASURES = {
    "classification": ("accuracy", "f1", "f1_macro", "calibration_error"),
    "regression": ("accuracy", "accuracy_non0", "f1", "accuracy_7", "mae", "corr"),
    "multilabel": ("accuracy", "exact", "f1", "f1_macro"),
    "multitarget": ("mae", "corr"),
}
GROUPS = {"ours": "", "baseline": "baselines, as wide as makes them equally large", "ablation": "one thing changed"}
GROUPS |= {"linear": "a linear model", "alone": "one modality"}


def write_page(path: Path, report: Mapping[str, Any]) -> Path:
    """Write the report's page; returns its path."""
    parts = [_head(report)]
    for name, benchmark in report["benchmarks"].items():
        parts.append(f'<h2 id="{_(name)}">{_(name)}</h2>')
        if "missing" in benchmark:
            parts.append(f'<p class="missing"><b>data not present</b>. {_(benchmark["missing"])}</p>')
            parts.append(_published(benchmark))
        else:
            parts.append(_benchmark(benchmark))
    parts.append(_foot(report))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(
        path,
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>AlignMamba-2: measured</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main>{''.join(parts)}</main></body></html>\n",
    )
    return path


def _(text: object) -> str:
    return html.escape(str(text))


def _head(report: Mapping[str, Any]) -> str:
    seeds = ("seeds " if len(report["seeds"]) > 1 else "seed ") + ", ".join(map(str, report["seeds"]))
    fast = (
        " <b>Two epochs a run (--fast): these numbers say nothing but that everything runs.</b>"
        if report["fast"]
        else ""
    )
    return (
        "<h1>AlignMamba-2: published and measured</h1>"
        f"<p>Mean ± sd over {_(seeds)}. Every model is chosen on the validation split and tested once. In "
        "brackets the 95 % bootstrap interval over seeds and samples. “Full minus this” is the difference in accuracy "
        "(and in mean absolute error, positive where the full model's is smaller) with its interval and the p of a "
        f"paired permutation test, corrected for the number of rows (Holm). Seconds are wall-clock: they compare "
        f"models only where the machine did nothing else.{fast}</p>"
        f"<nav>{''.join(_link(name, benchmark) for name, benchmark in report['benchmarks'].items())}</nav>"
    )


def _link(name: str, benchmark: Mapping[str, Any]) -> str:
    kind = "data not present" if "missing" in benchmark else "synthetic" if benchmark["synthetic"] else "real"
    return f'<span><a href="#{_(name)}">{_(name)}</a> <small>{kind}</small></span> '


def _published(benchmark: Mapping[str, Any]) -> str:
    if not benchmark.get("published"):
        return ""
    rows = [
        [
            _(p["method"]),
            f"{p['accuracy']:g}" + (f" / {p['accuracy_non0']:g}" if p["accuracy_non0"] else ""),
            _(p["source"]),
        ]
        for p in benchmark["published"]
    ]
    both = " (Has0 / Non0)" if any(p["accuracy_non0"] for p in benchmark["published"]) else ""
    return "<h3>Published</h3>" + _table(["method", f"accuracy, %{both}", "source"], rows, text=(2,))


def _benchmark(benchmark: Mapping[str, Any]) -> str:
    first, *others = MEASURES.get(benchmark["task"], MEASURES["classification"])
    tested = [m for m in ("accuracy", "mae") if any(m in row["interval"] for row in benchmark["rows"].values())]
    parts = []
    if benchmark["synthetic"]:
        parts.append(
            '<p class="synthetic"><b>Synthetic</b>: generated data with planted structure, not a benchmark.</p>'
        )
    samples = _(", ".join(f"{k} {v}" for k, v in benchmark["samples"].items()))
    parts.append(f"<p>{_(benchmark['description'])}<br>Protocol: {_(benchmark['protocol'])}<br>Samples: {samples}</p>")
    if "equal_parameters" in benchmark:
        parts.append(f"<p>Baselines of equal {_(benchmark['equal_parameters'])} parameters.</p>")
    parts.append(_published(benchmark))
    head = ["measured", *(m.replace("_", " ") for m in (first, *others))]
    head += [x for m in tested for x in (f"{m}: " * (m != first) + "full minus this", "p")] + ["parameters", "s a run"]
    rows, classes, group = [], [], None
    for name, row in benchmark["rows"].items():
        if row["group"] != group:
            group = row["group"]
            if GROUPS[group]:
                rows.append([GROUPS[group]])
                classes.append("group")
        cells = [_(name) + (f" <small>({_(row['note'])})</small>" if row["note"] else "")]
        low, high = (f"{100 * x:.1f}" if first == "accuracy" else f"{x:.3f}" for x in row["interval"][first])
        cells += [f"{_mean(row['test'].get(first), first)} [{low}, {high}]"]
        cells += [_mean(row["test"].get(m), m) for m in others]
        for m in tested:
            cells += _difference(row["against_full"].get(m), m)
        rows.append([*cells, f"{row['parameters']:,}", f"{row['seconds']:.1f}"])
        classes.append("ours" if group == "ours" else "")
    parts.append("<h3>Measured on the test split</h3>" + _table(head, rows, classes))
    for key, title in (
        ("only", f"{first} with nothing but these modalities".capitalize()),
        ("noise", f"{first} under noise, by severity".capitalize()),
        ("late", f"{first} with late audio, by the share of its length".capitalize()),
    ):
        columns = list(next(iter(benchmark["rows"].values())).get(key, ()))
        if not columns:
            continue
        rows = [
            [
                _(n),
                _mean(r["test"][first], first),
                *(_mean(r[key][c][first], first) if c in r.get(key, ()) else "" for c in columns),
            ]
            for n, r in benchmark["rows"].items()
        ]
        parts.append(f"<h3>{title}</h3>" + _table(["", "clean", *map(_, columns)], rows))
    hashes = "".join(f"<li><code>{_(k)}</code> {_(v)}</li>" for k, v in benchmark["sha256"].items())
    parts.append(
        f"<p><small>Recipe <code>{_(benchmark['recipe'])}</code>; data as loaded, "
        f"SHA-256 {_(benchmark['fingerprint'])}</small></p>"
    )
    if hashes:
        parts.append(f"<details><summary>files</summary><ul>{hashes}</ul></details>")
    return "".join(parts)


def _mean(score: Mapping[str, float] | None, measure: str = "accuracy") -> str:
    if score is None:
        return "–"
    scale, digits = (1, 3) if measure in ("mae", "corr", "calibration_error") else (100, 1)
    spread = "" if score["sd"] is None else f" ± {scale * score['sd']:.{digits}f}"
    return f"{scale * score['mean']:.{digits}f}{spread}"


def _difference(test: Mapping[str, float] | None, measure: str) -> list[str]:
    if test is None:
        return ["", ""]
    scale, digits = (100, 1) if measure == "accuracy" else (1, 3)
    low, high, middle = (f"{scale * test[k]:+.{digits}f}" for k in ("low", "high", "difference"))
    return [f"{middle} [{low}, {high}]", "< 0.001" if test["p_holm"] < 0.001 else f"{test['p_holm']:.3f}"]


def _table(head: list[str], rows: list[list[str]], classes: list[str] | None = None, text: tuple[int, ...] = ()) -> str:
    def row(cells, tag, kind=""):
        if len(cells) < len(head):  # a line over the rows that follow
            return f'<tr class="{kind}"><td colspan="{len(head)}">{cells[0]}</td></tr>'
        content = "".join(f"<{tag}{' class=text' if i in text else ''}>{c}</{tag}>" for i, c in enumerate(cells))
        return f'<tr class="{kind}">{content}</tr>'

    body = "".join(row(r, "td", k) for r, k in zip(rows, classes or [""] * len(rows), strict=True))
    return f'<div class="wide"><table>{row(head, "th")}{body}</table></div>'


def _foot(report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{k} {v}" for k, v in report["versions"].items() if v)
    machine = ", ".join(f"{k}: {v}" for k, v in report["machine"].items() if v)
    return (
        f"<h2>How</h2><p><code>{_(report['command'])}</code></p><p><small>{_(report['date'])}; commit "
        f"{_(report['git_commit'])}; source SHA-256 {_(report['source_sha256'])}<br>{_(versions)}<br>{_(machine)}"
        "</small></p>"
    )


def main(argv: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools page", description=__doc__)
    parser.add_argument("folder", type=Path, help="where `python -m alignmamba2 reproduce` left report.json")
    folder = parser.parse_args(argv).folder
    report = json.loads((folder / "report.json").read_text("utf-8"))
    print(f"page to open: {write_page(folder / 'report.html', report)}")
