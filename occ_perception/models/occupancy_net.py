"""The network that ALOcc, GDFusion, BEVDetOcc, FB-Occ and CausalOcc share.

Legend: B batch, N cameras, C channels, D depth bins, K classes, h, w feature pixels, X, Y, Z
voxels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from occ_perception.geometry import VoxelGrid
from occ_perception.models.inputs import DepthHint, NetInputs, NetOutputs, StepControl
from occ_perception.models.network import Network
from occ_perception.models.state import TemporalState
from occ_perception.nets.backward_projection import BackwardProjectionConfig
from occ_perception.nets.bev_encoder import (
    BevEncoderConfig,
    BevRefineConfig,
    HeightLift,
    HeightLiftConfig,
    VoxelPlaces,
)
from occ_perception.nets.cameras import PixelRays, camera_code
from occ_perception.nets.column_flow import ColumnFlow, ColumnFlowConfig
from occ_perception.nets.depth_net import DepthNetConfig, DepthPrediction
from occ_perception.nets.flow_head import Flow, FlowHead, FlowHeadConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.inter_object import InterObjectConfig
from occ_perception.nets.lift import (
    GroupedLiftConfig,
    HardLiftConfig,
    NormalisedTransferConfig,
    OcclusionTransferConfig,
    SoftLiftConfig,
)
from occ_perception.nets.measured_depth import measured_depth
from occ_perception.nets.normalised_convolution import NormalisedConvolutionConfig
from occ_perception.nets.occupancy_heads import (
    MlpHeadConfig,
    PrototypeHead,
    PrototypeHeadConfig,
    PyramidHeadConfig,
    SoftmaxPrototypeHeadConfig,
)
from occ_perception.nets.pose_correction import PoseCorrectionConfig
from occ_perception.nets.pyramid_encoder import PyramidEncoderConfig
from occ_perception.nets.stereo import PlaneSweep, PlaneSweepConfig, StereoState
from occ_perception.nets.temporal.concat_history import ConcatHistory, ConcatHistoryConfig
from occ_perception.nets.temporal.geometry_fusion import (
    GeometryFusion,
    GeometryFusionConfig,
    GeometryFusionState,
)
from occ_perception.nets.temporal.gradient_fusion import GradientFusion, GradientFusionConfig
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.nets.voxel_encoder import VoxelEncoderConfig, VoxelRefineConfig


@dataclass(frozen=True, kw_only=True)
class OccupancyNetConfig:
    """A network as a choice of parts; absent parts are None.

    Attributes:
        geometry: image size, depth bins, grid of the lifted volume, cameras.
        image: images to features.
        stereo: matching with the previous images.
        pose: images and camera poses to corrected poses; matching uses them as they came.
        depth: features to depth distribution, occluded length and context.
        occlusion: depth distribution and occluded length to lifting weights.
        geometry_fusion: fusion of depth with the past.
        inter_object: extra samples for space that objects hide from each other.
        lift: context to volume.
        refine: volume and images to a map that is added to every height.
        pre: volume to volume, before it meets the past.
        temporal: fusion with the past.
        encoder: volume to volume, or map to map.
        height: map to volume, for bird's-eye-view networks.
        head: volume to class logits.
        flow: volume, or the map that it is made of, to velocities.
        measured_depth: whether depth that a lidar measured is an input when the network is run;
            while training, any network may be given it.
    """

    geometry: ViewGeometry
    image: ImageEncoderConfig
    stereo: PlaneSweepConfig | None = None
    pose: PoseCorrectionConfig | None = None
    depth: DepthNetConfig
    occlusion: OcclusionTransferConfig | NormalisedTransferConfig = field(
        default_factory=OcclusionTransferConfig
    )
    geometry_fusion: GeometryFusionConfig | None = None
    inter_object: InterObjectConfig | None = None
    lift: SoftLiftConfig | HardLiftConfig | GroupedLiftConfig
    refine: BackwardProjectionConfig | None = None
    pre: BevRefineConfig | VoxelRefineConfig | NormalisedConvolutionConfig | None = None
    temporal: ConcatHistoryConfig | GradientFusionConfig | None = None
    encoder: BevEncoderConfig | VoxelEncoderConfig | PyramidEncoderConfig
    height: HeightLiftConfig | None = None
    head: PrototypeHeadConfig | SoftmaxPrototypeHeadConfig | MlpHeadConfig | PyramidHeadConfig
    flow: FlowHeadConfig | ColumnFlowConfig | None = None
    measured_depth: bool = False

    @property
    def output_grid(self) -> VoxelGrid:
        """The grid of the class logits."""
        grid = self.geometry.grid
        if isinstance(self.head, PyramidHeadConfig):
            return self.head.output_grid(grid)
        if self.height is None:
            return grid
        X, Y, Z = grid.dims
        dx, dy, dz = grid.voxel_size
        voxels, fine = self.height.voxels, self.height.upscale
        sizes = (dx / fine, dy / fine, dz * Z / voxels)
        return VoxelGrid(grid.lower, sizes, (fine * X, fine * Y, voxels))

    @property
    def history_frames(self) -> int:
        """Number of past frames that matter; matching with the previous images is one."""
        matched = 1 if self.stereo else 0
        return self.temporal.frames if self.temporal else matched

    @property
    def class_scores(self) -> str:
        """What classes are compared by."""
        return self.head.class_scores

    @property
    def matches_images(self) -> bool:
        """Whether it compares images with those before."""
        return self.stereo is not None

    @property
    def fuses_depth(self) -> bool:
        """Whether measured depth enters where depth is fused with the past."""
        return self.geometry_fusion is not None

    @property
    def predicts_flow(self) -> bool:
        """Whether it gives velocities."""
        return self.flow is not None

    def with_geometry(self, geometry: ViewGeometry) -> OccupancyNetConfig:
        """The same network for other sizes."""
        return replace(self, geometry=geometry)

    def build(self) -> OccupancyNet:
        """The network."""
        return OccupancyNet(self)


class OccupancyNet(Network):
    """Camera images of one step, and the state of the steps before, to class logits.

    Args:
        config: the parts.
    """

    def __init__(self, config: OccupancyNetConfig) -> None:
        super().__init__()
        self.config = config
        geometry = config.geometry
        self.image = config.image.build()
        self.stereo = config.stereo.build(geometry) if config.stereo else None
        self.pose = config.pose.build() if config.pose else None
        self.depth = config.depth.build(geometry)
        self.occlusion = config.occlusion.build()
        fusion = config.geometry_fusion
        self.geometry_fusion = fusion.build(geometry) if fusion else None
        self.inter_object = config.inter_object.build() if config.inter_object else None
        self.lift = config.lift.build(geometry)
        self.refine = config.refine.build(geometry) if config.refine else None
        self.pre = config.pre.build() if config.pre else None
        self.temporal = config.temporal.build(geometry) if config.temporal else None
        self.encoder = config.encoder.build()
        self.height = config.height.build() if config.height else None
        self.head: nn.Module = config.head.build()
        self.flow = config.flow.build(geometry) if config.flow else None

    @property
    def linear_head(self) -> tuple[HeightLift, PrototypeHead] | None:
        """Height lift and head, where the classes are products with a volume that is read by
        nothing else; None elsewhere."""
        head, shared = self.head, isinstance(self.flow, FlowHead)
        if self.height is None or shared or not isinstance(head, PrototypeHead):
            return None
        return self.height, head

    @property
    def _columns(self) -> HeightLift | None:
        """The height lift, if single voxels can be lifted from the map and no part reads others."""
        shared = isinstance(self.flow, FlowHead)
        return None if self.height is None or shared or self.height.kernel > 1 else self.height

    @property
    def image_embed(self) -> nn.Module | None:
        """See :attr:`Network.image_embed`."""
        return self.head.image_embed if isinstance(self.head, PrototypeHead) else None

    def image_prototypes(self) -> Tensor:
        """See :meth:`Network.image_prototypes`."""
        if self.image_embed is None or not isinstance(self.head, PrototypeHead):
            return super().image_prototypes()
        return self.head.image_prototypes()

    def class_logits(self, volume_BCXYZ: Tensor, places: VoxelPlaces) -> Tensor:
        """See :meth:`Network.class_logits`."""
        if not isinstance(self.head, PrototypeHead):
            return super().class_logits(volume_BCXYZ, places)
        columns = self._columns
        if columns is not None:
            return self.head.class_logits(columns.at(volume_BCXYZ, places))
        return self.head.class_logits(volume_BCXYZ[places.b, :, places.x, places.y, places.z])

    def velocity_bins(self, features_VC: Tensor) -> Tensor:
        """See :meth:`Network.velocity_bins`."""
        if self.flow is None:
            return super().velocity_bins(features_VC)
        return self.flow.velocity_bins(features_VC)

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
        device = torch.device(device) if device else next(self.parameters()).device
        return TemporalState(
            stereo=_initial(self.stereo, batch_size, device, dtype),
            geometry=_initial(self.geometry_fusion, batch_size, device, dtype),
            history=_initial(self.temporal, batch_size, device, dtype),
            flow=_initial(self.flow, batch_size, device, dtype),
        )

    def forward(self, inputs: NetInputs, state: TemporalState) -> tuple[NetOutputs, TemporalState]:
        """One step of B streams.

        Args:
            inputs: batched, on the device of the parameters.
            state: from :meth:`initial_state` or the step before; it is not changed.

        Returns:
            Raw outputs, and the state after this step.
        """
        augmentation = inputs.augmentation
        control = inputs.control if inputs.history else _without_history(inputs.control)
        features = self.image(inputs.images_BN3HW)
        matching, stereo = self._match(features.fine_BNChw, inputs, state.stereo)
        cameras = inputs.cameras
        if self.pose is not None:
            cameras = self.pose(features.merged_BNChw, cameras)
        code = camera_code(cameras, augmentation.matrix_B33)
        looks = self.depth.heights.rays(cameras) if self.depth.heights is not None else None
        depth = self.depth(features.merged_BNChw, code, matching, looks)
        surface_BNDhw = self._with_measurements(depth.surface_BNDhw, inputs.depth)
        weights_BNDhw = self.occlusion(surface_BNDhw, depth.occluded_BNLhw)
        weights_BNDhw, fused = self._fuse_geometry(
            depth, weights_BNDhw, inputs, control, state.geometry
        )
        extra = []
        if self.inter_object is not None:
            extra.append(self.inter_object(depth.gated_BNChw, weights_BNDhw))

        rays = PixelRays(cameras, augmentation.matrix_B33, self.config.geometry)
        volume: Tensor = self.lift(rays, weights_BNDhw, depth.context_BNChw, *extra)
        if self.refine is not None:
            context = depth.context_BNChw
            added = self.refine(volume, context, weights_BNDhw, cameras, augmentation)
            volume = volume + added[..., None]
        if self.pre is not None:
            volume = self.pre(volume, features.merged_BNChw)

        lifted, history = volume, None
        if self.temporal is not None:
            volume, history = self.temporal(volume, state.history, control, augmentation)

        volume = encoded = self.encoder(volume)
        if self.height is not None and (inputs.dense or self._columns is None):
            volume = self.height(volume)
        flow, seen = None, None
        if isinstance(self.flow, ColumnFlow):
            flow = self.flow(encoded, self.config.output_grid.dims)
        elif self.flow is not None:
            flow, seen = self.flow(volume, state.flow, inputs.control, augmentation, inputs.motion)

        outputs = NetOutputs(
            logits_BKXYZ=self.head(volume).transpose(2, 3) if inputs.dense else None,
            volume_BCXYZ=None if inputs.dense else volume.transpose(2, 3),
            depth_BNDhw=depth.surface_BNDhw,
            context_BNChw=depth.context_BNChw,
            lifted_BCXYZ=lifted.transpose(2, 3) if self.training else None,
            **_public_flow(flow),
        )
        following = TemporalState(stereo=stereo, geometry=fused, history=history, flow=seen)
        return outputs, following

    def _with_measurements(self, surface_BNDhw: Tensor, hint: DepthHint | None) -> Tensor:
        """Predicted surface, replaced or mixed where depth was measured."""
        taken_elsewhere = self.geometry_fusion is not None and not self.training
        if hint is None or taken_elsewhere:
            return surface_BNDhw
        measured = measured_depth(hint.depth_BNHW, self.config.geometry)
        rate = hint.rate * measured.known_BN1hw
        return rate * measured.surface_BNDhw + (1.0 - rate) * surface_BNDhw

    def _match(
        self, fine_BNChw: Tensor | None, inputs: NetInputs, state: StereoState | None
    ) -> tuple[Tensor | None, StereoState | None]:
        """Matching distribution with the images of the state, or with given ones."""
        if self.stereo is None:
            return None, None
        control = inputs.control
        if inputs.previous_images_BN3HW is not None:
            with torch.no_grad():
                state = StereoState(self.image.fine(inputs.previous_images_BN3HW))
            # A group of frames may start inside a recording, where there is a frame before.
            control = replace(control, start_B=torch.zeros_like(control.start_B))
        matching, following = self.stereo(fine_BNChw, state, control, inputs.cameras)
        return matching, following

    def _fuse_geometry(
        self,
        depth: DepthPrediction,
        weights_BNDhw: Tensor,
        inputs: NetInputs,
        control: StepControl,
        state: GeometryFusionState | None,
    ) -> tuple[Tensor, GeometryFusionState | None]:
        """Lifting weights that remember the frustum of the frame before."""
        if self.geometry_fusion is None:
            return weights_BNDhw, None
        measured = None
        if self.config.measured_depth and inputs.depth is not None:
            measured = measured_depth(inputs.depth.depth_BNHW, self.config.geometry)
        return self.geometry_fusion(
            depth.features_BNChw, weights_BNDhw, state, control, inputs.cameras, measured
        )


def _without_history(control: StepControl) -> StepControl:
    """The same step as the first of every slot."""
    return replace(
        control,
        start_B=torch.ones_like(control.start_B),
        position_B=torch.zeros_like(control.position_B),
    )


def _public_flow(flow: Flow | None) -> dict[str, Tensor | None]:
    """Velocities with public axes: (X, Y, Z), and the component along x first."""
    if flow is None:
        return {}
    velocity, features = flow
    return {
        "flow_BXYZ2": None if velocity is None else velocity.transpose(1, 2).flip(-1),
        "flow_features_BCXYZ": None if features is None else features.transpose(2, 3),
    }


def _initial(
    part: PlaneSweep
    | GeometryFusion
    | ConcatHistory
    | GradientFusion
    | FlowHead
    | ColumnFlow
    | None,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Any:
    return None if part is None else part.initial_state(batch_size, device, dtype)
