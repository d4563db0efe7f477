"""Sections of results/README.md: what each file of measurements holds, in a sentence and a table."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from studies import recipe_path

Lines = list[str]
ROOT = Path(__file__).parents[1]
Content = Mapping[str, Any]


def sections(folder: Path) -> Lines:
    """Lines of Markdown: one section a file of `SECTIONS` that is there."""
    lines: Lines = []
    for name, (section, command) in SECTIONS.items():
        path = folder / f"{name}.json"
        if path.is_file():
            content = json.loads(path.read_text("utf-8"))
            dates: dict[str, set[str]] = {}
            for part in _dated(content):
                dates.setdefault(part.get("command", command).strip(), set()).add(part["date"][:10])
            sources = (f"`results/{path.name}`, {', '.join(sorted(when))}: `{what}`  " for what, when in dates.items())
            lines += ["", f"## {name}", "", *section(content), "", *sources]
    return lines


def _dated(content: Content) -> list[Content]:
    """The innermost parts of a file that hold a date: each is of its own command."""
    inner = [part for value in content.values() if isinstance(value, Mapping) for part in _dated(value)]
    return inner or ([content] if "date" in content else [])


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> Lines:
    head = list(head)
    return [_row(head), "|---" * len(head) + "|", *map(_row, rows)]


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join("–" if cell is None else str(cell) for cell in cells) + " |"


def _times(rows: Iterable[Content], kind: str, by: Callable[[Content], list[object]], head: Lines) -> Lines:
    """Milliseconds of every method, a row each; – where a method was not run."""
    rows = list(rows)
    methods = list(dict.fromkeys(method for row in rows for method in row[kind]))
    cells = [[*by(r), *(f"{r[kind][m]['ms']:.2f}" if m in r[kind] else None for m in methods)] for r in rows]
    return _table([*head, *methods], cells)


# --- Against peers ----------------------------------------------------------------------------------------


def scan(content: Content) -> Lines:
    rows = []
    for r in content["times"]:
        for kind in ("forward", "forward+backward"):
            peer = min((r[kind][p]["ms"], p) for p in ("mamba-ssm unbind", "mambapy") if p in r[kind])
            ours = [f"{x:.2f} (×{peer[0] / x:.1f})" for x in (r[kind][name]["ms"] for name in ("chunked", "cpu"))]
            shape = " × ".join(map(str, r["shape"]))
            rows.append([shape, r["threads"], kind, f"{peer[1]} {peer[0]:.1f}", *ours])
    against = [
        [name, *(f"{x['slope of ' + what]:.2f}" for what in ("time", "memory"))]
        for name, x in content["against length"].items()
    ]
    return [
        "The selective scan in PyTorch (`chunked`) and in numba (`cpu`) beside the better peer of those whose time is "
        "linear in the length; median wall milliseconds (× that peer):",
        "",
        *_table(["B × L × D", "threads", "", "peer", "chunked", "cpu"], rows),
        "",
        "Time and memory of forward and backward against length L, as an exponent (1: linear):",
        "",
        *_table(["", "time", "memory"], against),
    ]


def layer(content: Content) -> Lines:
    def shape(row: Content) -> list[object]:
        return [" × ".join(map(str, row["shape"])), row["threads"]]

    return [
        "The Modality-Aware Mamba layer beside the same layer with one shared expert and a plain Mamba of a peer, "
        "forward and backward, median wall milliseconds:",
        "",
        *_times(content["times"], "forward+backward", shape, ["B × L × d", "threads"]),
    ]


def alignment(content: Content) -> Lines:
    lines = ["The dual alignment beside its peers, forward and backward, median wall milliseconds:"]
    for threads, part in content.items():
        cells = []
        for problem in (p for kind in ("sinkhorn", "mmd") if kind in part for p in part[kind]["rows"]):
            for r in (r for r in problem["rows"] if "both" in r):
                ratio = f"{r['both']['ratio_wall']:.2f}"
                cells.append([problem["title"], r["method"], f"{r['both']['ms']:.1f}", ratio])
            if "products" in problem:
                alone = problem["products"]
                limit = f"{alone['limit']['both']:.1f} at most"
                cells.append(["", "its matrix products alone", f"{alone['both']['ms']:.1f}", limit])
        lines += ["", *_table([threads, "method", "ms", "× ours"], cells)]
        if "step" not in part:
            continue
        step, rows = part["step"]["rows"], []
        for what in ("step", "predict"):
            both = (f"{step[f'{what} {kind} alignment']['ms']:.1f}" for kind in ("with", "without"))
            rows.append([what, *both, f"{100 * step[f'{what}, added']['ms']:+.1f} %"])
        head = ["the whole model, aligned MOSI's shape", "with alignment, ms", "without, ms", "added"]
        lines += ["", *_table(head, rows)]
    return lines


def compiled(content: Content) -> Lines:
    measured, rows = content["compile"]["results"], []
    for r in measured["times"]:
        a, b = r["as it is"], r["compiled"]
        rows.append([f"{r['samples']} × {r['tokens']}", r["pass"]])
        rows[-1] += [f"{x['ms']:.1f} [{x['cpu_ms']:.1f}]" for x in (a, b)]
        rows[-1] += ["{:+.0f} % [{:+.0f} %]".format(*(100 * (b[k] / a[k] - 1) for k in ("ms", "cpu_ms")))]
        rows[-1] += [f"{r['compiling']['seconds']:.0f}"]
    return [
        f"The model as it is, and through `torch.compile`: recipe `{measured['recipe']}` on drawn features as wide as "
        "CMU-MOSI's, one thread of a processor (on a GPU it was not measured); median wall milliseconds, in brackets "
        "those of the processor:",
        "",
        *_table(["samples × tokens", "pass", "as it is", "compiled", "change", "compiling takes, s"], rows),
    ]


def gpu_interpreter(content: Content) -> Lines:
    scan, step = content["scan"]["results"], content["training step"]["results"]
    grids = {tuple(map(tuple, grids)) for grids in scan["launches"].values()}
    lengths = ", ".join(f"{int(length):,}" for length in scan["launches"])
    columns = ("registers", "spilled_bytes", "shared_bytes")
    code = [[name, *(row[column] for column in columns)] for name, row in scan["machine_code"].items()]
    return [
        "The GPU's kernels without a GPU. The Triton scan in Triton's interpreter, values and all gradients against "
        f"the definition in float64, {scan['cases']} cases of sizes and options, {len(scan['failed'])} of them off; "
        "the largest error, as a share of the largest number:",
        "",
        *_table(["type", "largest error"], [[name, f"{error:.1e}"] for name, error in scan["worst"].items()]),
        "",
        f"Launches of a forward and a backward at {lengths} steps: {len(next(iter(grids)))}"
        f"{', the same grids at each' if len(grids) == 1 else ', in other grids'}; graphs of `torch.compile` over five "
        f"lengths: {scan['graphs']}. Machine code by Triton's own compiler, which needs no GPU (float32, 16 states):",
        "",
        *_table(["kernel, for", "registers", "bytes spilled", "shared bytes"], code),
        "",
        "How often the host waits for the device in a training step of 45 tokens, counted on a device that is none; "
        f"every 16th step measures gradients besides: {', '.join(map(str, step['looks']))}. With the scan in plain "
        f"PyTorch a step calls {step['operators'][-1]:,} operators, most of them in the loops of Sinkhorn and scan.",
    ]


def gpu(content: Content) -> Lines:
    """Measurements of `benchmarks/gpu.sh` on a GPU."""
    lines: Lines = []
    for name, part in content.items():
        found, cells = part["results"], []
        for row in (*found["times"], *found.get("tuned", ())):
            what = ", ".join(f"{k} {v}" for k, v in row.items() if not _leaves({k: v}) and v)
            cells += [
                [what, of, *(f"{x[k]:.2f}" if k in x else x.get("failed") for k in ("ms", "mib"))]
                for of, x in _leaves(row)
            ]
        lines += [f"On one {found['device']}, {name}; scan: {found['scan']}.", ""]
        lines += _table(["", "", "ms", "peak MiB"], cells)
    return lines


def _leaves(row: Content, path: str = "") -> list[tuple[str, Content]]:
    """Measurements within a row, by the names that lead to them."""
    found = []
    for key, value in row.items():
        if isinstance(value, Mapping):
            name = f"{path} {key}".strip()
            found += [(name, value)] if {"ms", "failed"} & set(value) else _leaves(value, name)
    return found


# --- Size, damage, several processes ----------------------------------------------------------------------


def big(content: Content) -> Lines:
    what = {"write": "written", "convert": "converted", "open": "opened", "train": "trained on for an epoch"}
    epoch = [[what[r["stage"]], r.get("utterances"), r["seconds"], r["peak_mib"]] for r in content["mosei"]["results"]]
    sizes = [
        [f"{r['samples']:,}", r["gb"], r["open_ms"], r["read_ms_a_sample"], r["train_ms_a_sample"], r["peak_mib"]]
        for r in content["sizes"]["results"]
    ]
    lengths = [
        [f"{r['tokens']:,}", f"{r['tokens_a_sample']:,}", r["train_us_a_token"], r["extra_kib_a_token"], r["peak_mib"]]
        for r in content["lengths"]["results"]
    ]
    return [
        "Synthetic data of the size of MOSEI's unaligned file:",
        "",
        *_table(["synthetic", "utterances", "s", "peak memory, MiB"], epoch),
        "",
        "A store of more and more samples (most of it a hole in the file):",
        "",
        *_table(
            ["synthetic samples", "GB", "open, ms", "read, ms a sample", "train, ms a sample", "peak memory, MiB"],
            sizes,
        ),
        "",
        "Longer and longer samples:",
        "",
        *_table(
            ["synthetic tokens", "of all modalities", "train, µs a token", "KiB a token", "peak memory, MiB"], lengths
        ),
    ]


def fuzz(content: Content) -> Lines:
    columns = ("inputs", "read", "refused", "found")
    rows = [[name, *(f"{part['results'][c]:,}" for c in columns)] for name, part in content.items()]
    rows.append(["all", *(f"{sum(part['results'][c] for part in content.values()):,}" for c in columns)])
    return [
        "Mutated files against every reader: read, refused with an error that says why, or a finding (any other error, "
        "a crash, too much memory or time, something run or written):",
        "",
        *_table(["format", "files", "read", "refused", "findings"], rows),
    ]


def kills(content: Content) -> Lines:
    parts = {
        name: p["results"] for name, p in content.items() if isinstance(p, Mapping) and "kills" in p.get("results", {})
    }
    rows = [[name, r["kills"], r["same_bits_after"], r["unfinished_left"]] for name, r in parts.items()]
    return [
        "Killed at a random moment (`kill -9`) and run again: how often what it ends with has the bits of a run that "
        "was left alone, and how often something unfinished is left behind:",
        "",
        *_table(["", "kills", "same bits", "left behind"], rows),
    ]


def processes(content: Content) -> Lines:
    (name,) = content
    r = content[name]["results"]
    apart = (f"{r[k]:.1e}" for k in ("largest_relative_difference", "of_weights"))
    return [
        "Two processes that train together beside one, on one machine (DDP over gloo):",
        "",
        *_table(
            [name, "epochs", "largest relative difference of the loss", "of the weights"],
            [[f"{r['samples']} samples", len(r["loss_one_process"]), *apart]],
        ),
    ]


def busy(content: Content) -> Lines:
    measured = content["busy"]["results"]
    rows = [
        [recipe, waiting, *(f"{of[f'{waiting}, {m}']['seconds']:.1f}" for m in ("quiet", "busy"))]
        for recipe, of in measured["recipes"].items()
        for waiting in dict.fromkeys(key.split(", ")[0] for key in of)
    ]
    return [
        f"Seconds of one epoch on {measured['cores']} cores: on the quiet machine, and beside a program per core that "
        "counts without end. Threads that wait for each other spin, as PyTorch comes, or sleep, as "
        "`python -m alignmamba2` has them; the median:",
        "",
        *_table(["recipe", "threads that wait", "quiet", "busy"], rows),
    ]


# --- What the models learn --------------------------------------------------------------------------------


def partners(content: Content) -> Lines:
    def spread(values: Iterable[float]) -> str:
        values = list(values)
        return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"

    lines = [
        "Mini-mosi, synthetic, trained with and without the alignment losses, in its own world and in one in which "
        "every sound and face belongs to a word: mass of the transport plans on true partners over that of chance, "
        "mean ± sd over seeds; the mean absolute error on the test split, and by how much it is smaller without, with "
        "its 95 % interval:",
    ]
    for world, part in content.items():
        measured = part["results"]
        rows = [
            [
                name,
                *(spread(run["partners"][m] for run in row["runs"]) for m in measured["most"]),
                spread(run["mae"] for run in row["runs"]),
                "{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**row["less"]) if "less" in row else "",
            ]
            for name, row in measured["rows"].items()
        ]
        rows.append(["the most there is", *(f"{x:.2f}" for x in measured["most"].values()), "", ""])
        head = [f"{world} (synthetic)", *measured["most"], "mean absolute error", "smaller by"]
        lines += ["", *_table(head, rows)]
    return lines


def folds(content: Content) -> Lines:
    arms, gains = content["results"]["arms"], content["results"]["differences"]
    rows = []
    for name, arm in arms.items():
        scores = [arm["test"][metric] for metric in ("accuracy", "f1_macro")]
        less = gains.get(name)
        gain = (
            less
            and f"{100 * less['mean']:+.1f} ± {100 * less['sd']:.1f} ({less['folds_above']} of {len(arm['folds'])})"
        )
        rows.append([name, *(f"{100 * s['mean']:.1f} ± {100 * s['sd']:.1f}" for s in scores), gain])
    return [
        "Does fusion pay, on emoji (picture and text)? Mean ± sd over emoji-disjoint folds, in %; the first row less "
        "this one, in accuracy, and the folds in which it is above:",
        "",
        *_table(["", "accuracy", "macro F1", "first less this"], rows),
    ]


# --- The kit itself ---------------------------------------------------------------------------------------


def explorers(content: Content) -> Lines:
    rows = [
        [name, *(p.get(where, {}).get(k) for where in ("python_ms", "browser_ms") for k in ("median", "largest"))]
        for name, p in content["panels"].items()
    ]
    return [
        f"How long an explorer takes to answer a slider, in Python and from key to picture ({content['data']}), in ms:",
        "",
        *_table(["", "Python, median", "largest", "key to picture, median", "largest"], rows),
    ]


def browser(content: Content) -> Lines:
    passed = sum(run.get("passed", 0) for run in content["runs"])
    return [
        "The tests in a real browser, again and again:",
        "",
        *_table(
            ["", "runs", "all green", "tests passed"],
            [[content["browser"], content["asked"], content["green"], passed]],
        ),
    ]


def newcomer(content: Content) -> Lines:
    return [
        "From nothing to the first interactive picture, in a fresh clone"
        f"{'' if content['pip cache'] else ' without pip’s cache'}:",
        "",
        *_table(["", "s"], [[f"`{c['command']}`", c["seconds"]] for c in content["commands"]]),
    ]


def test_matrix(content: Content) -> Lines:
    rows = []
    for name, run in content.items():
        counts = next((x for line in run["said"] if (x := re.search(r"\d+ passed[^=]*?(?= in )", line))), None)
        rows.append([name, run["outcome"], counts and counts[0], run["versions"]["numpy"], run["date"][:10]])
    return [
        "The tests on each Python, with the lowest and the newest versions of all libraries:",
        "",
        *_table(["Python, libraries", "outcome", "tests", "NumPy", "date"], rows),
    ]


def coverage(content: Content) -> Lines:
    names = [name for name in content["tests"]["results"] if name != "files"]
    parts = ((name, content["tests"]["results"][name]) for name in names)
    rows = []
    for name, part in parts:
        shares = [(f"{part[what]:,}", f"{part[f'{what}_covered_percent']:.1f} %") for what in ("lines", "branches")]
        rows.append([name, *shares[0], *shares[1]])
    return [
        "Lines and branches that the tests reach:",
        "",
        *_table(["", "lines", "reached", "branches", "reached"], rows),
    ]


# The command is of files that do not hold it.
def _effects(content: Content) -> Lines:
    """What alignment and experts do in trained models, beside untrained ones."""

    def told(row: Content, name: str) -> str:
        values = row.get(name, {})
        return ", ".join(f"{key} {value:.3g}" for key, value in values.items()) or "–"

    names = ("gradient_share", "mmd_eval", "true_partners", "expert_off")
    head = ("", "share of the task's gradient", "MMD, validation", "mass on true partners", "change, expert off")
    rows = [
        (f"{name} (synthetic)" if row["synthetic"] else name, *(told(row, part) for part in names))
        for name, row in content.items()
    ]
    lines = ["Do the alignment losses and the experts act? Means over seeds.", "", *_table(head, rows)]
    for name, row in content.items():
        if compared := row.get("rows"):
            scores = []
            for kind, result in compared.items():
                test, gap = result["test"]["accuracy"], result.get("against_full", {}).get("accuracy")
                less = (
                    f"{100 * gap['difference']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]" if gap else ""
                )
                scores.append((kind, f"{100 * test['mean']:.1f} ± {100 * test['sd']:.1f}", less))
            lines += ["", f"{name}: {row['protocol']}", ""]
            lines += _table(("", "test accuracy in %", "full minus this"), scores)
    lines += [
        "",
        "What each recipe asks of the alignment and the order, beyond the defaults, with its own words on why:",
        "",
    ]
    return lines + _table(("", "chosen"), ((name, _chosen(name)) for name in content))


# Settings of a recipe that decide what is aligned and in which order tokens are read.
CHOICES = "share_ot|share_mmd|window|fixed_anchor|transport|negatives|align_after|order|direction|shuffle|readout"


def _chosen(name: str) -> str:
    """The settings among `CHOICES` as they stand in the data set's recipe; [T] and [O] as in `AlignMamba2Config`."""
    lines = re.findall(rf"^((?:{CHOICES}) = .*?) *# (.*)$", recipe_path(name).read_text("utf-8"), re.MULTILINE)
    return "; ".join(f"`{setting}` {why}" for setting, why in lines)


def lengths(content: Content) -> Lines:
    """Whole models against the length of their input."""
    known, lines = content["lengths"], []
    for kind, unit in (("ms", "milliseconds"), ("mib", "MiB more than before")):
        for what, of in content[kind].items():
            names = [name for name, row in of.items() if any(row)]
            rows = [
                (n, *(of[m][i] and f"{of[m][i]:.1f}" for m in names))
                for i, n in enumerate(known)
                if i < len(of[names[0]])
            ]
            lines += ["", f"{what}, {unit}:", "", *_table(("tokens in all", *names), rows)]
    sizes = ", ".join(f"{name} {count:,}" for name, count in content["parameters"].items())
    return [f"One sample, one thread, float32, text, audio and video equally long. Parameters: {sizes}.", *lines]


SECTIONS: dict[str, tuple[Callable[[Content], Lines], str]] = {
    "effects": (_effects, "python -m studies effects"),
    "bench-scan": (scan, "python -m benchmarks scan"),
    "bench-lengths": (lengths, "python -m benchmarks lengths"),
    "bench-layer": (layer, "python -m benchmarks layer"),
    "bench-alignment": (alignment, "python -m benchmarks alignment"),
    "bench-compile": (compiled, ""),
    "gpu-interpreter": (gpu_interpreter, ""),
    **{f"gpu-{part}": (gpu, "") for part in ("scan", "layer", "alignment", "models")},
    "partners": (partners, ""),
    "emoji": (folds, ""),
    "big": (big, ""),
    "processes": (processes, ""),
    "bench-busy": (busy, ""),
    "kills": (kills, ""),
    "fuzz": (fuzz, ""),
    "explorers": (explorers, ""),
    "browser": (browser, ""),
    "bench-newcomer": (newcomer, "python -m tests.stress newcomer"),
    "test-matrix": (test_matrix, "make test-matrix"),
    "coverage": (coverage, ""),
}
