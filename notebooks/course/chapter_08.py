"""Chapter 08, what size changes: padding, stores, and classes that are not alike in number."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("08")


def _lengths(draw: torch.Generator) -> tuple[torch.Tensor, int]:
    size = int(torch.randint(2, 5, (), generator=draw))
    return torch.randint(1, 20, (3 * size + 1,), generator=draw), size


@chapter.exercise(
    1,
    inputs=_lengths,
    hints=[
        "lengths.split(size) cuts into batches, the last one smaller.",
        "A batch takes len(batch) * batch.max() steps. Add these up; the real steps are lengths.sum().",
    ],
)
def wasted(lengths, size):
    """lengths (N,) int64, size → a number between 0 and 1."""
    padded = sum(len(batch) * batch.max() for batch in lengths.split(size))
    return 1 - lengths.sum() / padded


@chapter.mistake(1, "You pad every batch to the longest sample of all; it needs only its own longest.")
def _longest_of_all(lengths, size):
    return 1 - lengths.sum() / (len(lengths) * lengths.max())


@chapter.mistake(1, "You average the batches' shares; a batch of long samples has more steps, and counts for more.")
def _mean_of_shares(lengths, size):
    return torch.stack([1 - batch.sum() / (len(batch) * batch.max()) for batch in lengths.split(size)]).mean()


@chapter.mistake(1, "The last batch is smaller here: it holds what is left, not `size` samples.")
def _last_one_full(lengths, size):
    return 1 - lengths.sum() / sum(size * batch.max() for batch in lengths.split(size))


@chapter.mistake(1, "That is the share of real steps; the share of padding is 1 minus it.")
def _real_share(lengths, size):
    return lengths.sum() / sum(len(batch) * batch.max() for batch in lengths.split(size))


def _store(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lengths = torch.randint(1, 6, (7,), generator=draw)
    lengths[2] = 0  # a modality that is missing
    lengths[6] = 7  # the longest, which is not chosen
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    others = torch.tensor([0, 1, 3, 4, 5])[torch.randperm(5, generator=draw)[:3]]
    return torch.randn(int(offsets[-1]), 3, generator=draw), offsets, torch.cat([others, torch.tensor([2])])


@chapter.exercise(
    2,
    inputs=_store,
    hints=[
        "The lengths are offsets[1:] - offsets[:-1]; those of the chosen say how long the batch is.",
        "Make torch.zeros(B, T, D), and write each sample's rows into the beginning of its own row.",
    ],
)
def gather(tokens, offsets, chosen):
    """tokens (Σ T_i, D), offsets (N + 1,), chosen (B,) → batch (B, T, D)."""
    lengths = (offsets[1:] - offsets[:-1])[chosen]
    batch = torch.zeros(len(chosen), int(lengths.max()), tokens.shape[1])
    for row, i, length in zip(batch, chosen, lengths, strict=True):
        row[:length] = tokens[offsets[i] : offsets[i + 1]]
    return batch


@chapter.mistake(2, "That is padded to the longest of all samples; a batch is as long as its own longest.")
def _as_long_as_any(tokens, offsets, chosen):
    lengths = offsets[1:] - offsets[:-1]
    batch = torch.zeros(len(chosen), int(lengths.max()) + 1, tokens.shape[1])
    for row, i in zip(batch, chosen, strict=True):
        row[: lengths[i]] = tokens[offsets[i] : offsets[i + 1]]
    return batch[:, : int(lengths.max())]


@chapter.mistake(2, "The zeros stand in front here; real tokens come first.")
def _zeros_in_front(tokens, offsets, chosen):
    lengths = (offsets[1:] - offsets[:-1])[chosen]
    batch = torch.zeros(len(chosen), int(lengths.max()), tokens.shape[1])
    for row, i, length in zip(batch, chosen, lengths, strict=True):
        row[batch.shape[1] - length :] = tokens[offsets[i] : offsets[i + 1]]
    return batch


@chapter.mistake(2, "These are the first samples of the store; take the chosen ones, in their order.")
def _the_first(tokens, offsets, chosen):
    return gather(tokens, offsets, torch.arange(len(chosen)))


@chapter.mistake(2, "Behind a short sample its neighbour's tokens go on; padding must be 0.")
def _runs_on(tokens, offsets, chosen):
    longest = int((offsets[1:] - offsets[:-1])[chosen].max())
    batch = torch.zeros(len(chosen), longest, tokens.shape[1])
    for row, i in zip(batch, chosen, strict=True):
        rows = tokens[offsets[i] : offsets[i] + longest]
        row[: len(rows)] = rows
    return batch


def _classes(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.randint(0, 4, (24,), generator=draw)
    label[label == 1] = 3  # class 1 does not occur among the labels
    label[:12] = 3  # and 3 is frequent
    label[12:14] = torch.tensor([0, 2])
    prediction = torch.where(torch.rand(24, generator=draw) < 0.6, label, torch.randint(0, 4, (24,), generator=draw))
    prediction[0] = 1
    return prediction, label


@chapter.exercise(
    3,
    inputs=_classes,
    hints=[
        "label.unique() are the classes that occur.",
        "Of class c, the share recognised is (prediction[label == c] == c).float().mean().",
    ],
)
def balanced(prediction, label):
    """prediction, label (N,) int64 → a number between 0 and 1."""
    return torch.stack([(prediction[label == c] == c).float().mean() for c in label.unique()]).mean()


@chapter.mistake(3, "That is plain accuracy, in which a frequent class has more to say.")
def _accuracy(prediction, label):
    return (prediction == label).float().mean()


@chapter.mistake(3, "Of what was *answered* c, you take the share that is c: precision. Start from the labels.")
def _precision(prediction, label):
    return torch.stack([(label[prediction == c] == c).float().mean() for c in prediction.unique()]).mean()


@chapter.mistake(3, "Class 1 may not occur; it then has no share, and must not count as 0.")
def _absent_counts(prediction, label):
    shares = [(prediction[label == c] == c).float().sum() / (label == c).sum().clamp_min(1) for c in range(4)]
    return torch.stack(shares).mean()
