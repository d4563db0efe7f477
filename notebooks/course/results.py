"""Read what was measured once for all and is kept in the repository's folder results/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from alignmamba2.figures.marks import dots
from alignmamba2.figures.style import INK, LIGHT, QUIET, titled

FOLDER = Path(__file__).parents[2] / "results"
FULL = "AlignMamba-2"
BENCHMARKS = {"mosi-standard": "CMU-MOSI", "nyu": "NYU-Depth V2", "mvsa": "MVSA-Single"}


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


def beside_published() -> go.Figure:
    """Draw test accuracy on the real benchmarks beside what is published, in %, with a linear model and one modality.

    The line is the 95 % interval over seeds and test samples.
    """
    figure, words, many = go.Figure(), [], []
    rows = {
        "linear model, frozen encoders": {"symbol": "x-thin", "size": 11, "line": {"width": 2, "color": QUIET}},
        "best single modality": {"symbol": "circle-open", "size": 12, "color": QUIET, "line": {"width": 2}},
        "published": {"symbol": "diamond", "size": 12, "color": LIGHT},
        "measured here": {"symbol": "circle", "size": 13, "color": INK},
    }
    values: dict[str, dict[str, float]] = {name: {} for name in rows}
    for title, benchmark in benchmarks():
        own = {row: 100 * found["test"]["accuracy"]["mean"] for row, found in benchmark["rows"].items()}
        alone = [value for row, value in own.items() if row.endswith(" alone")]
        published = next(p["accuracy"] for p in benchmark["published"] if p["method"] == FULL)
        low, high = (100 * end for end in benchmark["rows"][FULL]["interval"]["accuracy"])
        many.append((own[FULL], low, high))
        values["measured here"][title], values["published"][title] = own[FULL], published
        if "linear" in own:
            values["linear model, frozen encoders"][title] = own["linear"]
        if alone:
            values["best single modality"][title] = max(alone)
        words.append(f"{title}: {own[FULL]:.1f}, from {low:.1f} to {high:.1f}; published {published:.1f}.")
    for name, marker in rows.items():
        titles, x = list(values[name]), list(values[name].values())
        more: dict[str, Any] = {"name": name}
        if name == "measured here":
            up, down = ([abs(mean - row[end]) for mean, *row in many] for end in (1, 0))
            more["error_x"] = {
                "type": "data",
                "array": up,
                "arrayminus": down,
                "thickness": 3,
                "width": 7,
                "color": INK,
            }
        figure.add_trace(
            dots(x, titles, marker, [f"{t}, {name}: {v:.1f} %" for t, v in zip(titles, x, strict=True)], **more)
        )
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
