"""Frame sets of recordings: rates, losses, and orders of recording other than that of stamps."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from bag_families import MS, Messages, Timed
from bag_families import write as write_messages
from nuscenes_folder import OFFSETS_US, DrawnImage, drawn_images
from rosbags import rosbag2
from typer.testing import CliRunner

from occ_perception.bags.drive import RecordedDrive, open_recording
from occ_perception.bags.frame_set_index import index_frame_sets
from occ_perception.bags.recording import Recording
from occ_perception.bags.writing import camera_topic
from occ_perception.cli import app
from occ_perception.sensing.layouts import load_layout

SWEEPS = 12


@pytest.fixture(scope="module")
def images() -> list[DrawnImage]:
    """Twelve sweeps of six cameras at 12 Hz."""
    return drawn_images(keyframes=3)[: 6 * SWEEPS]


def at_stamp(image: DrawnImage) -> int:
    return image.stamp_ns


def write(
    path: Path, images: Iterable[DrawnImage], received: Callable[[DrawnImage], int] = at_stamp
) -> Path:
    """A recording in our layout in which ``received`` says when an image was recorded."""
    messages = Messages()
    timed: list[Timed] = []
    images = list(images)
    first = {image.channel: image for image in images}
    start = min(image.stamp_ns for image in images)
    mounts = [
        (start, "base_link", f"{name.lower()}_optical", image.ego_T_cam)
        for name, image in first.items()
    ]
    timed.append((start, "/tf_static", messages.tf(mounts)))
    for name, image in first.items():
        info = messages.camera_info(start, f"{name.lower()}_optical", image)
        timed.append((start, f"/{name.lower()}/camera_info", info))
    for image in images:
        odometry = messages.odometry(image.stamp_ns, "map", "base_link", image.world_T_ego)
        timed.append((image.stamp_ns, "/odom", odometry))
        message = messages.compressed(image.stamp_ns, image.channel, image.jpeg)
        timed.append((received(image), camera_topic(image.channel), message))
    return write_messages(path, messages, timed, "mcap")


def frame_stamps(drive: RecordedDrive) -> list[dict[str, int]]:
    return [dict(frame.stamps_ns) for frame in drive]


def sweeps(images: list[DrawnImage]) -> list[dict[str, int]]:
    return [
        {image.channel: image.stamp_ns for image in images[k : k + 6]}
        for k in range(0, len(images), 6)
    ]


def late(camera: str, by_ns: int) -> Callable[[DrawnImage], int]:
    return lambda image: image.stamp_ns + (by_ns if image.channel == camera else 0)


@pytest.mark.parametrize(
    "received",
    [
        pytest.param(late("CAM_BACK", 200 * MS), id="one camera 200 ms late"),
        pytest.param(late("CAM_FRONT", 700 * MS), id="the reference camera 700 ms late"),
        pytest.param(
            lambda image: image.stamp_ns + 2000 * MS * list(OFFSETS_US).index(image.channel),
            id="camera after camera",
        ),
        pytest.param(
            lambda image: image.stamp_ns - image.stamp_ns % (500 * MS) + len(image.channel),
            id="in bursts",
        ),
    ],
)
def test_the_order_of_recording_changes_no_frame(tmp_path, images, received):
    path = write(tmp_path / "bag", images, received)
    with open_recording(path) as drive:
        assert frame_stamps(drive) == sweeps(images)
        assert drive.problems == []
        counters = drive.counters
        assert (counters.complete, counters.incomplete, counters.late) == (SWEEPS, 0, 0)
        again = frame_stamps(drive)
    assert again == sweeps(images)


def faster(images: list[DrawnImage], camera: str, times: int) -> list[DrawnImage]:
    """Further images of a camera at even distances."""
    own = [image for image in images if image.channel == camera]
    step_us = (own[1].stamp_us - own[0].stamp_us) // times
    further = [
        replace(image, stamp_us=image.stamp_us + k * step_us)
        for image in own
        for k in range(1, times)
    ]
    return sorted([*images, *further], key=at_stamp)


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("camera", ["CAM_FRONT", "CAM_BACK"])
def test_a_faster_camera_costs_no_frame_and_gives_none(tmp_path, images, camera, times):
    """CAM_FRONT is the reference camera."""
    path = write(tmp_path / "bag", faster(images, camera, times))
    with open_recording(path) as drive:
        got = frame_stamps(drive)
        assert drive.problems == []
        assert (drive.counters.complete, drive.counters.incomplete) == (SWEEPS, 0)
        assert drive.counters.unmatched == SWEEPS * (times - 1)
    others = [{c: s for c, s in sweep.items() if c != camera} for sweep in sweeps(images)]
    assert [{c: s for c, s in stamps.items() if c != camera} for stamps in got] == others
    assert all(max(s.values()) - min(s.values()) < 43 * MS for s in got)


def test_a_single_extra_reference_image_costs_no_frame(tmp_path, images):
    extra = replace(images[19], stamp_us=images[19].stamp_us + 30_000)
    assert extra.channel == "CAM_FRONT"
    path = write(tmp_path / "bag", sorted([*images, extra], key=at_stamp))
    with open_recording(path) as drive:
        assert frame_stamps(drive) == sweeps(images)
        assert drive.counters.unmatched == 1 and drive.problems == []


def together(images: list[DrawnImage], period_us: int) -> list[DrawnImage]:
    """The same images from cameras that fire together."""
    start = images[0].stamp_us
    return [replace(image, stamp_us=start + k // 6 * period_us) for k, image in enumerate(images)]


@pytest.mark.parametrize("period_us", [33_333, 40_000])
def test_one_lost_image_at_30_and_25_hz_mixes_no_two_triggers(tmp_path, images, period_us):
    """Also with a tolerance of 50 ms, into which two triggers fit."""
    all_images = together(images, period_us)
    lost = all_images[6 * 4 + 2]
    path = write(tmp_path / "bag", [image for image in all_images if image is not lost])
    layout = load_layout("occ_perception")
    for tolerance_ms in (None, 50.0):
        with open_recording(path, replace(layout, sync_tolerance_ms=tolerance_ms)) as drive:
            assert all(len(set(stamps.values())) == 1 for stamps in frame_stamps(drive))
            assert (drive.counters.complete, drive.counters.incomplete) == (SWEEPS - 1, 1)
            (problem,) = drive.problems
            assert problem.reason == "missing_camera" and lost.channel in problem.text


def test_an_unreadable_image_leaves_its_frame_set_incomplete(tmp_path, images):
    """Its header can be read, its data cannot; the frame sets after it do not wait for it."""
    lost = images[6 * 4 + 2]
    whole = write(tmp_path / "whole", images)
    path = tmp_path / "bag"
    with Recording(whole) as recording, rosbag2.Writer(path, version=8) as writer:
        connections = {
            name: writer.add_connection(name, topic.kind, typestore=Messages().store)
            for name, topic in recording.topics.items()
        }
        for message in recording.messages():
            is_lost = (
                message.topic == camera_topic(lost.channel)
                and recording.header_stamp_ns(message) == lost.stamp_ns
            )
            raw = bytes(message.raw)
            writer.write(
                connections[message.topic], message.received_ns, raw[:60] if is_lost else raw
            )
    with open_recording(path) as drive:
        expected = sweeps(images)
        del expected[4]
        assert frame_stamps(drive) == expected
        assert [problem.reason for problem in drive.problems] == [
            "unreadable_message",
            "missing_camera",
        ]
        assert (drive.counters.complete, drive.counters.incomplete) == (SWEEPS - 1, 1)


def test_info_states_the_tolerance_and_where_it_comes_from(tmp_path, images):
    path = write(tmp_path / "bag", images)
    text = CliRunner().invoke(app, ["info", str(path)]).output
    assert "tolerance 58.0 ms, observed from the cameras' periods and phases" in text
    with Recording(path) as recording:
        layout = load_layout("occ_perception")
        index = index_frame_sets(recording, layout)
        assert index.tolerance_from == "observed" and len(index.frame_sets) == SWEEPS
        given = index_frame_sets(recording, replace(layout, sync_tolerance_ms=40.0))
        assert (given.tolerance_ns, given.tolerance_from) == (40 * MS, "layout")
        assert all(len(found.stamps_ns) < 6 for found in given.frame_sets)
    short = write(tmp_path / "short", images[:12])
    text = CliRunner().invoke(app, ["info", str(short)]).output
    assert "tolerance 50.0 ms, by default" in text


def test_frame_sets_do_not_cross_a_jump_back(tmp_path):
    """A loop; the last image before it is recorded after the first ones behind it."""
    images = drawn_images(keyframes=4)
    again = [replace(image) for image in images]
    behind = {id(image): 2000 * MS for image in again}
    behind[id(images[-2])] = 2000 * MS + 20 * MS - (images[-2].stamp_ns - images[0].stamp_ns)
    path = write(
        tmp_path / "bag",
        [*images, *again],
        lambda image: image.stamp_ns + behind.get(id(image), 0),
    )
    with open_recording(path) as drive:
        got = [(item.time_line, dict(item.frame_set.stamps_ns)) for item in drive.frame_sets()]
        expected = [(line, sweep) for line in (0, 1) for sweep in sweeps(images)]
        del expected[18][1][images[-2].channel]
        assert got == expected
        counters = drive.counters
        assert (counters.complete, counters.incomplete, counters.late) == (37, 1, 1)
        assert [problem.reason for problem in drive.problems] == ["time_jump"]
