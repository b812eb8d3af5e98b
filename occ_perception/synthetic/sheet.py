"""A contact sheet of one frame: images, classes, labels from above, masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.labels import OccupancyLabels
from occ_perception.synthetic.render import develop_image, draw_sensor
from occ_perception.synthetic.sensors import DriveSensors

Image = NDArray[np.uint8]

_ROWS = (
    ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"),
    ("CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"),
)


def contact_sheet(sensors: DriveSensors, t: float) -> Image:
    """(H, W, 3) RGB: six images, their classes, and the labels seen from above.

    The views from above are, left to right: all voxels, those that cameras see, those that the
    lidar sees. Forward is up.
    """
    palette = LABEL_SETS["occ3d"].palette()
    images, classes = [], []
    for row in _ROWS:
        views = {camera: sensors.view(camera, t) for camera in row}
        developed = [
            develop_image(view, draw_sensor(np.random.default_rng(n), n))
            for n, view in enumerate(views.values())
        ]
        images.append(np.hstack(developed))
        classes.append(np.hstack([palette[view.classes] for view in views.values()]))
    labels = sensors.labels(t)
    everything = np.ones(labels.grid.dims, dtype=bool)
    maps = [
        from_above(labels, mask) for mask in (everything, labels.mask_camera, labels.mask_lidar)
    ]
    width = images[0].shape[1]
    strip = np.hstack(maps)
    scale = width / strip.shape[1]
    rows = (np.arange(int(strip.shape[0] * scale)) / scale).astype(np.int64)
    columns = (np.arange(width) / scale).astype(np.int64)
    return np.vstack([*images, *classes, strip[rows][:, columns]])


def from_above(labels: OccupancyLabels, mask: NDArray[np.bool_]) -> Image:
    """(X, Y, 3) RGB of the topmost occupied class in a mask; forward is up, left is left."""
    classes = LABEL_SETS["occ3d"]
    occupied = mask & (labels.semantics != classes.empty_class)
    top = occupied.shape[2] - 1 - np.argmax(occupied[:, :, ::-1], axis=2)
    seen = occupied.any(axis=2)
    topmost = np.take_along_axis(labels.semantics, top[..., None], axis=2)[..., 0]
    shown = np.where(seen, topmost, classes.empty_class)
    return classes.palette()[shown][::-1, ::-1]
