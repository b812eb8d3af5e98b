"""Collects the images of indexed frame sets in whatever order they were recorded."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from occ_perception.bags.frame_set_index import CameraTimeLines, FrameSetIndex
from occ_perception.sensing.frame_set_rule import Chosen
from occ_perception.sensing.frame_sets import FrameSet, FrameSetCounters
from occ_perception.sensing.layouts import TopicLayout
from occ_perception.sensing.time_jumps import TimeJump


@dataclass(eq=False)
class Place:
    """A frame set whose images are being collected.

    Attributes:
        stamps_ns: camera -> stamp of its images that can be read.
        payloads: camera -> image, for those that have been read.
        is_closed: whether it was given out, or given up.
    """

    stamps_ns: Chosen
    payloads: dict[str, Any] = field(default_factory=dict)
    is_closed: bool = False

    @property
    def is_filled(self) -> bool:
        """Whether all images have been read."""
        return len(self.payloads) == len(self.stamps_ns)


class FrameSetImages:
    """Gives out frame sets in the order of the index, each as soon as its last image was read.

    Args:
        index: the frame sets.
        layout: cameras of a complete frame set, and the reference camera.

    Attributes:
        counters: counts of images and frame sets so far.
    """

    def __init__(self, index: FrameSetIndex, layout: TopicLayout) -> None:
        self.counters = FrameSetCounters()
        self._cameras = layout.camera_names
        self._reference_camera = layout.reference_camera
        self._lines = CameraTimeLines()
        self._newest_line = 0
        self._open = deque(Place(dict(indexed.stamps_ns)) for indexed in index.frame_sets)
        self._places = {
            (indexed.time_line, camera, stamp): place
            for indexed, place in zip(index.frame_sets, self._open, strict=True)
            for camera, stamp in indexed.stamps_ns.items()
        }
        self._seen: set[tuple[int, str, int]] = set()

    def begin_time_line(self, camera: str, stamp_ns: int) -> TimeJump | None:
        """The jump if an image is the first one of a new time line; returned once."""
        line = self._lines.of(camera, stamp_ns)
        if line <= self._newest_line:
            return None
        self._newest_line = line
        return TimeJump(camera, self._lines.newest_ns[camera], stamp_ns)

    def place_of(self, camera: str, stamp_ns: int) -> Place | None:
        """The frame set that waits for an image; None if none does, which is counted."""
        newest = self._lines.newest_ns.get(camera, stamp_ns)
        image = (self._lines.take(camera, stamp_ns), camera, stamp_ns)
        if image in self._seen:
            self.counters.duplicate += 1
            return None
        self._seen.add(image)
        if stamp_ns < newest == self._lines.newest_ns[camera]:
            self.counters.out_of_order += 1
        place = self._places.pop(image, None)
        if place is None:
            self.counters.unmatched += 1
        elif place.is_closed:
            self.counters.late += 1
            return None
        return place

    def put(self, camera: str, place: Place, payload: Any) -> list[FrameSet]:
        """Put an image into its place; returns the frame sets that can be given out."""
        place.payloads[camera] = payload
        return self._give_out()

    def lose(self, camera: str, place: Place) -> list[FrameSet]:
        """Go on without an image that cannot be read; returns the same as :meth:`put`."""
        del place.stamps_ns[camera]
        return self._give_out()

    def flush(self) -> list[FrameSet]:
        """The frame sets of which some images have been read, because the time line has ended."""
        for place in self._open:
            if place.payloads:
                place.stamps_ns = {camera: place.stamps_ns[camera] for camera in place.payloads}
        return self._give_out()

    def _give_out(self) -> list[FrameSet]:
        frame_sets = []
        while self._open and self._open[0].is_filled:
            place = self._open.popleft()
            place.is_closed = True
            if self._reference_camera not in place.stamps_ns:
                self.counters.unmatched += len(place.payloads)
                continue
            stamps = {c: place.stamps_ns[c] for c in self._cameras if c in place.stamps_ns}
            frame_set = FrameSet.of(stamps, place.payloads, self._cameras, self._reference_camera)
            self.counters.count(frame_set)
            frame_sets.append(frame_set)
        return frame_sets
