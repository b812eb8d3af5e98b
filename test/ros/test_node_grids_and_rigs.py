"""A grid in the lidar frame, and a rig with a missing camera, over real DDS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import Car, Listener, small_rig, spin_until
from geometry_msgs.msg import TransformStamped
from processes import SMALL_MODEL_NODE, RunningProcess
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_fixtures import Launch

from occ_perception.geometry import matrix_from_pose, transform_points
from occ_perception.models.zoo import get_card
from occ_perception.ros.messages import prediction_from_message
from occ_perception.sensing.calibration import save_rig

pytestmark = pytest.mark.ros

SECOND = 10**9
WARN, ERROR, OK = b"\x01", b"\x02", b"\x00"
MOUNT = ((0.94, 0.05, 1.84), (0.02, -0.01, -0.70, 0.71))
ABSENT = "CAM_BACK"


@pytest.fixture(scope="module")
def node(
    launch_for_module: Launch, ros_context: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Node, RunningProcess]]:
    """A model with a lidar grid; a rig file with five cameras and without the lidar."""
    assert ros_context is None
    rig = small_rig()
    rig_file: Path = tmp_path_factory.mktemp("rig") / "five.yaml"
    save_rig(rig_file, replace(rig, cameras=tuple(c for c in rig.cameras if c.name != ABSENT)))
    process = launch_for_module(
        [
            sys.executable, SMALL_MODEL_NODE, "--ros-args",
            "-p", "model:=alocc_2d_mini_surroundocc_small", "-p", "random_weights_seed:=0",
            "-p", "device:=cpu", "-p", f"rig:={rig_file}", "-p", "lidar_frame:=velodyne",
            "-p", "stale_after_s:=60.0", "-p", "sync.deadline_ms:=1500.0",
        ]
    )  # fmt: skip
    helper = rclpy.create_node("car_with_a_lidar")
    yield helper, process
    assert process.stop() == 0, process.output()
    assert "Traceback" not in process.output()
    helper.destroy_node()


def test_a_lidar_grid_is_published_in_the_ego_frame(node: tuple[Node, RunningProcess]) -> None:
    from tf2_msgs.msg import TFMessage

    helper, _ = node
    car, listener = Car(helper), Listener(helper)
    del car.images[ABSENT]
    car.wait_until_heard()
    stamp = car.frame_set(1_600_000_000 * SECOND, without=[ABSENT])
    waiting = listener.wait_for_status("camera CAM_FRONT", "no mount of velodyne in tf")
    assert waiting.level == ERROR

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    mounts = helper.create_publisher(TFMessage, "/tf_static", latched)
    stamped = TransformStamped(child_frame_id="velodyne")
    stamped.header.frame_id = "base_link"
    translation, rotation = stamped.transform.translation, stamped.transform.rotation
    translation.x, translation.y, translation.z = MOUNT[0]
    rotation.x, rotation.y, rotation.z, rotation.w = MOUNT[1]
    mounts.publish(TFMessage(transforms=[stamped]))

    message = listener.wait_for_grid(stamp)
    assert message.header.frame_id == "base_link"
    # The origin is the pose of the corner of the first voxel: 24 m to the left and to the back of
    # the lidar, in the small model, and turned as the lidar is.
    ego_T_lidar = matrix_from_pose(*MOUNT)
    lowest = get_card("alocc_2d_mini_surroundocc").grid.lower[2]
    corners = np.array([[-24.0, -24.0, lowest], [24.0, 24.0, lowest + 6.4]])
    corner, opposite = transform_points(ego_T_lidar, corners)
    origin = message.grid.origin.position
    np.testing.assert_allclose((origin.x, origin.y, origin.z), corner, atol=1e-6)
    turn = message.grid.origin.orientation
    quaternion = np.array(MOUNT[1]) / np.linalg.norm(MOUNT[1])
    got = np.array((turn.x, turn.y, turn.z, turn.w))
    np.testing.assert_allclose(got * np.sign(got @ quaternion), quaternion, atol=1e-6)
    prediction = prediction_from_message(message)
    upper = np.array(prediction.grid.lower) + 24 * np.array([2.0, 2.0, 0.4 * 16 / 24])
    end = transform_points(prediction.ego_T_grid, upper[None])[0]
    np.testing.assert_allclose(end, opposite, atol=1e-5)
    assert prediction.labels.shape == (24, 24, 16)
    assert not (prediction.labels == 0).any()  # models of this label set never predict "others"


def test_a_missing_camera_is_reported_in_log_and_diagnostics(
    node: tuple[Node, RunningProcess],
) -> None:
    helper, process = node
    listener = Listener(helper)
    status = listener.wait_for_status("rig", f"runs without {ABSENT}")
    assert status.level == WARN
    values = {pair.key: pair.value for pair in status.values}
    assert values["absent"] == ABSENT and ABSENT not in values["cameras"].split(", ")
    assert values["grid_frame"] == "lidar"
    assert listener.status("synchronization").message == "frame sets are complete"
    spin_until(helper, lambda: f"runs without {ABSENT}" in process.output(), 10, "the log says so")
    car = Car(helper)
    del car.images[ABSENT]
    car.wait_until_heard()
    stamp = car.frame_set(1_600_000_001 * SECOND, without=[ABSENT])
    message = listener.wait_for_grid(stamp)
    assert ABSENT not in message.camera_names and len(message.camera_names) == 5
    assert message.model.endswith(f" without {ABSENT}")
