"""Rings of a robot whose cameras fail: deadlines, losses, jumps of time."""

from __future__ import annotations

import pytest

from occ_perception.sensing.rings import RingGrouper
from occ_perception.sensing.time_jumps import TimeJump

MS = 1_000_000


def grouper(**options) -> RingGrouper:
    return RingGrouper(("left", "front", "right"), "front", **options)


def add_ring(rings: RingGrouper, start_ms: float, cameras=("left", "front", "right")):
    closed = []
    for index, camera in enumerate(("left", "front", "right")):
        if camera in cameras:
            stamp = round((start_ms + 10 * index) * MS)
            closed += rings.add(camera, stamp, f"{camera} {start_ms}")
    return closed


def test_a_complete_ring_closes_with_its_last_picture():
    rings = grouper()
    assert rings.add("left", 0, "l") == []
    assert rings.add("front", 10 * MS, "f") == []
    (ring,) = rings.add("right", 20 * MS, "r")
    assert ring.payloads == {"left": "l", "front": "f", "right": "r"}
    assert ring.reference_stamp_ns == 10 * MS
    assert (ring.spread_ns, ring.newest_stamp_ns) == (20 * MS, 20 * MS)


def test_an_incomplete_ring_closes_at_the_deadline_after_the_reference_arrived():
    rings = grouper(deadline_ns=100 * MS)
    rings.add("left", 0, "l", now_ns=1000 * MS)
    rings.add("front", 10 * MS, "f", now_ns=1030 * MS)
    assert rings.expire(1129 * MS) == []
    (ring,) = rings.expire(1130 * MS)
    assert ring.missing == ("right",)
    assert rings.counters.incomplete == 1


def test_a_later_complete_ring_closes_the_earlier_one_first():
    rings = grouper()
    assert add_ring(rings, 0, cameras=("left", "front")) == []
    first, second = add_ring(rings, 100)
    assert first.missing == ("right",) and not second.missing
    assert (rings.counters.incomplete, rings.counters.complete) == (1, 1)


def test_a_picture_that_comes_after_its_ring_was_closed_is_late():
    rings = grouper(deadline_ns=50 * MS)
    rings.add("left", 0, "l")
    rings.add("front", 10 * MS, "f")
    assert len(rings.expire(70 * MS)) == 1
    assert rings.add("right", 20 * MS, "too late") == []
    assert rings.counters.late == 1
    (ring,) = add_ring(rings, 100)
    assert ring.payloads["right"] == "right 100"


def test_without_the_reference_camera_there_is_no_ring_and_the_pictures_are_counted():
    rings = grouper(max_pending=3)
    for start in range(0, 1000, 100):
        assert add_ring(rings, start, cameras=("left", "right")) == []
    assert rings.counters.unmatched == 14
    assert rings.flush() == []
    assert rings.counters.unmatched == 20


def test_a_camera_that_is_gone_leaves_every_ring_incomplete():
    rings = grouper(deadline_ns=50 * MS)
    closed = []
    for start in range(0, 1000, 100):
        closed += add_ring(rings, start, cameras=("left", "front"))
    closed += rings.flush()
    assert [ring.missing for ring in closed] == [("right",)] * 10


def test_duplicates_are_ignored_before_and_after_the_ring_closed():
    rings = grouper()
    rings.add("left", 0, "first")
    rings.add("left", 0, "second")
    rings.add("front", 10 * MS, "f")
    (ring,) = rings.add("right", 20 * MS, "r")
    assert ring.payloads["left"] == "first"
    rings.add("right", 20 * MS, "again")
    assert rings.counters.duplicate == 2


def test_pictures_that_overtake_each_other_still_find_their_rings():
    rings = grouper()
    rings.add("left", 0, "l0")
    rings.add("left", 100 * MS, "l1")
    rings.add("front", 110 * MS, "f1")
    rings.add("front", 10 * MS, "f0")
    assert rings.counters.out_of_order == 1
    (first,) = rings.add("right", 20 * MS, "r0")
    (second,) = rings.add("right", 120 * MS, "r1")
    assert set(first.payloads.values()) == {"l0", "f0", "r0"}
    assert set(second.payloads.values()) == {"l1", "f1", "r1"}


def test_time_going_back_is_reported_and_a_reset_takes_the_new_time_line():
    rings = grouper()
    add_ring(rings, 100_000)
    with pytest.raises(TimeJump) as jump:
        rings.add("left", 0, "l")
    assert jump.value.source == "left"
    assert (jump.value.from_ns, jump.value.to_ns) == (100_000 * MS, 0)
    assert "went back by 100.000 s" in str(jump.value)
    rings.reset()
    assert len(add_ring(rings, 0)) == 1
    assert rings.counters.complete == 2


def test_one_camera_on_another_clock_does_not_look_like_time_going_back():
    rings = grouper()
    for k in range(5):
        rings.add("front", (5000 + 100 * k) * MS, "f")
        rings.add("left", (100 * k) * MS, "two clocks")
    assert rings.counters.complete == 0


def test_cameras_are_checked():
    with pytest.raises(ValueError, match="'rear' is not among the cameras left, right"):
        RingGrouper(("left", "right"), "rear")
    with pytest.raises(ValueError, match="unique"):
        RingGrouper(("left", "left"), "left")
    with pytest.raises(KeyError, match="'rear' is none of left, front, right"):
        grouper().add("rear", 0, None)
