"""Inspects a recording: its topics, its frame sets, and what the node would lack."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.bags.discovery import choose_layout, discover_vehicle
from occ_perception.bags.frame_set_index import FrameSetIndex
from occ_perception.bags.reading import Reading, RecordedFrameSet
from occ_perception.bags.recording import BagError, BagProblem, RecordedMessage, Recording
from occ_perception.frames import CameraRig
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.ego_pose import PoseUnavailable
from occ_perception.sensing.frame_sets import FrameSetCounters
from occ_perception.sensing.input_plan import InputPlan, InputPlanError, plan_inputs
from occ_perception.sensing.layouts import LayoutMatch, TopicLayout, recognise_layouts
from occ_perception.sensing.plausibility import clocks_apart
from occ_perception.sensing.vehicle import VehicleInputs


@dataclass
class TopicReport:
    """Statistics of one topic.

    Attributes:
        name, kind: topic and message type.
        count: number of messages read.
        rate_hz: mean rate of reception; 0 for fewer than two messages.
        longest_gap_s: longest time without a message.
    """

    name: str
    kind: str
    count: int = 0
    rate_hz: float = 0.0
    longest_gap_s: float = 0.0


@dataclass
class FrameSetReport:
    """Statistics of the frame sets.

    Attributes:
        counters: counts of images and frame sets.
        tolerance_ms: largest spread of a frame set.
        tolerance_from: where that comes from, see :class:`~.frame_set_index.FrameSetIndex`.
        missing: camera -> number of frame sets without it.
        spread_ms: (smallest, median, largest) spread of the complete frame sets.
        period_ms: median time between frame sets.
        longest_gap_s: longest time between two frame sets.
        without_pose: frame sets without an ego pose at the stamp of at least one camera.
    """

    counters: FrameSetCounters
    tolerance_ms: float
    tolerance_from: str
    missing: dict[str, int] = field(default_factory=dict)
    spread_ms: tuple[float, float, float] | None = None
    period_ms: float | None = None
    longest_gap_s: float = 0.0
    without_pose: int = 0


@dataclass
class BagReport:
    """The report that ``occ info`` prints.

    Attributes:
        path: the recording.
        duration_s: from the first to the last message.
        topics: statistics by topic name.
        matches: every shipped layout, best first, with the topics that do not fit.
        layout: the layout in use; None if none fits.
        frame_sets: statistics of the frame sets; None without a layout.
        notes: sources of the calibration other than the recording.
        doubts: what the recording states about its sensors and can hardly be true, with advice.
        missing_for_node: reasons why the node cannot run on these topics.
        problems: what was skipped while reading.
    """

    path: Path
    duration_s: float
    topics: list[TopicReport]
    matches: list[LayoutMatch]
    layout: TopicLayout | None = None
    frame_sets: FrameSetReport | None = None
    notes: tuple[str, ...] = ()
    doubts: list[str] = field(default_factory=list)
    missing_for_node: list[str] = field(default_factory=list)
    problems: list[BagProblem] = field(default_factory=list)

    @property
    def node_can_run(self) -> bool:
        """Whether the node gets frames from these topics."""
        return not self.missing_for_node

    def as_json(self) -> dict[str, Any]:
        """The report as plain values; stamps in nanoseconds."""
        return {
            "path": str(self.path),
            "duration_s": self.duration_s,
            "node_can_run": self.node_can_run,
            "missing_for_node": self.missing_for_node,
            "doubts": self.doubts,
            "notes": list(self.notes),
            "layout": self.layout.name if self.layout else None,
            "layouts": [
                {"name": m.layout.name, "fits": m.fits, "problems": list(m.problems)}
                for m in self.matches
            ],
            "topics": [asdict(topic) for topic in self.topics],
            "frame_sets": asdict(self.frame_sets) if self.frame_sets else None,
            "problems": [asdict(problem) for problem in self.problems],
        }


def inspect_bag(
    path: str | Path,
    layout: TopicLayout | str | Path | None = None,
    rig: CameraRig | str | Path | None = None,
) -> BagReport:
    """Read a recording and report on it; only the images of one frame set are decoded.

    Args:
        path: as for :func:`~.drive.open_recording`.
        layout: topic layout; recognised by default.
        rig: rig, or its name or path, that replaces the calibration in the recording.

    Raises:
        BagError: nothing can be read.
        YamlError: the layout file is wrong.
    """
    with Recording(path) as recording:
        start, end = recording.span_ns
        report = BagReport(
            path=Path(path),
            duration_s=(end - start) / 1e9,
            topics=[TopicReport(n, t.kind) for n, t in sorted(recording.topics.items())],
            matches=recognise_layouts(recording.topic_types),
            problems=recording.problems,
        )
        vehicle = _prepare(recording, layout, rig, report)
        times: dict[str, list[int]] = {topic.name: [] for topic in report.topics}
        messages = _timed(recording.messages(), times)
        if vehicle is None:
            deque(messages, maxlen=0)
        else:
            reading = Reading(recording, vehicle)
            statistics = _FrameSetStatistics(vehicle.plan)
            clocks = _Clocks(recording, vehicle.plan)
            for item in reading.frame_sets(clocks.of(messages)):
                statistics.add(item)
            statistics.describe(report, reading.counters, reading.index)
            report.doubts += [*vehicle.doubts, *clocks.doubts()]
    for topic in report.topics:
        _rate(topic, np.array(times[topic.name], dtype=np.int64))
    return report


def _timed(
    messages: Iterable[RecordedMessage], times: dict[str, list[int]]
) -> Iterator[RecordedMessage]:
    """Pass messages on and store their reception times by topic."""
    for message in messages:
        times[message.topic].append(message.received_ns)
        yield message


class _Clocks:
    """Compares the stamps of the cameras' images with the times of reception."""

    def __init__(self, recording: Recording, plan: InputPlan) -> None:
        self._recording = recording
        reads_headers = plan.layout.stamp_source == "header"
        self._cameras = {c.image: c.name for c in plan.cameras} if reads_headers else {}
        self._offsets_s: dict[str, list[float]] = {name: [] for name in self._cameras.values()}

    def of(self, messages: Iterable[RecordedMessage]) -> Iterator[RecordedMessage]:
        """Pass messages on and look at those of the cameras."""
        for message in messages:
            if message.topic in self._cameras:
                with suppress(BagError):  # a problem of the recording when it is read
                    stamp = self._recording.header_stamp_ns(message)
                    if stamp:  # likewise
                        offset_s = (stamp - message.received_ns) / 1e9
                        self._offsets_s[self._cameras[message.topic]].append(offset_s)
            yield message

    def doubts(self) -> list[str]:
        """Sentences about cameras whose clocks differ."""
        offsets = {name: float(np.median(s)) for name, s in self._offsets_s.items() if s}
        return [f"camera {name}: {what}" for name, what in clocks_apart(offsets).items()]


def _prepare(
    recording: Recording,
    layout: TopicLayout | str | Path | None,
    rig: CameraRig | str | Path | None,
    report: BagReport,
) -> VehicleInputs | None:
    """State of the vehicle before the frame sets are read; None if no layout fits."""
    try:
        report.layout = choose_layout(recording, layout)
        vehicle, _ = discover_vehicle(recording, plan_inputs(report.layout, rig))
    except (BagError, InputPlanError) as error:
        report.missing_for_node.append(str(error))
        return None if report.layout is None else VehicleInputs(InputPlan(report.layout))
    report.notes = vehicle.notes
    return vehicle


def _rate(topic: TopicReport, times_ns: np.ndarray) -> None:
    topic.count = len(times_ns)
    if topic.count > 1:
        gaps = np.diff(times_ns) / 1e9
        topic.longest_gap_s = float(gaps.max())
        topic.rate_hz = float((topic.count - 1) / gaps.sum()) if gaps.sum() > 0 else 0.0


class _FrameSetStatistics:
    """Counts frame sets; decodes one of them."""

    def __init__(self, plan: InputPlan) -> None:
        self._plan = plan
        self._tried_a_frame = False
        self._missing: Counter[str] = Counter()
        self._spreads_ns: list[int] = []
        self._stamps_ns: dict[int, list[int]] = {0: []}
        self._without_pose = 0
        self._why_no_pose = ""
        self._why_no_frame = ""

    def add(self, item: RecordedFrameSet) -> None:
        """Add one frame set."""
        frame_set = item.frame_set
        self._missing.update(frame_set.missing)
        # Gaps are not measured across a time jump.
        self._stamps_ns.setdefault(item.time_line, []).append(frame_set.reference_stamp_ns)
        if not frame_set.missing:
            self._spreads_ns.append(frame_set.spread_ns)
        try:
            for stamp in frame_set.stamps_ns.values():
                item.poses.at(stamp)
        except PoseUnavailable as error:
            self._without_pose += 1
            self._why_no_pose = self._why_no_pose or str(error)
            return
        if item.rig.cameras and not frame_set.missing and not self._tried_a_frame:
            self._try_a_frame(item)

    def _try_a_frame(self, item: RecordedFrameSet) -> None:
        self._tried_a_frame = True
        assembler = FrameAssembler(item.rig, encodings=self._plan.encodings)
        try:
            assembler.assemble(item.frame_set, item.poses)
        except FrameError as error:
            self._why_no_frame = str(error)

    def describe(self, report: BagReport, counters: FrameSetCounters, index: FrameSetIndex) -> None:
        """Write the statistics into the report."""
        steps = np.concatenate([np.diff(stamps) for stamps in self._stamps_ns.values()])
        frame_sets = FrameSetReport(
            counters,
            index.tolerance_ns / 1e6,
            index.tolerance_from,
            dict(self._missing),
            without_pose=self._without_pose,
        )
        if self._spreads_ns:
            spread = np.array(self._spreads_ns) / 1e6
            frame_sets.spread_ms = (spread.min(), float(np.median(spread)), spread.max())
        if steps.size:
            frame_sets.period_ms = float(np.median(steps)) / 1e6
            frame_sets.longest_gap_s = float(steps.max()) / 1e9
        report.frame_sets = frame_sets
        if not counters.complete:
            unstamped = [str(p) for p in report.problems if p.reason == "no_stamp"]
            report.missing_for_node.append(
                "; ".join(
                    [
                        "no frame set is complete: at no time is there an image of every camera",
                        *unstamped,
                    ]
                )
            )
        elif self._without_pose == counters.complete + counters.incomplete:
            report.missing_for_node.append(
                f"no frame set has an ego pose at all of its stamps: {self._why_no_pose}"
            )
        if self._why_no_frame:
            report.missing_for_node.append(self._why_no_frame)
