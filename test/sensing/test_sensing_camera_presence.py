"""Silent cameras: who is, who only seems so, and frame sets that do without them."""

from __future__ import annotations

import pytest

from occ_perception.sensing.camera_presence import CameraPresence
from occ_perception.sensing.frame_sets import FrameSet, FrameSetGrouper

MS = 1_000_000
CAMERAS = ("left", "front", "right")


class Sweeps:
    """Cameras of a sweep, 10 ms apart, as presence and grouper see them."""

    def __init__(self, period_ms: int = 80, after_ms: int = 500) -> None:
        self.presence = CameraPresence(CAMERAS, after_ms * MS)
        self.grouper = FrameSetGrouper(CAMERAS, "front", 45 * MS, deadline_ns=150 * MS)
        self.period_ms = period_ms
        self.now_ms = 0

    def send(self, cameras: tuple[str, ...] = CAMERAS, **offset_ms: int) -> list[FrameSet]:
        """One sweep."""
        closed = []
        for index, camera in enumerate(CAMERAS):
            now = (self.now_ms + 10 * index) * MS
            if camera not in cameras:
                continue
            stamp = now + offset_ms.get(camera, 0) * MS
            if self.presence.saw(camera, stamp):
                closed += self.grouper.expect(self.presence.present)
            closed += self.grouper.add(camera, stamp, stamp, now)
        self.now_ms += self.period_ms
        return closed


def test_a_camera_is_silent_after_the_stated_time_and_back_with_its_next_image() -> None:
    sweeps = Sweeps()
    for _ in range(5):
        sweeps.send()
    dies_ms = sweeps.now_ms
    while not sweeps.presence.silent:
        sweeps.send(("left", "front"))
    # The first image of the others after the last one of this camera is where the time begins.
    assert sweeps.now_ms - sweeps.period_ms - dies_ms == 560
    assert sweeps.presence.silent == ("right",) and sweeps.presence.present == ("left", "front")
    sweeps.send()
    assert sweeps.presence.silent == ()


def test_a_camera_that_never_sends_is_silent_too() -> None:
    sweeps = Sweeps()
    for _ in range(10):
        sweeps.send(("front", "right"))
    assert sweeps.presence.silent == ("left",)


@pytest.mark.parametrize("offset_ms", [-37_000, 37_000])
def test_a_clock_that_is_off_makes_nobody_silent(offset_ms: int) -> None:
    sweeps = Sweeps()
    for _ in range(20):
        sweeps.send(right=offset_ms)
        assert sweeps.presence.silent == ()


def test_neither_lost_images_of_slow_cameras_nor_a_stop_of_all_nor_a_jump_are_silence() -> None:
    slow = Sweeps(period_ms=500)
    for lost in (False, False, False, True, False, False, True, True, False, False):
        slow.send(("left", "front") if lost else CAMERAS)
        assert slow.presence.silent == ()
    sweeps = Sweeps()
    sweeps.send()
    sweeps.now_ms += 60_000
    sweeps.send()
    sweeps.send(left=5000)  # its clock was set
    assert sweeps.presence.silent == ()


def test_after_a_reset_silent_cameras_stay_silent_and_earlier_stamps_count() -> None:
    sweeps = Sweeps()
    for _ in range(10):
        sweeps.send(("left", "front"))
    sweeps.presence.reset()
    assert not sweeps.presence.saw("front", 0)
    assert not sweeps.presence.saw("front", 400 * MS)
    assert sweeps.presence.silent == ("right",)
    assert sweeps.presence.saw("right", 410 * MS)


@pytest.mark.parametrize(("lost", "sweeps_to_return"), [("left", 1), ("right", 2)])
def test_frame_sets_close_without_a_silent_camera_as_soon_as_the_others_are_there(
    lost: str, sweeps_to_return: int
) -> None:
    sweeps = Sweeps()
    rest = tuple(camera for camera in CAMERAS if camera != lost)
    for _ in range(8):
        sweeps.send()
    for _ in range(8):
        sweeps.send(rest)
    (frame_set,) = sweeps.send(rest)
    assert tuple(frame_set.payloads) == rest
    assert (frame_set.missing, frame_set.masked) == ((), (lost,))
    # The last one of a sweep comes when its frame set has closed.
    (frame_set,) = [sweeps.send() for _ in range(sweeps_to_return)][-1]
    assert tuple(frame_set.payloads) == CAMERAS and frame_set.masked == ()
    assert frame_set.spread_ns == 20 * MS


def test_a_silent_reference_camera_is_replaced_by_the_first_that_sends_and_returns() -> None:
    sweeps = Sweeps()
    for _ in range(8):
        sweeps.send()
    while "front" not in sweeps.presence.silent:
        assert sweeps.send(("left", "right")) == []
    start_ms = sweeps.now_ms
    (frame_set,) = sweeps.send(("left", "right"))
    assert (frame_set.reference_camera, frame_set.masked) == ("left", ("front",))
    assert frame_set.reference_stamp_ns == start_ms * MS
    (frame_set,) = sweeps.send()
    assert frame_set.reference_camera == "front"
    assert frame_set.reference_stamp_ns == (start_ms + 90) * MS


def test_frame_sets_that_wait_are_completed_by_expecting_fewer_cameras() -> None:
    grouper = FrameSetGrouper(CAMERAS, "front", 45 * MS)
    for camera in ("left", "front"):
        assert grouper.add(camera, 0, camera) == []
    (frame_set,) = grouper.expect(("front", "left"))
    assert frame_set.payloads == {"left": "left", "front": "front"}
    assert grouper.counters.complete == 1 and grouper.counters.unmatched == 0
    grouper.add("left", 80 * MS, "left")
    assert grouper.expect(("right", "front")) == []
    assert grouper.counters.unmatched == 1, "the waiting image of a camera that is left out"
    with pytest.raises(KeyError, match="unknown camera 'left', expected one of front, right"):
        grouper.add("left", 100 * MS, "left")
