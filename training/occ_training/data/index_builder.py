"""Builds an index from frames of which some, or some entries, cannot be used.

The rule is that of :mod:`occ_training.data.file_checks`: a frame without a usable image of its
reference camera is left out, of any other unusable entry only the entry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from occ_perception.errors import OccError
from occ_training.data.file_checks import CheckReport
from occ_training.data.index import DatasetIndex, check_frame
from occ_training.data.label_files import LABEL_FORMATS
from occ_training.data.records import DatasetError, DatasetHeader, FrameRecord, LabelFormat

Entry = TypeVar("Entry")


def _by_time(frame: FrameRecord) -> tuple[int, str]:
    return frame.stamp_ns, frame.token


class IndexBuilder:
    """Collects frames, and reports what cannot be used.

    Args:
        name: of the data set.
        root: folder of its files.
        cameras: names of the cameras of a complete frame.
        report: takes what is left out; without one, the first problem is raised.
        formats: key -> format of the label files.
        ego_frame: name of the ego frame in the source.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        cameras: tuple[str, ...],
        report: CheckReport | None,
        formats: dict[str, LabelFormat] = LABEL_FORMATS,
        ego_frame: str = "ego",
    ) -> None:
        self._name, self._root, self._cameras, self._ego_frame = name, root, cameras, ego_frame
        self._report, self._formats = report, formats
        self._frames: list[FrameRecord] = []

    def entry(
        self, kind: str, sequence: str, token: str, make: Callable[[], Entry]
    ) -> Entry | None:
        """An entry of a frame; None if it cannot be used, which is then in the report.

        Args:
            kind: what it is: a camera, ``lidar``, ``frame``.
            sequence, token: of the frame.
            make: makes it, or raises an OccError.
        """
        try:
            return make()
        except OccError as error:
            if self._report is None:
                raise
            self._report.drop(sequence, token, kind, str(error))
            return None

    def leave_out(self, sequence: str, token: str, why: str | None = None) -> None:
        """Leave out a frame; without ``why`` the reason is in the report already."""
        if self._report is None:
            raise DatasetError(f"frame {token} of {sequence}: {why or 'cannot be used'}")
        if why:
            self._report.drop(sequence, token, "frame", why)
        self._report.leave_out(token)

    def add(self, frame: FrameRecord) -> None:
        """Add a frame that has an image of its reference camera, if it is consistent."""
        header = self._header([frame], {})
        if self.entry("frame", frame.sequence, frame.token, lambda: _checked(frame, header)):
            self._frames.append(frame)
        else:
            self.leave_out(frame.sequence, frame.token)

    def index(
        self, source: dict[str, Any], order: Callable[[FrameRecord], Any] = _by_time
    ) -> DatasetIndex:
        """The index: sequences ordered by their first frame.

        A token, or a time within a sequence, that occurs twice is taken once.

        Args:
            source: how the index was made.
            order: key of the frames' order, which must be that of time within a sequence.

        Raises:
            DatasetError: there is no frame.
        """
        sequences: dict[str, list[FrameRecord]] = defaultdict(list)
        tokens: set[str] = set()
        for frame in sorted(self._frames, key=order):
            before = sequences[frame.sequence]
            if frame.token in tokens:
                self.leave_out(frame.sequence, frame.token, "there is another frame of this name")
            elif before and before[-1].stamp_ns == frame.stamp_ns:
                why = f"frame {before[-1].token} has the same time, {frame.stamp_ns} ns"
                self.leave_out(frame.sequence, frame.token, why)
            else:
                before.append(frame)
                tokens.add(frame.token)
        frames = tuple(frame for sequence in sequences.values() for frame in sequence)
        if not frames:
            problems = [] if self._report is None else self._report.problems
            first = problems[0] if problems else "it has none"
            rest = f"; and {len(problems) - 1} more problems" if len(problems) > 1 else ""
            raise DatasetError(f"none of its frames can be used: {first}{rest}")
        return DatasetIndex(self._root, self._header(frames, source), frames)

    def _header(self, frames: Iterable[FrameRecord], source: dict[str, Any]) -> DatasetHeader:
        keys = {key for frame in frames for key in frame.labels}
        formats = {key: value for key, value in self._formats.items() if key in keys}
        return DatasetHeader(
            name=self._name,
            cameras=self._cameras,
            label_sets=formats,
            ego_frame=self._ego_frame,
            source=source,
        )


def _checked(frame: FrameRecord, header: DatasetHeader) -> bool:
    check_frame(frame, header, set())
    return True
