"""Recordings of the writer, read back with rosbags and with our codec."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from occ_perception.atomic import OutputError
from occ_perception.bags.writing import (
    FLOW_TOPIC,
    OCCUPANCY_TOPIC,
    BagWriter,
    camera_info_topic,
    camera_topic,
    optical_frame,
)
from occ_perception.codec import (
    DENSE,
    RLE,
    SPARSE,
    EncodedFlow,
    EncodedOccupancy,
    decode_flow,
    decode_occupancy,
)
from occ_perception.errors import OptionError
from occ_perception.frames import CameraCalibration, OccupancyPrediction
from occ_perception.geometry import VoxelGrid, matrix_from_pose
from occ_perception.labels import LABEL_SETS, MOVING_CLASSES
from occ_perception.sensing.calibration import calibration_from_camera_info
from occ_perception.sensing.from_messages import camera_info_from_message
from occ_perception.sensing.layouts import load_layout

STAMP = 1_533_151_603_512_404_000


def prediction(with_flow: bool) -> OccupancyPrediction:
    rng = np.random.default_rng(0)
    labels = np.full((20, 16, 8), 16, np.uint8)
    labels[:, :, 2] = 10
    labels[4:9, 3:6, 3:5] = 0
    labels[12:14, 8:10, 3:6] = 7
    flow = rng.normal(size=(20, 16, 8, 2)).astype(np.float32) if with_flow else None
    openocc = LABEL_SETS["openocc"]
    return OccupancyPrediction(
        stamp_ns=STAMP,
        frame_id="base_link",
        grid=VoxelGrid((-4.0, -3.2, -1.0), (0.4, 0.4, 0.4), (20, 16, 8)),
        ego_T_grid=matrix_from_pose([0.95, 0, 1.84], [0, 0, -np.sqrt(0.5), np.sqrt(0.5)]),
        labels=labels,
        class_names=openocc.class_names,
        empty_class=openocc.empty_class,
        flow=flow,
        model="alocc_2d_mini@0123abcd",
        camera_stamps_ns={"CAM_FRONT": STAMP, "CAM_BACK": STAMP + 25_000_000},
        committed=False,
        history_length=7,
        history_break="gap of 1.2 s",
    )


def read(path):
    by_topic = defaultdict(list)
    with AnyReader([path]) as reader:
        for connection, received, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            by_topic[connection.topic].append((received, message))
    return by_topic


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("encoding", [RLE, DENSE, SPARSE])
def test_occupancy_round_trip(tmp_path, storage, encoding):
    """The bag contains the message definitions, so the reader needs no occ_msgs."""
    made = prediction(with_flow=True)
    with BagWriter(tmp_path / "out", storage) as writer:
        writer.write_occupancy(made, encoding, min_speed=0.3, received_ns=STAMP + 5)
    topics = read(tmp_path / "out")
    ((received, message),) = topics[OCCUPANCY_TOPIC]
    assert received == STAMP + 5
    assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == STAMP
    assert message.header.frame_id == "base_link"
    fields = (message.labels, message.indices, message.run_lengths)
    decoded = decode_occupancy(
        EncodedOccupancy(message.encoding, *fields), message.grid.dims, message.empty_class, 17
    )
    np.testing.assert_array_equal(decoded, made.labels)
    assert tuple(message.class_names) == made.class_names
    assert (message.model, message.committed) == (made.model, False)
    assert (message.history_length, message.history_break) == (7, "gap of 1.2 s")
    assert message.camera_names == list(made.camera_stamps_ns)
    stamps = [stamp.sec * 10**9 + stamp.nanosec for stamp in message.camera_stamps]
    assert stamps == list(made.camera_stamps_ns.values())
    np.testing.assert_allclose(message.grid.voxel_size, 0.4)

    ((_, flow),) = topics[FLOW_TOPIC]
    decoded = decode_flow(
        EncodedFlow(flow.indices, flow.vx, flow.vy, flow.min_speed), flow.grid.dims
    )
    moving = np.isin(made.labels, [0, 7]) & (np.hypot(*np.moveaxis(made.flow, -1, 0)) >= 0.3)
    assert {made.class_names[k] for k in (0, 7)} <= MOVING_CLASSES
    assert 0 < moving.sum() < np.isin(made.labels, [0, 7]).sum()
    np.testing.assert_array_equal(decoded, np.where(moving[..., None], made.flow, 0))


def test_the_grid_origin_is_the_lower_corner_in_the_ego_frame(tmp_path):
    made = prediction(with_flow=False)
    with BagWriter(tmp_path / "out") as writer:
        writer.write_occupancy(made)
    topics = read(tmp_path / "out")
    assert FLOW_TOPIC not in topics
    ((_, message),) = topics[OCCUPANCY_TOPIC]
    p, q = message.grid.origin.position, message.grid.origin.orientation
    ego_T_corner = matrix_from_pose([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])
    centre = ego_T_corner @ np.array([*(np.array([3.5, 2.5, 1.5]) * 0.4), 1])
    expected = made.ego_T_grid @ np.array([*made.grid.centers((3, 2, 1)), 1])
    np.testing.assert_allclose(centre, expected, atol=1e-7)


def test_topics_are_those_of_the_shipped_layout():
    for camera in load_layout("occ_perception").cameras:
        assert camera.image == camera_topic(camera.name)
        assert camera.camera_info == camera_info_topic(camera.name)
        assert camera.frame_id in ("", optical_frame(camera.name))
        assert camera.is_rectified()


def test_camera_info_round_trip(tmp_path):
    K = np.array([[1266.4, 0, 816.3], [0, 1266.5, 491.5], [0, 0, 1]])
    camera = CameraCalibration(
        "CAM_FRONT", 1600, 900, K, np.eye(4), "", "plumb_bob", (-0.3, 0.1, 0.0, 0.0, 0.01)
    )
    with BagWriter(tmp_path / "out") as writer:
        writer.write_camera_info(camera, STAMP)
    ((_, message),) = read(tmp_path / "out")[camera_info_topic("CAM_FRONT")]
    info = camera_info_from_message(message)
    back = calibration_from_camera_info(info, "CAM_FRONT", np.eye(4), rectified=False)
    np.testing.assert_array_equal(back.K, K)
    assert (back.distortion_model, back.distortion) == (camera.distortion_model, camera.distortion)
    assert (back.width, back.height, back.frame_id) == (1600, 900, "cam_front_optical")


def test_a_failed_recording_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "out") as writer:
        writer.write_odometry(STAMP, np.eye(4))
        assert not (tmp_path / "out").exists()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    code = (
        "import os, sys; import numpy as np; from occ_perception.bags.writing import BagWriter\n"
        "bag = BagWriter(sys.argv[1]).__enter__()\n"
        "bag.write_odometry(1, np.eye(4)); os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, tmp_path / "out"], check=False)
    assert killed.returncode == -9
    left = [path.name for path in tmp_path.iterdir()]
    assert left and all(name.startswith(".out.") for name in left)
    with BagWriter(tmp_path / "out") as writer:
        writer.write_odometry(STAMP, np.eye(4))
        with pytest.raises(OutputError, match="out is being written by another"):
            BagWriter(tmp_path / "out").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert len(read(tmp_path / "out")["/odom"]) == 1


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OutputError, match="out exists already"):
        BagWriter(tmp_path / "out")
    with pytest.raises(OptionError, match="unknown storage 'zip', expected mcap or sqlite3"):
        BagWriter(tmp_path / "new", "zip")
    assert (tmp_path / "out").read_text() == "precious"
