"""The frame sets of a recording, found from the stamps of its images before they are decoded.

The order of recording does not matter: a camera may have been recorded late, or one camera after
the other.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from occ_perception.bags.recording import BagError, RecordedMessage, Recording
from occ_perception.sensing.camera_timing import (
    UNOBSERVED_TOLERANCE_NS,
    observed_period,
    observed_tolerance,
)
from occ_perception.sensing.frame_set_rule import Chosen, frame_sets_of, is_surplus
from occ_perception.sensing.layouts import TopicLayout
from occ_perception.sensing.time_jumps import BACKWARD_JUMP_NS


@dataclass(frozen=True)
class IndexedFrameSet:
    """A frame set that is going to be read.

    Attributes:
        time_line: number of jumps back in time of its cameras before it.
        stamps_ns: camera -> stamp.
        received_ns: when the first and the last of its images were recorded.
    """

    time_line: int
    stamps_ns: Chosen
    received_ns: tuple[int, int]


@dataclass(frozen=True)
class FrameSetIndex:
    """The frame sets of a recording.

    Attributes:
        frame_sets: by time line, then by reference stamp.
        tolerance_ns: largest spread of a frame set.
        tolerance_from: ``layout``, ``observed``, or ``default`` if there are too few images.
    """

    frame_sets: list[IndexedFrameSet]
    tolerance_ns: int
    tolerance_from: str


@dataclass
class CameraTimeLines:
    """Assigns images to time lines; a camera's stamps that go back by more than 1 s start one.

    Attributes:
        newest_ns: camera -> its newest stamp in its time line.
    """

    newest_ns: dict[str, int] = field(default_factory=dict)
    _lines: Counter[str] = field(default_factory=Counter)

    def of(self, camera: str, stamp_ns: int) -> int:
        """The time line of a camera's next image."""
        newest = self.newest_ns.get(camera, stamp_ns)
        return self._lines[camera] + (stamp_ns < newest - BACKWARD_JUMP_NS)

    def take(self, camera: str, stamp_ns: int) -> int:
        """The time line of a camera's image, which is then the camera's newest."""
        line = self.of(camera, stamp_ns)
        if line > self._lines[camera]:
            self._lines[camera] = line
            del self.newest_ns[camera]
        self.newest_ns[camera] = max(stamp_ns, self.newest_ns.get(camera, stamp_ns))
        return line


def image_stamp_ns(recording: Recording, layout: TopicLayout, message: RecordedMessage) -> int:
    """The stamp of an image: that of its header, or its time of reception if the layout says so.

    It is 0 if the driver did not fill the header.

    Raises:
        BagError: the message is too short for a header.
    """
    if layout.stamp_source == "header":
        return recording.header_stamp_ns(message)
    return message.received_ns


def index_frame_sets(recording: Recording, layout: TopicLayout) -> FrameSetIndex:
    """Find the frame sets of a recording; reads all images, but decodes none.

    Args:
        recording: the recording.
        layout: with the recording's own topic names.
    """
    lines = _stamps(recording, layout)
    tolerance, source = _tolerance(layout, lines)
    frame_sets = []
    for number, received in enumerate(lines):
        stamps = {camera: sorted(own) for camera, own in received.items()}
        periods = {camera: observed_period(own) for camera, own in stamps.items()}
        known = {camera: period for camera, period in periods.items() if period}
        for chosen in frame_sets_of(stamps, layout.reference_camera, tolerance):
            if not is_surplus(chosen, stamps, known):
                times = [received[camera][stamp] for camera, stamp in chosen.items()]
                frame_sets.append(IndexedFrameSet(number, chosen, (min(times), max(times))))
    return FrameSetIndex(frame_sets, tolerance, source)


_Received = dict[str, dict[int, int]]
"""Camera -> stamp -> time of reception."""


def _stamps(recording: Recording, layout: TopicLayout) -> list[_Received]:
    """The images of each time line."""
    camera_of = {camera.image: camera.name for camera in layout.cameras}
    time_lines = CameraTimeLines()
    lines: defaultdict[int, _Received] = defaultdict(lambda: {n: {} for n in layout.camera_names})
    for message in recording.messages(camera_of):
        try:
            stamp = image_stamp_ns(recording, layout, message)
        except BagError:  # reported when the message itself is read
            continue
        if stamp:  # reported as well
            camera = camera_of[message.topic]
            line = lines[time_lines.take(camera, stamp)]
            line[camera].setdefault(stamp, message.received_ns)
    return [lines[number] for number in sorted(lines)]


def _tolerance(layout: TopicLayout, lines: list[_Received]) -> tuple[int, str]:
    if layout.sync_tolerance_ms is not None:
        return round(layout.sync_tolerance_ms * 1e6), "layout"

    def images(line: dict[str, Any]) -> int:
        return sum(map(len, line.values()))

    longest = max(lines, key=images, default={})
    observed = observed_tolerance({camera: sorted(own) for camera, own in longest.items()})
    return (UNOBSERVED_TOLERANCE_NS, "default") if observed is None else (observed, "observed")
