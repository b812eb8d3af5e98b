"""config/sros2_policy.xml agrees with the running node, which never runs unprotected by mistake."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import spin_until
from processes import SMALL_MODEL_NODE, python_module
from ros_fixtures import Launch

from occ_perception.ros.outputs import OUTPUTS

pytestmark = pytest.mark.ros

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "config/sros2_policy.xml"
LAYOUT = ROOT / "occ_perception/sensing/layouts/occ_perception.yaml"
NAME = "occupancy_node"


def allowed(kind: str, permission: str) -> set[str]:
    """Full names of what the policy allows the node."""
    profile = ElementTree.parse(POLICY).find(f".//profile[@node='{NAME}']")
    assert profile is not None
    found = set()
    for group in profile.findall(kind):
        if group.get(permission) == "ALLOW":
            found |= {str(item.text).replace("~", f"/{NAME}", 1) for item in group}
    return found


def test_the_node_publishes_and_offers_what_the_policy_allows(
    launch: Launch, ros_context: None
) -> None:
    assert ros_context is None
    given = ["model:=alocc_2d_mini_small", "random_weights_seed:=0", "device:=cpu"]
    options = [part for word in [*given, "layout:=occ_perception"] for part in ("-p", word)]
    process = launch([sys.executable, SMALL_MODEL_NODE, "--ros-args", *options])
    node = rclpy.create_node("policy_test")

    def published() -> set[str]:
        pairs = node.get_publisher_names_and_types_by_node(NAME, "/")
        return {name for name, _ in pairs}

    def is_there() -> bool:
        return NAME in node.get_node_names() and "/diagnostics" in published()

    try:
        spin_until(node, is_there, 120, "the node advertises its outputs")
        offered = {name for name, _ in node.get_service_names_and_types_by_node(NAME, "/")}
        on_demand = {o.topic.replace("~", f"/{NAME}") for o in OUTPUTS if o.when == "available"}
        on_demand.add(f"/{NAME}/voxel_grid")  # where foxglove_msgs is installed
        assert published() | on_demand == allowed("topics", "publish")
        assert offered == allowed("services", "reply")
    finally:
        node.destroy_node()
    assert process.stop() == 0


def test_the_node_may_receive_the_topics_of_the_layout() -> None:
    layout = yaml.safe_load(LAYOUT.read_text())
    expected = {"/tf", "/tf_static", "/clock", "/lidar_top", layout["pose"]["topic"]}
    for camera in layout["cameras"].values():
        expected |= {camera["image"], camera["camera_info"]}
    assert allowed("topics", "subscribe") == expected


def test_a_missing_keystore_ends_the_start_with_a_sentence(
    launch: Launch, child_environment: dict[str, str], tmp_path: Path
) -> None:
    secure = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}
    keys = {"ROS_SECURITY_KEYSTORE": str(tmp_path)}
    words = ["--ros-args", "--enclave", f"/{NAME}", "-p", "random_weights_seed:=0"]
    command = python_module("occ_perception.ros.node", *words)
    process = launch(command, {**child_environment, **secure, **keys})
    assert process.wait(60) == 1
    assert "SECURITY ERROR" in process.output()
    assert "Traceback" not in process.output()


def test_keys_without_security_in_dds_end_the_start_with_a_sentence(
    launch: Launch, child_environment: dict[str, str], tmp_path: Path
) -> None:
    """Files of the right names: DDS says that it has no security before it reads them."""
    library = Path(sys.prefix) / "lib/libfastdds.so"
    if not library.is_file() or b"DDS:Auth:PKI-DH" in library.read_bytes():
        pytest.skip("not the Fast DDS of the wheels, or it has security")
    enclave = tmp_path / "enclaves" / NAME
    enclave.mkdir(parents=True)
    for name in (
        "identity_ca.cert.pem",
        "cert.pem",
        "key.pem",
        "permissions_ca.cert.pem",
        "governance.p7s",
        "permissions.p7s",
    ):
        (enclave / name).write_text("")
    secure = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_KEYSTORE": str(tmp_path)}
    words = ["--ros-args", "--enclave", f"/{NAME}", "-p", "random_weights_seed:=0"]
    command = python_module("occ_perception.ros.node", *words)
    process = launch(command, {**child_environment, **secure})
    assert process.wait(60) == 1
    assert "doesn't have the security libraries" in process.output()
    assert "Traceback" not in process.output()
