"""Swin Transformer (arXiv 2103.14030) as the released GeoMIM (arXiv 2303.11325) weights have it.

Against the original: windows are never shifted, all levels have the same window of 16x16, positions
are added once at the entrance, and merging of patches keeps the four pixels of a channel together.
The submodules bear the names of the released files. Tokens are (n, h, w, C).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STRIDES = (4, 8, 16, 32)
_CHANNELS_PER_HEAD = 32
_WINDOW = 16
_PATCH = 4
_MLP_RATIO = 4
# Positions were learned on images of 224x224.
_LEARNED_POSITIONS = 56


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Size of a Swin, and which of its levels are wanted. Defaults: the base one.

    Attributes:
        channels: of the first level; each further level has twice as many.
        depths: blocks per level.
        out_strides: strides of the returned maps, ascending; a subset of 4, 8, 16, 32. The map at
            stride 4 comes without a norm, the others have one each.
    """

    channels: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    out_strides: tuple[int, ...] = (16, 32)

    def build(self) -> SwinTransformer:
        """The module."""
        return SwinTransformer(self)


class SwinTransformer(nn.Module):
    """Image (n, 3, H, W), H and W multiples of 32, to one map per requested stride."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        self.out_strides = config.out_strides
        widths = [config.channels * 2**level for level in range(len(config.depths))]
        self.out_channels = tuple(widths[_STRIDES.index(s)] for s in config.out_strides)
        positions = torch.zeros(1, config.channels, _LEARNED_POSITIONS, _LEARNED_POSITIONS)
        self.absolute_pos_embed = nn.Parameter(positions)
        self.patch_embed = PatchEmbedding(config.channels)
        self.stages = nn.ModuleList(
            Stage(width, depth, last=width == widths[-1])
            for width, depth in zip(widths, config.depths, strict=True)
        )
        for level, (stride, width) in enumerate(zip(_STRIDES, widths, strict=True)):
            if level > 0 and stride in config.out_strides:
                self.add_module(f"norm{level}", nn.LayerNorm(width))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        tokens = self._entrance(images)
        outputs = []
        for level, (stride, stage) in enumerate(zip(_STRIDES, self.stages, strict=True)):
            seen, tokens = stage(tokens)
            if stride in self.out_strides:
                norm = self._modules.get(f"norm{level}")
                outputs.append(_channels_first(seen if norm is None else norm(seen)))
        return tuple(outputs)

    def fine(self, images: Tensor) -> Tensor:
        """The stride-4 map alone."""
        return _channels_first(self.stages[0](self._entrance(images))[0])

    def _entrance(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images)
        positions = F.interpolate(self.absolute_pos_embed, size=tokens.shape[1:3], mode="bicubic")
        return tokens + positions.permute(0, 2, 3, 1)


class PatchEmbedding(nn.Module):
    """One token per 4x4 pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, channels, _PATCH, stride=_PATCH)
        self.norm = nn.LayerNorm(channels)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.projection(images).permute(0, 2, 3, 1))


class Stage(nn.Module):
    """Blocks of one resolution; what they give, and that on its way down."""

    def __init__(self, channels: int, depth: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(channels) for _ in range(depth))
        self.downsample = nn.Identity() if last else PatchMerging(channels)

    def forward(self, tokens_nhwC: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            tokens_nhwC = block(tokens_nhwC)
        return tokens_nhwC, self.downsample(tokens_nhwC)


class PatchMerging(nn.Module):
    """Half the resolution, twice the channels; the four pixels of a channel lie side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, tokens_nhwC: Tensor) -> Tensor:
        four = F.pixel_unshuffle(_channels_first(tokens_nhwC), 2).permute(0, 2, 3, 1)
        return self.reduction(self.norm(four))


class Block(nn.Module):
    """Attention within windows and perceptron, each on normalised input, added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = Windows(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = Perceptron(channels)

    def forward(self, tokens_nhwC: Tensor) -> Tensor:
        tokens_nhwC = tokens_nhwC + self.attn(self.norm1(tokens_nhwC))
        return tokens_nhwC + self.ffn(self.norm2(tokens_nhwC))


class Windows(nn.Module):
    """Cuts a map into windows of 16x16 tokens and lets each attend to itself.

    A map that does not divide is filled up with zeros on the right and at the bottom; these tokens
    take part like any other, with the bias as their key and value, as the weights were trained.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.w_msa = WindowAttention(channels)

    def forward(self, tokens_nhwC: Tensor) -> Tensor:
        n, h, w, C = tokens_nhwC.shape
        filled = F.pad(tokens_nhwC, (0, 0, 0, -w % _WINDOW, 0, -h % _WINDOW))
        H, W = filled.shape[1:3]
        windows = filled.view(n, H // _WINDOW, _WINDOW, W // _WINDOW, _WINDOW, C).transpose(2, 3)
        attended = self.w_msa(windows.reshape(-1, _WINDOW**2, C))
        whole = attended.view(windows.shape).transpose(2, 3).reshape(n, H, W, C)
        return whole[:, :h, :w]


class WindowAttention(nn.Module):
    """Self-attention of the tokens of a window, with a learned bias per displacement.

    ``relative_position_index`` (256, 256) holds, for query i and key j, the row of the bias table:
    ``(row_i - row_j + 15) * 31 + (column_i - column_j + 15)``.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = channels // _CHANNELS_PER_HEAD
        span = 2 * _WINDOW - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(span**2, self.heads))
        at = torch.arange(_WINDOW)
        row, column = at.repeat_interleave(_WINDOW), at.repeat(_WINDOW)
        down, right = row[:, None] - row, column[:, None] - column
        index = (down + _WINDOW - 1) * span + right + _WINDOW - 1
        self.register_buffer("relative_position_index", index)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, tokens_wTC: Tensor) -> Tensor:
        query, key, value = (
            self.qkv(tokens_wTC)
            .unflatten(2, (3, self.heads, _CHANNELS_PER_HEAD))
            .permute(2, 0, 3, 1, 4)
        )
        bias_hTT = self.relative_position_bias_table[self.relative_position_index].movedim(-1, 0)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias_hTT[None])
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = nn.Sequential(nn.Linear(channels, _MLP_RATIO * channels), nn.GELU())
        self.layers = nn.Sequential(wide, nn.Linear(_MLP_RATIO * channels, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


def _channels_first(tokens_nhwC: Tensor) -> Tensor:
    return tokens_nhwC.permute(0, 3, 1, 2)
