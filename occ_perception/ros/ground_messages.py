"""Messages for planners: the costmap, and the obstacles as points."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import Pose
from nav_msgs.msg import OccupancyGrid
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2

from occ_perception.errors import OccError
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import pose_from_matrix
from occ_perception.mapping.obstacles import Obstacles
from occ_perception.ros.message_classes import time_message
from occ_perception.ros.messages import cloud_message, flat


class CostmapError(OccError):
    """A grid that has no costmap."""


def costmap_message(prediction: OccupancyPrediction, costs_XY: NDArray[np.int8]) -> OccupancyGrid:
    """Costs of the columns as nav_msgs/OccupancyGrid, x fastest, at the height of the ego origin.

    Args:
        prediction: grid and stamp.
        costs_XY: 0 to 100, -1 for unknown.

    Raises:
        CostmapError: the columns of the grid are not squares.
    """
    grid = prediction.grid
    size = grid.voxel_size
    if size[0] != size[1]:
        raise CostmapError(
            f"columns of this grid are {size[0]} x {size[1]} m, an OccupancyGrid has square cells; "
            "use ~/occupancy or ~/obstacle_points"
        )
    corner = np.eye(4)
    corner[:2, 3] = grid.lower[:2]
    translation, quaternion = pose_from_matrix(prediction.ego_T_grid @ corner)
    message = OccupancyGrid()
    message.header.stamp = time_message(prediction.stamp_ns)
    message.header.frame_id = prediction.frame_id
    message.info.map_load_time = message.header.stamp
    message.info.resolution = float(size[0])
    message.info.width, message.info.height = grid.dims[:2]
    origin: Pose = message.info.origin
    origin.position.x, origin.position.y = float(translation[0]), float(translation[1])
    orientation = origin.orientation
    orientation.x, orientation.y, orientation.z, orientation.w = map(float, quaternion)
    message.data = flat(costs_XY.T, "b")
    return message


def obstacles_message(prediction: OccupancyPrediction, obstacles: Obstacles) -> PointCloud2:
    """Centres of obstacle voxels with the fields of ``~/occupancy_points``, and ``ttc``.

    ``ttc`` is the time to collision in seconds; inf where the vehicle meets nothing.
    """
    return cloud_message(
        prediction,
        obstacles.positions,
        obstacles.labels,
        obstacles.velocities,
        ttc=obstacles.times,
    )
