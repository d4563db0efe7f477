"""Random crops, flips and colours of pictures, for training encoders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..batch import Sample
from .base import labels_of

GREY = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Augmentation:
    """Augmentation draws a crop and a mirror image of a sample's pictures, the same for all of them.

    So a place in the colour picture stays the same place in the depth map. Crop and flip are those of the benchmarks'
    papers: of 256 pixels a side a random 224, left and right exchanged half of the time. `jitter` is, by modality, a
    strength j: brightness, contrast and saturation are multiplied by factors from 1 − j to 1 + j.
    """

    crop: float = 0.875  # share of each side that is kept
    flip: bool = True  # whether pictures are mirrored
    jitter: Mapping[str, float] = field(default_factory=dict)
    views: int = 8  # draws per sample that are kept on disk, where an encoder's lower layers are frozen

    def __post_init__(self) -> None:
        if not 0 < self.crop <= 1:
            raise ValueError(f"augment.crop: found {self.crop!r}; expected a number in (0, 1]")
        if not isinstance(self.views, int) or self.views < 1:
            raise ValueError(f"augment.views: found {self.views!r}; expected a whole number of at least 1")
        for m, strength in self.jitter.items():
            if not 0 <= strength < 1:
                raise ValueError(f"augment.jitter.{m}: found {strength!r}; expected a number in [0, 1)")

    def __call__(self, sample: Sample, generator: torch.Generator | None = None) -> Sample:
        """Return the sample with its pictures (n, H, W, 3) cropped and perhaps mirrored; other features stay."""
        pictures = {m: x for m, x in sample.features.items() if x.dtype == torch.uint8 and len(x)}
        down, across, mirror = torch.rand(3, generator=generator).tolist()
        features = dict(sample.features)
        for m, x in pictures.items():
            height, width = (max(1, round(self.crop * side)) for side in x.shape[1:3])
            top, left = int(down * (x.shape[1] - height + 1)), int(across * (x.shape[2] - width + 1))
            x = x[:, top : top + height, left : left + width]
            if self.flip and mirror < 0.5:
                x = x.flip(2)
            if strength := self.jitter.get(m, 0.0):
                x = _jittered(x, 1 + strength * (2 * torch.rand(3, generator=generator) - 1))
            features[m] = x.contiguous()
        return replace(sample, features=features)


def _jittered(x: Tensor, factors: Tensor) -> Tensor:
    """Pictures (n, H, W, 3) uint8 with brightness, contrast and saturation multiplied by three factors."""
    brightness, contrast, saturation = factors
    pixels = x.float() * brightness
    pixels = (pixels - pixels.mean()) * contrast + pixels.mean()
    grey = (pixels @ GREY).unsqueeze(-1)
    return (grey + (pixels - grey) * saturation).round().clamp(0, 255).to(torch.uint8)


class AugmentedSamples(Sequence):
    """Samples whose pictures are drawn anew each time that they are read or, as view number k, always alike."""

    finite = True

    def __init__(self, samples: Sequence[Sample], augmentation: Augmentation, view: int | None = None):
        self.samples, self.augmentation, self.view = samples, augmentation, view

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        generator = None
        if self.view is not None:
            generator = torch.Generator().manual_seed(self.view * len(self) + range(len(self))[index])
        return self.augmentation(self.samples[index], generator)

    @property
    def labels(self) -> Sequence[Tensor | None]:
        return labels_of(self.samples)
