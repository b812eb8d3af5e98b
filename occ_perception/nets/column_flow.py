"""Velocity per column of a map.

Legend: B batch, C channels, X, Y, Z voxels of the volume, K velocity bins; Y, X of a map may be
coarser than those of the volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.flow_head import BINS, Flow, expected_velocity
from occ_perception.nets.part import Part
from occ_perception.nets.view_geometry import ViewGeometry


@dataclass(frozen=True, kw_only=True)
class ColumnFlowConfig:
    """Widths.

    Attributes:
        in_channels: width of the map.
        hidden: width of the features that bins are predicted from.
    """

    in_channels: int
    hidden: int = 32

    def build(self, _geometry: ViewGeometry) -> ColumnFlow:
        """The module; it needs no grid."""
        return ColumnFlow(self)


class ColumnFlow(Part):
    """Velocity of everything that stands on one place, from the map that the volume is made of.

    Things that move do so as a whole and side by side, so one velocity per column is enough
    (FIERY, arXiv 2104.10490, predicts flow so). The map has seen the frames before: nothing is
    compared here. Velocities are expectations over the bins of ALOcc-Flow (arXiv 2411.07725).
    """

    runs_in_half = True
    folds = (("conv", "norm"),)

    def __init__(self, config: ColumnFlowConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(config.in_channels, config.hidden, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(config.hidden)
        self.bins = nn.Conv2d(config.hidden, 2 * BINS, 1)

    def initial_state(
        self, _batch_size: int, _device: torch.device | None, _dtype: torch.dtype
    ) -> None:
        """Nothing is remembered here."""

    def forward(self, map_BCYX: Tensor, dims: tuple[int, int, int]) -> Flow:
        """Flow of a volume of ``dims`` (X, Y, Z) voxels, which are a multiple of the map's."""
        X, Y, Z = dims
        features = F.relu(self.norm(self.conv(map_BCYX)), inplace=True)
        if self.training:
            return Flow(None, features[..., None])
        velocity_BYX2 = expected_velocity(self.bins(features).float().unflatten(1, (BINS, 2)))
        spread = F.interpolate(velocity_BYX2.movedim(-1, 1), size=(Y, X), mode="nearest")
        spread = spread.movedim(1, -1)
        return Flow(spread[:, :, :, None].expand(-1, -1, -1, Z, -1), None)

    def velocity_bins(self, features_VC: Tensor) -> Tensor:
        """See :meth:`occ_perception.nets.flow_head.FlowHead.velocity_bins`."""
        weight, bias = self.bins.weight.flatten(1), self.bins.bias
        return F.linear(features_VC, weight.to(features_VC), bias).unflatten(1, (BINS, 2))
