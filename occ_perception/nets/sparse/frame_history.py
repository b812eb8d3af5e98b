"""Memory of the images' features: every step looks at the current frame and at earlier ones.

Legend: B batch, T frames looked at, F = T - 1 frames remembered, N cameras, h, w pixels of a
level, E channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.nets.cameras import CameraTensors
from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.sparse.geometry import SparseGeometry
from occ_perception.nets.sparse.pyramid import STRIDES, Pyramid
from occ_perception.nets.temporal.step import StepControl, choose


class FrameHistoryState(NamedTuple):
    """What the next frame needs of the past.

    Attributes:
        maps: features of the last F frames, newest first, (B, F, N, h, w, E) per level.
        frame_BF: int64, which of them each earlier frame is read from: 0, 1, 2, ... in a long
            sequence; while it is short, the oldest there is serves for all that are missing.
        pixel_T_ego_BFN44: float64, places in the ego frame of the newest remembered frame to
            input pixels of each earlier frame.
    """

    maps: Pyramid
    frame_BF: Tensor
    pixel_T_ego_BFN44: Tensor


class Frames(NamedTuple):
    """What the decoders look at; frame 0 is the current one.

    Attributes:
        maps: features of the frames in memory, (B, T, N, h, w, E) per level.
        frame_BT: int64, in which place of ``maps`` each frame is.
        pixel_T_grid_BTN44: places in the grid's frame, now, to (u depth, v depth, depth) in input
            pixels of each frame.
    """

    maps: Pyramid
    frame_BT: Tensor
    pixel_T_grid_BTN44: Tensor


@dataclass(frozen=True, kw_only=True)
class FrameHistoryConfig:
    """How much is remembered.

    Attributes:
        frames: earlier frames looked at, beside the current one.
        channels: width of the features.
    """

    frames: int = 7
    channels: int = 256

    def build(self, geometry: SparseGeometry) -> FrameHistory:
        """The module for an image size."""
        return FrameHistory(self, geometry)


class FrameHistory(nn.Module):
    """The last eight frames, seen from now.

    Features are remembered as they were computed: nothing is warped, but places of the current grid
    are projected into the earlier images. At the first frame of a sequence all earlier frames are
    the current one, with its own cameras (SparseOcc, arXiv 2312.17118).
    """

    def __init__(self, config: FrameHistoryConfig, geometry: SparseGeometry) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> FrameHistoryState:
        """Empty memory; its content is not read before the first frame of a sequence fills it."""
        T, cameras = self.config.frames, self.geometry.num_cameras
        rows, columns = self.geometry.input_size

        def empty(stride: int) -> Tensor:
            h, w = -(-rows // stride), -(-columns // stride)
            shape = (batch_size, T, cameras, h, w, self.config.channels)
            return torch.zeros(shape, device=device, dtype=dtype)

        return FrameHistoryState(
            maps=Pyramid(*(empty(stride) for stride in STRIDES)),
            frame_BF=torch.zeros(batch_size, T, dtype=torch.int64, device=device),
            pixel_T_ego_BFN44=torch.eye(4, dtype=torch.float64, device=device).repeat(
                batch_size, T, cameras, 1, 1
            ),
        )

    def forward(
        self,
        maps: Pyramid,
        cameras: CameraTensors,
        state: FrameHistoryState,
        step: StepControl,
        augmentation: GridAugmentation,
    ) -> tuple[Frames, FrameHistoryState]:
        F = self.config.frames
        assert cameras.pixel_T_grid_BN44 is not None
        # Float64: earlier frames are reached over several motions.
        seen_from_now = cameras.pixel_T_grid_BN44[:, None]
        motion = step.previous_T_current_B44.double()[:, None, None]
        earlier = choose(step.start_B, seen_from_now, state.pixel_T_ego_BFN44 @ motion)
        projections = torch.cat([seen_from_now, earlier], dim=1)

        # The memory moves back by one place; at the first frame of a sequence every frame is read
        # from the first.
        number = choose(step.start_B, torch.zeros_like(state.frame_BF), state.frame_BF + 1)
        number = torch.cat([torch.zeros_like(number[:, :1]), number], dim=1)
        joined = Pyramid(
            *(
                torch.cat([level[:, None], past], dim=1)
                for level, past in zip(maps, state.maps, strict=True)
            )
        )
        frames = Frames(joined, number, _without_augmentation(projections, augmentation))
        following = FrameHistoryState(
            maps=Pyramid(*(_own(level[:, :F]) for level in joined)),
            frame_BF=_own(number[:, :F]),
            pixel_T_ego_BFN44=_own(projections[:, :F]),
        )
        return frames, following


def _own(view: Tensor) -> Tensor:
    """A copy with memory and strides of its own: a view keeps the frame that is to be forgotten."""
    return view.clone(memory_format=torch.contiguous_format)


def _without_augmentation(projections_BTN44: Tensor, augmentation: GridAugmentation) -> Tensor:
    """Projections of places in the augmented grid, float32."""
    undo = augmentation.inverse_B33[:, None, None]
    turned = torch.cat([projections_BTN44[..., :3] @ undo, projections_BTN44[..., 3:]], dim=-1)
    return turned.float()
