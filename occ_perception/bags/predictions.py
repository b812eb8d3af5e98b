"""Reads occupancy from a recording or a folder of .npz files, as the model returned it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.atomic import atomic_path
from occ_perception.bags.recording import BagError, BagProblem, RecordedMessage, Recording
from occ_perception.codec import MessageError
from occ_perception.errors import OccError
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.sensing.from_messages import flow_from_message, prediction_from_message

OCCUPANCY_TYPE = "occ_msgs/msg/SemanticOccupancy"
FLOW_TYPE = "occ_msgs/msg/OccupancyFlow"
GROUND_TRUTH = "/ground_truth"
GROUND_TRUTH_IN_VIEW = "/ground_truth_in_view"
"""Topics below these two names hold ground truth, all others predictions. Below the second one,
voxels that no camera sees are unknown."""

# A flow message may come after later occupancy messages, up to this number.
_LONGEST_WAIT = 8


def occupancy_topics(recording: Recording, namespace: str = "") -> list[str]:
    """Occupancy topics below a name, in alphabetical order; by default all but ground truth."""
    names = sorted(n for n, topic in recording.topics.items() if topic.kind == OCCUPANCY_TYPE)
    if namespace:
        return [name for name in names if name.startswith(namespace + "/")]
    return [name for name in names if not is_ground_truth(name)]


def is_ground_truth(topic: str) -> bool:
    """Whether a topic holds ground truth, by its name."""
    return topic.startswith((GROUND_TRUTH + "/", GROUND_TRUTH_IN_VIEW + "/"))


class BagPredictions:
    """The messages of one occupancy topic, with flow if the recording has it.

    Iterate to get them in the order of the recording, as often as needed.

    Args:
        path: rosbag2 folder or file.
        topic: topic of occ_msgs/SemanticOccupancy. By default the recording's only topic with
            predictions; without predictions its only topic with ground truth.

    Attributes:
        topic, flow_topic: topics that are read. Flow is searched in the same namespace as
            ``topic``; "" if there is none.

    Raises:
        BagError: the recording cannot be read, has no such topic, or the choice is ambiguous.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self.recording = Recording(path)
        try:
            self.topic = _choose(self.recording, topic)
        except BaseException:
            self.recording.close()
            raise
        beside = self.topic.rsplit("/", 1)[0]
        flow_topics = (
            name
            for name, recorded in self.recording.topics.items()
            if recorded.kind == FLOW_TYPE and name.rsplit("/", 1)[0] == beside
        )
        self.flow_topic = next(flow_topics, "")

    def close(self) -> None:
        """Close the recording."""
        self.recording.close()

    @property
    def expected(self) -> int:
        """Number of messages of the topic."""
        return self.recording.topics[self.topic].count

    @property
    def problems(self) -> list[BagProblem]:
        """Messages that were skipped so far and why."""
        return self.recording.problems

    def __iter__(self) -> Iterator[OccupancyPrediction]:
        flows: dict[int, RecordedMessage] = {}
        waiting: list[OccupancyPrediction] = []
        for message in self.recording.messages({self.topic, self.flow_topic} - {""}):
            if message.topic == self.flow_topic:
                flows[self.recording.header_stamp_ns(message)] = message
            else:
                waiting += self._decoded(message)
            while waiting and (
                not self.flow_topic or waiting[0].stamp_ns in flows or len(waiting) > _LONGEST_WAIT
            ):
                yield self._with_flow(waiting.pop(0), flows)
        for prediction in waiting:
            yield self._with_flow(prediction, flows)

    def _decoded(self, message: RecordedMessage) -> Iterator[OccupancyPrediction]:
        try:
            yield prediction_from_message(self.recording.decode(message))
        except (OccError, ValueError) as error:
            text = f"{message.topic}: {error}"
            self.recording.note("unreadable_message", text, message.received_ns)

    def _with_flow(
        self, prediction: OccupancyPrediction, flows: dict[int, RecordedMessage]
    ) -> OccupancyPrediction:
        message = flows.pop(prediction.stamp_ns, None)
        while len(flows) > _LONGEST_WAIT:  # flow whose occupancy was not recorded
            del flows[next(iter(flows))]
        if message is None:
            return prediction
        try:
            flow, grid = flow_from_message(self.recording.decode(message))
            if grid != prediction.grid:
                raise MessageError(f"its grid is {grid}, that of the occupancy {prediction.grid}")
        except (OccError, ValueError) as error:
            text = f"{message.topic}: {error}"
            self.recording.note("unreadable_message", text, message.received_ns)
            return prediction
        return replace(prediction, flow=flow)


def _choose(recording: Recording, topic: str | None) -> str:
    spaces = ("", GROUND_TRUTH, GROUND_TRUTH_IN_VIEW)
    known = [occupancy_topics(recording, space) for space in spaces]
    if topic is not None:
        if any(topic in names for names in known):
            return topic
        listed = ", ".join(name for names in known for name in names) or "none"
        raise BagError(f"{recording.path} has no {OCCUPANCY_TYPE} on {topic!r}; it has {listed}")
    candidates = next(filter(None, known), [])
    if not candidates:
        raise BagError(
            f"{recording.path} has no topic of type {OCCUPANCY_TYPE}; "
            f"`occ run {recording.path} ...` makes predictions"
        )
    if len(candidates) > 1:
        raise BagError(
            f"{recording.path} has several occupancy topics: {', '.join(candidates)}; choose one"
        )
    return candidates[0]


class ArrayFolder:
    """A folder of .npz files as ``occ run --npz`` writes them, in the order of their names.

    Raises:
        BagError: the folder has no .npz file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.files = sorted(self.path.glob("*.npz"))
        self.problems: list[BagProblem] = []
        if not self.files:
            raise BagError(f"{self.path} holds no .npz files")

    def close(self) -> None:
        """Do nothing; no file stays open."""

    @property
    def expected(self) -> int:
        """Number of files."""
        return len(self.files)

    def __iter__(self) -> Iterator[OccupancyPrediction]:
        self.problems.clear()
        for file in self.files:
            yield from self._read(file)

    def _read(self, file: Path) -> Iterator[OccupancyPrediction]:
        try:
            yield read_arrays(file)
        except BagError as error:
            self.problems.append(BagProblem("unreadable_file", str(error)))


def write_arrays(path: str | Path, prediction: OccupancyPrediction) -> None:
    """Write one prediction atomically as an .npz file; :func:`read_arrays` reads it back.

    Raises:
        OutputError: the file cannot be written.
    """
    arrays: dict[str, Any] = {
        "labels_XYZ": prediction.labels,
        "stamp_ns": prediction.stamp_ns,
        "frame_id": prediction.frame_id,
        "grid_lower": prediction.grid.lower,
        "voxel_size": prediction.grid.voxel_size,
        "ego_T_grid": prediction.ego_T_grid,
        "class_names": np.array(prediction.class_names),
        "empty_class": prediction.empty_class,
        "model": prediction.model,
    }
    if prediction.flow is not None:
        arrays["flow_XYZ2"] = prediction.flow
    if prediction.observed is not None:
        arrays["observed_XYZ"] = prediction.observed
    with atomic_path(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_arrays(path: Path) -> OccupancyPrediction:
    """One prediction from the arrays of an .npz file.

    Raises:
        BagError: the file is damaged or is not a file of ``occ run --npz``.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        labels = arrays["labels_XYZ"]
        x, y, z = map(float, arrays["grid_lower"])
        dx, dy, dz = map(float, arrays["voxel_size"])
        return OccupancyPrediction(
            stamp_ns=int(arrays["stamp_ns"]),
            frame_id=str(arrays.get("frame_id", "base_link")),
            grid=VoxelGrid((x, y, z), (dx, dy, dz), labels.shape),
            ego_T_grid=arrays["ego_T_grid"],
            labels=labels,
            class_names=tuple(map(str, arrays["class_names"])),
            empty_class=int(arrays["empty_class"]),
            flow=arrays.get("flow_XYZ2"),
            observed=arrays.get("observed_XYZ"),
            model=str(arrays.get("model", "")),
        )
    except KeyError as error:
        raise BagError(f"{path} has no array {error}; files of `occ run --npz` have it") from None
    except Exception as error:  # zip, numpy and our checks raise different types
        raise BagError(f"{path} is not a prediction: {error}") from error
