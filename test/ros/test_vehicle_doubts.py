"""The node says what can hardly be true of its sensors: in the diagnostics, and once in its log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("occ_perception.ros.vehicle_subscriptions", exc_type=ImportError)

import rclpy
from car import CAMERAS, ros_time, small_rig, spin_for, spin_until
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from occ_perception.models.zoo import get_card
from occ_perception.ros.diagnostics import ERROR
from occ_perception.ros.node_plan import plan_node
from occ_perception.ros.parameters import NodeParameters
from occ_perception.ros.vehicle_subscriptions import VehicleSubscriptions
from occ_perception.sensing.calibration import save_rig

pytestmark = pytest.mark.ros

NOW = 1_700_000_000 * 10**9


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    made = rclpy.create_node("doubtful_car")
    yield made
    made.destroy_node()


def test_a_clock_and_a_mount_that_can_hardly_be_true_are_named(node: Node, tmp_path: Path) -> None:
    """CAM_BACK's computer is 37 s behind, CAM_FRONT's mount is in millimetres."""
    rig = small_rig()
    mount = rig.camera("CAM_FRONT").ego_T_cam.copy()
    mount[:3, 3] *= 1000
    front = replace(rig.camera("CAM_FRONT"), ego_T_cam=mount)
    others = [camera for camera in rig.cameras if camera.name != "CAM_FRONT"]
    save_rig(tmp_path / "rig.yaml", replace(rig, cameras=(front, *others)))
    parameters = NodeParameters(rig=str(tmp_path / "rig.yaml"))
    vehicle = VehicleSubscriptions(
        node, plan_node(parameters, get_card("alocc_2d_mini")), parameters
    )
    images: list[str] = []
    vehicle.listen(
        on_image=lambda camera, _stamp, _image: images.append(camera),
        on_calibration=lambda: None,
        on_time_jump=pytest.fail,
    )
    publishers = {
        name: node.create_publisher(CompressedImage, f"~/input/{name.lower()}/image", 10)
        for name in CAMERAS
    }

    def are_subscribed() -> bool:
        vehicle.poll()
        return all(publisher.get_subscription_count() for publisher in publishers.values())

    spin_until(node, are_subscribed, 20, "the cameras are subscribed to")
    for name, publisher in publishers.items():
        message = CompressedImage(format="jpeg")
        message.header.stamp = ros_time(NOW - (37 * 10**9 if name == "CAM_BACK" else 0))
        publisher.publish(message)
    spin_until(node, lambda: len(images) == len(CAMERAS), 20, "an image of every camera")
    statuses = {status.task: status for status in vehicle.camera_statuses(60.0)}
    wrong = [name for name in CAMERAS if "stamps are" in statuses[f"camera {name}"].message]
    assert wrong == ["CAM_BACK"]
    back = statuses["camera CAM_BACK"]
    assert back.level == ERROR
    assert back.message.startswith("stamps are 37.0 s behind those of the other cameras")

    (doubt,) = vehicle.doubts()
    assert doubt.startswith("camera CAM_FRONT: it is mounted")

    # After a pause the first camera is not compared with images from before it.
    spin_for(node, 2.5)
    message = CompressedImage(format="jpeg")
    message.header.stamp = ros_time(NOW + 10**8)
    publishers["CAM_FRONT"].publish(message)
    spin_until(node, lambda: len(images) > len(CAMERAS), 20, "the next image of CAM_FRONT")
    assert not any("stamps are" in status.message for status in vehicle.camera_statuses(60.0))
