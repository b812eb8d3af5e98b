"""The network of SparseOcc (arXiv 2312.17118).

Legend: B batch, N cameras, T frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from occ_perception.geometry import VoxelGrid
from occ_perception.models.inputs import NetInputs, SparseOutputs
from occ_perception.models.network import Network
from occ_perception.models.state import TemporalState, detach_state
from occ_perception.nets.sparse.frame_history import FrameHistoryConfig, Frames
from occ_perception.nets.sparse.geometry import SparseGeometry
from occ_perception.nets.sparse.mask_decoder import MaskDecoderConfig
from occ_perception.nets.sparse.pyramid import ImagePyramidConfig
from occ_perception.nets.sparse.voxel_decoder import VoxelDecoderConfig


@dataclass(frozen=True, kw_only=True)
class SparseOccConfig:
    """The network as a choice of parts.

    Attributes:
        geometry: image size, grid of the output, cameras.
        image: images to feature pyramids.
        temporal: which frames are looked at.
        voxels: frames to occupied voxels.
        masks: voxels and frames to masks with a class.
    """

    geometry: SparseGeometry
    image: ImagePyramidConfig
    temporal: FrameHistoryConfig
    voxels: VoxelDecoderConfig
    masks: MaskDecoderConfig

    @property
    def output_grid(self) -> VoxelGrid:
        """The grid of the voxels."""
        return self.geometry.grid

    @property
    def history_frames(self) -> int:
        """Number of past frames that matter."""
        return self.temporal.frames

    @property
    def class_scores(self) -> str:
        """What classes are compared by."""
        return "masks"

    @property
    def measured_depth(self) -> bool:
        """There is no place for it."""
        return False

    @property
    def matches_images(self) -> bool:
        """It looks at earlier images where its queries are instead."""
        return False

    @property
    def fuses_depth(self) -> bool:
        """There is no depth."""
        return False

    @property
    def predicts_flow(self) -> bool:
        """There is no flow."""
        return False

    def with_geometry(self, geometry: SparseGeometry) -> SparseOccConfig:
        """The same network for other sizes."""
        return replace(self, geometry=geometry)

    def build(self) -> SparseOcc:
        """The network."""
        return SparseOcc(self)


class SparseOcc(Network):
    """Images of one step, and features of the steps before, to occupied voxels and masks.

    The images of a frame are encoded once, when they come; later steps look at the remembered
    features through the cameras of that time.
    """

    def __init__(self, config: SparseOccConfig) -> None:
        super().__init__()
        self.config = config
        self.image = config.image.build()
        self.temporal = config.temporal.build(config.geometry)
        self.voxels = config.voxels.build(config.geometry)
        self.masks = config.masks.build(config.geometry)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> TemporalState:
        """See :meth:`Network.initial_state`."""
        device = torch.device(device) if device else self.masks.query.weight.device
        return TemporalState(history=self.temporal.initial_state(batch_size, device, dtype))

    def forward(
        self, inputs: NetInputs, state: TemporalState
    ) -> tuple[SparseOutputs, TemporalState]:
        """One step of B streams; see :meth:`Network.forward`."""
        frames, following = self.observe(inputs, state)
        return self.decode(frames), detach_state(following)

    def observe(self, inputs: NetInputs, state: TemporalState) -> tuple[Frames, TemporalState]:
        """What there is to look at after this step's images, and the state that remembers it.

        Several steps that are only observed, then one that is also decoded, equal one pass over
        all their images. Gradients reach all of them.
        """
        frames, history = self.temporal(
            self.image(inputs.images_BN3HW),
            inputs.cameras,
            state.history,
            inputs.control,
            inputs.augmentation,
        )
        return frames, TemporalState(history=history)

    def decode(self, frames: Frames) -> SparseOutputs:
        """Voxels and masks of the current frame."""
        levels = self.voxels(frames)
        return SparseOutputs(
            levels=levels,
            predictions=self.masks(levels[-1], frames),
            dims=self.config.geometry.grid.dims,
        )
