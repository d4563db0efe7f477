"""Batches of a data set, and how several processes share each of them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler

from ..batch import MultimodalBatch
from ..datasets import Dataset
from .machines import process


class Bucketed:
    """Bucketed yields batches of samples of similar length, in a random order; the incomplete one comes last.

    So many batches at a time are drawn, sorted by length and cut: random enough to train with, and little padding.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, batches: int, generator: torch.Generator):
        self.lengths, self.batch_size, self.batches, self.generator = lengths, batch_size, batches, generator

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(len(self.lengths), generator=self.generator).tolist()
        whole = len(order) - len(order) % self.batch_size
        drawn = []
        for start in range(0, whole, self.batches * self.batch_size):
            part = order[start : min(start + self.batches * self.batch_size, whole)]
            part.sort(key=self.lengths.__getitem__)
            drawn += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        for place in torch.randperm(len(drawn), generator=self.generator).tolist():
            yield drawn[place]
        if whole < len(order):
            yield order[whole:]

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)


class Neighbourly:
    """Neighbourly yields batches of blocks: at most so many samples of a group that follow each other.

    In training each group is cut anew in every epoch, from a random place on, and the blocks come in a random order;
    else from its first sample on, so that the blocks do not depend on the batches' size.
    """

    def __init__(self, groups: Sequence[str], batch_size: int, most: int, generator: torch.Generator | None):
        self.groups, self.batch_size, self.most, self.generator = groups, batch_size, most, generator

    def __iter__(self) -> Iterator[list[int]]:
        blocks = list(self._blocks())
        order = range(len(blocks))
        if self.generator is not None:
            order = torch.randperm(len(blocks), generator=self.generator).tolist()
        batch, done, cut = [], 0, 1
        for place in order:
            batch += blocks[place]
            done += len(blocks[place])
            if done * len(self) >= cut * len(self.groups):  # no block reaches over two cuts: see `__len__`
                yield batch
                batch, cut = [], cut + 1

    def _blocks(self) -> Iterator[list[int]]:
        start = 0
        while start < len(self.groups):
            stop = start + 1
            while stop < len(self.groups) and self.groups[stop] and self.groups[stop] == self.groups[start]:
                stop += 1
            first = self.most if self.generator is None else int(torch.randint(self.most, (), generator=self.generator))
            cuts = [start, *range(start + (first or self.most), stop, self.most), stop]
            yield from (list(range(a, b)) for a, b in pairwise(cuts))
            start = stop

    def __len__(self) -> int:
        return max(1, len(self.groups) // max(self.batch_size, self.most))


class Share:
    """Share yields what this process computes of every batch, in one part or in several one after the other.

    n processes with k parts each take a batch in n · k shares: share i has every (n · k)-th sample from the i-th on,
    and part p of process r is share p · n + r. A share without a sample gets the first one as a stand-in: it counts 0.
    """

    def __init__(self, batches: BatchSampler | Bucketed | Neighbourly, parts: int = 1):
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
    bucket: int = 1,
    neighbours: int = 1,
    every: int = 1,
) -> DataLoader:
    """Return the batches of a data set, in a random order if a generator is given.

    With `share`, each batch is this process's share of it, in `parts` parts. `num_workers` processes read ahead; the
    batches are the same. `bucket`: see `TrainingConfig`; `neighbours`: see `EncoderConfig`. Of batches in order, those
    between every `every`-th one are neither read nor returned.
    """
    order = SequentialSampler(dataset) if shuffle is None else RandomSampler(dataset, generator=shuffle)
    batches: BatchSampler | Bucketed | Neighbourly = BatchSampler(order, batch_size, drop_last=False)
    if neighbours > 1:
        if process()[1] * parts > 1:
            raise ValueError(f"neighbours: {neighbours} samples are read together; expected one process, accumulate=1")
        batches = Neighbourly(dataset.groups, batch_size, neighbours, shuffle)
    elif bucket > 1 and shuffle is not None:
        lengths = [sum(map(len, sample.features.values())) for sample in dataset.samples]
        batches = Bucketed(lengths, batch_size, bucket, shuffle)
    shares = Share(batches, parts) if share else batches
    return DataLoader(
        dataset,
        batch_sampler=shares if every == 1 else list(shares)[::every],
        num_workers=num_workers,
        generator=shuffle,
        collate_fn=MultimodalBatch.from_samples,
        pin_memory=torch.cuda.is_available(),
    )
