"""Frame sets for the worker: nothing waits for it, the newest is kept, and time may go back."""

from __future__ import annotations

import importlib.util
import re
import threading
import time

import pytest

pytest.importorskip("occ_perception.ros.synchronizer", exc_type=ImportError)

from rclpy.clock import Clock
from rclpy.logging import get_logger

from occ_perception.models.zoo import get_card
from occ_perception.ros.node_plan import plan_node
from occ_perception.ros.parameters import NodeParameters, ParameterError
from occ_perception.ros.synchronizer import (
    FrameSetIntake,
    Mailbox,
    MessageFiltersSynchronizer,
    NativeSynchronizer,
    SyncPolicyError,
)
from occ_perception.sensing.calibration import load_rig
from occ_perception.sensing.frame_sets import FrameSet, FrameSetGrouper
from occ_perception.sensing.images import EncodedImage
from occ_perception.sensing.time_jumps import TimeJump, TimeLine

pytestmark = pytest.mark.ros

CAMERAS = ("A", "B", "C")
MS = 1_000_000


def native(deliver: object) -> NativeSynchronizer:
    grouper = FrameSetGrouper(CAMERAS, "B", tolerance_ns=50 * MS, deadline_ns=100 * MS)
    return NativeSynchronizer(grouper, deliver)


def test_deadlines_count_from_arrival_not_from_stamps() -> None:
    """Stamps of a bag from years ago must not count as late on today's clock."""
    frame_sets: list[FrameSet] = []
    synchronizer = native(frame_sets.append)
    now = 10**18
    synchronizer.add("A", 1000 * MS, "a", now)
    synchronizer.add("B", 1010 * MS, "b", now)
    synchronizer.tick(now + 99 * MS)
    assert frame_sets == []
    synchronizer.tick(now + 100 * MS)
    assert [frame_set.missing for frame_set in frame_sets] == [("C",)]
    assert synchronizer.counters.incomplete == 1


def test_a_slow_receiver_does_not_hold_the_lock() -> None:
    """While one thread delivers a frame set, another can add images."""
    delivering, release = threading.Event(), threading.Event()

    def slow(_: FrameSet) -> None:
        delivering.set()
        assert release.wait(10)

    synchronizer = native(slow)
    synchronizer.add("A", 0, "a", 0)
    synchronizer.add("B", 10 * MS, "b", 0)
    thread = threading.Thread(target=synchronizer.add, args=("C", 20 * MS, "c", 0))
    thread.start()
    assert delivering.wait(10)
    begin = time.monotonic()
    synchronizer.add("A", 500 * MS, "a", 0)
    assert time.monotonic() - begin < 1.0
    release.set()
    thread.join(10)
    assert synchronizer.counters.complete == 1


def test_a_receiver_that_raises_does_not_break_the_synchronizer() -> None:
    frame_sets: list[FrameSet] = []

    def raise_once(frame_set: FrameSet) -> None:
        frame_sets.append(frame_set)
        if len(frame_sets) == 1:
            raise RuntimeError("receiver")

    synchronizer = native(raise_once)
    for start in (0, 500 * MS):
        synchronizer.add("A", start, "a", 0)
        synchronizer.add("B", start, "b", 0)
        try:
            synchronizer.add("C", start, "c", 0)
        except RuntimeError:
            assert start == 0
    assert len(frame_sets) == 2


def test_after_a_jump_back_and_a_reset_frame_sets_are_delivered_again() -> None:
    frame_sets: list[FrameSet] = []
    synchronizer = native(frame_sets.append)
    for camera in CAMERAS:
        synchronizer.add(camera, 100_000 * MS, camera, 0)
    with pytest.raises(TimeJump):
        synchronizer.add("A", 0, "a", 0)
    synchronizer.reset()
    for camera in CAMERAS:
        synchronizer.add(camera, 0, camera, 0)
    assert [frame_set.reference_stamp_ns for frame_set in frame_sets] == [100_000 * MS, 0]


def test_the_newest_item_wins_and_the_others_are_counted() -> None:
    mailbox: Mailbox[int] = Mailbox()
    for item in (1, 2, 3):
        mailbox.put(item)
    assert mailbox.take() == 3
    assert mailbox.overwritten == 2
    mailbox.put(4)
    mailbox.clear()
    mailbox.put(5)
    assert (mailbox.take(), mailbox.overwritten) == (5, 2)


def test_a_closed_mailbox_ends_the_wait() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int | None] = []
    thread = threading.Thread(target=lambda: taken.append(mailbox.take()))
    thread.start()
    mailbox.close()
    thread.join(10)
    assert taken == [None]


def test_leftovers_of_the_old_time_line_are_refused_for_a_while() -> None:
    line = TimeLine()
    assert not line.is_leftover(100_000 * MS)
    line.jumped(100_000 * MS, "bag started over")
    assert line.is_leftover(99_990 * MS)
    assert not line.is_leftover(5 * MS)
    time.sleep(0.6)
    assert not line.is_leftover(99_990 * MS)
    assert (line.jumps, line.leftovers) == (1, 1)


HAS_MESSAGE_FILTERS = importlib.util.find_spec("message_filters") is not None


@pytest.mark.skipif(HAS_MESSAGE_FILTERS, reason="message_filters is installed")
def test_a_missing_message_filters_package_is_an_error() -> None:
    with pytest.raises(SyncPolicyError, match=r"use sync\.policy: native"):
        MessageFiltersSynchronizer(CAMERAS, "B", 50 * MS, lambda _: None)


@pytest.mark.skipif(not HAS_MESSAGE_FILTERS, reason="message_filters is not installed")
def test_message_filters_gives_the_same_frame_sets_and_survives_a_jump() -> None:
    frame_sets: list[FrameSet] = []
    synchronizer = MessageFiltersSynchronizer(CAMERAS, "B", 50 * MS, frame_sets.append)

    def rotation(start: int) -> None:
        for index, camera in enumerate(CAMERAS):
            synchronizer.add(camera, start + index * 10 * MS, camera, 0)

    rotation(100_000 * MS)
    rotation(100_500 * MS)
    with pytest.raises(TimeJump):
        rotation(0)
    synchronizer.reset()
    rotation(0)
    assert [frame_set.reference_stamp_ns for frame_set in frame_sets] == [
        100_010 * MS,
        100_510 * MS,
        10 * MS,
    ]
    assert frame_sets[0].payloads == {"A": "A", "B": "B", "C": "C"}
    assert synchronizer.counters.complete == 3


def make_intake(**parameters: object) -> FrameSetIntake:
    """The node's intake for the cameras of a model, with everything calibrated."""
    values = NodeParameters(rig="nuscenes", **parameters)
    plan = plan_node(values, get_card("alocc_2d_mini"))
    rig = load_rig("nuscenes")
    logger = get_logger("synchronizer_test")
    return FrameSetIntake(plan, values, lambda: rig, lambda _: None, Clock(), logger)


def send_sweep(intake: FrameSetIntake, start: int, delay: dict[str, int] | None = None) -> None:
    for index, camera in enumerate(load_rig("nuscenes").names):
        stamp = start + 8 * index * MS + (delay or {}).get(camera, 0)
        intake.add(camera, stamp, EncodedImage("jpeg", b""))


def test_the_status_states_the_tolerance_and_where_it_comes_from() -> None:
    intake = make_intake()
    before = intake.status(60.0, 0).values
    assert (before["tolerance_ms"], before["tolerance_from"]) == (50.0, "default")
    for k in range(8):
        send_sweep(intake, k * 80 * MS)
    after = intake.status(60.0, 0)
    assert after.values["complete"] == 8 and after.values["tolerance_from"] == "observed"
    assert after.values["tolerance_ms"] == 56.0, "between 40 and 72"
    given = make_intake(sync_tolerance_ms=45.0).status(60.0, 0).values
    assert (given["tolerance_ms"], given["tolerance_from"]) == (45.0, "given")


def test_the_status_states_how_far_a_camera_is_behind() -> None:
    intake = make_intake(sync_deadline_ms=1.0)
    for k in range(3):
        send_sweep(intake, (10**6 + k * 80) * MS, {"CAM_BACK": -37_000 * MS})
        time.sleep(0.01)
        intake.tick()
    status = intake.status(60.0, 0)
    assert "3 frame sets without CAM_BACK since last report" in status.message
    assert "the stamps of CAM_BACK are 36." in status.message or (
        "the stamps of CAM_BACK are 37." in status.message
    )
    assert "s behind those of CAM_FRONT: its clock is wrong; synchronise it" in status.message


def test_the_status_blames_a_silent_reference_camera_rather_than_the_tolerance() -> None:
    intake = make_intake()
    for camera in load_rig("nuscenes").names:
        if camera != "CAM_FRONT":
            intake.add(camera, 0, EncodedImage("jpeg", b""))
    text = intake.status(60.0, 0).message
    assert text == "no frame set yet; no image of the reference camera CAM_FRONT yet"
    intake.add("CAM_FRONT", 500 * MS, EncodedImage("jpeg", b""))
    assert "must lie within 50 ms (sync.tolerance_ms)" in intake.status(60.0, 0).message
    time.sleep(0.02)
    text = intake.status(0.01, 0).message
    assert "no image of the reference camera CAM_FRONT for 0.0 s" in text


def test_the_status_names_silent_cameras_and_whose_time_the_grid_has() -> None:
    intake = make_intake(missing_camera="mask", sync_deadline_ms=1000.0)
    names = load_rig("nuscenes").names
    for k in range(20):
        for index, camera in enumerate(names):
            if k < 8 or camera not in ("CAM_FRONT", "CAM_BACK"):
                intake.add(camera, (80 * k + 8 * index) * MS, EncodedImage("jpeg", b""))
    status = intake.status(60.0, 0)
    reference = next(name for name in names if name not in ("CAM_FRONT", "CAM_BACK"))
    assert status.message == (
        "frame sets do without CAM_FRONT, CAM_BACK until images come again; the grid has the time "
        f"of {reference}"
    )
    assert status.values["masked"] == "CAM_FRONT, CAM_BACK"
    assert status.values["reference_camera"] == reference
    assert int(status.values["taken_masked"]) >= 3
    job = intake.jobs.take()
    assert job is not None and job.frame_set.reference_camera == reference
    assert job.frame_set.masked == ("CAM_FRONT", "CAM_BACK")


def test_masking_and_the_policy_that_delivers_whole_frame_sets_only_exclude_each_other() -> None:
    with pytest.raises(ParameterError, match=r"missing_camera: mask needs sync\.policy: native"):
        make_intake(missing_camera="mask", sync_policy="message_filters")


def test_the_status_states_the_deadline_that_a_late_camera_needs() -> None:
    intake = make_intake(sync_deadline_ms=20.0)
    names = [name for name in load_rig("nuscenes").names if name != "CAM_BACK"]
    for k in range(3):
        for camera in names:
            intake.add(camera, 10**12 + 80 * k * MS, EncodedImage("jpeg", b""))
        time.sleep(0.06)
        intake.tick()
        intake.add("CAM_BACK", 10**12 + 80 * k * MS, EncodedImage("jpeg", b""))
    status = intake.status(60.0, 0)
    assert status.values["late"] == 3
    words = re.search(
        r"images of CAM_BACK come (\d+) ms after those of CAM_FRONT with the same stamp: "
        r"sync\.deadline_ms: (\d+) would wait for them \(it is 20\), unless its clock is behind",
        status.message,
    )
    assert words is not None, status.message
    late_ms, enough_ms = map(int, words.groups())
    assert 60 <= late_ms < enough_ms <= 1.25 * late_ms + 51


def test_the_status_states_how_far_a_clock_is_ahead() -> None:
    intake = make_intake(sync_deadline_ms=1.0)
    for k in range(3):
        send_sweep(intake, (10**6 + k * 80) * MS, {"CAM_BACK": 2_000 * MS})
        time.sleep(0.01)
        intake.tick()
    assert "s ahead of those of CAM_FRONT: its clock is wrong" in intake.status(60.0, 0).message
