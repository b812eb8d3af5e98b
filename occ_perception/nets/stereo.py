"""Matching with the previous frame: a plane sweep over the depth bins at stride 4.

Legend: B batch, N cameras, C channels, D depth bins, h, w pixels at stride 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from occ_perception.nets.cameras import CameraTensors, project, unproject
from occ_perception.nets.part import Part
from occ_perception.nets.temporal.step import StepControl, choose
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import stereo_cost

MATCHING_STRIDE = 4
_NEAREST_DEPTH = 1e-3


class StereoState(NamedTuple):
    """What the next frame matches with.

    Attributes:
        features_BNChw: stride-4 features of the frame that the state was committed at.
    """

    features_BNChw: Tensor


@dataclass(frozen=True, kw_only=True)
class PlaneSweepConfig:
    """Matching across time.

    Attributes:
        channels: width of the stride-4 features.
        outside_cost: matching cost of a hypothesis that leaves the previous image.
    """

    channels: int
    outside_cost: float = 5.0

    def build(self, geometry: ViewGeometry) -> PlaneSweep:
        """The module for a frustum."""
        return PlaneSweep(self, geometry)


class PlaneSweep(Part):
    """Distribution over depth bins from how well each explains the previous image.

    Temporal stereo (BEVStereo, arXiv 2209.10248): every pixel is placed at each depth, moved into
    the same camera one frame ago, and compared there; ``softmax_d(-cost)``. At the first frame of a
    sequence an image is matched with itself. No gradient passes: the distribution is an input of
    the depth net.
    """

    keeps_weights = (
        "a plane sweep enlarges the rounding of the maps it compares a hundredfold (a sum over all "
        "channels, a softmax without a temperature), beyond what parity allows"
    )
    columns_w: Tensor
    rows_h: Tensor
    depths_D: Tensor

    def __init__(self, config: PlaneSweepConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry
        height, width = geometry.input_size
        self.size = h, w = (height // MATCHING_STRIDE, width // MATCHING_STRIDE)
        columns = torch.linspace(0, w * MATCHING_STRIDE - 1, w)
        rows = torch.linspace(0, h * MATCHING_STRIDE - 1, h)
        self.register_buffer("columns_w", columns, persistent=False)
        self.register_buffer("rows_h", rows, persistent=False)
        self.register_buffer("depths_D", geometry.depth.edges(), persistent=False)

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> StereoState:
        """Empty features; they are not read before the first frame of a sequence fills them."""
        shape = (batch_size, self.geometry.num_cameras, self.config.channels, *self.size)
        return StereoState(torch.zeros(shape, device=device, dtype=dtype))

    @torch.no_grad()
    def forward(
        self,
        features_BNChw: Tensor,
        state: StereoState,
        step: StepControl,
        cameras: CameraTensors,
    ) -> tuple[Tensor, StereoState]:
        """Distribution (B, N, D, h, w) and the state after this frame."""
        assert step.previous_cam_T_cam_BN44 is not None
        previous = choose(step.start_B, features_BNChw, state.features_BNChw).flatten(0, 1)
        current = features_BNChw.flatten(0, 1)
        motion = step.previous_cam_T_cam_BN44.float().flatten(0, 1)
        calibration = (
            cameras.K_BN33.flatten(0, 1),
            cameras.inverse_K_BN33.flatten(0, 1),
            cameras.image_rotation_BN33.flatten(0, 1),
            cameras.inverse_image_rotation_BN33.flatten(0, 1),
            cameras.image_translation_BN3.flatten(0, 1),
        )
        costs = []
        for camera in range(len(current)):  # the positions of all cameras at once would be large
            one = slice(camera, camera + 1)
            places = self.positions(motion[one], *(part[one] for part in calibration))
            cost = stereo_cost(current[one], previous[one], places, self.config.outside_cost)
            costs.append(cost.neg().softmax(dim=1))
        distribution = torch.cat(costs).unflatten(0, features_BNChw.shape[:2])
        return distribution, StereoState(features_BNChw.detach())

    def positions(
        self,
        motion_n44: Tensor,
        K_n33: Tensor,
        inverse_K_n33: Tensor,
        A_n33: Tensor,
        inverse_A_n33: Tensor,
        a_n3: Tensor,
    ) -> Tensor:
        """(n, h, w, D, 2) row and column in the previous features, in feature pixels.

        Single precision and the order of operations are part of the meaning here: whether a
        sample hits a zero exactly decides about ``outside_cost``, and in a frame that is matched
        with itself rounding alone decides which samples do. Intrinsics K and image affine (A, a)
        of this frame are used for the previous one too.
        """
        h, w = self.size
        pixels = (
            self.columns_w[:, None].expand(1, 1, w, 1),
            self.rows_h[:, None, None].expand(1, h, 1, 1),
            self.depths_D,
        )
        points = unproject(pixels, inverse_K_n33, inverse_A_n33, a_n3, motion_n44)
        columns, rows = project(points, K_n33, A_n33, a_n3)
        behind = points[2] < _NEAREST_DEPTH
        return torch.stack([_nodes(rows, behind, h), _nodes(columns, behind, w)], dim=-1)


def _nodes(pixels: Tensor, behind: Tensor, count: int) -> Tensor:
    """Input pixels to feature pixels by way of the [-1, 1] range that was trained with."""
    normalised = pixels / (MATCHING_STRIDE * count - 1.0) * 2.0 - 1.0
    return (torch.where(behind, -2.0, normalised) + 1.0) * ((count - 1) / 2)
