"""Frame sets when cameras fail: deadlines, losses, time jumps."""

from __future__ import annotations

import pytest

from occ_perception.sensing.frame_sets import FrameSetGrouper
from occ_perception.sensing.time_jumps import TimeJump

MS = 1_000_000


def grouper(**options) -> FrameSetGrouper:
    return FrameSetGrouper(("left", "front", "right"), "front", **options)


def add_frame_set(frame_sets: FrameSetGrouper, start_ms: float, cameras=("left", "front", "right")):
    closed = []
    for index, camera in enumerate(("left", "front", "right")):
        if camera in cameras:
            stamp = round((start_ms + 10 * index) * MS)
            closed += frame_sets.add(camera, stamp, f"{camera} {start_ms}")
    return closed


def test_a_complete_frame_set_closes_with_its_last_image():
    frame_sets = grouper()
    assert frame_sets.add("left", 0, "l") == []
    assert frame_sets.add("front", 10 * MS, "f") == []
    (frame_set,) = frame_sets.add("right", 20 * MS, "r")
    assert frame_set.payloads == {"left": "l", "front": "f", "right": "r"}
    assert frame_set.reference_stamp_ns == 10 * MS
    assert (frame_set.spread_ns, frame_set.newest_stamp_ns) == (20 * MS, 20 * MS)


def test_an_incomplete_frame_set_closes_at_the_deadline_after_the_reference_arrived():
    frame_sets = grouper(deadline_ns=100 * MS)
    frame_sets.add("left", 0, "l", now_ns=1000 * MS)
    frame_sets.add("front", 10 * MS, "f", now_ns=1030 * MS)
    assert frame_sets.expire(1129 * MS) == []
    (frame_set,) = frame_sets.expire(1130 * MS)
    assert frame_set.missing == ("right",)
    assert frame_sets.counters.incomplete == 1


def test_a_later_complete_frame_set_closes_the_earlier_one_first():
    frame_sets = grouper()
    assert add_frame_set(frame_sets, 0, cameras=("left", "front")) == []
    first, second = add_frame_set(frame_sets, 100)
    assert first.missing == ("right",) and not second.missing
    assert (frame_sets.counters.incomplete, frame_sets.counters.complete) == (1, 1)


def test_an_image_that_comes_after_its_frame_set_was_closed_is_late():
    frame_sets = grouper(deadline_ns=50 * MS)
    frame_sets.add("left", 0, "l")
    frame_sets.add("front", 10 * MS, "f")
    assert len(frame_sets.expire(70 * MS)) == 1
    assert frame_sets.add("right", 20 * MS, "too late") == []
    assert frame_sets.counters.late == 1
    (frame_set,) = add_frame_set(frame_sets, 100)
    assert frame_set.payloads["right"] == "right 100"


def test_after_a_deadline_the_next_image_is_not_late_though_the_tolerance_reaches_it():
    frame_sets = grouper(tolerance_ns=50 * MS, deadline_ns=60 * MS)
    closed = []
    for start in range(0, 400, 40):
        for camera in ("left", "front", "right"):
            if (start, camera) != (200, "right"):
                closed += frame_sets.add(camera, start * MS, start, now_ns=5 * start * MS)
        closed += frame_sets.expire((5 * start + 100) * MS)
    assert [frame_set.missing for frame_set in closed] == [()] * 5 + [("right",)] + [()] * 4
    assert all(len(set(frame_set.payloads.values())) == 1 for frame_set in closed)
    assert frame_sets.counters.late == 0


def test_without_the_reference_camera_there_is_no_frame_set_and_the_images_are_counted():
    frame_sets = grouper(max_pending=3)
    for start in range(0, 1000, 100):
        assert add_frame_set(frame_sets, start, cameras=("left", "right")) == []
    assert frame_sets.counters.unmatched == 14
    assert frame_sets.flush() == []
    assert frame_sets.counters.unmatched == 20


def test_a_camera_that_is_gone_leaves_every_frame_set_incomplete():
    frame_sets = grouper(deadline_ns=50 * MS)
    closed = []
    for start in range(0, 1000, 100):
        closed += add_frame_set(frame_sets, start, cameras=("left", "front"))
    closed += frame_sets.flush()
    assert [frame_set.missing for frame_set in closed] == [("right",)] * 10


def test_duplicates_are_ignored_before_and_after_the_frame_set_closed():
    frame_sets = grouper()
    frame_sets.add("left", 0, "first")
    frame_sets.add("left", 0, "second")
    frame_sets.add("front", 10 * MS, "f")
    (frame_set,) = frame_sets.add("right", 20 * MS, "r")
    assert frame_set.payloads["left"] == "first"
    frame_sets.add("right", 20 * MS, "again")
    assert frame_sets.counters.duplicate == 2


def test_images_that_overtake_each_other_still_find_their_frame_sets():
    frame_sets = grouper()
    frame_sets.add("left", 0, "l0")
    frame_sets.add("left", 100 * MS, "l1")
    frame_sets.add("front", 110 * MS, "f1")
    frame_sets.add("front", 10 * MS, "f0")
    assert frame_sets.counters.out_of_order == 1
    (first,) = frame_sets.add("right", 20 * MS, "r0")
    (second,) = frame_sets.add("right", 120 * MS, "r1")
    assert set(first.payloads.values()) == {"l0", "f0", "r0"}
    assert set(second.payloads.values()) == {"l1", "f1", "r1"}


def test_time_going_back_is_reported_and_a_reset_takes_the_new_time_line():
    frame_sets = grouper()
    add_frame_set(frame_sets, 100_000)
    with pytest.raises(TimeJump) as jump:
        frame_sets.add("left", 0, "l")
    assert jump.value.source == "left"
    assert (jump.value.from_ns, jump.value.to_ns) == (100_000 * MS, 0)
    assert "went back by 100.000 s" in str(jump.value)
    frame_sets.reset()
    assert len(add_frame_set(frame_sets, 0)) == 1
    assert frame_sets.counters.complete == 2


def test_one_camera_on_another_clock_does_not_look_like_time_going_back():
    frame_sets = grouper()
    for k in range(5):
        frame_sets.add("front", (5000 + 100 * k) * MS, "f")
        frame_sets.add("left", (100 * k) * MS, "two clocks")
    assert frame_sets.counters.complete == 0


def test_cameras_are_checked():
    with pytest.raises(ValueError, match="'rear' is not among the cameras left, right"):
        FrameSetGrouper(("left", "right"), "rear")
    with pytest.raises(ValueError, match="unique"):
        FrameSetGrouper(("left", "left"), "left")
    with pytest.raises(KeyError, match="unknown camera 'rear', expected one of left, front, right"):
        grouper().add("rear", 0, None)
