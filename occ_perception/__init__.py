"""Camera-only 3D semantic occupancy for ROS 2, and the same networks offline."""

__version__ = "0.1.0"
