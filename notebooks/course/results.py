"""Read what was measured once for all and is kept in the repository's folder results/."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from alignmamba2.experiments.benchmarks import FULL
from alignmamba2.figures.marks import dots
from alignmamba2.figures.style import INK, LIGHT, QUIET, titled

FOLDER = Path(__file__).parents[2] / "results"
DIFFERENCE = "{difference:+.1f} [{low:+.1f}, {high:+.1f}]"  # of `_less`
BENCHMARKS = {"mosi-standard": "CMU-MOSI", "nyu": "NYU-Depth V2", "nyu-strong": "NYU-Depth V2", "mvsa": "MVSA-Single"}


def stored_results(name: str) -> dict[str, Any]:
    """Return a results file with its provenance.

    Raises
    ------
    FileNotFoundError
        It is not in results/: the folder `notebooks` was taken out of its clone, or there is no such file.
    """
    path = FOLDER / name
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected the notebooks in a clone of the repository")
    return json.loads(path.read_text("utf-8"))


def benchmarks() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield title and measurements of every recipe that was measured on a real benchmark, as `reproduce` wrote them."""
    for name, title in BENCHMARKS.items():
        for recipe, benchmark in stored_results(f"{name}.json")["benchmarks"].items():
            yield title + (", strong" if recipe.endswith("-strong") else ""), benchmark


def published(papers: Iterable[Mapping[str, Any]]) -> float:
    """Return the accuracy of AlignMamba-2, in %, among published numbers."""
    return next(paper["accuracy"] for paper in papers if paper["method"] == FULL)


def accuracies(benchmark: Mapping[str, Any]) -> dict[str, Any]:
    """Return test accuracies of a benchmark in %, by kind.

    "published", "measured" with its "interval" and, if there are such rows, "linear" and the best single modality,
    "alone", with the name of its row, "which".
    """
    rows = {name: 100 * row["test"]["accuracy"]["mean"] for name, row in benchmark["rows"].items()}
    found = {"published": published(benchmark["published"]), "measured": rows[FULL]}
    found["interval"] = [100 * end for end in benchmark["rows"][FULL]["interval"]["accuracy"]]
    found |= {"linear": rows["linear"]} if "linear" in rows else {}
    if alone := [name for name in rows if name.endswith(" alone")]:
        best = max(alone, key=rows.__getitem__)
        found |= {"alone": rows[best], "which": best}
    return found


def _less(row: Mapping[str, Any]) -> dict[str, float]:
    """AlignMamba-2's accuracy less a row's, in points: "difference", and the ends of its interval, "low" and "high"."""
    return {end: 100 * row["against_full"]["accuracy"][end] for end in ("difference", "low", "high")}


def measured(name: str) -> pd.DataFrame:
    """Return the measurements of `reproduce` in results/`name`.json, one line per recipe and row, accuracies in %.

    "AlignMamba-2 less it" is the difference on the same test samples and seeds, with its 95 % interval.
    """
    lines = {}
    for recipe, benchmark in stored_results(f"{name}.json")["benchmarks"].items():
        for row, found in benchmark["rows"].items():
            mean, (low, high) = found["test"]["accuracy"]["mean"], found["interval"]["accuracy"]
            lines[recipe, row] = {
                "accuracy": f"{100 * mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
                "AlignMamba-2 less it": DIFFERENCE.format(**_less(found)) if row != FULL else "",
                "seeds": len(found["seeds"]),
            }
    return pd.DataFrame(lines).T


def differences(name: str) -> go.Figure:
    """Draw AlignMamba-2's accuracy less that of each other row of results/`name`.json, in points, recipe by recipe.

    The line is the 95 % interval of the difference, on the same test samples and seeds.
    """
    benchmarks = stored_results(f"{name}.json")["benchmarks"].items()
    rows = ((row, recipe, found) for recipe, benchmark in benchmarks for row, found in benchmark["rows"].items())
    found = {f"{row}, {recipe}": _less(result) for row, recipe, result in rows if row != FULL}
    hover = [f"{row}: {DIFFERENCE.format(**less)}" for row, less in found.items()]
    bars = {
        "type": "data",
        "array": [less["high"] - less["difference"] for less in found.values()],
        "arrayminus": [less["difference"] - less["low"] for less in found.values()],
        "color": INK,
    }
    marker = {"symbol": "circle", "size": 11, "color": INK}
    values = [less["difference"] for less in found.values()]
    figure = go.Figure(dots(values, [*found], marker, hover, error_x=bars, showlegend=False))
    figure.add_vline(x=0, line={"color": QUIET, "dash": "dot"})
    figure.update_xaxes(title="points of accuracy")
    figure.update_yaxes(autorange="reversed", showgrid=True, ticks="")
    note = f"{BENCHMARKS[name]}, real data; line: 95 % interval; from results/{name}.json"
    title = "AlignMamba-2's test accuracy less that of …"
    return titled(figure, title, note, height=170 + 26 * len(found), words=". ".join(hover))


def beside_published() -> go.Figure:
    """Draw test accuracy on the real benchmarks beside what is published, in %, with a linear model and one modality.

    The line is the 95 % interval over seeds and test samples.
    """
    figure, found = go.Figure(), {title: accuracies(benchmark) for title, benchmark in benchmarks()}
    looks = {
        "linear": (
            "linear model, frozen encoders",
            {"symbol": "x-thin", "size": 11, "line": {"width": 2, "color": QUIET}},
        ),
        "alone": ("best single modality", {"symbol": "circle-open", "size": 12, "color": QUIET, "line": {"width": 2}}),
        "published": ("published", {"symbol": "diamond", "size": 12, "color": LIGHT}),
        "measured": ("measured here", {"symbol": "circle", "size": 13, "color": INK}),
    }
    for kind, (name, marker) in looks.items():
        values = {title: scores[kind] for title, scores in found.items() if kind in scores}
        more: dict[str, Any] = {"name": name}
        if kind == "measured":
            up, down = ([abs(found[title]["interval"][end] - x) for title, x in values.items()] for end in (1, 0))
            more["error_x"] = {
                "type": "data",
                "array": up,
                "arrayminus": down,
                "thickness": 3,
                "width": 7,
                "color": INK,
            }
        hover = [f"{title}, {name}: {x:.1f} %" for title, x in values.items()]
        figure.add_trace(dots([*values.values()], [*values], marker, hover, **more))
    words = [
        "{}: {:.1f}, from {:.1f} to {:.1f}; published {:.1f}.".format(t, s["measured"], *s["interval"], s["published"])
        for t, s in found.items()
    ]
    figure.update_xaxes(title="test accuracy, %")
    figure.update_yaxes(autorange="reversed", showgrid=True, ticks="")
    note = "real data; line: 95 % interval over seeds and test samples; from results/"
    return titled(figure, "The real benchmarks", note, height=420, words=" ".join(words))


def effects() -> pd.DataFrame:
    """Return what alignment and experts do to each data set, measured by `python -m studies effects`; a row each."""
    columns = {}
    made_first = sorted(stored_results("effects.json").items(), key=lambda item: not item[1]["synthetic"])
    for name, found in made_first:
        partners, distance = found.get("true_partners", {}), found["mmd_eval"]
        columns[name + ", synthetic" * found["synthetic"]] = {
            ("mass on true partners", "chance"): partners.get("chance"),
            ("mass on true partners", "untrained"): partners.get("untrained"),
            ("mass on true partners", "trained"): partners.get("trained"),
            ("MMD, validation", "untrained"): distance["untrained"],
            ("MMD, validation", "trained"): distance["trained"],
            ("own experts", "largest share"): max(found["expert_shares"]["trained"].values()),
        }
    return pd.DataFrame(columns).T
