"""Depth at the network's input from a lidar sweep, for models that are given it.

Legend: B batch (always 1 here), N cameras in the order of the model card, H and W network input
size.
"""

from __future__ import annotations

import numpy as np
import torch

from occ_perception.frames import LidarPoints
from occ_perception.geometry import Float64, invert_transform
from occ_perception.models.inputs import DepthHint
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.runtime.calibration import RigTables
from occ_perception.runtime.transfer import upload
from occ_perception.sensing.lidar_projection import Winners, nearest_point, project_lidar


def lidar_depth(
    lidar: LidarPoints,
    world_T_cam_N44: Float64,
    tables: RigTables,
    geometry: ViewGeometry,
    device: torch.device,
    winners: Winners = nearest_point,
) -> DepthHint:
    """The sweep as every camera saw it at its own exposure.

    The vehicle's motion between sweep and exposure is undone; that of other things, and that
    during the sweep, is not.

    Args:
        lidar: the sweep.
        world_T_cam_N44: pose of every camera.
        tables: calibration of the rig.
        geometry: input size and depth range of the network.
        device: where the maps are wanted.
        winners: which of several points in a pixel is kept.
    """
    depth_range = (geometry.depth.lower, geometry.depth.upper)
    maps = []
    for world_T_cam, K, affine in zip(
        world_T_cam_N44, tables.native_K_N33, tables.pixel_maps, strict=True
    ):
        cam_T_ego = invert_transform(world_T_cam) @ lidar.world_T_ego
        scale, offset = affine.scale * np.eye(3), np.array((*affine.offset, 0.0))
        size = geometry.input_size
        found = project_lidar(
            lidar.points, None, cam_T_ego, K, (scale, offset), size, depth_range, winners
        )
        maps.append(found.depth_HW)
    return upload(DepthHint(torch.from_numpy(np.stack(maps))[None]), device)
