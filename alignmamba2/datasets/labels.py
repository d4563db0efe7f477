"""Labels of own data: a column of classes, numbers, several of either, or one per step, and what is not known of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tasks import TASKS
from .base import check_choice

MOST_CLASSES = 100


def is_missing(value: Any) -> bool:
    """Return whether a value of a column is missing: None, NaN, pandas' NA, or an empty text."""
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    blank = isinstance(value, str) and not value.strip()
    return blank or value is None or type(value).__name__ in ("NAType", "NaTType")


def read_labels(
    column: Sequence, ids: Sequence[str], task: str | None = None, steps: str = "", names: Sequence[str] = ()
) -> tuple[str, list[str], list[Tensor | None], np.ndarray, str]:
    """Read N labels: one each, several each, lists of names, or, with `steps`, one per token of that modality.

    Return task, names of classes, labels (None where none is known; of several, what is not known is −1 or, of numbers,
    NaN), kinds (N,) of which splits are to have equal shares, and what was understood, in words. A `ValueError` names
    what was found, a sample, and the expectation.
    """
    check_choice("task", task, (None, *TASKS))
    rows = {i: value for i, value in enumerate(column) if not is_missing(value)}
    nested = {isinstance(x, (set, frozenset)) or np.ndim(x) > 0: ids[i] for i, x in rows.items()}
    if len(nested) != 1 or (steps and False in nested):
        found = " and ".join(f"{'several' if many else 'one'} (sample {i!r})" for many, i in nested.items()) or "none"
        expected = f"one per token of {steps!r}" if steps else "one each, or several each, and some that are known"
        raise ValueError(f"label: found {found}; expected {expected}")
    several = True in nested and not steps
    rows = {i: list(x) if True in nested else [x] for i, x in rows.items()}
    texts = {x for row in rows.values() for x in row if isinstance(x, str)} if several else ()
    if texts and task in (None, "multilabel"):
        if not all(isinstance(x, str) for row in rows.values() for x in row):
            raise ValueError("label: found texts and others; expected lists of names alone, or of numbers alone")
        names, task = sorted(texts), "multilabel"
        rows = {i: [name in row for name in names] for i, row in rows.items()}
    sizes = {len(row): ids[i] for i, row in rows.items()}
    if several and (len(sizes) > 1 or min(sizes) < 2 or len(names) not in (0, *sizes)):
        found = f"{sizes} (number: sample), names {list(names)}"
        raise ValueError(f"label: found {found}; expected equally many, 2 at least")
    flat = [x for row in rows.values() for x in row if not is_missing(x)]
    array = np.array(flat) if not any(np.ndim(x) for x in flat) else np.empty(0, object)
    known = "iufb" if several or task == "regression" else "iufbUS"
    if array.dtype.kind not in known or (task and TASKS[task].several != several):
        found = f"{sorted({type(x).__name__ for x in flat})}, task {task!r}"
        expected = "one text, bool or number" if known == "iufbUS" else "several numbers" if several else "one number"
        raise ValueError(f"label: found {found}; expected {expected} per {'token' if steps else 'sample'}")
    kinds, codes = np.unique(array, return_inverse=True)
    is_binary = bool(np.isin(kinds, (0, 1)).all())
    many = array.dtype.kind == "f" or (array.dtype.kind in "iu" and len(kinds) > MOST_CLASSES)
    inferred = ("multilabel", "multitarget") if several else ("classification", "regression")
    task = task or inferred[not is_binary if several else many]
    if task == "multilabel" and not is_binary:
        raise ValueError(f"label: found {kinds[:5].tolist()}; expected 0 and 1 alone, as task is 'multilabel'")
    classes = kinds.tolist() if task == "classification" else [*names] or list(range(max(sizes))) if several else []
    whole, values, start = task in ("classification", "multilabel"), [None] * len(ids), 0
    numbers = (codes if task == "classification" else array).astype(np.int64 if whole else np.float32)
    for i, row in rows.items():
        mask = torch.tensor([not is_missing(x) for x in row], dtype=torch.bool)
        values[i] = torch.full((len(row),), -1) if whole else torch.full((len(row),), torch.nan)
        values[i][mask] = torch.from_numpy(numbers[start : (start := start + int(mask.sum()))])
    drawn, missing = np.zeros(len(ids), np.int64), len(ids) - len(rows)
    missing += sum(any(map(is_missing, row)) for row in rows.values())
    if not (several or steps):
        values = [None if x is None else x[0] for x in values]
        drawn = drawn if task == "regression" else np.array([-1 if x is None else int(x) for x in values])
    kind = {"classification": "classes", "multilabel": "labels", "multitarget": "targets"}.get(task, "")
    classes = [str(c).replace(", ", "/") for c in classes]
    said = f"{len(classes)} {kind}: {', '.join(classes[:9])}{', …' * (len(classes) > 9)}" if kind else task
    said += f", one per token of {steps}" * bool(steps) + f" ({missing} missing)" * bool(missing)
    return task, classes, values, drawn, said
