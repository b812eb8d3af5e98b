"""Camera geometry at the network's input, with what is fixed per rig computed once.

Legend: N cameras in the order of the model card, without masked ones, B batch (always 1 here).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from occ_perception.frames import CameraFrame, CameraRig
from occ_perception.geometry import Float64, ImageAffine, invert_transform, scale_intrinsics
from occ_perception.models.card import ModelCard, ModelError
from occ_perception.models.inputs import CameraTensors
from occ_perception.runtime.preprocess import CropPlan

# Rigs kept at once. One vehicle has one; alternating recordings should not thrash.
_KEPT_RIGS = 4


@dataclass(frozen=True, eq=False)
class RigTables:
    """Everything a rig determines for one model.

    Attributes:
        cameras: names of the N cameras.
        fingerprint: of the model's cameras, in the model's order, so that neither the order in
            which a driver lists them nor a camera the model does not use matters. Masked cameras
            are part of it if the rig has them.
        plans: how each camera's images are resized and cropped.
        ego_T_cam_N44: static extrinsics, float64.
        ego_T_grid: (4, 4) pose of the voxel grid's frame in the ego frame.
        native_K_N33, pixel_maps: intrinsics at the native size, and from native pixels to those
            of the network's input; float64.
        K_BN33, image_rotation_BN33, image_translation_BN3: see
            :class:`~occ_perception.models.inputs.CameraTensors`; float32.
    """

    cameras: tuple[str, ...]
    fingerprint: str
    plans: tuple[CropPlan, ...]
    ego_T_cam_N44: Float64
    ego_T_grid: Float64
    native_K_N33: Float64
    pixel_maps: tuple[ImageAffine, ...]
    K_BN33: Tensor
    image_rotation_BN33: Tensor
    image_translation_BN3: Tensor


class Calibrator:
    """Rig tables of one model, remembered by rig.

    Args:
        card: cameras, input and native size, frame of the grid.
    """

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._tables: dict[tuple[str, tuple[str, ...]], RigTables] = {}

    def tables(self, rig: CameraRig, masked: Collection[str] = ()) -> RigTables:
        """Tables of this rig, without those of masked cameras.

        Raises:
            ModelError: the rig lacks a camera of the model, or the model's grid lies in the lidar
                frame and the rig does not say where that is.
        """
        known = self._used_part(rig, masked)
        fingerprint = known.fingerprint()
        used = replace(known, cameras=tuple(c for c in known.cameras if c.name not in masked))
        key = fingerprint, used.names
        tables = self._tables.pop(key, None) or self._compute(used, fingerprint)
        self._tables[key] = tables  # newest last
        while len(self._tables) > _KEPT_RIGS:
            del self._tables[next(iter(self._tables))]
        return tables

    def _used_part(self, rig: CameraRig, masked: Collection[str]) -> CameraRig:
        """The rig's part that the model reads, in the model's order."""
        card = self._card
        missing = [name for name in card.cameras if name not in (*rig.names, *masked)]
        if missing:
            raise ModelError(
                f"model {card.name} needs camera {', '.join(missing)}, which the rig does not "
                f"have; it has {', '.join(rig.names)}. Name the cameras of the rig as the model "
                "does, or choose a model for this rig"
            )
        lidar_grid = card.grid_frame == "lidar"
        if lidar_grid and rig.ego_T_lidar is None:
            raise ModelError(
                f"model {card.name} predicts in the lidar frame, but the rig has no ego_T_lidar; "
                "give the lidar's pose in the rig file, even where no lidar is used"
            )
        return CameraRig(
            cameras=tuple(rig.camera(name) for name in card.cameras if name in rig.names),
            ego_T_lidar=rig.ego_T_lidar if lidar_grid else None,
        )

    def _compute(self, rig: CameraRig, fingerprint: str) -> RigTables:
        images = self._card.preprocessing
        native_width = images.native_size[1]
        plans = tuple(CropPlan.fit((c.width, c.height), images.input_size) for c in rig.cameras)
        affines = [plan.affine_from_native(native_width) for plan in plans]
        rotation = np.stack([np.diag([a.scale, a.scale, 1.0]) for a in affines])
        translation = np.array([(*a.offset, 0.0) for a in affines])
        K = np.stack([scale_intrinsics(c.K, native_width / c.width) for c in rig.cameras])
        return RigTables(
            cameras=rig.names,
            fingerprint=fingerprint,
            plans=plans,
            ego_T_cam_N44=np.stack([c.ego_T_cam for c in rig.cameras]),
            ego_T_grid=np.eye(4) if rig.ego_T_lidar is None else np.array(rig.ego_T_lidar),
            native_K_N33=K,
            pixel_maps=tuple(affines),
            K_BN33=_batch(K),
            image_rotation_BN33=_batch(rotation),
            image_translation_BN3=_batch(translation),
        )

    def world_T_cameras(self, frame: CameraFrame, tables: RigTables) -> Float64:
        """(N, 4, 4) pose of every camera in the world, each at its own exposure."""
        world_T_ego_N44 = np.stack([frame.world_T_ego[name] for name in tables.cameras])
        world_T_cam_N44: Float64 = world_T_ego_N44 @ tables.ego_T_cam_N44
        return world_T_cam_N44

    def camera_tensors(
        self, world_T_reference_ego: Float64, world_T_cam_N44: Float64, tables: RigTables
    ) -> CameraTensors:
        """Calibration of one frame set: each camera to the grid at the reference camera's stamp,
        in main memory.

        Products are float64, rounded to float32 at the end. World coordinates of a kilometre
        would cost a tenth of a millimetre in float32.
        """
        world_T_grid = np.asarray(world_T_reference_ego) @ tables.ego_T_grid
        grid_T_cam_N44 = invert_transform(world_T_grid) @ world_T_cam_N44
        return CameraTensors.of(
            grid_T_cam_BN44=_batch(grid_T_cam_N44),
            K_BN33=tables.K_BN33,
            image_rotation_BN33=tables.image_rotation_BN33,
            image_translation_BN3=tables.image_translation_BN3,
        )


def _batch(array: Float64) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))[None]
