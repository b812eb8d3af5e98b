"""Geometry fusion: depth remembered from the frame before, in each camera's frustum.

Legend: B batch, N cameras, C channels, D depth bins, h, w feature pixels; a leading n is B * N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.cameras import CameraTensors, feature_pixels, project, unproject
from occ_perception.nets.measured_depth import MeasuredDepth
from occ_perception.nets.temporal.step import StepControl
from occ_perception.nets.view_geometry import ViewGeometry

_NEAREST_DEPTH = 1e-3


class GeometryFusionState(NamedTuple):
    """What the next frame needs of the frustum.

    Attributes:
        logits_BNDhw: fused depth logits of the frame that the state was committed at.
        image_rotation_BN33, image_translation_BN3: its map from native to input pixels.
    """

    logits_BNDhw: Tensor
    image_rotation_BN33: Tensor
    image_translation_BN3: Tensor


@dataclass(frozen=True, kw_only=True)
class GeometryFusionConfig:
    """Fusion of depth over time.

    Attributes:
        in_channels: width of the features that depth is predicted from.
    """

    in_channels: int = 256

    def build(self, geometry: ViewGeometry) -> GeometryFusion:
        """The module for a frustum."""
        return GeometryFusion(self, geometry)


class GeometryFusion(nn.Module):
    """Lifting weights from a second depth estimate that remembers.

    GDFusion (arXiv 2504.12959), geometry fusion. A second head predicts logits L; those fused in
    the frame before, L', are read where each frustum point was in the same camera then::

        fused = a L' + (1 - a) L      a = gate_history([L', L]),  L where L' is exactly zero
        s     = softmax_D(fused)
        out   = w s + (1 - w) base    w = gate_output([s, base])

    ``base`` are the lifting weights without memory; both gates give one number per pixel. At a
    start ``fused`` is L. An exact zero means that the bin has no source; current intrinsics serve
    for the previous frame as well.

    With measured depth, the one-hot measurement takes the place of ``base`` in ``out`` (not in
    the gate), and the place of L in what is stored (not in ``fused``), wherever there is one: the
    stored volume holds logits and ones side by side.
    """

    pixels_hw2: Tensor
    depths_D: Tensor

    def __init__(self, config: GeometryFusionConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        bins = geometry.depth.count
        self.config = config
        self.geometry = geometry
        self.logits = nn.Conv2d(config.in_channels, bins, 1)
        self.blend = BlendPast(bins)
        self.output_gate = PixelGate(bins)
        self.register_buffer("pixels_hw2", feature_pixels(geometry), persistent=False)
        self.register_buffer("depths_D", geometry.depth.edges(), persistent=False)

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> GeometryFusionState:
        """Empty logits; they are not read before the first frame of a sequence fills them."""
        cameras = (batch_size, self.geometry.num_cameras)
        shape = (*cameras, self.geometry.depth.count, *self.geometry.feature_size)
        return GeometryFusionState(
            logits_BNDhw=torch.zeros(shape, device=device, dtype=dtype),
            image_rotation_BN33=torch.eye(3, device=device).expand(*cameras, 3, 3).contiguous(),
            image_translation_BN3=torch.zeros(*cameras, 3, device=device),
        )

    def forward(
        self,
        features_BNChw: Tensor,
        base_BNDhw: Tensor,
        state: GeometryFusionState,
        step: StepControl,
        cameras: CameraTensors,
        measured: MeasuredDepth | None = None,
    ) -> tuple[Tensor, GeometryFusionState]:
        """Lifting weights (B, N, D, h, w), and the state after this frame.

        Args:
            features_BNChw: what the first depth head reads.
            base_BNDhw: lifting weights of this frame alone.
            state: of the frame before.
            step: start flags and the motion of every camera.
            cameras: calibration of this frame.
            measured: depth from outside, None where there is none.
        """
        logits = self.logits(features_BNChw.flatten(0, 1)).unflatten(0, base_BNDhw.shape[:2])
        warped = self._warp(state, step, cameras)
        seen, replaced = logits, base_BNDhw
        if measured is not None:
            seen = torch.where(measured.known_BN1hw, measured.surface_BNDhw, logits)
            replaced = torch.where(measured.known_BN1hw, measured.surface_BNDhw, base_BNDhw)
        fused, stored = self.blend(warped, logits, seen, step.start_B)
        surface = fused.softmax(dim=2)
        share = self.output_gate(surface, base_BNDhw)
        following = GeometryFusionState(
            logits_BNDhw=stored.detach(),
            image_rotation_BN33=cameras.image_rotation_BN33.clone(),
            image_translation_BN3=cameras.image_translation_BN3.clone(),
        )
        return torch.lerp(replaced, surface, share), following

    @torch.no_grad()
    def _warp(
        self, state: GeometryFusionState, step: StepControl, cameras: CameraTensors
    ) -> Tensor:
        """The remembered logits at the points of the current frustum, zero where there are none."""
        assert step.previous_cam_T_cam_BN44 is not None
        K = cameras.K_BN33.flatten(0, 1)
        pixels = (
            self.pixels_hw2[..., 0].to(K.dtype)[None, None],
            self.pixels_hw2[..., 1].to(K.dtype)[None, None],
            self.depths_D.to(K.dtype)[None, :, None, None],
        )
        points = unproject(
            pixels,
            cameras.inverse_K_BN33.flatten(0, 1),
            cameras.inverse_image_rotation_BN33.flatten(0, 1),
            cameras.image_translation_BN3.flatten(0, 1),
            step.previous_cam_T_cam_BN44.to(K.dtype).flatten(0, 1),
        )
        u, v = project(
            points,
            K,
            state.image_rotation_BN33.flatten(0, 1),
            state.image_translation_BN3.flatten(0, 1),
        )
        depth = points[2]
        stride, (height, width) = self.geometry.feature_stride, self.geometry.feature_size
        first, last = self.depths_D[0], self.depths_D[-1]
        place = torch.stack(
            [
                u / (stride * width - 1.0) * 2.0 - 1.0,
                v / (stride * height - 1.0) * 2.0 - 1.0,
                (depth - first) / (last - first) * 2.0 - 1.0,
            ],
            dim=-1,
        )
        place = torch.where((depth < _NEAREST_DEPTH)[..., None], -2.0, place)
        volume = state.logits_BNDhw.flatten(0, 1)[:, None].to(place.dtype)
        sampled = F.grid_sample(volume, place, align_corners=True)
        return sampled.view(state.logits_BNDhw.shape).to(state.logits_BNDhw.dtype)


class BlendPast(nn.Module):
    """``a past + (1 - a) now`` where the past has a source; else, and at a first frame, ``now``."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.gate = PixelGate(bins)

    def forward(
        self, past: Tensor, logits: Tensor, seen: Tensor, start_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Blends with the predicted logits, and by the same shares with what was seen."""
        gate = self.gate(past, logits)
        carried = (past != 0) & ~start_B.view(-1, 1, 1, 1, 1)
        fused = torch.where(carried, torch.lerp(logits, past, gate), logits)
        if seen is logits:
            return fused, fused
        return fused, torch.where(carried, torch.lerp(seen, past, gate), seen)


class PixelGate(nn.Module):
    """One number in (0, 1) per pixel from two volumes (B, N, D, h, w): (B, N, 1, h, w)."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2 * bins, bins, 1), nn.ReLU(inplace=True), nn.Conv2d(bins, 1, 1), nn.Sigmoid()
        )

    def forward(self, first_BNDhw: Tensor, second_BNDhw: Tensor) -> Tensor:
        both = torch.cat([first_BNDhw, second_BNDhw], dim=2)
        return self.layers(both.flatten(0, 1)).unflatten(0, both.shape[:2])
