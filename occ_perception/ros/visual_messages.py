"""Messages to look at: motion arrows, the prediction over the camera images, coloured voxels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from occ_perception.bags.foxglove import voxel_grid
from occ_perception.errors import OccError
from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.geometry import Float64
from occ_perception.ros.message_classes import message_class_of, time_message
from occ_perception.ros.messages import flat
from occ_perception.viewer.camera_overlay import overlay_panel
from occ_perception.viewer.views import motion_arrows

ARROW_SECONDS = 1.0
"""An arrow is as long as the way that its object covers in this time."""

OVERLAY_WIDTH = 1280
"""Width of the image of all cameras, pixels."""

_JPEG_QUALITY = 80
_NAMESPACE = "motion"
_SHAFT, _HEAD_WIDTH, _HEAD_LENGTH = 0.25, 0.6, 0.8
# Stands out from every class colour and from dark backgrounds.
_ARROW_COLOUR = (1.0, 1.0, 1.0)


class JpegError(OccError):
    """An image cannot be encoded."""


def flow_markers_message(prediction: OccupancyPrediction) -> MarkerArray:
    """An arrow on top of every moving object, in ``frame_id``; none without flow.

    The first marker deletes the arrows of the message before. So a viewer never shows old arrows,
    whichever messages it has missed, and arrows need neither stable ids nor a lifetime that would
    depend on the speed of the network.
    """
    header = _header(prediction)
    clear = Marker(header=header, action=Marker.DELETEALL)
    starts, velocities = motion_arrows(prediction)
    arrows = [
        _arrow(header, number, start, ARROW_SECONDS * velocity)
        for number, (start, velocity) in enumerate(zip(starts, velocities, strict=True))
    ]
    return MarkerArray(markers=[clear, *arrows])


def overlay_message(frame: CameraFrame, prediction: OccupancyPrediction) -> CompressedImage:
    """The prediction over the images of all cameras, tiled in one JPEG.

    Raises:
        MissingPackageError: numba is not installed.
        JpegError: the image cannot be encoded.
    """
    message = CompressedImage(header=_header(prediction), format="jpeg")
    message.data = flat(jpeg_of(overlay_panel(frame, prediction, OVERLAY_WIDTH)), "B")
    return message


def voxel_grid_message(prediction: OccupancyPrediction) -> Any:
    """The voxels as foxglove_msgs/VoxelGrid, where that package is installed."""
    return voxel_grid(prediction, _new)


def jpeg_of(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image (H, W, 3) as the bytes of a JPEG.

    Raises:
        JpegError: OpenCV refuses it.
    """
    try:
        _, data = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    except cv2.error as error:
        reason = str(error).strip()
        raise JpegError(f"OpenCV cannot encode an image of shape {rgb.shape}: {reason}") from error
    return np.asarray(data, dtype=np.uint8).reshape(-1)


def _arrow(header: Header, number: int, start: Float64, way: Float64) -> Marker:
    length = float(np.hypot(*way))
    end = start + np.array([way[0], way[1], 0.0])
    marker = Marker(header=header, ns=_NAMESPACE, id=number, type=Marker.ARROW, action=Marker.ADD)
    marker.pose.orientation.w = 1.0
    marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in (start, end)]
    # Diameters of shaft and head, length of the head; a short arrow keeps half of its shaft.
    marker.scale.x, marker.scale.y = _SHAFT, _HEAD_WIDTH
    marker.scale.z = min(_HEAD_LENGTH, length / 2)
    red, green, blue = _ARROW_COLOUR
    marker.color = ColorRGBA(r=red, g=green, b=blue, a=1.0)
    return marker


def _header(prediction: OccupancyPrediction) -> Header:
    return Header(stamp=time_message(prediction.stamp_ns), frame_id=prediction.frame_id)


def _new(kind: str, **fields: Any) -> Any:
    message_class = message_class_of(kind)
    if message_class is None:
        raise OccError(f"{kind} is not installed; install the ROS package {kind.split('/')[0]}")
    arrays = {name: flat(v, "B") for name, v in fields.items() if isinstance(v, np.ndarray)}
    return message_class(**{**fields, **arrays})
