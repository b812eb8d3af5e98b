"""The network that ALOcc, GDFusion, BEVDetOcc, FB-Occ and CausalOcc share.

Legend: B batch, N cameras, C channels, D depth bins, K classes, h, w feature pixels, X, Y, Z
cells.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from occ_perception.geometry import VoxelGrid
from occ_perception.models.inputs import NetInputs, NetOutputs
from occ_perception.models.state import TemporalState
from occ_perception.nets.bev_encoder import BevEncoderConfig, HeightLiftConfig
from occ_perception.nets.cameras import PixelRays, camera_code
from occ_perception.nets.depth_net import DepthNetConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.lift import OcclusionTransfer, SoftLiftConfig
from occ_perception.nets.prototype_head import PrototypeHeadConfig
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig
from occ_perception.nets.view_geometry import ViewGeometry


@dataclass(frozen=True, kw_only=True)
class OccupancyNetConfig:
    """A network as a choice of parts; absent parts are None.

    Attributes:
        geometry: image size, depth bins, grid of the lifted volume, cameras.
        image: pictures to stride-16 features.
        depth: features to depth distribution, occluded length and context.
        lift: context to volume.
        temporal: fusion with the past.
        encoder: volume to volume, or map to map.
        height: map to volume, for bird's-eye-view networks.
        head: volume to class logits.
    """

    geometry: ViewGeometry
    image: ImageEncoderConfig
    depth: DepthNetConfig
    lift: SoftLiftConfig
    temporal: ConcatHistoryConfig | None = None
    encoder: BevEncoderConfig
    height: HeightLiftConfig | None = None
    head: PrototypeHeadConfig

    @property
    def output_grid(self) -> VoxelGrid:
        """The grid of the class logits."""
        grid = self.geometry.grid
        if self.height is None:
            return grid
        X, Y, _ = grid.dims
        dx, dy, dz = grid.voxel_size
        cells = self.height.cells
        return VoxelGrid(grid.lower, (dx, dy, dz / cells), (X, Y, cells))

    def with_geometry(self, geometry: ViewGeometry) -> OccupancyNetConfig:
        """The same network for other sizes."""
        return replace(self, geometry=geometry)


class OccupancyNet(nn.Module):
    """Camera pictures of one step, and the state of the steps before, to class logits.

    Args:
        config: the parts.
    """

    def __init__(self, config: OccupancyNetConfig) -> None:
        super().__init__()
        self.config = config
        geometry = config.geometry
        self.image = config.image.build()
        self.depth = config.depth.build(geometry)
        self.occlusion = OcclusionTransfer()
        self.lift = config.lift.build(geometry)
        self.temporal = config.temporal.build(geometry) if config.temporal else None
        self.encoder = config.encoder.build()
        self.height = config.height.build() if config.height else None
        self.head = config.head.build()

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> TemporalState:
        """The state before the first frame, which must have its start flag set.

        Args:
            batch_size: number of independent streams.
            device: the parameters' device unless given.
            dtype: of the remembered features.
        """
        device = torch.device(device) if device else self.head.query.weight.device
        history = None
        if self.temporal is not None:
            history = self.temporal.initial_state(batch_size, device, dtype)
        return TemporalState(history=history)

    def forward(self, inputs: NetInputs, state: TemporalState) -> tuple[NetOutputs, TemporalState]:
        """One step of B streams.

        Args:
            inputs: batched, on the device of the parameters.
            state: from :meth:`initial_state` or the step before; it is not changed.

        Returns:
            Raw outputs, and the state after this step.
        """
        augmentation = inputs.bev_augmentation_B33
        features = self.image(inputs.images_BN3HW)
        depth = self.depth(features, camera_code(inputs.cameras, augmentation))
        weights_BNDhw = self.occlusion(depth.surface_BNDhw, depth.occluded_BNLhw)

        rays = PixelRays.of(inputs.cameras, augmentation, self.config.geometry)
        volume: Tensor = self.lift(rays, weights_BNDhw, depth.context_BNChw)

        history = None
        if self.temporal is not None:
            volume, history = self.temporal(volume, state.history, inputs.control, augmentation)

        volume = self.encoder(volume)
        if self.height is not None:
            volume = self.height(volume)
        logits_BKYXZ = self.head(volume)

        outputs = NetOutputs(
            logits_BKXYZ=logits_BKYXZ.transpose(2, 3),
            depth_BNDhw=depth.surface_BNDhw,
            context_BNChw=depth.context_BNChw,
        )
        return outputs, TemporalState(history=history)
