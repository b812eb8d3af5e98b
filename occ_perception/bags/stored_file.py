"""What the files of a recording have in common, whatever their format."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Protocol

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat, Qos
from rosbags.rosbag2.metadata import parse_qos

Note = Callable[[str, str], None]
"""Takes the reason and the text of a problem, see :class:`~.recording.BagProblem`."""

NO_DEFINITION = MessageDefinition(MessageDefinitionFormat.NONE, "")

_DEFINITION_FORMATS = {
    "ros1msg": MessageDefinitionFormat.MSG,
    "ros2msg": MessageDefinitionFormat.MSG,
    "ros2idl": MessageDefinitionFormat.IDL,
    "omgidl": MessageDefinitionFormat.IDL,
}


@dataclass(frozen=True, eq=False)
class Channel:
    """A topic in one file.

    Attributes:
        topic: its name.
        kind: message type, such as ``sensor_msgs/msg/Image``.
        definition: of the type.
        count: number of messages, as the file states it.
        qos: what the publishers offered; empty if unknown.
        is_ros1: whether messages are serialized in ROS 1 format, otherwise as CDR.
    """

    topic: str
    kind: str
    definition: MessageDefinition
    count: int
    qos: tuple[Qos, ...] = ()
    is_ros1: bool = False


Stored = tuple[Channel, int, bytes]
"""A message: channel, time of reception in ns, serialized bytes."""


class StoredFile(Protocol):
    """Read access to one file.

    Attributes:
        path: of the file.
        channels: topics in it.
        span_ns: reception times of the first and the last message; None without messages.
    """

    path: Path
    channels: list[Channel]
    span_ns: tuple[int, int] | None

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        """Messages of some topics in the order of reception.

        Damage raises any error of the parsers.
        """


def in_order(streams: Iterable[tuple[int, Iterator[Stored]]]) -> Iterator[Stored]:
    """Merge streams that are ordered by time; each comes with a time before which it has nothing.

    A stream is not begun before that time: its file or block is not read until it is needed.
    """

    def timed(start_ns: int, stream: Iterator[Stored]) -> Iterator[tuple[int, Stored | None]]:
        yield start_ns, None
        for message in stream:
            yield message[1], message

    by_start = sorted(streams, key=itemgetter(0))
    for _, message in heapq.merge(*(timed(*part) for part in by_start), key=itemgetter(0)):
        if message is not None:
            yield message


def type_name(name: str) -> str:
    """The full name of a message type: older tools leave out ``/msg/``."""
    package, separator, message = name.partition("/")
    return name if not separator or "/" in message else f"{package}/msg/{message}"


def definition_of(encoding: str, text: str) -> MessageDefinition:
    """A recorded message definition; :data:`NO_DEFINITION` if it is empty or unknown."""
    if encoding not in _DEFINITION_FORMATS or not text.strip():
        return NO_DEFINITION
    return MessageDefinition(_DEFINITION_FORMATS[encoding], text)


def qos_of(recorded: Any) -> tuple[Qos, ...]:
    """Recorded QoS, as YAML text or its content; empty if it is not valid.

    QoS only matters for playing: messages are read whatever it says.
    """
    try:
        return tuple(parse_qos(recorded))
    except Exception:  # the parser raises the error of whatever it meets
        return ()
