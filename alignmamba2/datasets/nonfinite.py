"""NaN and infinities in features, and their treatment, which a recipe names.

`mosi` and `mosei` need none: their files hold `-inf`, which is set to 0 as the field's loaders do, under every policy,
and counted in `Dataset.notes` (`store.py`).
"""

import dataclasses
import warnings
from collections import Counter, defaultdict
from collections.abc import Container
from functools import partial

import torch

from ..batch import Sample
from .base import DataError, Dataset, Mapped, check_choice

POLICIES = ("error", "mask", "zero")


def without_nonfinite(dataset: Dataset, policy: str = "error") -> Dataset:
    """Return the same data set without NaN and infinities in its features.

    Its `notes` and `protocol` tell the number of values, so that it is in every result. A warning tells it too.

    Parameters
    ----------
    policy : treatment of a token that holds such a value
        "error": none; `DataError` names the samples. "mask": the token is skipped, as if it were not there (a modality
        whose every token is masked is missing). "zero": the value is set to 0, the rest of the token stays.

    Raises
    ------
    DataError
        Naming the split, the modality, the samples and the number of values; with "mask", also if a sample is left
        without any token.
    """
    check_choice("nonfinite", policy, POLICIES)
    if getattr(dataset.samples, "finite", False):  # a store holds finite numbers only, and opens without being read
        return dataset
    if policy == "error" and hasattr(dataset.samples, "labels"):
        return dataset  # lazy: not all of it is read for this; a batch names the values that are not finite
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by modality and id
    for sample in dataset.samples:
        for m, x in sample.features.items():
            if m in sample.masks:
                x = x[sample.masks[m]]
            if bad := x.numel() - int(torch.isfinite(x).sum()):
                counts[m][sample.id] += bad
    if not counts:
        return dataset
    summary = "; ".join(f"{m}: {_summary(by_id)}" for m, by_id in counts.items())
    where = f"{dataset.name}, split {dataset.split!r}: NaN or infinite values in {summary}"
    if policy == "error":
        raise DataError(f"{where}. Load with nonfinite='mask' or 'zero' (in a recipe: under [data]), or mend the file")
    ids = {i for by_id in counts.values() for i in by_id}
    samples = Mapped(dataset.samples, partial(_treated, ids, policy))
    empty = [s.id for s in samples if s.id in ids and not _any_token(s)] if policy == "mask" else []
    if empty:
        raise DataError(f"{where}; masked, no token is left of samples {empty[:5]}. Take them out, or use 'zero'")
    done = "the tokens are masked" if policy == "mask" else "the values are set to 0"
    warnings.warn(f"{where}; {done}", stacklevel=3)
    values = sum(by_id.total() for by_id in counts.values())
    return dataclasses.replace(
        dataset,
        samples=samples,
        protocol=f"{dataset.protocol}, {values} NaN or infinite values: {policy}",
        notes=(*dataset.notes, f"{dataset.split}: NaN or infinite values in {summary}; {done}"),
    )


def _treated(ids: Container[str], policy: str, sample: Sample) -> Sample:
    if sample.id not in ids:
        return sample
    features = {m: torch.where(torch.isfinite(x), x, torch.zeros_like(x)) for m, x in sample.features.items()}
    if policy == "zero":
        return dataclasses.replace(sample, features=features)
    masks = {m: torch.isfinite(x).all(-1) for m, x in sample.features.items() if x.is_floating_point()}
    masks = {m: mask & sample.masks[m] if m in sample.masks else mask for m, mask in masks.items()}
    return dataclasses.replace(sample, features=features, masks=masks)


def _any_token(sample: Sample) -> bool:
    return any(bool(sample.masks[m].any()) if m in sample.masks else len(x) for m, x in sample.features.items())


def _summary(counts: Counter[str]) -> str:
    examples = ", ".join(f"{name!r} ({n})" for name, n in list(counts.items())[:5])
    return f"{counts.total()} in {len(counts)} samples: {examples}" + (", …" if len(counts) > 5 else "")
