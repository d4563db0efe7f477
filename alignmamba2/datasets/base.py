"""The data set that every loader returns, and the error that every loader raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from ..batch import MultimodalBatch, Sample


class DataError(ValueError):
    """A file or folder is not what it should be; the message names it and says what to do."""


class Seen(Sequence):
    """Samples seen through a function, applied when a sample is asked for."""

    def __init__(self, samples: Sequence[Sample], change: Callable[[Sample], Sample]):
        self._samples, self._change = samples, change

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        return self._change(self._samples[index])

    def __getattr__(self, name: str) -> Any:
        # What lazy samples keep apart (labels, ids) is the same for all who see them.
        if name not in ("labels", "ids", "finite"):
            raise AttributeError(name)
        return getattr(self._samples, name)


@dataclass(frozen=True)
class Dataset(torch.utils.data.Dataset):
    """One split of a data set; a sequence of `Sample`s that a `DataLoader` can read.

    Attributes
    ----------
    name, split : str
    protocol : str
        Which split, labels and features exactly; goes into every result.
    description : str
    synthetic : bool
        Generated, not observed; said wherever its numbers show.
    task : "classification" or "regression"; n_classes : int
    readout : the readout that fits its labels, "mean" or "per_step"
    samples : sequence of Sample
        May be lazy, and read a sample from disk when it is asked for; then it should also have an attribute
        `labels`, a sequence of the N labels, so that they can be had without reading features.
    hashes : mapping of file name to SHA-256
    notes : sequence of str
        What reading found and did, such as "train/audio: 153 values were -inf, set to 0".
    show : mapping of modality to a function of a `Sample`
        What a person sees or hears of it: of "image" and "depth" the picture, (H, W, 3) uint8, or None where it is
        missing; of "audio" the loudness of each token, (T,). For panels; optional.
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
    show: Mapping[str, Callable[[Sample], Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.samples):
            raise DataError(f"{self.name}, split {self.split!r}: no samples")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    @property
    def modalities(self) -> dict[str, int]:
        """Feature width of each modality."""
        return {m: x.shape[-1] for m, x in self.samples[0].features.items()}

    @property
    def classes(self) -> list[str]:
        """The classes' names, as the notes say them; none of numbers, or where no note does."""
        named = [note.removeprefix("classes: ") for note in self.notes if note.startswith("classes: ")]
        return named[0].split(", ") if named else []

    def batch(self, indices: Iterable[int] | None = None) -> MultimodalBatch:
        """These samples (all of them if left out) as one padded batch."""
        chosen = self.samples if indices is None else [self.samples[i] for i in indices]
        return MultimodalBatch.from_samples(chosen)

    def only(self, *modalities: str) -> Dataset:
        """The same samples with nothing but these modalities, such as for a model of one; the protocol says so."""
        unknown = sorted(set(modalities) - set(self.modalities))
        if unknown or not modalities:
            raise ValueError(f"only: found {list(modalities)}; {self.name} has {list(self.modalities)}")
        samples = Seen(self.samples, partial(_only, modalities))
        return replace(self, samples=samples, protocol=f"{self.protocol}, only {'+'.join(modalities)}")

    @property
    def labels(self) -> Sequence[torch.Tensor | None]:
        """The label of every sample; no features are read where `samples` is lazy and keeps labels apart."""
        kept = getattr(self.samples, "labels", None)
        return [s.label for s in self.samples] if kept is None else kept

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Mean and standard deviation (D_m,) of each feature over all tokens, in float64, reading a sample at a time.

        Means and sums of squared deviations of samples are merged as in Chan, Golub and LeVeque (1983), so nothing
        cancels. A modality without a single token has mean and sd 0.
        """
        widths = self.modalities
        count = dict.fromkeys(widths, 0)
        mean = {m: torch.zeros(d, dtype=torch.float64) for m, d in widths.items()}
        squares = {m: torch.zeros(d, dtype=torch.float64) for m, d in widths.items()}
        for sample in self.samples:
            for m, x in sample.features.items():
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


def seeded(splits: Mapping[str, Dataset], seed: int) -> dict[str, Dataset]:
    """The splits of a generated set, its seed in every protocol."""
    said = f"synthetic, seed {seed}"
    return {k: replace(d, protocol=d.protocol.replace("synthetic", said, 1)) for k, d in splits.items()}


def _only(modalities: Sequence[str], sample: Sample) -> Sample:
    return replace(
        sample,
        features={m: sample.features[m] for m in modalities},
        words={m: words for m, words in sample.words.items() if m in modalities},
        partners={pair: partner for pair, partner in sample.partners.items() if set(pair) <= set(modalities)},
        masks={m: mask for m, mask in sample.masks.items() if m in modalities},
    )
