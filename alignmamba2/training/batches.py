"""Batches of a data set, and how several processes share each of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from ..batch import MultimodalBatch
from ..datasets import Dataset
from .machines import process


class Share:
    """Share yields what this process computes of every batch, in one part or in several one after the other.

    n processes with k parts each take a batch in n · k shares: share i has every (n · k)-th sample from the i-th on,
    and part p of process r is share p · n + r. A share without a sample gets the first one as a stand-in: it counts 0.
    """

    def __init__(self, batches: BatchSampler, parts: int = 1):
        self.batches, self.parts = batches, parts

    def __iter__(self) -> Iterator[list[int]]:
        rank, world = process()
        for batch in self.batches:
            for part in range(self.parts):
                yield batch[part * world + rank :: world * self.parts] or batch[:1]

    def __len__(self) -> int:
        return len(self.batches) * self.parts


def share_of(step: int, samples: int, batch_size: int, part: int = 0, parts: int = 1) -> tuple[int, int]:
    """Return how many samples of a step's batch are in this process's part (0: a stand-in), and how many in all."""
    rank, world = process()
    size = min(batch_size, samples - step * batch_size)
    return len(range(part * world + rank, size, world * parts)), size


def loader(
    dataset: Dataset,
    batch_size: int,
    shuffle: torch.Generator | None = None,
    share: bool = False,
    parts: int = 1,
    num_workers: int = 0,
) -> DataLoader:
    """Return the batches of a data set, in a random order if a generator is given.

    With `share`, each batch is this process's share of it, in `parts` parts. `num_workers` processes read ahead;
    the batches are the same.
    """
    order = SequentialSampler(dataset) if shuffle is None else RandomSampler(dataset, generator=shuffle)
    batches = BatchSampler(order, batch_size, drop_last=False)
    return DataLoader(
        dataset,
        batch_sampler=Share(batches, parts) if share else batches,
        num_workers=num_workers,
        generator=shuffle,
        collate_fn=MultimodalBatch.from_samples,
        pin_memory=torch.cuda.is_available(),
    )
