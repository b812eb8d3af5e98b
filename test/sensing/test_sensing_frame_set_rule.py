"""The frame set rule under every order, jitter and loss that hypothesis finds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occ_perception.sensing.frame_sets import FrameSet, FrameSetGrouper
from occ_perception.sensing.time_jumps import TimeJump

MS = 1_000_000
# Offsets to the lidar stamp, measured on real nuScenes keyframes, +-2.5 ms each.
OFFSETS_MS = {
    "CAM_FRONT_LEFT": -43.0,
    "CAM_FRONT": -35.0,
    "CAM_FRONT_RIGHT": -27.0,
    "CAM_BACK_RIGHT": -20.0,
    "CAM_BACK": -10.0,
    "CAM_BACK_LEFT": -0.4,
}
CAMERAS = tuple(OFFSETS_MS)
PERIOD_12_HZ = 83_333_333
START = 1_533_151_603_000 * MS


def images(frame_sets: int, period_ns: int, jitter_ms=None):
    """(camera, stamp, frame set number), in the order of stamps."""
    sent = [
        (
            c,
            START
            + k * period_ns
            + round((OFFSETS_MS[c] + (jitter_ms(k, c) if jitter_ms else 0.0)) * MS),
            k,
        )
        for k in range(frame_sets)
        for c in CAMERAS
    ]
    return sorted(sent, key=lambda image: image[1])


def group(grouper: FrameSetGrouper, sent) -> list[FrameSet]:
    frame_sets = [
        frame_set for camera, stamp, k in sent for frame_set in grouper.add(camera, stamp, k)
    ]
    return frame_sets + grouper.flush()


def frame_set_numbers(frame_set: FrameSet) -> set[int]:
    return set(frame_set.payloads.values())


jitters = st.lists(st.floats(-2.5, 2.5), min_size=8 * 6, max_size=8 * 6)


@pytest.mark.parametrize("period_ns", [PERIOD_12_HZ, 500 * MS])
@pytest.mark.parametrize("reference", CAMERAS)
@given(jitter=jitters)
@settings(max_examples=25, deadline=None)
def test_every_rotation_gives_one_frame_set_and_none_is_mixed(period_ns, reference, jitter):
    grouper = FrameSetGrouper(CAMERAS, reference)
    sent = images(8, period_ns, lambda k, c: jitter[k * 6 + CAMERAS.index(c)])
    frame_sets = group(grouper, sent)
    assert [frame_set_numbers(frame_set) for frame_set in frame_sets] == [{k} for k in range(8)]
    assert all(not frame_set.missing for frame_set in frame_sets)
    assert all(
        frame_set.reference_stamp_ns == frame_set.stamps_ns[reference] for frame_set in frame_sets
    )
    assert all(37 * MS < frame_set.spread_ns < 48 * MS for frame_set in frame_sets)
    assert (grouper.counters.complete, grouper.counters.incomplete) == (8, 0)


@given(orders=st.lists(st.permutations(CAMERAS), min_size=6, max_size=6))
@settings(max_examples=100, deadline=None)
def test_arrival_order_within_a_frame_set_changes_nothing(orders):
    sent = images(6, PERIOD_12_HZ)
    by_frame_set = {k: {c: (c, s, k) for c, s, n in sent if n == k} for k in range(6)}
    permuted = [by_frame_set[k][camera] for k, order in enumerate(orders) for camera in order]
    expected = group(FrameSetGrouper(CAMERAS, "CAM_FRONT"), sent)
    frame_sets = group(FrameSetGrouper(CAMERAS, "CAM_FRONT"), permuted)
    assert [r.stamps_ns for r in frame_sets] == [r.stamps_ns for r in expected]
    assert [r.payloads for r in frame_sets] == [r.payloads for r in expected]


@given(
    delays=st.lists(st.integers(0, 200), min_size=60, max_size=60),
    lost=st.sets(st.tuples(st.integers(0, 9), st.sampled_from(CAMERAS)), max_size=25),
    repeated=st.sets(st.tuples(st.integers(0, 9), st.sampled_from(CAMERAS)), max_size=10),
)
@settings(max_examples=200, deadline=None)
def test_in_any_order_of_arrival_no_image_is_used_twice_and_no_frame_set_is_mixed(
    delays, lost, repeated
):
    """Late, lost, repeated and overtaking images: frame sets stay pure, ordered, accounted for.

    A rotation whose reference image was lost makes no frame set, and its last image may lie
    within the tolerance of the next reference image: there it can fill the gap of one that was
    lost.
    """
    sent = [p for p in images(10, PERIOD_12_HZ) if (p[2], p[0]) not in lost]
    again = [p for p in sent if (p[2], p[0]) in repeated]
    arrivals = [(stamp + delays[i % 60] * MS, c, stamp, k) for i, (c, stamp, k) in enumerate(sent)]
    arrivals += [(stamp + 250 * MS, c, stamp, k) for c, stamp, k in again]
    grouper = FrameSetGrouper(CAMERAS, "CAM_FRONT")
    frame_sets: list[FrameSet] = []
    for now, camera, stamp, k in sorted(arrivals):
        frame_sets += grouper.add(camera, stamp, k, now_ns=now)
    frame_sets += grouper.flush()

    used = Counter(
        (camera, stamp) for frame_set in frame_sets for camera, stamp in frame_set.stamps_ns.items()
    )
    assert all(count == 1 for count in used.values())
    for frame_set in frame_sets:
        own = frame_set.payloads["CAM_FRONT"]
        strangers = frame_set_numbers(frame_set) - {own}
        assert not strangers or frame_set.missing
        assert all((number, "CAM_FRONT") in lost for number in strangers)
    references = [frame_set.reference_stamp_ns for frame_set in frame_sets]
    assert references == sorted(set(references))
    assert all(
        set(frame_set.payloads) | set(frame_set.missing) == set(CAMERAS) for frame_set in frame_sets
    )
    assert all(frame_set.spread_ns <= grouper.tolerance_ns for frame_set in frame_sets)

    counted = grouper.counters
    assert counted.complete + counted.incomplete == len(frame_sets)
    assert sum(used.values()) + counted.late + counted.duplicate + counted.unmatched == len(
        arrivals
    )


def test_a_full_queue_takes_no_older_image_of_the_reference_camera():
    """Nothing else fails over it: what comes is dropped as the oldest, and counted."""
    grouper = FrameSetGrouper(("a", "b"), "b", max_pending=2)
    for stamp in (200, 300, 100):
        assert grouper.add("b", stamp * MS, stamp, now_ns=0) == []
    assert grouper.counters.unmatched == 1
    assert [frame_set.reference_stamp_ns for frame_set in grouper.flush()] == [200 * MS, 300 * MS]


@given(stamps=st.lists(st.integers(0, 3_000), min_size=1, max_size=80), data=st.data())
@settings(max_examples=100, deadline=None)
def test_arbitrary_stamps_keep_the_queues_bounded(stamps, data):
    grouper = FrameSetGrouper(("a", "b", "c"), "b", max_pending=4)
    for stamp in stamps:
        camera = data.draw(st.sampled_from(["a", "b", "c"]))
        try:
            frame_sets = grouper.add(camera, stamp * MS, stamp)
        except TimeJump:
            grouper.reset()
            continue
        assert all(frame_set.spread_ns <= grouper.tolerance_ns for frame_set in frame_sets)
        assert all(len(pending) <= 4 for pending in grouper._stamps.values())
