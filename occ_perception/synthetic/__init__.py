"""A procedural town: six-camera drives with exact occupancy, flow, masks, lidar and poses.

``Town(seed)`` is a world, ``Drive(town, index)`` twenty seconds in it, and ``DriveSensors(drive)``
returns the data of the vehicle's sensors. Importing this is cheap: the first kernel loads numba.
"""

from occ_perception.synthetic.drive import Drive, Scene
from occ_perception.synthetic.labels import (
    OCC3D_GRID,
    OccupancyLabels,
    OpenOccLabels,
    openocc_labels,
)
from occ_perception.synthetic.lidar import LidarPoints
from occ_perception.synthetic.rig import synthetic_rig
from occ_perception.synthetic.seeds import GENERATOR_VERSION, SPLITS
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions, frame_times
from occ_perception.synthetic.town import Town

__all__ = [
    "GENERATOR_VERSION",
    "OCC3D_GRID",
    "SPLITS",
    "Drive",
    "DriveSensors",
    "LidarPoints",
    "OccupancyLabels",
    "OpenOccLabels",
    "Scene",
    "SensorOptions",
    "Town",
    "frame_times",
    "openocc_labels",
    "synthetic_rig",
]
