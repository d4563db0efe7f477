"""NaN and infinities in features: found, counted, named, and dealt with as the recipe says.

`mosi` and `mosei` are dealt with before: their files hold `-inf`, which is set to 0 as the field's loaders do, whatever
the policy says, and counted and named in `Dataset.notes` (`store.py`).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Sequence

import torch

from ..batch import Sample
from .base import DataError, Dataset

POLICIES = ("error", "mask", "zero")


def without_nonfinite(dataset: Dataset, policy: str = "error") -> Dataset:
    """The same data set, with no NaN and no infinity in its features.

    Parameters
    ----------
    policy : what is done with a token that holds such a value
        "error": nothing; `DataError` names the samples. "mask": the token is passed over, as if it were not there (a
        modality whose every token is masked is missing). "zero": the value is set to 0, the rest of the token stays.

    Returns
    -------
    Dataset
        What was found is in `notes` and `protocol`, so that it goes into every result, and is a warning.

    Raises
    ------
    DataError
        Naming the split, the modality, the samples and how many values; with "mask", also where a sample is left
        without any token.
    """
    if policy not in POLICIES:
        raise ValueError(f"nonfinite: found {policy!r}; expected one of {POLICIES}")
    if getattr(dataset.samples, "finite", False):  # a store holds finite numbers only, and opens without being read
        return dataset
    if policy == "error" and hasattr(dataset.samples, "labels"):
        return dataset  # lazy: not all of it is read for this; a batch names what it finds
    found: dict[str, Counter[str]] = {}
    for sample in dataset.samples:
        for m, x in sample.features.items():
            if m in sample.masks:
                x = x[sample.masks[m]]
            bad = x.numel() - int(torch.isfinite(x).sum())
            if bad:
                found.setdefault(m, Counter())[sample.id] += bad
    if not found:
        return dataset
    named = "; ".join(f"{m}: {_told(counts)}" for m, counts in found.items())
    where = f"{dataset.name}, split {dataset.split!r}: NaN or infinite values in {named}"
    if policy == "error":
        raise DataError(f"{where}. Load with nonfinite='mask' or 'zero' (in a recipe: under [data]), or mend the file")
    samples = _Without(dataset.samples, {i for counts in found.values() for i in counts}, policy)
    if policy == "mask":
        empty = [s.id for s in samples if s.id in samples.named and not _any_token(s)]
        if empty:
            raise DataError(f"{where}; masked, no token is left of samples {empty[:5]}. Take them out, or use 'zero'")
    done = "the tokens are masked" if policy == "mask" else "the values are set to 0"
    warnings.warn(f"{where}; {done}", stacklevel=3)
    values = sum(sum(counts.values()) for counts in found.values())
    return dataclasses.replace(
        dataset,
        samples=samples,
        protocol=f"{dataset.protocol}, {values} NaN or infinite values: {policy}",
        notes=(*dataset.notes, f"{dataset.split}: NaN or infinite values in {named}; {done}"),
    )


class _Without(Sequence):
    """Samples as they are, those named as the policy says: read when asked for, so lazy data stays lazy."""

    def __init__(self, samples: Sequence[Sample], named: set[str], policy: str):
        self.samples, self.named, self.policy = samples, named, policy
        if hasattr(samples, "labels"):
            self.labels = samples.labels

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        sample = self.samples[index]
        if sample.id not in self.named:
            return sample
        features = {m: torch.where(torch.isfinite(x), x, torch.zeros_like(x)) for m, x in sample.features.items()}
        if self.policy == "zero":
            return dataclasses.replace(sample, features=features)
        masks = {m: torch.isfinite(x).all(-1) for m, x in sample.features.items()}
        masks = {m: mask & sample.masks[m] if m in sample.masks else mask for m, mask in masks.items()}
        return dataclasses.replace(sample, features=features, masks=masks)


def _any_token(sample: Sample) -> bool:
    return any(bool(sample.masks[m].any()) if m in sample.masks else len(x) for m, x in sample.features.items())


def _told(counts: Counter[str]) -> str:
    shown = ", ".join(f"{name!r} ({n})" for name, n in list(counts.items())[:5])
    return f"{sum(counts.values())} in {len(counts)} samples: {shown}" + (", …" if len(counts) > 5 else "")
