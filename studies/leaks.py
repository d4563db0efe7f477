"""How much do the published features of `mosi-utterances` know about the training labels?

For each modality: logistic regression on single utterances, scored on *training* videos that it has not seen
(5 folds by video), and on the test videos. An honest feature scores alike on both. A feature that was itself fitted to
the training labels scores higher on the first, and a validation split taken from there cannot see how little it is
worth. The last column is the share of tokens whose features must be swapped in
training to make the one like the other, (unseen − test) / (unseen − ½): what the recipes take.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from alignmamba2.datasets import load_dataset
from notebooks.course.leaks import scores


def main(argv: Sequence[str] = ()) -> None:
    argparse.ArgumentParser(prog="python -m studies leaks", description=__doc__).parse_args(argv)
    print("logistic regression on single utterances, accuracy in %")
    print(f"{'':18s}{'unseen training videos':>24s}{'test videos':>14s}{'swap':>8s}")
    for text in ("released", "minilm"):
        splits = load_dataset("mosi-utterances", text=text)
        for modality in ("text", "audio", "video") if text == "released" else ("text",):
            unseen, test = scores(splits, modality)
            name = f"text ({text})" if modality == "text" else modality
            swap = max(0.0, (unseen - test) / (unseen - 0.5)) if unseen > 0.6 else 0.0  # near chance there is no leak
            print(f"{name:18s}{100 * unseen:24.1f}{100 * test:14.1f}{swap:8.2f}")
