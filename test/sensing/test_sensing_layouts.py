"""Topics of real converters are recognised, and mismatches are explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from occ_perception.sensing import layouts
from occ_perception.sensing.calibration import load_rig, save_rig
from occ_perception.sensing.layouts import (
    COMPRESSED_IMAGE_TYPE,
    IMAGE_TYPE,
    LayoutError,
    layout_names,
    load_layout,
    match_layout,
    recognise_layouts,
)
from occ_perception.sensing.yaml_file import YamlError

SHIPPED = Path(layouts.__file__).with_name("occ_perception.yaml")
WAYMO = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT", "CAM_SIDE_LEFT", "CAM_SIDE_RIGHT")

CHANNELS = (
    "CAM_FRONT",
    "CAM_FRONT_LEFT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
CLYNAMEN = {
    **{f"{channel.lower()}/raw": "sensor_msgs/msg/Image" for channel in CHANNELS},
    "/odom": "nav_msgs/msg/Odometry",
    "/tf": "tf/msg/tfMessage",
    "lidar_top": "sensor_msgs/msg/PointCloud2",
}
FOXGLOVE = {
    **{f"/{c}/image_rect_compressed": "sensor_msgs/msg/CompressedImage" for c in CHANNELS},
    **{f"/{channel}/camera_info": "sensor_msgs/msg/CameraInfo" for channel in CHANNELS},
    "/odom": "nav_msgs/msg/Odometry",
    "/pose": "geometry_msgs/msg/PoseStamped",
    "/tf": "tf2_msgs/msg/TFMessage",
}
AUTOWARE = {
    **{
        f"/sensing/camera/camera{n}/image_raw/compressed": "sensor_msgs/msg/CompressedImage"
        for n in range(6)
    },
    **{f"/sensing/camera/camera{n}/camera_info": "sensor_msgs/msg/CameraInfo" for n in range(6)},
    "/localization/kinematic_state": "nav_msgs/msg/Odometry",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/tf_static": "tf2_msgs/msg/TFMessage",
}


@pytest.mark.parametrize("name", layout_names())
def test_every_shipped_layout_loads_and_says_what_it_is(name):
    assert load_layout(name).description


@pytest.mark.parametrize(
    "name", ["clynamen", "clynamen_ros2", "foxglove", "autoware", "occ_perception"]
)
def test_layouts_of_the_nuscenes_car_have_six_cameras(name):
    layout = load_layout(name)
    assert set(layout.camera_names) == set(CHANNELS)
    assert layout.pose.ego_frame == "base_link"


@pytest.mark.parametrize(("topics", "expected"), [
    (CLYNAMEN, ["clynamen", "clynamen_ros2"]),
    (FOXGLOVE, ["foxglove"]),
    (AUTOWARE, ["autoware"]),
])  # fmt: skip
def test_families_are_recognised(topics, expected):
    matches = recognise_layouts(topics)
    assert [match.layout.name for match in matches if match.fits] == expected
    assert [match.layout.name for match in matches][: len(expected)] == expected
    assert len(matches) == len(layout_names())
    for match in matches:
        assert match.fits or match.problems


def test_case_and_slashes_do_not_matter_and_real_names_come_back():
    upper = {f"/{name.strip('/').upper()}/": kind for name, kind in CLYNAMEN.items()}
    match = match_layout(load_layout("clynamen"), upper)
    assert match.fits
    assert match.layout.cameras[0].image == "/CAM_FRONT_LEFT/RAW/"
    assert match.layout.pose.topic == "/ODOM/"


def test_ros_1_type_names_are_understood():
    ros1 = {name: kind.replace("/msg/", "/") for name, kind in FOXGLOVE.items()}
    assert match_layout(load_layout("foxglove"), ros1).fits


def test_compressed_is_taken_where_the_base_topic_is_missing_and_the_other_way_round():
    camera = match_layout(load_layout("autoware"), AUTOWARE).layout.cameras[1]
    assert camera.image == "/sensing/camera/camera0/image_raw/compressed"
    both = {**AUTOWARE, "/sensing/camera/camera0/image_raw": IMAGE_TYPE}
    camera = match_layout(load_layout("autoware"), both).layout.cameras[1]
    assert camera.image == "/sensing/camera/camera0/image_raw"
    ours = load_layout("occ_perception")
    raw = {c.image.removesuffix("/compressed"): IMAGE_TYPE for c in ours.cameras}
    infos = {c.camera_info: "sensor_msgs/msg/CameraInfo" for c in ours.cameras}
    match = match_layout(ours, {**raw, **infos, "/odom": "nav_msgs/msg/Odometry"})
    assert match.fits and match.layout.cameras[0].image in raw


def test_a_missing_package_is_named():
    topics = {k: v for k, v in FOXGLOVE.items() if k not in ("/CAM_BACK/camera_info", "/tf")}
    topics["/CAM_FRONT/image_rect_compressed"] = "foxglove.CompressedImage"
    match = match_layout(load_layout("foxglove"), topics)
    assert match.problems == (
        "camera CAM_FRONT: images: no topic /CAM_FRONT/image_rect_compressed; "
        "/CAM_FRONT/image_rect_compressed is foxglove.CompressedImage, expected "
        f"{IMAGE_TYPE} or {COMPRESSED_IMAGE_TYPE}",
        "camera CAM_BACK: calibration: no topic /CAM_BACK/camera_info",
        "ego pose: no topic /tf",
    )
    assert match.found == pytest.approx(10 / 13)


def test_rectified_follows_the_topic_name_unless_set():
    def rectified(name):
        return {camera.is_rectified() for camera in load_layout(name).cameras}

    assert rectified("foxglove") == rectified("occ_perception") == rectified("clynamen") == {True}
    assert rectified("autoware") == {False}
    other = replace(load_layout("autoware").cameras[0], image="/front/image_rect_color")
    assert other.is_rectified() and not other.is_rectified("/front/image_raw")


LAYOUT = """
cameras:
  CAM_FRONT: {image: /front/image_raw, encoding: bgr8}
pose: {kind: tf, topic: /tf, world_frame: map, ego_frame: base_link}
reference_camera: CAM_FRONT
rig: nuscenes
sync_tolerance_ms: 20
"""


def test_a_custom_layout(tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(LAYOUT)
    layout = load_layout(path)
    assert (layout.name, layout.rig, layout.sync_tolerance_ms) == ("robot", "nuscenes", 20)
    assert layout.cameras[0].encoding == "bgr8" and layout.stamp_source == "header"


def test_a_rig_file_is_looked_for_beside_the_layout(tmp_path, monkeypatch):
    (tmp_path / "robot.yaml").write_text(LAYOUT.replace("rig: nuscenes", "rig: rigs/mine.yaml"))
    (tmp_path / "rigs").mkdir()
    save_rig(tmp_path / "rigs" / "mine.yaml", load_rig("nuscenes"))
    monkeypatch.chdir("/")
    rig = load_layout(tmp_path / "robot.yaml").rig
    assert load_rig(rig).names == load_rig("nuscenes").names


def test_the_files_in_the_documentation_load(tmp_path):
    """docs/bags.md shows a layout, then a rig."""
    text = (Path(__file__).parents[2] / "docs" / "bags.md").read_text()
    layout, rig = (block.split("```")[0] for block in text.split("```yaml\n")[1:])
    others = "  # ... the other cameras\n"
    assert others in layout
    layout = layout.replace(others, "  CAM_BACK_LEFT: {image: /back_left/image_raw}\n")
    (tmp_path / "layout.yaml").write_text(layout)
    (tmp_path / "rig.yaml").write_text(rig)
    camera = load_layout(tmp_path / "layout.yaml").cameras[0]
    assert (camera.image, camera.frame_id) == ("/front/image_raw", "front_optical")
    assert load_rig(tmp_path / "rig.yaml").camera("CAM_FRONT").distortion_model == "plumb_bob"
    table = text.partition("| layout |")[2].partition("\n\n")[0]
    families = {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")}
    assert families == set(layout_names())


@pytest.mark.parametrize(("change", "message"), [
    (("kind: tf", "kind: gps"), "pose.kind must be odometry or tf, got 'gps'"),
    (("reference_camera: CAM_FRONT", "reference_camera: FRONT"), "must be one of CAM_FRONT, got"),
    (("image:", "images:"), "unknown key cameras.CAM_FRONT.images"),
    (("{image: /front/image_raw, encoding: bgr8}", "/front"), "cameras.CAM_FRONT must be a map"),
    (("rig: nuscenes", "stamp_source: arrival"), "stamp_source must be header or receive"),
    (("topic: /tf, ", ""), "pose.topic must be text, got None"),
])  # fmt: skip
def test_mistakes_name_file_and_key(tmp_path, change, message):
    path = tmp_path / "robot.yaml"
    path.write_text(LAYOUT.replace(*change))
    with pytest.raises(YamlError, match=message) as error:
        load_layout(path)
    assert "robot.yaml" in str(error.value)


@pytest.mark.parametrize("damage", [b"description: \xff", b"description: 2001-99-99", b"[" * 5000])
def test_files_that_are_no_yaml_are_named(tmp_path, damage):
    path = tmp_path / "robot.yaml"
    path.write_bytes(damage)
    with pytest.raises(YamlError, match=r"robot\.yaml is not YAML"):
        load_layout(path)


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(YamlError, match=r"no topic layout 'kitti': .* autoware, clynamen"):
        load_layout("kitti")


def mapped(tmp_path, **extra):
    """The shipped layout ``occ_perception`` with additional keys."""
    content = yaml.safe_load(SHIPPED.read_text())
    path = tmp_path / "mapped.yaml"
    path.write_text(yaml.safe_dump({**content, **extra}))
    return path


def test_a_layout_gives_a_model_its_cameras_under_the_models_names(tmp_path):
    sides = {"CAM_SIDE_LEFT": "CAM_BACK_LEFT", "CAM_SIDE_RIGHT": "CAM_BACK_RIGHT"}
    layout = load_layout(mapped(tmp_path, model_cameras=sides)).for_model(WAYMO)
    assert layout.camera_names == WAYMO
    topics = {camera.name: camera.image for camera in layout.cameras}
    assert topics["CAM_SIDE_LEFT"] == "/cam_back_left/image_rect/compressed"
    rig = layout.under_model_names(load_rig("nuscenes"))
    assert set(WAYMO) < set(rig.names)
    expected = load_rig("nuscenes").camera("CAM_BACK_LEFT")
    assert (rig.camera("CAM_SIDE_LEFT").ego_T_cam == expected.ego_T_cam).all()


def test_cameras_that_a_layout_does_not_have_are_left_out():
    layout = load_layout("occ_perception").for_model(WAYMO)
    assert layout.camera_names == WAYMO[:3]
    assert layout.reference_camera == "CAM_FRONT"
    fewer = layout.only({"CAM_FRONT", "CAM_FRONT_LEFT", "CAM_ROOF"})
    assert fewer.camera_names == WAYMO[:2]
    with pytest.raises(LayoutError, match="the reference camera CAM_FRONT is not among CAM_ROOF"):
        layout.only({"CAM_ROOF"})


def test_a_layout_without_any_camera_of_the_model_is_an_error():
    with pytest.raises(LayoutError, match=r"none of the model's cameras left, right; .*model_came"):
        load_layout("occ_perception").for_model(["left", "right"])


def test_one_camera_cannot_serve_two_of_the_models_cameras(tmp_path):
    twice = {"CAM_SIDE_LEFT": "CAM_FRONT"}
    layout = load_layout(mapped(tmp_path, model_cameras=twice))
    with pytest.raises(LayoutError, match="two of the model's cameras the same images"):
        layout.for_model(WAYMO)


def test_a_mapping_to_a_missing_camera_is_refused(tmp_path):
    path = mapped(tmp_path, model_cameras={"CAM_SIDE_LEFT": "CAM_LEFT"})
    with pytest.raises(YamlError, match=r"CAM_SIDE_LEFT must be one of .*'CAM_LEFT'"):
        load_layout(path)


def test_the_lidar_frame_is_the_layouts(tmp_path):
    assert load_layout("occ_perception").lidar_frame == "lidar_top"
    assert load_layout(mapped(tmp_path, lidar_frame="velodyne")).lidar_frame == "velodyne"
