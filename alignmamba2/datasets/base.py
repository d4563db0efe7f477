"""The data set that every loader returns, and the error that every loader raises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..batch import MultimodalBatch, Sample


class DataError(ValueError):
    """A file or folder is not what it should be; the message names it and says what to do."""


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
    hashes : mapping of file name to SHA-256
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

    def __post_init__(self) -> None:
        if not self.samples:
            raise DataError(f"{self.name}, split {self.split!r}: no samples")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    @property
    def modalities(self) -> dict[str, int]:
        """Feature width of each modality."""
        return {m: x.shape[-1] for m, x in self.samples[0].features.items()}

    def batch(self, indices: Iterable[int] | None = None) -> MultimodalBatch:
        """These samples (all of them if left out) as one padded batch."""
        chosen = self.samples if indices is None else [self.samples[i] for i in indices]
        return MultimodalBatch.from_samples(chosen)

    def statistics(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Mean and standard deviation (D_m,) of each feature over all tokens, computed in float64."""
        result = {}
        for m in self.modalities:
            tokens = torch.cat([s.features[m] for s in self.samples]).double()
            result[m] = (tokens.mean(0).float(), tokens.std(0, correction=0).float())
        return result
