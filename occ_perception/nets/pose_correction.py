"""Corrected camera poses.

Legend: B batch, N cameras, C channels, h, w feature pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from occ_perception.nets.cameras import CameraTensors

_POSE_NUMBERS = 12


@dataclass(frozen=True, kw_only=True)
class PoseCorrectionConfig:
    """Learned camera offsets.

    Attributes:
        channels: width of the image features.
    """

    channels: int = 256

    def build(self) -> PoseCorrection:
        """The module."""
        return PoseCorrection(self)


class PoseCorrection(nn.Module):
    """Adds to each camera's pose what its image and its pose suggest.

    CausalOcc (arXiv 2509.08388), learnable camera offsets: twelve numbers per camera, nine added to
    the rotation matrix, row by row, and three to the translation. The sum is not made a rotation
    again. It starts as no correction.
    """

    def __init__(self, config: PoseCorrectionConfig) -> None:
        super().__init__()
        C = config.channels
        self.summary = nn.Sequential(
            nn.Conv2d(C, C, 3, padding=1),
            nn.BatchNorm2d(C),
            nn.ReLU(inplace=True),
            nn.Conv2d(C, C, 3, padding=1),
            nn.BatchNorm2d(C),
            nn.ReLU(inplace=True),
        )
        correction = nn.Linear(C, _POSE_NUMBERS)
        nn.init.zeros_(correction.weight)
        nn.init.zeros_(correction.bias)
        self.head = nn.Sequential(
            nn.Linear(C + _POSE_NUMBERS, C), nn.ReLU(inplace=True), correction
        )

    def forward(self, features_BNChw: Tensor, cameras: CameraTensors) -> CameraTensors:
        """The calibration with corrected poses."""
        pose = cameras.grid_T_cam_BN44
        seen = self.summary(features_BNChw.flatten(0, 1)).mean(dim=(2, 3))
        seen_BNC = seen.unflatten(0, pose.shape[:2])
        numbers = torch.cat([seen_BNC, pose[..., :3, :3].flatten(2), pose[..., :3, 3]], dim=-1)
        rotation, translation = self.head(numbers).split([9, 3], dim=-1)
        upper = torch.cat([rotation.unflatten(-1, (3, 3)), translation[..., None]], dim=-1)
        corrected = pose + torch.cat([upper, torch.zeros_like(pose[..., 3:, :])], dim=-2)
        return cameras.with_poses(corrected)
