"""The frame set rule: groups the images of one lidar rotation.

Cameras triggered by a spinning lidar expose one after the other, so the images of a frame set have
different stamps. In nuScenes a frame set of six spreads over 42.5 ms and comes every 83 ms. A
frame set is therefore one image of the reference camera and one of every other camera such that
newest minus oldest stamp stays within a tolerance.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from occ_perception.sensing.time_jumps import BACKWARD_JUMP_NS, TimeJump


@dataclass(frozen=True, eq=False)
class FrameSet:
    """The images of one rotation.

    Attributes:
        reference_stamp_ns: stamp of the reference camera's image, which every frame set has.
        payloads: camera -> payload passed to :meth:`FrameSetGrouper.add`.
        stamps_ns: camera -> stamp, for the same cameras.
        missing: cameras without an image in this frame set, in the grouper's order.
        reused: cameras whose image comes from an earlier frame set, see
            :class:`~.assembly.LastImages`.
    """

    reference_stamp_ns: int
    payloads: Mapping[str, Any]
    stamps_ns: Mapping[str, int]
    missing: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()

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
        unmatched: images in no frame set (no reference image near them, or overflow).
    """

    complete: int = 0
    incomplete: int = 0
    late: int = 0
    out_of_order: int = 0
    duplicate: int = 0
    unmatched: int = 0


class FrameSetGrouper:
    """Groups images into frame sets as they arrive, without threads or a clock of its own.

    A frame set closes when every camera has an image for it. It closes incomplete when
    ``deadline_ns`` has passed since the reference image arrived, or when a later frame set is
    complete: images of one camera arrive in order, so a missing one cannot arrive any more. Frame
    sets are returned in the order of their reference stamps, and no image is used twice. Among the
    possible combinations the one with the most cameras is used, then the one with the smallest
    spread. (An incomplete frame set may contain an image of the rotation before, if that rotation
    has no frame set because its reference image was lost.)

    Args:
        cameras: names of the cameras of a complete frame set.
        reference_camera: the camera whose stamp is the stamp of the frame set.
        tolerance_ns: largest spread of a frame set. For nuScenes it must exceed 43 ms, the spread
            of a real frame set, and stay below 73 ms, from where on an image of the rotation
            before fits in. In general it lies between the spread of a frame set and the frame set
            period minus the largest step from one camera to the next; cameras triggered together at
            30 Hz need a tolerance below 33 ms.
        deadline_ns: how long to wait for missing images after the reference image.
        max_pending: images kept per camera; beyond that the oldest is dropped.
    """

    def __init__(
        self,
        cameras: Iterable[str],
        reference_camera: str,
        tolerance_ns: int = 50_000_000,
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
        self.tolerance_ns = tolerance_ns
        self.deadline_ns = deadline_ns
        self.max_pending = max_pending
        self.counters = FrameSetCounters()
        self.reset()

    def reset(self) -> None:
        """Drop all images and stamps, e.g. after a :class:`TimeJump`; counters stay."""
        self._stamps: dict[str, list[int]] = {camera: [] for camera in self.cameras}
        self._payloads: dict[str, dict[int, Any]] = {camera: {} for camera in self.cameras}
        self._newest: dict[str, int] = {}
        self._reference_arrival: dict[int, int] = {}
        self._last: FrameSet | None = None

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
            if now_ns - self._reference_arrival[stamp] >= self.deadline_ns
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
        if stamp_ns in self._payloads[camera] or (
            self._last is not None and self._last.stamps_ns.get(camera) == stamp_ns
        ):
            self.counters.duplicate += 1
            return
        if stamp_ns < newest:
            self.counters.out_of_order += 1
        if self._is_late(camera, stamp_ns):
            self.counters.late += 1
            return
        stamps = self._stamps[camera]
        stamps.insert(bisect_left(stamps, stamp_ns), stamp_ns)
        self._payloads[camera][stamp_ns] = payload
        if camera == self.reference_camera:
            self._reference_arrival[stamp_ns] = now_ns
        if len(stamps) > self.max_pending:
            self._drop_older(camera, stamps[1])  # it may be this one

    def _is_late(self, camera: str, stamp_ns: int) -> bool:
        """Whether the image belongs to the last closed frame set or to an earlier one."""
        if self._last is None:
            return False
        if camera in self._last.stamps_ns:
            return stamp_ns < self._last.stamps_ns[camera]
        return stamp_ns <= min(self._last.stamps_ns.values()) + self.tolerance_ns

    def _close_complete(self) -> list[FrameSet]:
        frame_sets: list[FrameSet] = []
        while all(self._stamps.values()):
            complete = next(filter(self._is_complete, self._stamps[self.reference_camera]), None)
            if complete is None:
                break
            frame_sets += self._close_up_to(complete)
        return frame_sets

    def _is_complete(self, reference_stamp_ns: int) -> bool:
        return len(self._best_combination(reference_stamp_ns)) == len(self.cameras)

    def _close_up_to(self, reference_stamp_ns: int) -> list[FrameSet]:
        references = self._stamps[self.reference_camera]
        return [self._close(stamp) for stamp in list(references) if stamp <= reference_stamp_ns]

    def _close(self, reference_stamp_ns: int) -> FrameSet:
        chosen = self._best_combination(reference_stamp_ns)
        frame_set = FrameSet(
            reference_stamp_ns=reference_stamp_ns,
            payloads={camera: self._payloads[camera][stamp] for camera, stamp in chosen.items()},
            stamps_ns=chosen,
            missing=tuple(camera for camera in self.cameras if camera not in chosen),
        )
        for camera in self.cameras:
            # Older images cannot match any later reference image.
            self._drop_older(camera, chosen.get(camera, reference_stamp_ns - self.tolerance_ns))
        for camera, stamp in chosen.items():
            self._stamps[camera].remove(stamp)
            del self._payloads[camera][stamp]
        del self._reference_arrival[reference_stamp_ns]
        self._last = frame_set
        if frame_set.missing:
            self.counters.incomplete += 1
        else:
            self.counters.complete += 1
        return frame_set

    def _drop_older(self, camera: str, stamp_ns: int) -> None:
        stamps = self._stamps[camera]
        count = bisect_left(stamps, stamp_ns)
        for stamp in stamps[:count]:
            del self._payloads[camera][stamp]
            if camera == self.reference_camera:
                del self._reference_arrival[stamp]
        del stamps[:count]
        self.counters.unmatched += count

    def _best_combination(self, reference_stamp_ns: int) -> dict[str, int]:
        """Camera -> stamp of the best frame set around a pending reference image.

        Every possible oldest image is tried. For each, the earliest image of every camera from
        there on gives the smallest spread.
        """
        starts = {reference_stamp_ns} | {
            stamp
            for stamps in self._stamps.values()
            for stamp in stamps
            if reference_stamp_ns - self.tolerance_ns <= stamp <= reference_stamp_ns
        }
        best: dict[str, int] = {}
        best_rank = (0, 0)
        for start in sorted(starts):
            chosen = self._from_start(start, reference_stamp_ns)
            spread = max(chosen.values()) - min(chosen.values())
            rank = (len(chosen), -spread)
            if not best or rank > best_rank:
                best, best_rank = chosen, rank
        return best

    def _from_start(self, start_ns: int, reference_stamp_ns: int) -> dict[str, int]:
        chosen: dict[str, int] = {}
        for camera in self.cameras:
            if camera == self.reference_camera:
                chosen[camera] = reference_stamp_ns
                continue
            stamps = self._stamps[camera]
            position = bisect_left(stamps, start_ns)
            if position < len(stamps) and stamps[position] <= start_ns + self.tolerance_ns:
                chosen[camera] = stamps[position]
        return chosen
