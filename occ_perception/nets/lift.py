"""From image features to the volume: where along each ray a feature goes, and how much of it.

Legend: B batch, N cameras, G groups of channels, C channels, D depth bins, L occluded bins, h, w
feature pixels, X, Y, Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from occ_perception.nets.cameras import PixelRays, feature_pixels
from occ_perception.nets.inter_object import ExtraSamples
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import (
    grouped_soft_splat,
    hard_splat,
    occlusion_transfer,
    soft_splat,
)


@dataclass(frozen=True, kw_only=True)
class OcclusionTransferConfig:
    """Lifting weights as they are added up."""

    def build(self) -> OcclusionTransfer:
        """The module."""
        return OcclusionTransfer()


class OcclusionTransfer(nn.Module):
    """Lifting weights from surface distribution and occluded length.

    ALOcc (arXiv 2411.07725), intra-object occlusion: ``A[j] = p[j] + sum_k w[k] p[j-k]``.
    Networks without the occluded length lift with the surface distribution itself.
    """

    def forward(self, surface_BNDhw: Tensor, occluded_BNLhw: Tensor | None) -> Tensor:
        if occluded_BNLhw is None:
            return surface_BNDhw
        return occlusion_transfer(surface_BNDhw, occluded_BNLhw)


@dataclass(frozen=True, kw_only=True)
class NormalisedTransferConfig:
    """Lifting weights that add up to one along every ray."""

    def build(self) -> NormalisedTransfer:
        """The module."""
        return NormalisedTransfer()


class NormalisedTransfer(OcclusionTransfer):
    """Occlusion transfer that keeps mass: ``A / sum_D A`` (CausalOcc, arXiv 2509.08388)."""

    def forward(self, surface_BNDhw: Tensor, occluded_BNLhw: Tensor | None) -> Tensor:
        weights = super().forward(surface_BNDhw, occluded_BNLhw)
        return weights / weights.sum(dim=2, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class SoftLiftConfig:
    """Lift-Splat with soft filling."""

    def build(self, geometry: ViewGeometry) -> SoftLift:
        """The module for a frustum and a grid."""
        return SoftLift(geometry)


class SoftLift(nn.Module):
    """Lift-Splat (arXiv 2008.05711) whose splat is trilinear (ALOcc, arXiv 2411.07725).

    Every feature pixel is placed at each depth bin of its ray with that bin's lifting weight and
    shared among the surrounding voxels (soft filling). Without height axis the result is summed
    over the only layer.
    """

    pixels_hw2: Tensor
    depths_D: Tensor

    def __init__(self, geometry: ViewGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.register_buffer("pixels_hw2", feature_pixels(geometry), persistent=False)
        self.register_buffer("depths_D", geometry.depth.edges(), persistent=False)

    def forward(
        self,
        rays: PixelRays,
        weights_BNDhw: Tensor,
        context_BNChw: Tensor,
        extra: ExtraSamples | None = None,
    ) -> Tensor:
        """Volume (B, C, Y, X, Z), or map (B, C, Y, X) where the grid is one voxel high."""
        voxels = rays.voxels(self.pixels_hw2, self.depths_D[:, None, None])
        if extra is not None:
            pixels = self.pixels_hw2 + extra.offset_BNEhw2
            beside = rays.voxels(pixels, self.depths_D[extra.depth_bin_BNEhw])
            voxels = torch.cat([voxels, beside], dim=2)
            weights_BNDhw = torch.cat([weights_BNDhw, extra.weight_BNEhw], dim=2)
        volume = soft_splat(voxels, weights_BNDhw, context_BNChw, self.geometry.grid.dims)
        return volume[..., 0] if self.geometry.flat else volume


@dataclass(frozen=True, kw_only=True)
class HardLiftConfig:
    """Lift-Splat with hard assignment."""

    def build(self, geometry: ViewGeometry) -> HardLift:
        """The module for a frustum and a grid."""
        return HardLift(geometry)


class HardLift(nn.Module):
    """Lift-Splat (arXiv 2008.05711): every point of the frustum belongs to one voxel."""

    pixels_hw2: Tensor
    depths_D: Tensor

    def __init__(self, geometry: ViewGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.register_buffer("pixels_hw2", feature_pixels(geometry), persistent=False)
        self.register_buffer("depths_D", geometry.depth.edges(), persistent=False)

    def forward(self, rays: PixelRays, weights_BNDhw: Tensor, context_BNChw: Tensor) -> Tensor:
        """Volume (B, C, Y, X, Z)."""
        voxels = rays.voxels(self.pixels_hw2, self.depths_D[:, None, None])
        return hard_splat(voxels, weights_BNDhw, context_BNChw, self.geometry.grid.dims)


@dataclass(frozen=True, kw_only=True)
class GroupedLiftConfig:
    """Lift-Splat in groups of channels.

    Attributes:
        channels: width of the context.
        groups: lifted with weights of their own; the depth net predicts as many distributions.
    """

    channels: int
    groups: int = 4

    def build(self, geometry: ViewGeometry) -> GroupedLift:
        """The module for a frustum and a grid."""
        return GroupedLift(self, geometry)


class GroupedLift(nn.Module):
    """Lift-Splat (arXiv 2008.05711) as CausalOcc changes it (arXiv 2509.08388).

    Each group of channels is placed by its own depth distribution, so that what a pixel means and
    where it lies can be learned apart. Every pixel and depth bin has a learned offset (input pixels
    and metres), predicted from the context and shared by the groups; it starts at zero. The splat
    is trilinear and can be differentiated twice.
    """

    pixels_hw2: Tensor
    depths_D: Tensor

    def __init__(self, config: GroupedLiftConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        self.groups = config.groups
        self.geometry = geometry
        self.offset = nn.Conv2d(config.channels, 3 * geometry.depth.count, 1)
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("pixels_hw2", feature_pixels(geometry), persistent=False)
        self.register_buffer("depths_D", geometry.depth.edges(), persistent=False)

    def forward(self, rays: PixelRays, weights_BNDhw: Tensor, context_BNChw: Tensor) -> Tensor:
        """Volume (B, C, Y, X, Z); the camera axis of the weights holds N * G, groups innermost."""
        cameras = context_BNChw.shape[:2]
        offset = self.offset(context_BNChw.flatten(0, 1)).unflatten(0, cameras)
        offset_BNDhw3 = offset.unflatten(2, (-1, 3)).movedim(3, -1)
        voxels = rays.voxels(
            self.pixels_hw2 + offset_BNDhw3[..., :2],
            self.depths_D[:, None, None] + offset_BNDhw3[..., 2],
        )
        weights_BNGDhw = weights_BNDhw.unflatten(1, (-1, self.groups))
        return grouped_soft_splat(voxels, weights_BNGDhw, context_BNChw, self.geometry.grid.dims)
