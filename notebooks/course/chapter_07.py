"""Chapter 07, what a score on CMU-MOSI means."""

from __future__ import annotations

import torch

from .exercise import Chapter

chapter = Chapter("07")


def _sentiments(draw: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.randint(-6, 7, (30,), generator=draw) / 2
    prediction = label + torch.randint(-4, 5, (30,), generator=draw) / 2
    label[:3], prediction[:3] = 0, torch.tensor([0.0, 0.5, -0.5])
    prediction[3:6], label[3:6] = 0, torch.tensor([1.0, -1.0, -2.0])
    prediction[6], label[6] = 4.5, 3.0
    return prediction, label


@chapter.exercise(
    1,
    inputs=_sentiments,
    hints=[
        "Has0: ((prediction >= 0) == (label >= 0)), as float, and the mean.",
        "Non0: keep = label != 0 chooses the sentences; both sides are indexed with it, and > takes the place of >=.",
    ],
)
def two_accuracies(prediction, label):
    """prediction, label (N,) → (Has0, Non0), numbers between 0 and 1."""
    has0 = ((prediction >= 0) == (label >= 0)).float().mean()
    keep = label != 0
    non0 = ((prediction[keep] > 0) == (label[keep] > 0)).float().mean()
    return has0, non0


@chapter.mistake(1, "Non0 leaves out sentences whose label is 0; yours still counts them.")
def _nothing_left_out(prediction, label):
    return ((prediction >= 0) == (label >= 0)).float().mean(), ((prediction > 0) == (label > 0)).float().mean()


@chapter.mistake(1, "It is the label that must not be 0; you left out the sentences whose prediction is.")
def _left_out_by_prediction(prediction, label):
    keep = prediction != 0
    has0 = ((prediction >= 0) == (label >= 0)).float().mean()
    return has0, ((prediction[keep] > 0) == (label[keep] > 0)).float().mean()


@chapter.mistake(1, "Has0 takes ≥: a 0 counts as positive, in the prediction and in the label.")
def _greater_for_both(prediction, label):
    keep = label != 0
    non0 = ((prediction[keep] > 0) == (label[keep] > 0)).float().mean()
    return ((prediction > 0) == (label > 0)).float().mean(), non0


@chapter.mistake(1, "In Non0 a prediction of exactly 0 counts as negative: > on both sides.")
def _at_least_for_both(prediction, label):
    keep = label != 0
    has0 = ((prediction >= 0) == (label >= 0)).float().mean()
    return has0, ((prediction[keep] >= 0) == (label[keep] >= 0)).float().mean()


@chapter.exercise(
    2,
    inputs=_sentiments,
    hints=["x.clamp(-3, 3).round(), for both sides.", "Then the share of equal ones: (a == b).float().mean()."],
)
def accuracy_7(prediction, label):
    """prediction, label (N,) → a number between 0 and 1."""
    return (prediction.clamp(-3, 3).round() == label.clamp(-3, 3).round()).float().mean()


@chapter.mistake(2, "A prediction of 4.5 is meant as 3: clip before you round.")
def _not_clipped(prediction, label):
    return (prediction.round() == label.round()).float().mean()


@chapter.mistake(2, "You round half up; torch.round takes 0.5 to 0 and 1.5 to 2, half to even.")
def _half_up(prediction, label):
    a, b = ((x.clamp(-3, 3) + 0.5).floor() for x in (prediction, label))
    return (a == b).float().mean()


@chapter.mistake(2, "You cut the fraction off, so everything between −1 and 1 becomes 0; round.")
def _cut_off(prediction, label):
    return (prediction.clamp(-3, 3).trunc() == label.clamp(-3, 3).trunc()).float().mean()


@chapter.mistake(2, "Within half a step is not the rule; both sides are rounded first.")
def _near(prediction, label):
    return ((prediction.clamp(-3, 3) - label).abs() <= 0.5).float().mean()


def _losses(draw: torch.Generator) -> tuple[torch.Tensor, int]:
    patience = int(torch.randint(2, 5, (), generator=draw))
    falling = torch.tensor([1.0, 0.8, 0.7, 0.6])
    rest = 0.6 + 0.2 * torch.rand(patience + 3, generator=draw)
    rest[0] = 0.6  # as good is no better
    late = torch.tensor([0.3, 0.2])  # better, but nobody is there any more
    return torch.cat([falling, rest, late]), patience


@chapter.exercise(
    3,
    inputs=_losses,
    hints=[
        "Go through the epochs with a loop, and remember the best loss and its epoch.",
        "After epoch e, stop if e - best >= patience. Then e + 1 epochs were run.",
        "If nothing stopped it, all of them were run.",
    ],
)
def stop(losses, patience):
    """losses (E,), one an epoch if nothing stops it; patience ≥ 1 → (the epoch that is kept, epochs run)."""
    best = 0
    for epoch, loss in enumerate(losses):
        if loss < losses[best]:
            best = epoch
        if epoch - best >= patience:
            return best, epoch + 1
    return best, len(losses)


@chapter.mistake(3, "You look at all epochs and take the best; those behind the stop were never run.")
def _from_the_future(losses, patience):
    best = int(losses.argmin())
    return best, min(best + patience + 1, len(losses))


@chapter.mistake(3, "The last epoch is kept here; it is the best that should be.")
def _the_last(losses, patience):
    _, ran = stop(losses, patience)
    return ran - 1, ran


@chapter.mistake(
    3, "Patience is counted from the best epoch: stop when the epoch is `patience` behind it, not one later."
)
def _one_too_many(losses, patience):
    best, ran = stop(losses, patience)
    return best, min(ran + 1, len(losses))


@chapter.mistake(3, "An epoch that is only as good as the best is no better; it must not start the patience anew.")
def _equal_counts(losses, patience):
    best = 0
    for epoch, loss in enumerate(losses):
        if loss <= losses[best]:
            best = epoch
        if epoch - best >= patience:
            return best, epoch + 1
    return best, len(losses)
