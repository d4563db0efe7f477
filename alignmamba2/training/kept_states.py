"""What the frozen layers of encoders compute of a data set, computed once and kept on disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import ConcatDataset
from tqdm import tqdm

from ..batch import MultimodalBatch, Sample
from ..datasets import Dataset
from ..datasets.augmentation import Augmentation, AugmentedSamples
from ..datasets.base import labels_of
from ..datasets.fetch import data_root
from ..encoders import Encoder, Tokens
from ..encoders.cache import cached, hash_items, in_batches
from ..model import FusionModel

BATCH = 8  # of pictures, a processor's cache does not hold the maps of many more


def prepared(
    train: Dataset, model: FusionModel, augment: Mapping[str, object] | None = None, progress: bool = False
) -> Dataset:
    """Return a split as the trainer reads it: pictures augmented, and states of frozen layers in place of raw inputs.

    Where an encoder has frozen layers, what they compute of a sample is kept on disk, under the hash of the encoder's
    weights and of the data, for each of the augmentation's views; each reading of the sample draws one of the views.
    The model computes the same from the states, in less time.
    """
    if isinstance(train.samples, ConcatDataset):
        parts = [replace(train, samples=samples) for samples in train.samples.datasets]
        return replace(train, samples=ConcatDataset([prepared(p, model, augment, progress).samples for p in parts]))
    encoders = {m: e for m, e in model.encode.items() if m in train.encoders}
    kept = {m: e for m, e in encoders.items() if e.config.train != "all" and e.config.neighbours == 1}
    augmentation = Augmentation(**augment) if augment else None
    if not kept:
        return replace(train, samples=AugmentedSamples(train.samples, augmentation)) if augmentation else train
    views: list[Sequence[Sample]] = [train.samples]
    if augmentation:
        views = [AugmentedSamples(train.samples, augmentation, view) for view in range(augmentation.views)]
    states = {}
    for m, encoder in kept.items():
        still = encoder.vocabulary > 0  # augmentation changes pictures alone
        of_views = [_states(samples, m, encoder, train, progress) for samples in (views[:1] if still else views)]
        states[m] = of_views * len(views) if still else of_views
    return replace(train, samples=KeptSamples(train.samples, states))


class KeptSamples(Sequence):
    """Samples with kept states in place of some modalities' features; each reading draws one of the views."""

    finite = True

    def __init__(self, samples: Sequence[Sample], states: Mapping[str, Sequence[Tokens]]):
        lean = samples.without(tuple(states)) if hasattr(samples, "without") else samples
        self.samples, self.states, self.views = lean, states, len(next(iter(states.values())))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        view = int(torch.randint(self.views, ())) if self.views > 1 else 0
        return replace(sample, features={**sample.features, **{m: x[view][index] for m, x in self.states.items()}})

    @property
    def labels(self) -> Sequence[Tensor | None]:
        return labels_of(self.samples)


def content_hash(dataset: Dataset, m: str) -> str:
    """Return a hash of a modality's raw inputs, or the name that the samples have for them in `keys`."""
    names = getattr(dataset.samples, "keys", {})
    return names[m] if m in names else hash_items(s.features[m].numpy() for s in dataset.samples)


def _states(samples: Sequence[Sample], m: str, encoder: Encoder, dataset: Dataset, progress: bool) -> Tokens:
    """What enters the encoder's first layer that learns, one sequence of states per sample."""
    how = f" {samples.augmentation} view {samples.view}" if isinstance(samples, AugmentedSamples) else ""
    data = content_hash(dataset, m) + how
    bar = tqdm(total=len(samples), desc=f"{encoder.config.name}, {m}", leave=False, disable=not progress)
    return cached(data_root() / "cache", encoder.key, data, encoder.states_width, _computed(samples, m, encoder, bar))


def _computed(samples: Sequence[Sample], m: str, encoder: Encoder, bar: tqdm) -> Iterator[list[Tensor]]:
    device = next(encoder.parameters()).device
    for batch in in_batches(samples, BATCH):
        only = [Sample({m: s.features[m]}, masks={k: v for k, v in s.masks.items() if k == m}) for s in batch]
        inputs = MultimodalBatch.from_samples(only).to(device)
        states, mask = encoder.below(inputs.features[m], inputs.masks[m])
        bar.update(len(batch))
        yield [x[real] for x, real in zip(states, mask, strict=True)]
