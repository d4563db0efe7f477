"""Chapter 01, what lies in the benchmarks' files."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("01")


def _padded(draw: torch.Generator) -> tuple[torch.Tensor]:
    count, steps = 6, int(torch.randint(7, 12, (), generator=draw))
    array = torch.zeros(count, steps, 3)
    in_front = bool(torch.rand((), generator=draw) < 0.5)
    for row in array[1:]:  # the first is missing
        length = int(torch.randint(3, steps, (), generator=draw))
        row[slice(steps - length, None) if in_front else slice(length)] = torch.randn(length, 3, generator=draw)
    start, edge = (steps - 3, steps - 1) if in_front else (0, 0)
    array[1, start + 1] = 0  # a pause
    array[2, edge] = torch.tensor([1.0, -1.0, 0.0])  # real, though it sums to 0
    array[3, edge] = torch.tensor([0.0, -torch.inf, 0.0])
    return (array,)


@chapter.exercise(
    1,
    inputs=_padded,
    hints=[
        "real = (array != 0).any(dim=2) is True at real steps, pauses excepted. -inf is not 0, so it counts.",
        "Number the steps, torch.arange(T). The largest number of a real step, and the smallest: they make the length.",
        "A sample without real steps has length 0: clamp what comes out.",
    ],
)
def lengths(array):
    """array (N, T, D), may hold -inf → whole numbers (N,)."""
    real = (array != 0).any(dim=2)
    step = torch.arange(array.shape[1])
    last = torch.where(real, step, -1).amax(dim=1)
    first = torch.where(real, step, array.shape[1]).amin(dim=1)
    return (last - first + 1).clamp_min(0)


@chapter.mistake(1, "You count the steps that are not 0; a pause in the middle is a step too.")
def _pauses_left_out(array):
    return (array != 0).any(dim=2).sum(dim=1)


@chapter.mistake(1, "You take the padding to be behind; in some arrays it is in front.")
def _from_the_beginning(array):
    real = (array != 0).any(dim=2)
    return torch.where(real, torch.arange(array.shape[1]) + 1, 0).amax(dim=1)


@chapter.mistake(1, "A step whose numbers cancel in the sum is real all the same; ask whether any is not 0.")
def _by_the_sum(array):
    real = array.sum(dim=2) != 0
    step = torch.arange(array.shape[1])
    last, first = torch.where(real, step, -1).amax(dim=1), torch.where(real, step, array.shape[1]).amin(dim=1)
    return (last - first + 1).clamp_min(0)


@chapter.mistake(1, "A real step may hold zeros; only a step that is 0 in all its numbers is padding.")
def _all_numbers(array):
    real = (array != 0).all(dim=2)
    step = torch.arange(array.shape[1])
    last, first = torch.where(real, step, -1).amax(dim=1), torch.where(real, step, array.shape[1]).amin(dim=1)
    return (last - first + 1).clamp_min(0)


def _annotations(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))
    more = torch.randint(0, 3, (6, 2), generator=draw)
    both = torch.cat([every, more])[torch.randperm(15, generator=draw)]
    return both[:, 0], both[:, 1]


@chapter.exercise(
    2,
    inputs=_annotations,
    hints=[
        "Where image is neutral (1), the label is the text's; where text is neutral, it is the image's.",
        "torch.where(image == 1, text, image) does both, once the contradictions are dealt with.",
        "Positive against negative is 0 against 2, the only pair whose classes differ by 2.",
    ],
)
def merged_label(text, image):
    """text, image (N,) int64 → int64 (N,), −1 where the pair is left out."""
    label = torch.where(image == 1, text, image)
    return torch.where((text - image).abs() == 2, -1, label)


@chapter.mistake(2, "That is the other protocol: it keeps only pairs that agree. Here a neutral side yields.")
def _only_agreement(text, image):
    return torch.where(text == image, text, -1)


@chapter.mistake(2, "Positive against negative is left out here, −1; half-way is not neutral.")
def _average(text, image):
    return torch.where((text - image).abs() == 2, 1, torch.where(image == 1, text, image))


@chapter.mistake(2, "A contradiction gets the picture's label here; it should be −1.")
def _the_picture_wins(text, image):
    return torch.where(image == 1, text, image)


def _copies(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    train = torch.randint(0, 30, (20,), generator=draw)
    test = torch.randint(0, 30, (14,), generator=draw)
    test[:3], train[:2] = train[5], train[5]  # copies within a split, too
    return train, test


@chapter.exercise(
    3,
    inputs=_copies,
    hints=[
        "torch.isin(test, train) says of each test sample whether its text is in train.",
        "The mean of that, as float, is the share.",
    ],
)
def leaked(train, test):
    """train (N,), test (M,) int64 → a number between 0 and 1."""
    return torch.isin(test, train).float().mean()


@chapter.mistake(3, "That is the share of train that is also in test. It is the test samples that are too easy.")
def _of_train(train, test):
    return torch.isin(train, test).float().mean()


@chapter.mistake(3, "You count each text once; but every copy in test is a sample that counts in the score.")
def _each_text_once(train, test):
    return torch.isin(test.unique(), train).float().mean()


@chapter.mistake(3, "You count pairs of equal texts; a test text with three copies in train is still one sample.")
def _pairs(train, test):
    return (test[:, None] == train[None]).float().sum() / len(test)
