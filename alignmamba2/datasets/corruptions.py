"""Corruptions for studies of robustness, as the literature defines them.

Each sample has a draw of its own, so order and batches do not matter, and the same seed gives the same corruption.

    missing   A modality is missing, each with probability `severity`, but never all of a sample.
    frames    Each token is lost with probability `severity` (TFR-Net): a word becomes [UNK], which is token 100 for
              BERT's tokenizers and leaves [CLS] and [SEP] alone; other tokens become 0. (TFR-Net draws per word piece;
              here it is per word, if the data set keeps words.)
    noise     Gaussian noise in pictures, with probability ½ per modality: the same draw in all channels (QMF), standard
              deviation `severity` grey levels for NYU-Depth V2, 10 · `severity` for MVSA-Single, on the 224 × 224
              pixels that an encoder sees. Depth in metres takes one level as 10 m / 255 (our choice). Values stay
              within 0 and 255 (QMF's negative ones wrap around); every sample has its own draw (QMF repeats one).
    late      The stream comes `severity` of its length later: as much is lost at its end, and it begins with 0 (our
              choice).
    blank     With probability ½ per sample, each word becomes "_" with probability 0.1 · `severity` (QMF).

`noise` and `blank` belong to pixels and words. If a data set keeps nothing but features (`mosi`, say), they are applied
to features, which is our choice and stands in the protocol: noise is `severity` standard deviations of each feature, in
every token; a blanked word's token is 0, as in `frames`.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch import Sample
from .base import Dataset, Mapped, check_choice
from .raw_modalities import RawModality, RawSamples

MOST = {"missing": 1.0, "frames": 1.0, "noise": np.inf, "late": 1.0, "blank": 10.0}  # severity of each kind
KINDS = tuple(MOST)
LEVELS = {"frames": ("words",), "noise": ("pixels", "metres"), "blank": ("words",)}
UNKNOWN = "[UNK]"


def corrupt(
    dataset: Dataset, kind: str, severity: float, *, seed: int = 0, modalities: Sequence[str] | None = None
) -> Dataset:
    """Return the same data set, each sample corrupted when it is read; corruptions can be laid over each other.

    Its protocol names the corruption, the modalities and the level. A `ValueError` names an unknown kind or modality, a
    severity out of range, or a kind that none of the modalities can suffer. The kinds are told in the module.

    Severity is a probability for "missing" and "frames", 0 to 1 for "late", to 10 for "blank", 0 or more for "noise".
    Corrupted are by default all `modalities`, for "blank" the text, for "noise" all but words, for "late" the audio.
    """
    check_choice("kind", kind, KINDS)
    if not 0 <= severity <= MOST[kind] or not np.isfinite(severity):
        raise ValueError(f"severity: found {severity!r}; {kind!r} takes a number from 0 to {MOST[kind]:g}")
    present, able = list(dataset.samples[0].features), can_suffer(dataset, kind)
    raws = dataset.samples.raws if isinstance(dataset.samples, RawSamples) else {}
    usual = [m for m in able if kind != "late" or m == "audio"]
    chosen = usual if modalities is None else list(modalities)
    for m in chosen:
        if m not in present:
            raise ValueError(f"modalities: found {m!r}; {dataset.name} has {present}")
        if m not in able:
            raise ValueError(f"modalities: {kind!r} is nothing that {m!r} can suffer")
    if not chosen:
        raise ValueError(f"kind: {kind!r} is nothing that any of {present} can suffer")
    deep = [m for m in chosen if m in raws and raws[m].level in LEVELS.get(kind, ())]
    samples, show = dataset.samples, dataset.show
    if deep:
        changes = {m: partial(_change_item, kind, severity, seed, m, raws[m]) for m in deep}
        samples = samples.changed(changes, f"{kind} {severity!r} {seed}")
        show = samples.show
    shallow = [m for m in chosen if m not in deep]
    if shallow:
        scale = {m: sd for m, (_, sd) in dataset.statistics().items()} if kind == "noise" else {}
        samples = Mapped(samples, partial(_change_sample, kind, severity, seed, tuple(shallow), scale))
    where = [f"{m} ({raws[m].level})" for m in deep] + [f"{m} (features)" for m in shallow]
    where = chosen if kind == "missing" else where
    protocol = f"{dataset.protocol}, corrupted: {kind} {severity:g} of {', '.join(where)} (seed {seed})"
    return dataclasses.replace(dataset, samples=samples, show=show, protocol=protocol)


def can_suffer(dataset: Dataset, kind: str) -> list[str]:
    """Return the modalities that this kind of corruption can be done to."""
    raws = dataset.samples.raws if isinstance(dataset.samples, RawSamples) else {}
    every = list(dataset.samples[0].features)
    words = [m for m in every if (raws[m].level == "words" if m in raws else m == "text")]
    if kind == "blank":
        return words
    return [m for m in every if kind != "noise" or m not in words or m not in raws]


def dice(seed: int, kind: str, sample: str, modality: str) -> np.random.Generator:
    """Return a sample's own random generator, independent of its neighbours."""
    digest = hashlib.blake2b(f"{seed}|{kind}|{modality}|{sample}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _change_item(kind: str, severity: float, seed: int, modality: str, raw: RawModality, sample: str, item: Any) -> Any:
    draw = dice(seed, kind, sample, modality)
    if kind == "noise":
        if draw.random() >= 0.5:
            return item
        noise = severity * raw.noise * draw.standard_normal(item.shape[:2], np.float32)
        if raw.level == "metres":
            return np.clip(item + noise, 0, None).astype(np.float32)
        return np.clip(item + np.rint(noise)[..., None], 0, 255).astype(np.uint8)
    words = item.split()
    lost = _lost_words(kind, severity, draw, len(words))
    mark = UNKNOWN if kind == "frames" else "_"
    return " ".join(mark if is_lost else w for w, is_lost in zip(words, lost, strict=True))


def _lost_words(kind: str, severity: float, draw: np.random.Generator, n: int) -> np.ndarray:
    if kind == "frames":
        return draw.random(n) < severity
    touched = draw.random() < 0.5
    return (draw.random(n) < 0.1 * severity) & touched


def _change_sample(
    kind: str, severity: float, seed: int, modalities: Sequence[str], scale: Mapping[str, Tensor], sample: Sample
) -> Sample:
    if kind == "missing":
        return _without(sample, _lost_modalities(sample, severity, seed, modalities))
    features = dict(sample.features)
    for m in modalities:
        x, draw = features[m], dice(seed, kind, sample.id, m)
        if kind == "noise":
            if draw.random() < 0.5:
                features[m] = x + severity * scale[m] * torch.from_numpy(draw.standard_normal(x.shape, np.float32))
        elif kind == "late":
            late = round(severity * len(x))
            features[m] = torch.cat([torch.zeros_like(x[:late]), x[: len(x) - late]])
        else:
            lost = torch.from_numpy(_lost_words(kind, severity, draw, len(x)))
            features[m] = x.masked_fill(lost[:, None], 0)
    return dataclasses.replace(sample, features=features)


def _lost_modalities(sample: Sample, p: float, seed: int, modalities: Sequence[str]) -> set[str]:
    """Draw the modalities that a sample loses; if all would be lost, one of them, drawn evenly, is kept."""
    there = [m for m, x in sample.features.items() if len(x) and (m not in sample.masks or sample.masks[m].any())]
    lost = {m for m in modalities if dice(seed, "missing", sample.id, m).random() < p}
    if lost.issuperset(there):
        lost.discard(there[dice(seed, "kept", sample.id, "").integers(len(there))])
    return lost


def _without(sample: Sample, lost: set[str]) -> Sample:
    """The sample without the tokens of lost modalities; no token has a partner in a lost anchor."""
    if not lost:
        return sample
    partners = {
        (m, anchor): partner[:0] if m in lost else torch.full_like(partner, -1) if anchor in lost else partner
        for (m, anchor), partner in sample.partners.items()
    }
    return dataclasses.replace(
        sample,
        features={m: x[:0] if m in lost else x for m, x in sample.features.items()},
        words={m: () if m in lost else w for m, w in sample.words.items()},
        partners=partners,
        masks={m: mask for m, mask in sample.masks.items() if m not in lost},
    )
