"""Frame sets of live images: the frame set rule applied to what has arrived.

Cameras triggered by a spinning lidar expose one after the other, so the images of a frame set have
different stamps. In nuScenes a frame set of six spreads over 42.5 ms and comes every 83 ms. The
rule itself, which recordings and live images share, is in :mod:`~.frame_set_rule`.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from occ_perception.sensing.camera_timing import (
    UNOBSERVED_TOLERANCE_NS,
    observed_period,
    observed_tolerance,
)
from occ_perception.sensing.frame_set_rule import (
    Chosen,
    frame_sets_of,
    is_surplus,
    may_become_tighter,
)
from occ_perception.sensing.time_jumps import BACKWARD_JUMP_NS, TimeJump

_OBSERVED_IMAGES = 32
"""Images per camera that the tolerance is observed on."""

_OBSERVED_STEPS = 5
"""Steps between images that a camera's period is observed on."""


@dataclass(frozen=True, eq=False)
class FrameSet:
    """The images of one trigger or rotation.

    Attributes:
        reference_camera: the camera whose stamp is that of the frame set; every one has its image.
        payloads: camera -> payload passed to :meth:`FrameSetGrouper.add`.
        stamps_ns: camera -> stamp, for the same cameras.
        missing: cameras without an image in this frame set, in the grouper's order.
        reused: cameras whose image comes from an earlier frame set, see
            :class:`~.assembly.LastImages`.
        masked: cameras that it does without, see :meth:`FrameSetGrouper.expect`; not missing.
    """

    reference_camera: str
    payloads: Mapping[str, Any]
    stamps_ns: Mapping[str, int]
    missing: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        chosen: Chosen,
        payloads: Mapping[str, Any],
        cameras: Sequence[str],
        reference: str,
        masked: tuple[str, ...] = (),
    ) -> FrameSet:
        """The frame set of a rule's choice; ``cameras`` are those of a complete one."""
        return cls(
            reference_camera=reference,
            payloads=payloads,
            stamps_ns=chosen,
            missing=tuple(camera for camera in cameras if camera not in chosen),
            masked=masked,
        )

    @property
    def reference_stamp_ns(self) -> int:
        """Stamp of the reference camera's image."""
        return self.stamps_ns[self.reference_camera]

    @property
    def spread_ns(self) -> int:
        """Newest minus oldest stamp of its own images."""
        own = [stamp for camera, stamp in self.stamps_ns.items() if camera not in self.reused]
        return max(own) - min(own)

    @property
    def newest_stamp_ns(self) -> int:
        """Stamp of the last exposure; poses are needed up to here."""
        return max(self.stamps_ns.values())


@dataclass
class FrameSetCounters:
    """Counts of images and frame sets since construction; a reset does not clear them.

    Attributes:
        complete: frame sets with every camera.
        incomplete: frame sets closed with a camera missing.
        late: images whose frame set was already closed, or older ones.
        out_of_order: images older than an earlier one of the same camera.
        duplicate: images with a stamp that the same camera has already sent; ignored.
        unmatched: images in no frame set: no reference image near them, a reference image too many
            (see :func:`~.frame_set_rule.is_surplus`), or overflow.
    """

    complete: int = 0
    incomplete: int = 0
    late: int = 0
    out_of_order: int = 0
    duplicate: int = 0
    unmatched: int = 0

    def count(self, frame_set: FrameSet) -> None:
        """Count a frame set."""
        if frame_set.missing:
            self.incomplete += 1
        else:
            self.complete += 1


@dataclass(frozen=True, eq=False)
class _Arrived:
    """A payload, and when it arrived."""

    payload: Any
    at_ns: int


class FrameSetGrouper:
    """Groups images into frame sets as they arrive, without threads or a clock of its own.

    The frame sets are those of the rule over the images that have arrived and those that are
    expected: the next ones of each camera, one period after the other. A complete frame set closes
    as soon as it needs none of the expected ones. Incomplete ones before it close with it: images
    of a camera arrive in order, so a missing one cannot arrive any more. When ``deadline_ns`` has
    passed since a reference image arrived, its frame set closes with what has arrived.

    Frame sets are returned in the order of their reference stamps, and no image is used twice.

    Args:
        cameras: names of the cameras of a complete frame set.
        reference_camera: the camera whose stamp is the stamp of the frame set.
        tolerance_ns: largest spread of a frame set; None to observe it, see
            :func:`~.camera_timing.observed_tolerance`.
        deadline_ns: how long to wait for missing images after the reference image.
        max_pending: images kept per camera; beyond that the oldest is dropped.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        reference_camera: str,
        tolerance_ns: int | None = None,
        deadline_ns: int = 150_000_000,
        max_pending: int = 12,
    ) -> None:
        self.cameras = tuple(cameras)
        if reference_camera not in self.cameras:
            raise ValueError(
                f"reference camera {reference_camera!r} is not among the cameras "
                f"{', '.join(self.cameras)}"
            )
        if len(set(self.cameras)) != len(self.cameras):
            raise ValueError(f"camera names must be unique, got {', '.join(self.cameras)}")
        self.reference_camera = reference_camera
        self._all = self.cameras
        self._first_reference_camera = reference_camera
        self._given_tolerance_ns = tolerance_ns
        self.observed_tolerance_ns: int | None = None
        """The observed tolerance; None if one is given, or as long as too little was observed."""
        self.deadline_ns = deadline_ns
        self.max_pending = max_pending
        self.counters = FrameSetCounters()
        self.reset()

    @property
    def tolerance_ns(self) -> int:
        """Largest spread of a frame set at present."""
        if self._given_tolerance_ns is not None:
            return self._given_tolerance_ns
        return self.observed_tolerance_ns or UNOBSERVED_TOLERANCE_NS

    def reset(self) -> None:
        """Drop all images and stamps, e.g. after a :class:`TimeJump`; counters stay."""
        self._stamps: dict[str, list[int]] = {camera: [] for camera in self.cameras}
        self._images: dict[str, dict[int, _Arrived]] = {camera: {} for camera in self.cameras}
        self._observed: dict[str, list[int]] = {camera: [] for camera in self.cameras}
        self._newest: dict[str, int] = {}
        self._last: FrameSet | None = None

    def expect(self, cameras: Iterable[str]) -> list[FrameSet]:
        """Change the cameras of a complete frame set; returns the frame sets this completes.

        Frame sets do without the others, whose waiting images are dropped. If the reference camera
        is among those, the first camera takes its role until it is expected again, and what waited
        for it is dropped: that is old.

        Args:
            cameras: at least one of the cameras given at first; their order stays.
        """
        wanted = set(cameras)
        lost_reference = self.reference_camera not in wanted
        for camera in self.cameras:
            if lost_reference or camera not in wanted:
                self._drop_older(camera, self._newest.get(camera, 0) + 1)
        self.cameras = tuple(camera for camera in self._all if camera in wanted)
        first = self._first_reference_camera
        self.reference_camera = first if first in wanted else self.cameras[0]
        self._stamps = {camera: self._stamps.get(camera, []) for camera in self.cameras}
        self._images = {camera: self._images.get(camera, {}) for camera in self.cameras}
        self._observed = {camera: self._observed.get(camera, []) for camera in self.cameras}
        return self._close_complete()

    def add(
        self, camera: str, stamp_ns: int, payload: Any, now_ns: int | None = None
    ) -> list[FrameSet]:
        """Take one image; returns the frame sets it closes, oldest first.

        Args:
            camera: one of :attr:`cameras`.
            stamp_ns: exposure stamp.
            payload: the image, or any handle to it.
            now_ns: time of arrival on the clock that :meth:`expire` is called with; by default
                the stamp.

        Raises:
            KeyError: unknown camera.
            TimeJump: the camera's stamps went back by more than 1 s.
        """
        if camera not in self._stamps:
            raise KeyError(f"unknown camera {camera!r}, expected one of {', '.join(self.cameras)}")
        newest = self._newest.get(camera, stamp_ns)
        if stamp_ns < newest - BACKWARD_JUMP_NS:
            raise TimeJump(camera, newest, stamp_ns)
        now_ns = stamp_ns if now_ns is None else now_ns
        self._accept(camera, stamp_ns, payload, newest, now_ns)
        self._newest[camera] = max(newest, stamp_ns)
        return [*self._close_complete(), *self.expire(now_ns)]

    def expire(self, now_ns: int) -> list[FrameSet]:
        """Close the frame sets whose deadline has passed at ``now_ns``."""
        expired = [
            stamp
            for stamp in self._stamps[self.reference_camera]
            if now_ns - self._images[self.reference_camera][stamp].at_ns >= self.deadline_ns
        ]
        return self._close_up_to(expired[-1]) if expired else []

    def flush(self) -> list[FrameSet]:
        """Close every frame set that has a reference image, because the input has ended."""
        references = self._stamps[self.reference_camera]
        frame_sets = self._close_up_to(references[-1]) if references else []
        for camera in self.cameras:
            self._drop_older(camera, self._newest.get(camera, 0) + 1)
        return frame_sets

    def _accept(self, camera: str, stamp_ns: int, payload: Any, newest: int, now_ns: int) -> None:
        """Store an image unless it is a duplicate or too late."""
        if stamp_ns in self._images[camera] or (
            self._last is not None and self._last.stamps_ns.get(camera) == stamp_ns
        ):
            self.counters.duplicate += 1
            return
        self._observe(camera, stamp_ns)
        if stamp_ns < newest:
            self.counters.out_of_order += 1
        if self._is_late(camera, stamp_ns):
            self.counters.late += 1
            return
        stamps = self._stamps[camera]
        insort(stamps, stamp_ns)
        self._images[camera][stamp_ns] = _Arrived(payload, now_ns)
        if len(stamps) > self.max_pending:
            self._drop_older(camera, stamps[1])  # it may be this one

    def _observe(self, camera: str, stamp_ns: int) -> None:
        observed = self._observed[camera]
        if stamp_ns not in observed:
            insort(observed, stamp_ns)
            del observed[:-_OBSERVED_IMAGES]

    def _is_late(self, camera: str, stamp_ns: int) -> bool:
        """Whether the image belongs to the last closed frame set or to an earlier one."""
        if self._last is None:
            return False
        if camera in self._last.stamps_ns:
            return stamp_ns < self._last.stamps_ns[camera]
        end = min(self._last.stamps_ns.values()) + self.tolerance_ns
        period = self._periods().get(self.reference_camera)
        if period:  # a large tolerance reaches into the next frame set
            end = min(end, self._last.reference_stamp_ns + period // 2)
        return stamp_ns <= end

    def _close_complete(self) -> list[FrameSet]:
        """Close the complete frame sets that no expected image changes, and those before them."""
        if not all(self._stamps.values()):
            return []
        expected = {camera: self._expected(camera) for camera in self.cameras}
        stamps = {camera: own + expected[camera] for camera, own in self._stamps.items()}
        sets = frame_sets_of(stamps, self.reference_camera, self.tolerance_ns)
        count = 0
        for number, chosen in enumerate(sets, 1):
            if self._is_here(chosen):
                if may_become_tighter(chosen, expected):
                    break
                count = number
        return self._close(sets[:count])

    def _is_here(self, chosen: Chosen) -> bool:
        return len(chosen) == len(self.cameras) and all(
            stamp in self._images[camera] for camera, stamp in chosen.items()
        )

    def _expected(self, camera: str) -> list[int]:
        """Stamps of the images that may still join those that have arrived."""
        period = self._periods().get(camera)
        if not period:
            return []
        oldest = min(stamps[0] for stamps in self._stamps.values())
        newest = max(stamps[-1] for stamps in self._stamps.values())
        begin = self._newest[camera] + period
        begin += max(0, -((begin - oldest + self.tolerance_ns) // period)) * period
        return list(range(begin, newest + self.tolerance_ns + 1, period))[: self.max_pending]

    def _periods(self) -> dict[str, int]:
        steps = -_OBSERVED_STEPS - 1
        periods = {camera: observed_period(own[steps:]) for camera, own in self._observed.items()}
        return {camera: period for camera, period in periods.items() if period}

    def _close_up_to(self, reference_stamp_ns: int) -> list[FrameSet]:
        """Close the frame sets up to a reference image with what has arrived."""
        sets = frame_sets_of(self._stamps, self.reference_camera, self.tolerance_ns)
        return self._close([s for s in sets if s[self.reference_camera] <= reference_stamp_ns])

    def _close(self, sets: list[Chosen]) -> list[FrameSet]:
        periods = self._periods()
        closed = []
        for chosen in sets:
            if is_surplus(chosen, self._observed, periods):
                self._drop_older(self.reference_camera, chosen[self.reference_camera] + 1)
            else:
                closed.append(self._close_one(chosen))
        if closed and self._given_tolerance_ns is None:
            observed = observed_tolerance(self._observed)
            self.observed_tolerance_ns = observed or self.observed_tolerance_ns
        return closed

    def _close_one(self, chosen: Chosen) -> FrameSet:
        payloads = {camera: self._images[camera][stamp].payload for camera, stamp in chosen.items()}
        masked = tuple(camera for camera in self._all if camera not in self.cameras)
        frame_set = FrameSet.of(chosen, payloads, self.cameras, self.reference_camera, masked)
        for camera in self.cameras:
            # Older images cannot match any later reference image.
            oldest_allowed = frame_set.reference_stamp_ns - self.tolerance_ns
            self._drop_older(camera, chosen.get(camera, oldest_allowed))
        for camera, stamp in chosen.items():
            self._stamps[camera].remove(stamp)
            del self._images[camera][stamp]
        self._last = frame_set
        self.counters.count(frame_set)
        return frame_set

    def _drop_older(self, camera: str, stamp_ns: int) -> None:
        stamps = self._stamps[camera]
        count = bisect_left(stamps, stamp_ns)
        for stamp in stamps[:count]:
            del self._images[camera][stamp]
        del stamps[:count]
        self.counters.unmatched += count
