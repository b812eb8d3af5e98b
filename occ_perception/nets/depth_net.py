"""Per-pixel depth distribution, occluded length and context, conditioned on the camera.

Legend: B batch, N cameras, C channels, D depth bins, L occluded bins, h, w feature pixels;
a leading n is B * N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.height_depth import HeightToDepth, HeightToDepthConfig, RayGeometry
from occ_perception.nets.part import Part
from occ_perception.nets.residual import ResidualBlock2d
from occ_perception.nets.view_geometry import ViewGeometry

CAMERA_CODE_SIZE = 27


class DepthPrediction(NamedTuple):
    """What the depth net predicts for every pixel.

    With several distributions per pixel, the camera axis of ``surface_BNDhw`` and of
    ``occluded_BNLhw`` holds N * groups, groups innermost.

    Attributes:
        surface_BNDhw: distribution of the first visible surface over the depth bins.
        occluded_BNLhw: chance that the object still fills the k-th bin behind its surface, None
            for networks without occlusion transfer.
        context_BNChw: the feature to be lifted.
        features_BNChw: what the depth head reads, for a second head.
        gated_BNChw: the features that depth was predicted from, for parts that read them too.
    """

    surface_BNDhw: Tensor
    occluded_BNLhw: Tensor | None
    context_BNChw: Tensor
    features_BNChw: Tensor
    gated_BNChw: Tensor


@dataclass(frozen=True, kw_only=True)
class MatchingEncoderConfig:
    """Brings the matching distribution from stride 4 to stride 16."""

    def build(self, bins: int) -> nn.Module:
        """Two stride-2 convolutions with norms and, as in the reference code, no activation."""
        return nn.Sequential(
            nn.Conv2d(bins, bins, 3, stride=2, padding=1),
            nn.BatchNorm2d(bins),
            nn.Conv2d(bins, bins, 3, stride=2, padding=1),
            nn.BatchNorm2d(bins),
        )


@dataclass(frozen=True, kw_only=True)
class DepthNetConfig:
    """Widths and inputs of the depth net.

    Attributes:
        context_channels: width of the lifted feature.
        in_channels: width of the image features.
        width: of the trunk.
        aspp_channels: of each pyramid branch.
        occluded_bins: length of the occlusion transfer in bins, None for none.
        groups: distributions per pixel, for lifting in groups of channels.
        matching: how a matching distribution comes in, None where there is none.
        heights: depth from the height of what pixels show, None for none.
        dropout: share of the pyramid's outputs that are zero in training.
    """

    context_channels: int
    in_channels: int = 256
    width: int = 256
    aspp_channels: int = 96
    occluded_bins: int | None = 22
    groups: int = 1
    matching: MatchingEncoderConfig | None = None
    heights: HeightToDepthConfig | None = None
    dropout: float = 0.5

    def build(self, geometry: ViewGeometry) -> DepthNet:
        """The module for a frustum."""
        return DepthNet(self, geometry)


class DepthNet(Part):
    """Camera-aware depth estimation (BEVDepth, arXiv 2206.10092) with an occluded-length branch.

    The camera code (27 raw numbers, batch-normalised) gates the image feature once for depth and
    once for context. A matching distribution enters beside the depth feature (BEVStereo,
    arXiv 2209.10248). The occluded length is ALOcc's intra-object occlusion (arXiv 2411.07725).
    """

    runs_in_half = True

    def __init__(self, config: DepthNetConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        width, bins = config.width, geometry.depth.count
        self.reduce = nn.Sequential(
            nn.Conv2d(config.in_channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.camera_norm = nn.BatchNorm1d(CAMERA_CODE_SIZE)
        self.context_gate = CameraGate(width)
        self.context_head = nn.Conv2d(width, config.context_channels, 1)
        self.depth_gate = CameraGate(width)

        self.matching: nn.Module | None = None
        in_width, shortcut = width, None
        if config.matching is not None:
            self.matching = config.matching.build(bins)
            in_width = width + bins
            shortcut = nn.Conv2d(in_width, width, 1)  # one module, shared by both branches
        self.depth_branch = nn.Sequential(
            *_branch(in_width, width, shortcut), ASPP(width, config.aspp_channels, config.dropout)
        )
        self.groups = config.groups
        self.depth_logits = nn.Conv2d(width, config.groups * bins, 1)
        self.heights: HeightToDepth | None = None
        if config.heights is not None:
            self.heights = config.heights.build(config.in_channels, width, geometry)
        self.length_branch: nn.Module | None = None
        if config.occluded_bins is not None:
            self.length_branch = nn.Sequential(
                *_branch(in_width, width, shortcut),
                nn.Conv2d(width, config.groups * config.occluded_bins, 1),
            )

    def forward(
        self,
        features_BNChw: Tensor,
        code_BN27: Tensor,
        matching_BNDhw: Tensor | None = None,
        rays: RayGeometry | None = None,
    ) -> DepthPrediction:
        cameras = features_BNChw.shape[:2]
        features_nChw = features_BNChw.flatten(0, 1)
        if self.heights is not None and rays is not None:
            features_nChw = features_nChw + self.heights.embed_ray(rays.numbers_BN7hw.flatten(0, 1))
        reduced = self.reduce(features_nChw)
        code = self.camera_norm(code_BN27.flatten(0, 1))

        context = self.context_head(self.context_gate(reduced, code))
        gated = seen = self.depth_gate(reduced, code)
        if self.matching is not None and matching_BNDhw is not None:
            seen = torch.cat([gated, self.matching(matching_BNDhw.flatten(0, 1))], dim=1)
        features = self.depth_branch(seen)
        logits = self.depth_logits(features)
        if self.heights is not None and rays is not None:
            logits = logits + self.heights(features, rays.bin_BNDhw)
        surface = self._per_group(logits, cameras).softmax(dim=2)
        occluded = None
        if self.length_branch is not None:
            occluded = self._per_group(self.length_branch(seen).sigmoid(), cameras)
        return DepthPrediction(
            surface_BNDhw=surface,
            occluded_BNLhw=occluded,
            context_BNChw=context.unflatten(0, cameras),
            features_BNChw=features.unflatten(0, cameras),
            gated_BNChw=gated.unflatten(0, cameras),
        )

    def _per_group(self, maps_nChw: Tensor, cameras: torch.Size) -> Tensor:
        """(B * N, G * D, h, w) to (B, N * G, D, h, w)."""
        B, N = cameras
        return maps_nChw.unflatten(1, (self.groups, -1)).reshape(
            B, N * self.groups, -1, *maps_nChw.shape[-2:]
        )


def _branch(in_width: int, width: int, shortcut: nn.Module | None) -> list[nn.Module]:
    first = ResidualBlock2d(in_width, width, shortcut=shortcut)
    return [first, ResidualBlock2d(width, width), ResidualBlock2d(width, width)]


class CameraGate(nn.Module):
    """Scales every channel by what the camera code says (squeeze-and-excitation, 1709.01507).

    ``x * sigmoid(expand(relu(reduce(fc2(relu(fc1(code)))))))``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(CAMERA_CODE_SIZE, width)
        self.fc2 = nn.Linear(width, width)
        self.reduce = nn.Conv2d(width, width, 1)
        self.expand = nn.Conv2d(width, width, 1)

    def forward(self, features_nChw: Tensor, code_n27: Tensor) -> Tensor:
        embedded = self.fc2(F.relu(self.fc1(code_n27)))[:, :, None, None]
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(embedded))))
        return features_nChw * gate


class AtrousBranch(Part):
    """Convolution, batch norm, ReLU at one dilation (dilation 1 is a 1x1 convolution)."""

    folds = (("atrous_conv", "bn"),)

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__()
        kernel, padding = (1, 0) if dilation == 1 else (3, dilation)
        self.atrous_conv = nn.Conv2d(
            in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)), inplace=True)


class ASPP(Part):
    """Four dilations and the image mean side by side, merged by a 1x1 convolution.

    Args:
        channels: input and output width.
        mid_channels: width of each of the five branches.
        dropout: share of the outputs that are zero in training.
    """

    folds = (("conv1", "bn1"),)

    def __init__(self, channels: int, mid_channels: int, dropout: float) -> None:
        super().__init__()
        self.aspp1 = AtrousBranch(channels, mid_channels, 1)
        self.aspp2 = AtrousBranch(channels, mid_channels, 6)
        self.aspp3 = AtrousBranch(channels, mid_channels, 12)
        self.aspp4 = AtrousBranch(channels, mid_channels, 18)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, mid_channels, 1, bias=False),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
        )
        self.conv1 = nn.Conv2d(5 * mid_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:])
        branches = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), pooled]
        merged = self.bn1(self.conv1(torch.cat(branches, dim=1)))
        return self.dropout(F.relu(merged, inplace=True))
