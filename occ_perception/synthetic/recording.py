"""Writes a drive as a rosbag2 in the layout ``occ_perception``, with ground truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from occ_perception.errors import OptionError
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS
from occ_perception.synthetic.provenance import BAG_KEY, Provenance, provenance_of
from occ_perception.synthetic.seeds import random_for
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions, frame_times

if TYPE_CHECKING:
    from occ_perception.bags.writing import BagWriter

KEYFRAME_RATE = 2.0
TRUTH_NAMESPACE = "/ground_truth"
SEEN_TRUTH_NAMESPACE = "/ground_truth_in_view"
LIDAR_TOPIC = "/lidar_top"
LIDAR_FRAME = "lidar_top"
BOXES_TOPIC = f"{TRUTH_NAMESPACE}/boxes"
ODOMETRY_RATE = 50.0
_JPEG_QUALITY = 90


def encode_jpeg(image: NDArray[np.uint8], quality: int = _JPEG_QUALITY) -> bytes:
    """JPEG bytes of an RGB image."""
    import cv2

    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not done:
        raise ValueError(f"image of shape {image.shape} could not be encoded as JPEG")
    return bytes(data)


@dataclass(frozen=True, kw_only=True)
class BagOptions:
    """Options of a recording.

    Attributes:
        rate: rate of frame sets, Hz; a multiple of 2.
        truth_rate: rate of ground truth, Hz; ``rate`` is a multiple of it.
        storage: container format.
        odometry_noise: relative error of the odometry's motion (0.01 drifts about 1 %); 0 = exact.
        lidar_rate: sweeps per second; 0 = none.
    """

    rate: float = KEYFRAME_RATE
    truth_rate: float = KEYFRAME_RATE
    storage: Literal["mcap", "sqlite3"] = "mcap"
    odometry_noise: float = 0.0
    lidar_rate: float = 0.0


def bag_provenance(
    place: tuple[int, int], sensors: SensorOptions, frames: int, options: BagOptions
) -> Provenance:
    """The provenance that :func:`record_drive` stores in the bag of a drive (town and index)."""
    return provenance_of(sensors, frames, town=place[0], drive=place[1], **asdict(options))


def record_drive(
    sensors: DriveSensors,
    path: Path,
    frames: int,
    options: BagOptions = BagOptions(),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a drive as a recording.

    The bag has the images, calibrations, odometry and tf of a vehicle. The ground truth is on
    ``/ground_truth/occupancy`` and ``/ground_truth/flow``, and again under
    ``/ground_truth_in_view``, where voxels that no camera sees are unknown. Its stamp is that of
    the reference camera, like the stamp of the node's output. The bag's metadata contains the
    provenance: the generator's version and all settings.

    With a lidar, the sweeps are on ``/lidar_top`` (their field ``label`` is the Occ3D class of each
    point; all points of a sweep are measured at its stamp), and the boxes of all instances are on
    ``/ground_truth/boxes``.

    Args:
        sensors: the drive's sensors.
        path: folder to write.
        frames: number of frame sets.
        options: options of the bag.
        progress: called with (frame sets done, number of frame sets).

    Raises:
        OptionError: the drive has fewer frames, or the rate is not a multiple of 2 Hz and of the
            rate of ground truth.
        OutputError: ``path`` exists or cannot be written.
    """
    from occ_perception.bags.writing import BagWriter, optical_frame

    _whole_factor(options.rate, KEYFRAME_RATE)
    every = _whole_factor(options.rate, options.truth_rate)
    times = frame_times(frames, options.rate)
    rig = sensors.rig
    mounts = [("base_link", optical_frame(c.name), c.ego_T_cam) for c in rig.cameras]
    mounts.append(("base_link", LIDAR_FRAME, sensors.ego_T_lidar))
    place = (sensors.drive.town.seed, sensors.drive.index)
    provenance = bag_provenance(place, sensors.options, frames, options)
    with BagWriter(path, options.storage) as bag:
        bag.note(BAG_KEY, json.dumps(provenance))
        first = sensors.stamp_ns(times[0] - 0.1)
        bag.write_transforms(first, mounts, static=True)
        _write_odometry(bag, sensors, times, options.odometry_noise)
        if options.lidar_rate > 0.0:
            _write_lidar(bag, sensors, times[-1], options.lidar_rate)
        for n, t in enumerate(times):
            frame = sensors.frame(t)
            for camera in rig.cameras:
                stamp = frame.stamps_ns[camera.name]
                bag.write_camera_info(camera, stamp)
                bag.write_camera(camera.name, stamp, encode_jpeg(frame.images[camera.name]))
            if n % every == 0:
                truth, seen = sensors.truth(t)
                bag.write_occupancy(truth, namespace=TRUTH_NAMESPACE)
                hidden = np.where(seen, truth.labels, np.uint8(UNKNOWN_CLASS))
                bag.write_occupancy(
                    replace(truth, labels=hidden, flow=None), namespace=SEEN_TRUTH_NAMESPACE
                )
            if progress is not None:
                progress(n + 1, frames)


def _whole_factor(rate: float, of: float) -> int:
    factor = round(rate / of)
    if factor < 1 or abs(factor * of - rate) > 1e-9:
        raise OptionError(f"the rate must be a multiple of {of:g} Hz, got {rate:g}")
    return factor


def _write_lidar(bag: BagWriter, sensors: DriveSensors, end: float, rate: float) -> None:
    """Write sweeps with the class of each point, and the boxes at the same time."""
    from occ_perception.bags.writing import LabelledBox

    names = LABEL_SETS["occ3d"].class_names
    for n in range(int(end * rate + 1e-9) + 1):
        t = n / rate
        stamp = sensors.stamp_ns(t)
        lidar = sensors.points(t)
        columns = np.column_stack([lidar.points, lidar.classes.astype(np.float32)])
        fields = ("x", "y", "z", "intensity", "ring", "label")
        bag.write_points(LIDAR_TOPIC, stamp, LIDAR_FRAME, columns, fields)
        boxes = []
        for body in sensors.drive.scene(t).bodies:
            x, y, z, yaw = body.pose
            lower, upper = np.array(body.lower), np.array(body.upper)
            world_T_box = np.eye(4)
            world_T_box[:3, :3] = Rotation.from_euler("z", yaw).as_matrix()
            world_T_box[:3, 3] = (x, y, z) + world_T_box[:3, :3] @ ((lower + upper) / 2)
            boxes.append(
                LabelledBox(names[body.class_id], body.instance, world_T_box, upper - lower)
            )
        bag.write_boxes(BOXES_TOPIC, stamp, bag.world_frame, boxes)


def _write_odometry(
    bag: BagWriter, sensors: DriveSensors, times: list[float], noise: float
) -> None:
    """Write ego poses at 50 Hz, from before the first exposure until after the last."""
    rng = random_for("odometry", sensors.drive.town.seed, sensors.drive.index)
    start = np.floor((times[0] - 0.08) * ODOMETRY_RATE)
    count = int((times[-1] + 0.04) * ODOMETRY_RATE - start) + 1
    previous = estimate = None
    scale = 1.0 + noise * rng.normal()
    bias = noise * rng.normal() * 0.1
    for n in range(count):
        t = float((start + n) / ODOMETRY_RATE)
        pose = sensors.drive.pose(t)
        if previous is None or estimate is None:
            estimate = pose
        else:
            step = np.linalg.inv(previous) @ pose
            distance = float(np.linalg.norm(step[:3, 3]))
            step[:3, 3] *= scale * (1.0 + noise * rng.normal())
            turn = Rotation.from_euler(
                "z", bias * distance + 0.05 * noise * rng.normal() * distance
            )
            step[:3, :3] = step[:3, :3] @ turn.as_matrix()
            estimate = estimate @ step
        previous = pose
        stamp = sensors.stamp_ns(t)
        bag.write_odometry(stamp, estimate)
        bag.write_transforms(stamp, [(bag.world_frame, bag.ego_frame, estimate)])
