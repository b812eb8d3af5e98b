"""Samples and batches for training and evaluation.

Legend: B batch, N cameras in the order of the model card, H, W network input size, X, Y, Z voxels
of the labels, T ray origins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from occ_perception.models.inputs import (
    CameraTensors,
    DepthHint,
    GridAugmentation,
    NetInputs,
    StepControl,
)
from occ_perception.runtime.transfer import upload
from occ_training.data.records import DatasetError


@dataclass(frozen=True, eq=False)
class Sample:
    """One frame as network input, with labels. Tensors are on the CPU.

    Attributes:
        index: position in the data set.
        token: the frame's name.
        sequence: the recording or scene.
        group: number of the run of frames that share a history (a sequence, or a piece of one).
        start: whether the frame is the first of its group.
        images_N3HW: float32, with the preprocessing of the card, augmented if requested.
        grid_T_cam_N44: float32, camera to the frame of the grid, see CameraTensors.
        K_N33: float32, intrinsics at the card's native size.
        image_rotation_N33, image_translation_N3: float32, native pixel -> input pixel.
        bev_augmentation_33: float32, applied to the grid's frame; identity without.
        previous_T_current_44: float64, ego motion since the previous frame of the group;
            identity at the first frame.
        previous_images_N3HW: images of the previous frame of the recording, with the same crop; the
            frame's own images for the first frame. None if the network does not match images.
        previous_cam_T_cam_N44: float64, from each camera to itself in the previous frame.
        depth_NHW: float32 metres at input resolution, 0 = no point; None without lidar.
        semantics_NHW: uint8 class ids of those points (of the label set), 255 = no class.
        labels_XYZ: uint8 class ids of the label set, 255 = ignored; augmented.
        camera_mask_XYZ, lidar_mask_XYZ: bool, what cameras or lidar see, None if unknown.
        flow_XYZ2: float32 (vx, vy) in m/s along the (augmented) grid's axes, None without flow.
        lidar_origins_T3: float64 origins for ray metrics, None if not requested.
    """

    index: int
    token: str
    sequence: str
    group: int
    start: bool
    images_N3HW: Tensor
    grid_T_cam_N44: Tensor
    K_N33: Tensor
    image_rotation_N33: Tensor
    image_translation_N3: Tensor
    bev_augmentation_33: Tensor
    previous_T_current_44: Tensor
    previous_cam_T_cam_N44: Tensor
    previous_images_N3HW: Tensor | None = None
    depth_NHW: Tensor | None = None
    semantics_NHW: Tensor | None = None
    labels_XYZ: Tensor | None = None
    camera_mask_XYZ: Tensor | None = None
    lidar_mask_XYZ: Tensor | None = None
    flow_XYZ2: Tensor | None = None
    lidar_origins_T3: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of B independent streams; fields as in :class:`Sample`, with a batch axis.

    Attributes:
        indices, tokens, sequences, groups: one per slot.
        cameras: calibration as the networks take it.
        augmentation: of the grid's frame.
        lidar_origins: one (T, 3) tensor per slot, T differs; None if not requested.
    """

    indices: tuple[int, ...]
    tokens: tuple[str, ...]
    sequences: tuple[str, ...]
    groups: tuple[int, ...]
    start_B: Tensor
    images_BN3HW: Tensor
    cameras: CameraTensors
    augmentation: GridAugmentation
    previous_T_current_B44: Tensor
    previous_cam_T_cam_BN44: Tensor
    previous_images_BN3HW: Tensor | None = None
    depth_BNHW: Tensor | None = None
    semantics_BNHW: Tensor | None = None
    labels_BXYZ: Tensor | None = None
    camera_mask_BXYZ: Tensor | None = None
    lidar_mask_BXYZ: Tensor | None = None
    flow_BXYZ2: Tensor | None = None
    lidar_origins: tuple[Tensor, ...] | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def to(self, device: torch.device | str) -> Batch:
        """A batch of main memory on a device; the metrics move the ray origins."""
        moved = {
            field.name: getattr(self, field.name).to(device, non_blocking=True)
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        cameras = upload(self.cameras, torch.device(device))
        augmentation = upload(self.augmentation, torch.device(device))
        return replace(self, cameras=cameras, augmentation=augmentation, **moved)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory (data loaders call this)."""
        pinned = {
            field.name: getattr(self, field.name).pin_memory()
            for field in fields(self)
            if isinstance(getattr(self, field.name), Tensor)
        }
        return replace(self, **pinned)

    def inputs(self, position_B: Tensor, depth_rate: float | None = None) -> NetInputs:
        """What the network's forward takes.

        Args:
            position_B: int64, frames committed since the start per slot; the caller counts them.
            depth_rate: share of the measured depth in the lifting (see DepthHint); None = no
                measured depth.

        Raises:
            ValueError: measured depth is requested and the samples were loaded without.
        """
        depth = None
        if depth_rate is not None:
            if self.depth_BNHW is None:
                raise ValueError("no measured depth in this batch; load samples with depth maps")
            depth = DepthHint(self.depth_BNHW, depth_rate)
        return NetInputs(
            images_BN3HW=self.images_BN3HW,
            cameras=self.cameras,
            control=StepControl(
                start_B=self.start_B,
                previous_T_current_B44=self.previous_T_current_B44,
                position_B=position_B,
                previous_cam_T_cam_BN44=self.previous_cam_T_cam_BN44,
            ),
            augmentation=self.augmentation,
            previous_images_BN3HW=self.previous_images_BN3HW,
            depth=depth,
        )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples, one per slot. Either all samples or none have labels, flow and depth.

    Raises:
        DatasetError: samples differ in their contents or shapes; the message names field and
            frames.
    """

    def stack(name: str) -> Any:
        values = [getattr(sample, name) for sample in samples]
        if all(value is None for value in values):
            return None
        shapes = {None if value is None else tuple(value.shape) for value in values}
        if len(shapes) > 1:
            frames = ", ".join(sample.token for sample in samples)
            raise DatasetError(
                f"samples differ in {name}: {shapes} (frames {frames}); batches need one data set "
                "and one model"
            )
        return torch.stack(values)

    origins = tuple(s.lidar_origins_T3 for s in samples if s.lidar_origins_T3 is not None)
    return Batch(
        indices=tuple(sample.index for sample in samples),
        tokens=tuple(sample.token for sample in samples),
        sequences=tuple(sample.sequence for sample in samples),
        groups=tuple(sample.group for sample in samples),
        start_B=torch.tensor([sample.start for sample in samples]),
        images_BN3HW=stack("images_N3HW"),
        cameras=CameraTensors.of(
            grid_T_cam_BN44=stack("grid_T_cam_N44"),
            K_BN33=stack("K_N33"),
            image_rotation_BN33=stack("image_rotation_N33"),
            image_translation_BN3=stack("image_translation_N3"),
        ),
        augmentation=GridAugmentation.of(stack("bev_augmentation_33")),
        previous_T_current_B44=stack("previous_T_current_44"),
        previous_cam_T_cam_BN44=stack("previous_cam_T_cam_N44"),
        previous_images_BN3HW=stack("previous_images_N3HW"),
        depth_BNHW=stack("depth_NHW"),
        semantics_BNHW=stack("semantics_NHW"),
        labels_BXYZ=stack("labels_XYZ"),
        camera_mask_BXYZ=stack("camera_mask_XYZ"),
        lidar_mask_BXYZ=stack("lidar_mask_XYZ"),
        flow_BXYZ2=stack("flow_XYZ2"),
        lidar_origins=origins if len(origins) == len(samples) else None,
    )
