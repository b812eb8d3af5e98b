"""Occupancy head that mixes the scales of a pyramid voxel by voxel, at twice its resolution.

Legend: B batch, C channels, K classes with the leading dummy class, S scales, X, Y, Z voxels of the
output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.part import Part


@dataclass(frozen=True, kw_only=True)
class PyramidHeadConfig:
    """Classes and widths.

    Attributes:
        classes: number of logits; the reference label convention puts a dummy class first.
        channels: width of the pyramid.
        scales: volumes in the pyramid.
        width: of each scale's features here.
        hidden: width before the classes.
        class_scores: what classes are compared by.
    """

    class_scores: ClassVar[str] = "softmax"

    classes: int
    channels: int
    scales: int = 3
    width: int = 128
    hidden: int = 64

    def output_grid(self, grid: VoxelGrid) -> VoxelGrid:
        """The grid of the logits for a pyramid whose finest volume has this grid."""
        dx, dy, dz = grid.voxel_size
        X, Y, Z = grid.dims
        return VoxelGrid(grid.lower, (dx / 2, dy / 2, dz / 2), (2 * X, 2 * Y, 2 * Z))

    def build(self) -> PyramidHead:
        """The module."""
        return PyramidHead(self)


class PyramidHead(Part):
    """Class logits from a weighted sum of all scales (FB-Occ, arXiv 2307.01492).

    With o_0 the finest volume brought to twice its resolution and o_1.. every volume convolved::

        a      = softmax_S(weigh(o_0))
        logits = classify(relu(norm(sum_s a_s upsample(reduce(o_s)))))

    The reference order reduces after the sum. A convolution of one voxel without bias commutes with
    interpolation and with weights per voxel, so it runs at each scale's own resolution.
    """

    runs_in_half = True

    def __init__(self, config: PyramidHeadConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden
        self.refine = nn.Sequential(
            nn.ConvTranspose3d(config.channels, width, 2, stride=2, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(config.channels, width, 3, padding=1, bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
            )
            for _ in range(config.scales)
        )
        self.weigh = nn.Sequential(
            nn.Conv3d(width, hidden, 1, bias=False),
            nn.BatchNorm3d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, config.scales + 1, 1, bias=False),
        )
        self.reduce = nn.Conv3d(width, hidden, 1, bias=False)
        self.norm = nn.BatchNorm3d(hidden)
        self.classify = nn.Conv3d(hidden, config.classes, 1, bias=False)

    def forward(self, volumes: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, Y, X, Z)."""
        finest = self.refine(volumes[0])
        share_BSYXZ = self.weigh(finest).softmax(dim=1)
        total = share_BSYXZ[:, :1] * self.reduce(finest)
        for s, (convolve, volume) in enumerate(zip(self.scales, volumes, strict=True), start=1):
            coarse = self.reduce(convolve(volume))
            raised = F.interpolate(
                coarse, size=finest.shape[-3:], mode="trilinear", align_corners=False
            )
            total = torch.addcmul(total, share_BSYXZ[:, s : s + 1], raised)
        return self.classify(F.relu(self.norm(total), inplace=True))
