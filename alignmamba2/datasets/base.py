"""The data set that every loader returns, the error that every loader raises, and checks of options and of numbers."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Any, ClassVar

import torch

from ..batch import MultimodalBatch, Sample

POLICIES = ("error", "mask", "zero")  # of NaN and infinities in features


class DataError(ValueError):
    """A file or folder is missing, broken or of another kind; the message names it and the remedy."""


class Mapped(Sequence):
    """A sequence seen through a function, which is applied to an item each time that it is read."""

    def __init__(self, items: Sequence, function: Callable[[Any], Any]):
        self._items, self._function = items, function

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._function(self._items[index])

    def __getattr__(self, name: str) -> Any:
        # Lazy samples keep labels and ids apart, and no function here changes them.
        if name not in ("labels", "ids", "finite"):
            raise AttributeError(name)
        return getattr(self._items, name)


@dataclass(frozen=True)
class Dataset(torch.utils.data.Dataset):
    """One split of a data set; a sequence of `Sample`s that a `DataLoader` can read.

    Attributes
    ----------
    protocol : the split, labels and features, exactly, for every result
    synthetic : whether it is generated, not observed; every table and figure of it says so
    task : see `tasks.Task`; n_classes : int, of classes, labels or targets; 1 of one number
    readout : the readout that fits its labels, "mean", "per_step" or, with their modality as `anchor`, "anchor_steps"
    samples : sequence of Sample
        May be lazy and read a sample from disk on access. It should then have an attribute `labels`, a sequence of
        the N labels, so that labels are known without reading features.
    hashes : mapping of file name to SHA-256
    notes : remarks of the reader, such as "train/audio: 153 values were -inf, set to 0"
    encoders : by modality, for token ids and pictures, the encoder inside a model that they are made for
    show : by modality, for panels, a function of a `Sample`: of "image" and "depth" the picture, (H, W, 3) uint8, or
        None if it is missing; of "audio" the loudness of each token, (T,)
    left_out : modalities that the data set has, and that `only` left out
    """

    name: str
    split: str
    protocol: str
    description: str
    synthetic: bool
    task: str
    n_classes: int
    readout: str
    samples: Sequence[Sample]
    hashes: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    encoders: Mapping[str, str] = field(default_factory=dict)
    show: Mapping[str, Callable[[Sample], Any]] = field(default_factory=dict)
    anchor: str = ""
    left_out: Sequence[str] = ()
    # The splits of own data; they stand in `own`, on top of what reads texts and pictures.
    from_frame: ClassVar[Callable[..., dict[str, Dataset]]]
    from_arrays: ClassVar[Callable[..., dict[str, Dataset]]]
    from_hf: ClassVar[Callable[..., dict[str, Dataset]]]

    def __post_init__(self) -> None:
        if not len(self.samples):
            raise DataError(f"{self.name}, split {self.split!r}: no samples")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    @property
    def modalities(self) -> dict[str, int]:
        """Feature width of each modality; 0 for token ids and pictures, whose encoder gives them a width."""
        return {m: x.shape[-1] if x.is_floating_point() else 0 for m, x in self.samples[0].features.items()}

    @property
    def classes(self) -> list[str]:
        """Names of the classes, from the notes; empty if no note names them."""
        names = [note.removeprefix("classes: ") for note in self.notes if note.startswith("classes: ")]
        return names[0].split(", ") if names else []

    def batch(self, indices: Iterable[int] | None = None) -> MultimodalBatch:
        """Return these samples (default: all) as one padded batch."""
        return MultimodalBatch.from_samples(self.samples if indices is None else [self.samples[i] for i in indices])

    def only(self, *modalities: str) -> Dataset:
        """Return the same samples with these modalities alone; the protocol says so."""
        unknown = sorted(set(modalities) - set(self.modalities))
        if unknown or not modalities:
            raise ValueError(f"only: found {list(modalities)}; {self.name} has {list(self.modalities)}")
        if hasattr(self.samples, "without"):  # of what is left out nothing is read
            samples = self.samples.without([m for m in self.modalities if m not in modalities])
        else:
            samples = Mapped(self.samples, partial(_only, modalities))
        encoders = {m: name for m, name in self.encoders.items() if m in modalities}
        protocol = f"{self.protocol}, only {'+'.join(modalities)}"
        left_out = [*self.left_out, *(m for m in self.modalities if m not in modalities)]
        return replace(self, samples=samples, encoders=encoders, protocol=protocol, left_out=left_out)

    @property
    def labels(self) -> Sequence[torch.Tensor | None]:
        """Labels of all samples; reads no features if `samples` has an attribute `labels`."""
        return labels_of(self.samples)

    @property
    def groups(self) -> list[str]:
        """What each sample is a part of, such as a video or a scene; "" for one that stands alone (see `Sample`)."""
        without = getattr(self.samples, "without", None)  # reads no features where samples are read from disk
        return [s.group for s in (without(tuple(self.modalities)) if without else self.samples)]

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Return mean and standard deviation (D_m,) of each feature over all tokens, one sample in memory at a time.

        Samples are merged in float64 as in Chan, Golub and LeVeque (1983), so nothing cancels. A modality without any
        token has mean and standard deviation 0. Token ids and pictures have no statistics.
        """
        widths = {m: width for m, width in self.modalities.items() if width}
        count = dict.fromkeys(widths, 0)
        mean = {m: torch.zeros(d, dtype=torch.float64) for m, d in widths.items()}
        squares = {m: torch.zeros(d, dtype=torch.float64) for m, d in widths.items()}
        for sample in self.samples if widths else ():
            for m in widths:
                x = sample.features[m]
                if m in sample.masks:
                    x = x[sample.masks[m]]
                if not len(x):
                    continue
                x, total = x.double(), count[m] + len(x)
                center = x.mean(0)
                step = center - mean[m]
                squares[m] += (x - center).square().sum(0) + step.square() * (count[m] * len(x) / total)
                mean[m] += step * (len(x) / total)
                count[m] = total
        return {m: (mean[m].float(), (squares[m] / max(1, count[m])).sqrt().float()) for m in widths}


def labels_of(samples: Sequence[Sample]) -> Sequence[torch.Tensor | None]:
    """Return the samples' labels; reads no sample if `samples` has an attribute `labels`."""
    labels = getattr(samples, "labels", None)
    return [s.label for s in samples] if labels is None else labels


def splits_of(
    samples: Mapping[str, Sequence[Sample]],
    *,
    classes: Sequence[str] = (),
    readout: str = "mean",
    notes: Sequence[str] = (),
    show: Mapping[str, Callable[[Sample], Any]] | None = None,
    **fields: Any,
) -> dict[str, Dataset]:
    """Return a `Dataset` per split, of its samples by its name.

    The names of the `classes` (or labels, or targets) open the notes; there are none for regression. `show` is by
    default the samples' own, if they have one; `fields` are other fields of `Dataset`, the same for all splits.
    """
    if fields.get("encoders"):
        fields["protocol"] += ", encoders inside the model"
    if classes:
        notes = (f"classes: {', '.join(classes)}", *notes)
    fields |= {"readout": readout, "notes": tuple(notes), "n_classes": len(classes) or 1}
    fields.setdefault("task", "classification" if classes else "regression")
    return {
        name: Dataset(split=name, samples=part, show=getattr(part, "show", {}) if show is None else show, **fields)
        for name, part in samples.items()
    }


def _only(modalities: Sequence[str], sample: Sample) -> Sample:
    return replace(
        sample,
        features={m: sample.features[m] for m in modalities},
        words={m: words for m, words in sample.words.items() if m in modalities},
        partners={pair: partner for pair, partner in sample.partners.items() if set(pair) <= set(modalities)},
        masks={m: mask for m, mask in sample.masks.items() if m in modalities},
    )


def similar(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" for a name that is close to a known one, else ""."""
    close = get_close_matches(str(name), [str(k) for k in known], 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise `ValueError` unless the value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: found {value!r}; expected one of {tuple(choices)}")


def check_fraction(name: str, value: float) -> None:
    """Raise `ValueError` unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name}: found {value!r}; expected a number between 0 and 1")


def without_nonfinite(dataset: Dataset, policy: str = "error") -> Dataset:
    """Return the same data set without NaN and infinities in its features.

    Its `notes` and `protocol` tell the number of values, so that it is in every result. A warning tells it too. A
    `DataError` names the split, the modality, the samples and the number of values. ("mosi" and "mosei" hold `-inf`,
    which their store sets to 0 and counts under every policy, as the field's loaders do.)

    The policy is "error" (refuse), "mask" (the token is skipped, as if it were not there; a modality whose every token
    is masked is missing, a sample without any token is refused), or "zero" (the value is set to 0, the token's rest
    stays).
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
    return replace(
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
        return replace(sample, features=features)
    masks = {m: torch.isfinite(x).all(-1) for m, x in sample.features.items() if x.is_floating_point()}
    masks = {m: mask & sample.masks[m] if m in sample.masks else mask for m, mask in masks.items()}
    return replace(sample, features=features, masks=masks)


def _any_token(sample: Sample) -> bool:
    return any(bool(sample.masks[m].any()) if m in sample.masks else len(x) for m, x in sample.features.items())


def _summary(counts: Counter[str]) -> str:
    examples = ", ".join(f"{name!r} ({n})" for name, n in list(counts.items())[:5])
    return f"{counts.total()} in {len(counts)} samples: {examples}" + (", …" if len(counts) > 5 else "")
