"""Pictures and depth maps: read, cut to size, and the plain patches that are tokens where no encoder is wanted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ...encoders import Tokens, image_encoder
from ...encoders.cache import cached, in_batches
from ..base import DataError, Mapped

SIZE = 224  # pixels a side: what the benchmarks' baselines see
LARGE = 256  # for encoders inside a model, which see a crop of `SIZE`, random in training
GRID = 7  # patches a side
BLOCKS, DIRECTIONS = 4, 8
# Each is decoded by Pillow itself; others, such as EPS, start a program.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
PIXELS = 1 << 26
LONGEST = 8  # times its shorter side: more of a picture's longer side is cut off before it is scaled


def read_picture(path: Path) -> np.ndarray:
    """Return a picture (H, W, 3) uint8, turned as its EXIF orientation says; 16-bit grey becomes 8-bit.

    A `DataError` names a file that is not there, no picture of `FORMATS`, too large, of floats or 32-bit numbers, or
    cut off.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > PIXELS:
                raise ValueError(f"{picture.width} × {picture.height} pixels; at most {PIXELS} are read")
            return pixels_of(picture)
    except FileNotFoundError:
        raise DataError(f"{path}: not found") from None
    # Pillow's decoders raise almost anything on broken files; nothing else runs here.
    except Exception as error:
        raise DataError(f"{path}: no readable picture ({error}); it may be cut off") from error


def pixels_of(picture: Image.Image) -> np.ndarray:
    """Return a picture in memory as `read_picture` does; `ValueError` for floats or 32-bit numbers."""
    whole = ImageOps.exif_transpose(picture)
    if whole.mode.startswith("I;16") or (whole.mode == "I" and picture.format == "PNG"):
        grey = (np.asarray(whole).astype(np.uint32) + 128) // 257  # 65535 becomes 255
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    if whole.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {whole.mode!r}; expected 8 or 16 bits per channel")
    return np.asarray(whole.convert("RGB"))


def resized(picture: np.ndarray, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Resize (H, W, 3) uint8 or (H, W) float to height × width, bilinear; the ratio of the sides is not kept."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def nearest(depth: np.ndarray, height: int = SIZE, width: int = SIZE) -> np.ndarray:
    """Resize (H, W) to height × width by the nearest pixel: holes (0) do not mix with their neighbours."""
    sides = zip((height, width), depth.shape, strict=True)
    rows, columns = (((np.arange(size) + 0.5) * n / size).astype(int) for size, n in sides)
    return depth[np.ix_(rows, columns)]


def central(picture: np.ndarray, size: int = SIZE, short: int = LARGE) -> np.ndarray:
    """Resize (H, W, 3) uint8 so that its shorter side is `short`, bilinear; return the central size × size."""
    longest = LONGEST * min(picture.shape[:2])
    top, left = (max(0, n - longest) // 2 for n in picture.shape[:2])
    picture = np.ascontiguousarray(picture[top : top + longest, left : left + longest])
    height, width = picture.shape[:2]
    scale = short / min(height, width)
    shape = max(short, round(width * scale)), max(short, round(height * scale))
    resized = np.asarray(Image.fromarray(picture).resize(shape, Image.Resampling.BILINEAR))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size]


def patches(picture: np.ndarray, grid: int = GRID) -> np.ndarray:
    """Return a picture's grid × grid patches as tokens, row by row, without any learning (our choice).

    A token holds the means of 4 × 4 blocks of its patch, channel by channel, and a histogram over 8 directions (modulo
    180°) of the gradients of the mean over channels, weighted by their lengths and divided by the patch's pixels.
    (n, n, C) uint8, divided by 255, or (n, n) float, n a multiple of 4 × grid  →  (grid², 16 C + 8) float32.
    """
    x = np.asarray(picture, np.float32) / (255 if picture.dtype == np.uint8 else 1)
    x = x.reshape(*x.shape[:2], -1)
    side, channels = x.shape[0], x.shape[2]
    step = side // (grid * BLOCKS)
    if x.shape[:2] != (grid * BLOCKS * step,) * 2:
        raise ValueError(f"picture: {x.shape[:2]} pixels; expected a square of a multiple of {grid * BLOCKS}")
    means = x.reshape(grid, BLOCKS, step, grid, BLOCKS, step, channels).mean((2, 5))
    means = means.transpose(0, 2, 1, 3, 4).reshape(grid**2, -1)
    down, across = np.gradient(x.mean(-1))
    direction = np.floor(np.arctan2(down, across) / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    place = np.arange(side) // (side // grid)
    bins = (place[:, None] * grid + place) * DIRECTIONS + direction
    histogram = np.bincount(bins.ravel(), np.hypot(down, across).ravel(), grid**2 * DIRECTIONS)
    histogram = histogram.reshape(grid**2, DIRECTIONS) / (side // grid) ** 2
    return np.concatenate([means, histogram], axis=1).astype(np.float32)


class PatchEncoder:
    """`patches`, with the interface of the pretrained encoders."""

    def __init__(self, channels: int):
        self.width = BLOCKS**2 * channels + DIRECTIONS

    def encode(self, images: Sequence[np.ndarray], cache: str | Path, data_hash: str) -> Tokens:
        tokens = ([torch.from_numpy(patches(image)) for image in batch] for batch in in_batches(images, 32))
        return cached(cache, f"patches {GRID} {BLOCKS} {DIRECTIONS}", data_hash, self.width, tokens)


class PixelEncoder:
    """PixelEncoder leaves pictures (1, n, n, 3) uint8 for an encoder inside a model, each decoded when requested."""

    def encode(self, images: Sequence[np.ndarray], cache: str | Path, data_hash: str) -> Sequence[Tensor]:
        return Mapped(images, lambda image: torch.tensor(image)[None])


def picture_encoder(name: str, channels: int = 3, encode: bool = True):
    """Return plain "patches", a pretrained encoder by name (`encoders.image_encoder`), or pixels for one in a model."""
    if not encode:
        return PixelEncoder()
    return PatchEncoder(channels) if name == "patches" else image_encoder(name)
