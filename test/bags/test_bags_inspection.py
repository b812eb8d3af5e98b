"""The commands occ info and occ convert."""

from __future__ import annotations

import json
from dataclasses import replace

import bag_families
import pytest
import typer
from bag_families import MS
from nuscenes_folder import VERSION, drawn_images, drawn_scene
from typer.testing import CliRunner

from occ_perception.bags.drive import open_recording
from occ_perception.bags.inspection import inspect_bag
from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.bags.recording import Recording
from occ_perception.bags.writing import BagWriter
from occ_perception.cli.convert import app as convert_app
from occ_perception.cli.info import info
from occ_perception.sensing.calibration import save_rig
from occ_perception.sensing.layouts import load_layout

occ = typer.Typer()
occ.command("info")(info)
occ.add_typer(convert_app, name="convert")


def run(*arguments: object):
    return CliRunner().invoke(occ, [str(argument) for argument in arguments])


def test_a_converted_scene_has_nothing_missing(tmp_path):
    drawn_scene(tmp_path / "data", keyframes=3)
    convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag")
    report = inspect_bag(tmp_path / "bag")
    assert report.layout.name == "occ_perception"
    assert report.missing_for_node == [] and report.problems == []
    assert (report.frame_sets.counters.complete, report.frame_sets.counters.incomplete) == (13, 0)
    assert report.frame_sets.spread_ms == pytest.approx((42.6, 42.6, 42.6), abs=0.01)
    assert report.frame_sets.period_ms == pytest.approx(83.3, abs=0.1)
    assert report.frame_sets.without_pose == 0
    topics = {topic.name: topic for topic in report.topics}
    front = topics["/cam_front/image_rect/compressed"]
    assert front.count == 13 and front.rate_hz == pytest.approx(12, abs=0.01)
    assert front.longest_gap_s == pytest.approx(0.0833, abs=1e-3)
    assert topics["/odom"].count == 78
    assert report.duration_s == pytest.approx(1.04, abs=0.01)
    assert report.doubts == []
    result = run("info", tmp_path / "bag")
    text = result.output
    assert result.exit_code == 0
    assert "layout occ_perception: fits (used)" in text
    assert "layout foxglove: no, camera CAM_FRONT_LEFT: images: no topic" in text
    assert "(and 12 more)" in text
    assert "frame sets: 13 complete, 0 incomplete\n" in text
    assert "spread 42.6 / 42.6 / 42.6 ms" in text
    assert "every 83 ms, longest gap 0.08 s" in text
    assert "the node can run on this bag" in text


def test_lost_images_and_poses_are_reported(tmp_path):
    images = drawn_images(keyframes=4)
    kept = [p for k, p in enumerate(images) if not (p.channel == "CAM_BACK" and k in range(30, 60))]
    path = bag_families.foxglove(tmp_path / "bag", kept)
    report = inspect_bag(path)
    assert report.frame_sets.counters.incomplete == 5
    assert report.frame_sets.missing == {"CAM_BACK": 5}
    text = run("info", path).output
    assert "frame sets: 14 complete, 5 incomplete (5 without CAM_BACK)" in text


def test_a_gap_is_measured_and_a_restart_is_not_a_gap(tmp_path):
    images = drawn_images(keyframes=2)
    later = [replace(p, stamp_us=p.stamp_us + 3_000_000) for p in images]
    report = inspect_bag(bag_families.clynamen(tmp_path / "gap.bag", images + later))
    assert report.frame_sets.longest_gap_s == pytest.approx(2.5, abs=0.01)
    assert report.frame_sets.period_ms == pytest.approx(83.3, abs=0.1)


def test_what_the_node_would_lack_is_listed(tmp_path):
    images = drawn_images(keyframes=1)
    clynamen = bag_families.clynamen(tmp_path / "scene.bag", images)
    (missing,) = inspect_bag(clynamen).missing_for_node
    assert "image is 160x90, calibrated for 1600x900" in missing
    text = run("info", clynamen).output
    assert "note: intrinsics of CAM_FRONT_LEFT" in text
    assert "missing for the node: camera CAM_FRONT_LEFT: image is 160x90" in text
    assert "layout clynamen_ros2: fits\n" in text

    messages = bag_families.Messages()
    timed = [
        (p.stamp_ns, f"/{p.channel}/image_rect_compressed",
         messages.compressed(p.stamp_ns, p.channel, p.jpeg)) for p in images
    ]  # fmt: skip
    bare = bag_families.write(tmp_path / "bare", messages, timed)
    report = inspect_bag(bare)
    assert report.layout is None and report.frame_sets is None
    (missing,) = report.missing_for_node
    assert "the nearest is foxglove, but: camera CAM_FRONT_LEFT: calibration: no topic" in missing
    assert "ego pose: no topic /tf" in missing
    result = run("info", bare)
    assert "the node can run" not in result.output and result.exit_code == 1


def test_frame_sets_without_poses_are_reported(tmp_path):
    images = drawn_images(keyframes=2)
    messages = bag_families.Messages()
    timed = []
    for p in images:
        name, stamp = p.channel, p.stamp_ns
        image = messages.compressed(stamp, name, p.jpeg)
        timed.append((stamp, f"/{name}/image_rect_compressed", image))
        timed.append((stamp, f"/{name}/camera_info", messages.camera_info(stamp, name, p)))
        tree = [
            (stamp, "odom", "base_link", p.world_T_ego),
            (stamp, "base_link", name, p.ego_T_cam),
        ]
        timed.append((stamp + MS, "/tf", messages.tf(tree)))
    path = bag_families.write(tmp_path / "bag", messages, timed)
    report = inspect_bag(path)
    assert report.frame_sets.without_pose == 7
    (missing,) = report.missing_for_node
    assert missing.startswith(
        "no frame set has an ego pose at all of its stamps: no pose of 'base_link'"
    )
    assert "tf has no frame 'map'; it has CAM_BACK" in missing
    layout = load_layout("foxglove")
    layout = replace(layout, pose=replace(layout.pose, world_frame="odom"))
    assert inspect_bag(path, layout).missing_for_node == []


def changed(tmp_path, change):
    """A converted scene whose messages pass through ``change(topic, message)``."""
    drawn_scene(tmp_path / "data", keyframes=1)
    convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "plain")
    with Recording(tmp_path / "plain") as recording, BagWriter(tmp_path / "bag") as writer:
        for raw in recording.messages():
            message = recording.decode(raw)
            change(raw.topic, message)
            writer.write(raw.topic, raw.received_ns, message, raw.topic == "/tf_static")
    return tmp_path / "bag"


def test_a_camera_without_stamps_is_named_and_everything_is_machine_readable(tmp_path):
    def change(topic, message):
        if topic.startswith("/cam_back/") and "image" in topic:
            message.header.stamp.sec = message.header.stamp.nanosec = 0

    result = run("info", changed(tmp_path, change), "--json")
    assert result.exit_code == 1
    report = json.loads(result.output)
    assert report["node_can_run"] is False
    (missing,) = report["missing_for_node"]
    assert "camera CAM_BACK: images carry stamp 0: their driver does not fill" in missing
    (problem,) = (p for p in report["problems"] if p["reason"] == "no_stamp")
    assert problem["text"].startswith("camera CAM_BACK")
    assert report["layout"] == "occ_perception"
    counters = report["frame_sets"]["counters"]
    assert counters["complete"] == 0 and counters["incomplete"] > 0
    assert {topic["name"] for topic in report["topics"]} >= {"/odom", "/cam_back/camera_info"}


def test_what_can_hardly_be_true_is_said(tmp_path):
    """A clock, a mount in millimetres, a body frame; the second and third give frames."""

    def change(topic, message):
        if topic.startswith("/cam_back/") and "image" in topic:
            message.header.stamp.sec -= 37
        for item in message.transforms if topic == "/tf_static" else ():
            if item.child_frame_id.startswith("cam_front_left"):
                item.transform.translation.x *= 1000
            if item.child_frame_id.startswith("cam_front_right"):
                item.transform.rotation = type(item.transform.rotation)(0.0, 0.0, 0.0, 1.0)

    bag = changed(tmp_path, change)
    doubts = inspect_bag(bag).doubts
    assert len(doubts) == 3
    assert doubts[0].startswith("CAM_FRONT_RIGHT look upwards")
    assert doubts[1].startswith("camera CAM_FRONT_LEFT: it is mounted")
    assert doubts[2].startswith("camera CAM_BACK: stamps are 37.0 s behind those of the other")
    with open_recording(bag) as drive:
        assert drive.doubts == tuple(doubts[:2])
    text = run("info", bag).output
    assert all(f"doubtful: {doubt}" in text for doubt in doubts)


def test_a_given_rig_takes_the_place_of_the_recorded_calibration(tmp_path):
    def change(topic, message):
        if topic == "/cam_back/camera_info":
            message.width = message.height = 0

    bag = changed(tmp_path, change)
    assert run("info", bag).exit_code == 1
    with open_recording(tmp_path / "plain") as drive:
        save_rig(tmp_path / "rig.yaml", drive.recorded_rig)
    result = run("info", bag, "--rig", tmp_path / "rig.yaml")
    assert result.exit_code == 0, result.output
    assert "note: the rig is the given one" in result.output


def test_convert_reports_what_it_wrote_and_what_it_skipped(tmp_path):
    images = drawn_scene(tmp_path / "data", keyframes=2, lidar=True)
    (tmp_path / "data" / images[0].filename).unlink()
    result = run(
        "convert", "nuscenes", tmp_path / "data", "--version", VERSION, "--scene", "scene-0001",
        "--out", tmp_path / "bag", "--storage", "sqlite3", "--lidar",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "41 images of 6 cameras, 2 lidar sweeps, 43 ego poses" in result.output
    assert f"skipped {tmp_path / 'data' / images[0].filename}: No such file" in result.output
    assert (tmp_path / "bag" / "bag.db3").exists()
    keyframes = run(
        "convert", "nuscenes", tmp_path / "data", "--version", VERSION, "--scene", "scene-0001",
        "--out", tmp_path / "key", "--keyframes",
    )  # fmt: skip
    assert "11 images of 6 cameras, 11 ego poses" in keyframes.output
