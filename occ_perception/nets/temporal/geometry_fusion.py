"""Geometry fusion: depth remembered from the frame before, in each camera's frustum.

Legend: B batch, N cameras, C channels, D depth bins, h, w feature pixels; a leading n is B * N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.cameras import CameraTensors, feature_pixels
from occ_perception.nets.measured_depth import MeasuredDepth
from occ_perception.nets.temporal.step import StepControl
from occ_perception.nets.view_geometry import FEATURE_STRIDE, ViewGeometry

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
        self.geometry = geometry
        self.logits = nn.Conv2d(config.in_channels, bins, 1)
        self.history_gate = PixelGate(bins)
        self.output_gate = PixelGate(bins)
        self.register_buffer("pixels_hw2", feature_pixels(geometry), persistent=False)
        self.register_buffer("depths_D", geometry.depth.edges(), persistent=False)

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> GeometryFusionState:
        """Empty logits; they are not read before a start fills them."""
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
        gate = self.history_gate(warped, logits)
        carried = (warped != 0) & ~step.start_B.view(-1, 1, 1, 1, 1)

        def remember(now: Tensor) -> Tensor:
            return torch.where(carried, torch.lerp(now, warped, gate), now)

        fused = stored = remember(logits)
        replaced = base_BNDhw
        if measured is not None:
            replaced = torch.where(measured.known_BN1hw, measured.surface_BNDhw, base_BNDhw)
            stored = remember(torch.where(measured.known_BN1hw, measured.surface_BNDhw, logits))
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
        """The remembered logits at the points of the current frustum, zero where there are none.

        A pixel p = [u, v, 1] at depth d lies at ``d M p + K t`` in the previous camera's pixels
        times depth, with ``M = K R K^-1 A^-1 [1, -a]``; its previous image affine follows.
        """
        assert step.previous_cam_T_cam_BN44 is not None
        motion = step.previous_cam_T_cam_BN44.double()
        K = cameras.K_BN33.double()
        A, a = cameras.image_rotation_BN33.double(), cameras.image_translation_BN3.double()
        undo = torch.linalg.inv_ex(A).inverse
        undo = torch.cat([undo[..., :2], undo[..., 2:] - undo[..., :2] @ a[..., :2, None]], dim=-1)
        M = K @ motion[..., :3, :3] @ torch.linalg.inv_ex(K).inverse @ undo
        origin = K @ motion[..., :3, 3:]

        precise = torch.promote_types(state.logits_BNDhw.dtype, torch.float32)
        height, width = self.geometry.feature_size
        pixels_hw3 = F.pad(self.pixels_hw2.to(precise), (0, 1), value=1.0)
        depths_D = self.depths_D.to(precise)
        along = torch.einsum("bnij,hwj->bnihw", M.to(precise), pixels_hw3)[:, :, :, None]
        point = depths_D[:, None, None] * along + origin.to(precise)[..., None, None]
        x, y, z = point.unbind(2)
        u, v = _affine(state, x / z, y / z)
        first, last = depths_D[0], depths_D[-1]
        place = torch.stack(
            [
                u * (2.0 / (FEATURE_STRIDE * width - 1)) - 1.0,
                v * (2.0 / (FEATURE_STRIDE * height - 1)) - 1.0,
                (z - first) * (2.0 / (last - first)) - 1.0,
            ],
            dim=-1,
        )
        place = torch.where((z < _NEAREST_DEPTH)[..., None], -2.0, place)
        volume = state.logits_BNDhw.flatten(0, 1)[:, None].to(precise)
        sampled = F.grid_sample(volume, place.flatten(0, 1), align_corners=True)
        return sampled.view(state.logits_BNDhw.shape).to(state.logits_BNDhw.dtype)


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


def _affine(state: GeometryFusionState, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Native pixels (B, N, D, h, w) of the previous frame to its input pixels."""
    A = state.image_rotation_BN33[..., None, None, None]
    a = state.image_translation_BN3[..., None, None, None]
    u = A[:, :, 0, 0] * x + A[:, :, 0, 1] * y + a[:, :, 0]
    v = A[:, :, 1, 0] * x + A[:, :, 1, 1] * y + a[:, :, 1]
    return u, v
