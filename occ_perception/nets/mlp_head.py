"""Occupancy head that looks at every voxel by itself.

Legend: B batch, C channels, K classes with the leading dummy class, X, Y, Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part


@dataclass(frozen=True, kw_only=True)
class MlpHeadConfig:
    """Classes and widths.

    Attributes:
        classes: number of logits; the reference label convention puts a dummy class first.
        channels: width of the volume.
        hidden: width of the hidden layer.
        class_scores: what classes are compared by.
    """

    class_scores: ClassVar[str] = "softmax"

    classes: int
    channels: int
    hidden: int = 64

    def build(self) -> MlpHead:
        """The module."""
        return MlpHead(self)


class MlpHead(Part):
    """``classify(softplus(hidden(relu(conv3x3x3(volume)))))``, the last two voxel by voxel.

    The head of BEVDet's occupancy networks (arXiv 2112.11790 and its code base).
    """

    runs_in_half = True

    def __init__(self, config: MlpHeadConfig) -> None:
        super().__init__()
        self.conv = nn.Conv3d(config.channels, config.channels, 3, padding=1)
        self.hidden = nn.Linear(config.channels, config.hidden)
        self.classify = nn.Linear(config.hidden, config.classes)

    def forward(self, volume_BCYXZ: Tensor) -> Tensor:
        """Logits (B, K, Y, X, Z)."""
        features = F.relu(self.conv(volume_BCYXZ), inplace=True).flatten(2)
        # Classes outermost, as everything that reads logits wants them.
        hidden = F.softplus(_voxelwise(self.hidden, features))
        return _voxelwise(self.classify, hidden).unflatten(2, volume_BCYXZ.shape[2:])


def _voxelwise(layer: nn.Linear, features_BCP: Tensor) -> Tensor:
    """A linear layer on the channels of all voxels."""
    return torch.matmul(layer.weight, features_BCP) + layer.bias[:, None]
