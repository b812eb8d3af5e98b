"""Extra samples for space that one object hides from another.

Legend: B batch, N cameras, C channels, D depth bins, T = 8 taps around a pixel, E = 24 extra
samples (8 taps x 3 depths), h, w feature pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

_TAPS = 9
_CENTRE = 4
_DEPTHS = 3
_OFFSET_SCALE = 4.0
_OFFSET_LIMIT = 8.0


class ExtraSamples(NamedTuple):
    """Places beside and behind a pixel that get its feature too.

    Attributes:
        offset_BNEhw2: (u, v) relative to the pixel, input pixels.
        depth_bin_BNEhw: int64.
        weight_BNEhw: lifting weight.
    """

    offset_BNEhw2: Tensor
    depth_bin_BNEhw: Tensor
    weight_BNEhw: Tensor


@dataclass(frozen=True, kw_only=True)
class InterObjectConfig:
    """Extra samples per pixel.

    Attributes:
        last_bin: deepest bin an extra sample can lie in. Reference code takes the number of
            cameras minus one here, and weights were trained so: it belongs to the model, not to
            how many cameras happen to be fed.
        in_channels: width of the depth-gated features.
    """

    last_bin: int
    in_channels: int = 256

    def build(self) -> InterObjectTransfer:
        """The module."""
        return InterObjectTransfer(self)


class InterObjectTransfer(nn.Module):
    """Copies of a pixel's feature around where its surface most probably is.

    ALOcc (arXiv 2411.07725), inter-object occlusion: eight learned offsets (the centre tap is
    unused) times the three depth bins around the most probable one, each with the lifting weight
    of its bin times a learned factor. Bins before the first are dropped; bins are clamped to
    ``last_bin``.
    """

    def __init__(self, config: InterObjectConfig) -> None:
        super().__init__()
        self.last_bin = config.last_bin
        self.factors = TapFactors(config.in_channels)
        self.offsets = TapOffsets(config.in_channels)

    def forward(self, features_BNChw: Tensor, weights_BNDhw: Tensor) -> ExtraSamples:
        cameras = features_BNChw.shape[:2]
        flat = features_BNChw.flatten(0, 1)
        factor = _outer_taps(self.factors(flat)).unflatten(0, cameras)  # B N 8 3 h w
        offset = _outer_taps(self.offsets(flat)).unflatten(0, cameras)  # B N 8 2 h w

        around = torch.arange(-1, _DEPTHS - 1, device=flat.device)[:, None, None]
        wanted = weights_BNDhw.argmax(dim=2, keepdim=True) + around  # B N 3 h w
        depth_bin = wanted.clamp(0, self.last_bin)
        weight = weights_BNDhw.gather(2, depth_bin) * (wanted >= 0)

        taps = _TAPS - 1
        return ExtraSamples(
            offset_BNEhw2=offset.movedim(3, -1).repeat_interleave(_DEPTHS, dim=2),
            depth_bin_BNEhw=depth_bin.repeat(1, 1, taps, 1, 1),
            weight_BNEhw=(factor * weight[:, :, None]).flatten(2, 3),
        )


class TapFactors(nn.Module):
    """Factor in (0, 1) per tap and depth, (n, 3, 3, 3, h, w)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, _TAPS * _DEPTHS, 1)

    def forward(self, features_nChw: Tensor) -> Tensor:
        return self.conv(features_nChw).sigmoid().unflatten(1, (3, 3, _DEPTHS))


class TapOffsets(nn.Module):
    """Offset (u, v) per tap in input pixels, at most 8 each way, (n, 3, 3, 2, h, w)."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, _TAPS * 2, 1)

    def forward(self, features_nChw: Tensor) -> Tensor:
        offsets = _OFFSET_SCALE * self.conv(features_nChw)
        return offsets.clamp(-_OFFSET_LIMIT, _OFFSET_LIMIT).unflatten(1, (3, 3, 2))


def _outer_taps(per_tap: Tensor) -> Tensor:
    """(n, 3, 3, k, h, w) without the centre, (n, 8, k, h, w)."""
    taps = per_tap.flatten(1, 2)
    return torch.cat([taps[:, :_CENTRE], taps[:, _CENTRE + 1 :]], dim=1)
