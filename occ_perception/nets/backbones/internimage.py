"""InternImage (arXiv 2211.05778) with the deformable convolution of DCNv4 (arXiv 2401.06197).

The submodules bear the names of the released files. Tokens are (n, h, w, C) throughout, except
inside convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.ops.backend import deformable_conv

_STRIDES = (4, 8, 16, 32)
_CHANNELS_PER_GROUP = 16
_POINTS = 9
_NORM_EPS = 1e-6
_MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class InternImageConfig:
    """Size of an InternImage, and which of its levels are wanted. Defaults: the tiny one.

    Attributes:
        channels: of the first level; each further level has twice as many.
        depths: blocks per level.
        out_strides: strides of the returned maps, ascending; a subset of 4, 8, 16, 32.
    """

    channels: int = 64
    depths: tuple[int, ...] = (4, 4, 18, 4)
    out_strides: tuple[int, ...] = (16, 32)

    def build(self) -> InternImage:
        """The module."""
        return InternImage(self)


class InternImage(nn.Module):
    """Image (n, 3, H, W) to one map per requested stride, finest first.

    Every map is the level's output after its norm, which is also what goes down to the next level.
    """

    def __init__(self, config: InternImageConfig) -> None:
        super().__init__()
        self.out_strides = config.out_strides
        widths = [config.channels * 2**level for level in range(len(config.depths))]
        self.out_channels = tuple(widths[_STRIDES.index(s)] for s in config.out_strides)
        self.patch_embed = Stem(config.channels)
        self.levels = nn.ModuleList(
            Level(width, depth, last=width == widths[-1])
            for width, depth in zip(widths, config.depths, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tokens = self.patch_embed(images)
        outputs = []
        for stride, level in zip(_STRIDES, self.levels, strict=True):
            seen, tokens = level(tokens)
            if stride in self.out_strides:
                outputs.append(_channels_first(seen))
        return tuple(outputs)

    def fine(self, images: Tensor) -> Tensor:
        """The stride-4 map alone."""
        return _channels_first(self.levels[0](self.patch_embed(images))[0])


class Stem(nn.Module):
    """Two convolutions of stride 2, each with a norm over the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels // 2, 3, stride=2, padding=1)
        self.norm1 = _norm_after_conv(channels // 2)
        self.conv2 = nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1)
        self.norm2 = _norm_after_conv(channels)

    def forward(self, images: Tensor) -> Tensor:
        half = F.gelu(self.norm1(self.conv1(images)))
        return self.norm2(self.conv2(_channels_first(half)))


class Level(nn.Module):
    """Blocks of one resolution and a norm; what they give, and that on its way down."""

    def __init__(self, channels: int, depth: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels) for _ in range(depth))
        self.norm = nn.Sequential(nn.LayerNorm(channels, _NORM_EPS))
        self.downsample = nn.Identity() if last else Downsample(channels)

    def forward(self, tokens_nhwC: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            tokens_nhwC = block(tokens_nhwC)
        seen = self.norm(tokens_nhwC)
        return seen, self.downsample(seen)


class Downsample(nn.Module):
    """Half the resolution, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False)
        self.norm = _norm_after_conv(2 * channels)

    def forward(self, tokens_nhwC: Tensor) -> Tensor:
        return self.norm(self.conv(_channels_first(tokens_nhwC)))


class Block(nn.Module):
    """Deformable convolution and perceptron, each on normalised input, scaled and added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma1 = nn.Parameter(torch.ones(channels))
        self.gamma2 = nn.Parameter(torch.ones(channels))
        self.norm1 = nn.Sequential(nn.LayerNorm(channels, _NORM_EPS))
        self.dcn = DeformableConv(channels)
        self.norm2 = nn.Sequential(nn.LayerNorm(channels, _NORM_EPS))
        self.mlp = Perceptron(channels)

    def forward(self, tokens_nhwC: Tensor) -> Tensor:
        tokens_nhwC = tokens_nhwC + self.gamma1 * self.dcn(self.norm1(tokens_nhwC))
        return tokens_nhwC + self.gamma2 * self.mlp(self.norm2(tokens_nhwC))


class DeformableConv(nn.Module):
    """3x3 neighbours at learned places with learned weights, per group of 16 channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = channels // _CHANNELS_PER_GROUP
        # The reference layer is as wide as its kernel likes it; what exceeds is never read.
        wanted = self.groups * _POINTS * 3
        self.offset_mask = nn.Linear(channels, -(-wanted // 8) * 8)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels, bias=False)

    def forward(self, tokens_nhwC: Tensor) -> Tensor:
        asked = self.offset_mask(tokens_nhwC)[..., : self.groups * _POINTS * 3]
        asked_nhwGA = asked.unflatten(3, (self.groups, 3 * _POINTS))
        displacement, weight = asked_nhwGA.split([2 * _POINTS, _POINTS], dim=-1)
        value = self.value_proj(tokens_nhwC)
        mixed = deformable_conv(value, displacement.unflatten(-1, (_POINTS, 2)), weight)
        return self.output_proj(mixed)


class Perceptron(nn.Module):
    """Two linear layers, the second without bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, _MLP_RATIO * channels)
        self.fc2 = nn.Linear(_MLP_RATIO * channels, channels, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(tokens)))


class ChannelsLast(nn.Module):
    """(n, C, h, w) to (n, h, w, C)."""

    def forward(self, map_nChw: Tensor) -> Tensor:
        return map_nChw.permute(0, 2, 3, 1)


def _norm_after_conv(channels: int) -> nn.Sequential:
    return nn.Sequential(ChannelsLast(), nn.LayerNorm(channels, _NORM_EPS))


def _channels_first(tokens_nhwC: Tensor) -> Tensor:
    return tokens_nhwC.permute(0, 3, 1, 2)
