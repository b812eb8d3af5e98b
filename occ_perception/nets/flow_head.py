"""Flow head: how fast, and where to, the content of every voxel moves.

Legend: B batch, C channels, X, Y, Z voxels of the volume, h, w half as many along y and x,
K flow bins, D = 121 displacements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.temporal.feature_rows import empty_rows, features_of, project_rows, rows_of
from occ_perception.nets.temporal.step import GridMotion, StepControl, choose
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import linear_corners, moved_voxels, sample_rows

# The velocity bins of one component: -22 to 21.5 m/s.
SLOWEST_BIN, BIN_WIDTH, BINS = -22.0, 0.5, 88
# Rows of the volume whose bins exist at once: 176 numbers per voxel are a lot of memory.
_ROWS_AT_ONCE = 8
# How many true classes are distinguished: 18 at most, and unknown.
_CLASSES = 19


class FlowState(NamedTuple):
    """What the next frame is compared with.

    Attributes:
        map_BYXC: features seen from above, in the grid of the frame they were computed in.
        augmentation_B33: grid augmentation of that frame.
    """

    map_BYXC: Tensor
    augmentation_B33: Tensor


@dataclass(frozen=True)
class MotionHint:
    """True classes of two frames, which show how everything moves; while training.

    Attributes:
        labels_BXYZ: uint8 class ids of this frame in its augmented grid, 255 where unknown.
        previous_labels_BXYZ: those of the frame the state was committed at, in the grid of that
            frame; not read at the first frame of a sequence.
        rate: how much of the matching of these classes replaces that of the features, 1 = all.
    """

    labels_BXYZ: Tensor
    previous_labels_BXYZ: Tensor
    rate: float = 1.0


class Flow(NamedTuple):
    """Predicted motion.

    Attributes:
        velocity_BYXZ2: m/s; component 0 along y of the grid, component 1 along x. None while
            training.
        features_BCYXZ: what :meth:`FlowHead.velocity_bins` takes, while training only: a loss
            looks at a few voxels, and the bins of all of them would fill gigabytes. Its cells may
            be coarser than the voxels, by whole factors.
    """

    velocity_BYXZ2: Tensor | None
    features_BCYXZ: Tensor | None


@dataclass(frozen=True, kw_only=True)
class FlowHeadConfig:
    """What is compared with what.

    Attributes:
        channels: width of the volume.
        first_voxel, last_voxel: heights whose mean is compared across time; objects that move are
            there.
        reach: largest displacement, in steps of two half-resolution voxels.
        temperature: of the matching distribution.
        outside_cost: matching cost of a displacement that leaves the previous grid.
    """

    channels: int
    first_voxel: int = 3
    last_voxel: int = 8
    reach: int = 5
    temperature: float = 0.1
    outside_cost: float = 5.0

    def build(self, geometry: ViewGeometry) -> FlowHead:
        """The module for a grid."""
        return FlowHead(self, geometry)


class FlowHead(nn.Module):
    """Velocity from a cost volume between this frame and the last, seen from above.

    ALOcc (arXiv 2411.07725), cost-volume-based flow: features averaged over the heights of
    vehicles are compared with those of the previous frame under 121 displacements; the matching
    distribution joins the volume, and every voxel picks a velocity as the expectation over fixed
    bins (classification and regression in one). Features match badly at first, so training may
    begin with the matching of true classes (the paper's denoising).
    """

    def __init__(self, config: FlowHeadConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        C, matching = config.channels, config.channels // 2
        self.config = config
        self.geometry = geometry
        self.history = WarpedMap(geometry)
        self.match = MapMatching(config)
        self.encode = nn.Sequential(
            nn.Conv2d((2 * config.reach + 1) ** 2, matching, 3, padding=1),
            nn.BatchNorm2d(matching),
        )
        self.join = JoinMatching(matching, C)
        self.predict = nn.Sequential(
            nn.Conv3d(C, 2 * C, 1), nn.ReLU(inplace=True), nn.Conv3d(2 * C, 2 * BINS, 1)
        )

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> FlowState:
        """An empty map; it is not read before the first frame of a sequence fills it."""
        dims, channels = self.geometry.grid.dims, self.config.channels
        return FlowState(
            empty_rows(batch_size, dims, channels, device, dtype, flat=True),
            torch.eye(3, device=device).expand(batch_size, 3, 3).contiguous(),
        )

    def forward(
        self,
        volume_BCYXZ: Tensor,
        state: FlowState,
        step: StepControl,
        augmentation: GridAugmentation,
        hint: MotionHint | None = None,
    ) -> tuple[Flow, FlowState]:
        with torch.no_grad():
            above = volume_BCYXZ[..., self.config.first_voxel : self.config.last_voxel + 1].mean(-1)
            now = rows_of(above)
            then = self.history(now, state, step, augmentation)
            scores_BDhw = self.match(above, then)
            if hint is not None:
                true_BDhw = self._match_classes(hint, state, step, augmentation)
                scores_BDhw = torch.lerp(scores_BDhw, true_BDhw.to(scores_BDhw), hint.rate)
        encoded = F.interpolate(
            self.encode(scores_BDhw.softmax(dim=1)),
            size=volume_BCYXZ.shape[2:4],
            mode="bilinear",
            align_corners=True,
        )
        features = self.join(encoded, volume_BCYXZ)
        flow = Flow(None, features) if self.training else Flow(self._velocity(features), None)
        return flow, FlowState(now, augmentation.matrix_B33.clone())

    def velocity_bins(self, features_VC: Tensor) -> Tensor:
        """Logits over the velocity bins of single voxels, (V, 88, 2).

        Args:
            features_VC: of V voxels, from :class:`Flow`.

        Returns:
            Component 0 is along y of the grid, component 1 along x.
        """
        hidden, last = self.predict[0], self.predict[2]
        assert isinstance(hidden, nn.Conv3d) and isinstance(last, nn.Conv3d)
        wide = F.relu(project_rows(hidden.weight, hidden.bias, features_VC))
        return project_rows(last.weight, last.bias, wide).unflatten(1, (BINS, 2))

    def _match_classes(
        self,
        hint: MotionHint,
        state: FlowState,
        step: StepControl,
        augmentation: GridAugmentation,
    ) -> Tensor:
        """The matching scores of true classes, remembered and warped as the features are."""
        now, before = (
            self._classes_above(labels) for labels in (hint.labels_BXYZ, hint.previous_labels_BXYZ)
        )
        seen = FlowState(before, state.augmentation_B33)
        then = self.history(now, seen, step, augmentation)
        return self.match(features_of(now), then)

    def _classes_above(self, labels_BXYZ: Tensor) -> Tensor:
        """Share of each class among the compared heights, (B, Y, X, 19); unknown is the last."""
        heights = labels_BXYZ[..., self.config.first_voxel : self.config.last_voxel + 1]
        classes = heights.transpose(1, 2).long().clamp(max=_CLASSES - 1)
        counts = torch.zeros(*classes.shape[:3], _CLASSES, device=classes.device)
        counts.scatter_add_(-1, classes, torch.ones_like(classes, dtype=counts.dtype))
        return counts / classes.shape[-1]

    def _velocity(self, features_BCYXZ: Tensor) -> Tensor:
        parts = [
            expected_velocity(self.predict(rows).unflatten(1, (BINS, 2)))
            for rows in features_BCYXZ.split(_ROWS_AT_ONCE, dim=2)
        ]
        return torch.cat(parts, dim=1)


def expected_velocity(bins: Tensor) -> Tensor:
    """``sum_k softmax(bins)_k * centre_k`` per component.

    Args:
        bins: (B, K, 2, ...) logits.

    Returns:
        (B, ..., 2) m/s.
    """
    number = torch.arange(BINS, device=bins.device, dtype=bins.dtype)
    centres = SLOWEST_BIN + BIN_WIDTH * number
    return torch.einsum("k,bkc...->b...c", centres, bins.softmax(dim=1))


class WarpedMap(nn.Module):
    """The previous map at the places where the current voxels were, (B, C, Y, X)."""

    def __init__(self, geometry: ViewGeometry) -> None:
        super().__init__()
        self.geometry = geometry.flattened()
        self.grid_motion = GridMotion(self.geometry)

    def forward(
        self,
        now_BYXC: Tensor,
        state: FlowState,
        step: StepControl,
        augmentation: GridAugmentation,
    ) -> Tensor:
        then = choose(step.start_B, now_BYXC, state.map_BYXC)
        motion = self.grid_motion(step, augmentation, state.augmentation_B33)
        precise = torch.promote_types(then.dtype, torch.float32)
        voxels = moved_voxels(motion, self.geometry.grid.dims, flat=True, dtype=precise)
        corners = linear_corners(voxels.flatten(1, 2), tuple(then.shape[1:3]))
        return features_of(sample_rows(then.flatten(1, 2), corners).view(then.shape))


class MapMatching(nn.Module):
    """How well displacements fit: ``cos(now, then moved by d) / temperature``.

    A softmax over d makes it the matching distribution. At half resolution; displacement
    ``(ky, kx)`` moves by two half-resolution voxels per step and is entry ``ky * 11 + kx``. Where
    the moved map's channels add up to exactly zero nothing was there, and the score falls by
    ``outside_cost``.
    """

    def __init__(self, config: FlowHeadConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, now_BCYX: Tensor, then_BCYX: Tensor) -> Tensor:
        """(B, D, h, w)."""
        h, w = now_BCYX.shape[2] // 2, now_BCYX.shape[3] // 2
        now, then = (
            F.interpolate(features, size=(h, w), mode="bilinear", align_corners=True)
            for features in (now_BCYX, then_BCYX)
        )
        border = 2 * self.config.reach
        now = F.normalize(now, dim=1)
        nothing = F.pad(then.sum(dim=1), [border] * 4) == 0.0
        then = F.pad(F.normalize(then, dim=1), [border] * 4)
        scores = []
        for y in range(0, 2 * border + 1, 2):
            for x in range(0, 2 * border + 1, 2):
                window = (..., slice(y, y + h), slice(x, x + w))
                similarity = (now * then[window]).sum(dim=1) / self.config.temperature
                scores.append(similarity - self.config.outside_cost * nothing[window])
        return torch.stack(scores, dim=1)


class JoinMatching(nn.Module):
    """``relu(conv3x3x3([matching repeated over z, volume]))`` without repeating anything.

    Away from floor and ceiling the repeated part sees the same three layers at every height: its
    convolution is a 2-D one with the kernel summed over z. The two outer layers miss one.
    """

    def __init__(self, matching_channels: int, channels: int) -> None:
        super().__init__()
        self.matching_channels = matching_channels
        self.conv = nn.Conv3d(matching_channels + channels, channels, 3, padding=1)

    def forward(self, matching_BCYX: Tensor, volume_BCYXZ: Tensor) -> Tensor:
        widths = [self.matching_channels, volume_BCYXZ.shape[1]]
        for_matching, for_volume = self.conv.weight.split(widths, dim=1)
        joined = F.conv3d(volume_BCYXZ, for_volume, self.conv.bias, padding=1)
        kernels = [for_matching[..., 1:], for_matching, for_matching[..., :2]]
        layers = torch.cat([kernel.sum(dim=-1) for kernel in kernels])
        floor, inner, ceiling = F.conv2d(matching_BCYX, layers, padding=1).chunk(3, dim=1)
        Z = volume_BCYXZ.shape[-1]
        repeated = torch.stack([floor, *[inner] * (Z - 2), ceiling], dim=-1)
        return F.relu(joined + repeated, inplace=True)
