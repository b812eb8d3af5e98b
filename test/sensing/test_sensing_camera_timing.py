"""The tolerance that the stamps of cameras call for."""

from __future__ import annotations

import random

import pytest

from occ_perception.sensing.camera_timing import observed_period, observed_tolerance
from occ_perception.sensing.frame_set_rule import frame_sets_of
from occ_perception.sensing.frame_sets import FrameSetGrouper

MS = 1_000_000
SWEEP_MS = (0.0, 8.0, 16.0, 23.0, 33.0, 42.5)
"""When the six cameras of nuScenes expose within a sweep of 83.3 ms."""


def stream(
    period_ms: float, phases_ms: tuple[float, ...], *, images=100, jitter_ms=0.0, lost=0.0, fast=1
) -> dict[str, list[int]]:
    """Stamps of cameras; the first is ``fast`` times as fast."""
    draw = random.Random(1)
    return {
        f"camera {c}": sorted(
            round((period_ms * k / rate + phase + draw.uniform(-jitter_ms, jitter_ms)) * MS)
            for k in range(images * rate)
            if draw.random() >= lost
        )
        for c, phase in enumerate(phases_ms)
        for rate in [fast if c == 0 else 1]
    }


@pytest.mark.parametrize(
    ("stamps", "low_ms", "high_ms"),
    [
        pytest.param(stream(83.3, SWEEP_MS), 57.0, 58.5, id="a sweep: between 42.5 and 73.3"),
        pytest.param(stream(1000 / 30, (0.0,) * 6), 16.6, 16.7, id="together at 30 Hz: half of 33"),
        pytest.param(stream(40.0, (0.0,) * 6), 19.9, 20.1, id="together at 25 Hz"),
        pytest.param(stream(83.3, SWEEP_MS, jitter_ms=2.5), 52.0, 62.0, id="jitter"),
        pytest.param(stream(83.3, SWEEP_MS, lost=0.1), 56.0, 60.0, id="one image in ten lost"),
        pytest.param(stream(1000 / 30, (0.0,) * 6, lost=0.1), 16.6, 16.7, id="the same at 30 Hz"),
        pytest.param(stream(83.3, SWEEP_MS, fast=2), 45.0, 72.0, id="one camera twice as fast"),
        pytest.param(stream(100.0, (0.0, 50.0), jitter_ms=1.0), 51.0, 60.0, id="by turns"),
    ],
)
def test_the_tolerance_lies_between_one_trigger_and_two_mixed(stamps, low_ms, high_ms):
    assert low_ms * MS < observed_tolerance(stamps) < high_ms * MS


def test_keyframes_at_uneven_times_keep_their_phases():
    draw = random.Random(2)
    times = [500.0 * k + draw.uniform(-100, 100) for k in range(40)]
    stamps = {
        f"camera {c}": [round((t + phase) * MS) for t in times] for c, phase in enumerate(SWEEP_MS)
    }
    assert 43 * MS < observed_tolerance(stamps) < 300 * MS


def test_cameras_that_drift_past_each_other_stay_in_frame_sets():
    """Without a common trigger nothing is mixed; the tolerance leaves room for every phase."""
    stamps = {
        f"camera {c}": [round((33.3 + 0.01 * c) * k * MS) for k in range(6000)] for c in range(6)
    }
    sets = frame_sets_of(stamps, "camera 0", observed_tolerance(stamps))
    assert sum(len(chosen) == 6 for chosen in sets) > 5900


def test_too_few_images_show_nothing():
    assert observed_tolerance({"a": [0, 100, 200, 300, 400]}) is None
    assert observed_tolerance({"a": [0, 100, 200, 300, 400], "b": []}) is None
    assert observed_tolerance({"a": [0, 100, 200], "b": [0, 100, 200]}) is None
    assert observed_tolerance({"a": [0, 10, 20, 30], "b": [900, 910, 920, 930]}) is None


def test_the_period_is_the_usual_step():
    assert observed_period([]) is None and observed_period([5]) is None
    assert observed_period([0, 100, 200, 400, 500]) == 100
    assert observed_period([0, 100, 300]) == 100


def test_the_grouper_observes_the_tolerance_unless_one_is_given():
    for given, expected in ((None, 20 * MS), (35 * MS, 35 * MS)):
        grouper = FrameSetGrouper(("a", "b"), "a", given)
        before = grouper.tolerance_ns
        for k in range(10):
            grouper.add("a", 40 * k * MS, None)
            grouper.add("b", 40 * k * MS, None)
        assert (before, grouper.tolerance_ns) == (given or 50 * MS, expected)
        grouper.reset()
        assert grouper.tolerance_ns == expected, "the cameras are the same after a jump"


def test_a_lost_image_at_30_hz_mixes_nothing_with_the_observed_tolerance():
    cameras = tuple("abcdef")
    grouper = FrameSetGrouper(cameras, "a")
    frame_sets = []
    for k in range(60):
        for camera in cameras:
            if (k, camera) != (20, "e"):
                now = k * 33 * MS
                frame_sets += grouper.add(camera, round(k * 1000 / 30) * MS, k, now)
    assert all(len(set(frame_set.payloads.values())) == 1 for frame_set in frame_sets)
    assert [f.missing for f in frame_sets].count(()) == 59
    assert [f.reference_stamp_ns for f in frame_sets if f.missing] == [667 * MS]
