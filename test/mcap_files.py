"""mcap files in the forms that recorders leave, made from a recording with the mcap library."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcap.data_stream import RecordBuilder
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from occ_perception.bags.recording import RecordedMessage, Recording

SWAPPED_NS = 20_000_000


def messages_of(path: Path) -> list[RecordedMessage]:
    with Recording(path) as recording:
        return list(recording.messages())


def with_neighbours_swapped(messages: list[RecordedMessage]) -> list[RecordedMessage]:
    """As recorders with several threads write them: some neighbours up to 20 ms out of order."""
    swapped = list(messages)
    for k in range(0, len(swapped) - 1, 3):
        first, second = swapped[k : k + 2]
        if 0 < second.received_ns - first.received_ns <= SWAPPED_NS:
            swapped[k : k + 2] = second, first
    return swapped


def write_mcap(
    path: Path,
    messages: Iterable[RecordedMessage],
    profile: str = "ros2",
    type_name: Callable[[str], str] = str,
    others: Iterable[tuple[str, str, str, str]] = (),
    **options: Any,
) -> Path:
    """Write messages, and one of each of ``others``: topic, encoding, schema, its encoding."""
    writer = Writer(str(path), compression=CompressionType.NONE, chunk_size=20_000, **options)
    writer.start(profile)
    channels: dict[str, int] = {}
    stamp_ns = 0
    for message in messages:
        if message.topic not in channels:
            kinds = ("ros1msg", "ros1") if message.channel.is_ros1 else ("ros2msg", "cdr")
            definition = message.channel.definition.data.encode()
            schema = writer.register_schema(type_name(message.kind), kinds[0], definition)
            channels[message.topic] = writer.register_channel(message.topic, kinds[1], schema)
        stamp_ns = message.received_ns
        writer.add_message(channels[message.topic], stamp_ns, bytes(message.raw), stamp_ns)
    for topic, encoding, name, schema_encoding in others:
        schema = writer.register_schema(name, schema_encoding, b"")
        writer.add_message(writer.register_channel(topic, encoding, schema), stamp_ns, b"{}", 0)
    writer.finish()
    return path


def with_message_outside_of_chunks(path: Path, message: RecordedMessage, channel: int) -> None:
    """Insert a message behind the last chunk; the summary is left as it is, only moved."""
    data = path.read_bytes()
    footer = data[-37:]
    summary_start = int.from_bytes(footer[9:17], "little")
    end_of_data = summary_start - 13  # the record DATA_END
    assert data[end_of_data] == 0x0F
    time = message.received_ns.to_bytes(8, "little")
    content = channel.to_bytes(2, "little") + bytes(4) + time + time + bytes(message.raw)
    record = b"\x05" + len(content).to_bytes(8, "little") + content
    moved = (summary_start + len(record)).to_bytes(8, "little")
    # Of the footer only the place of the summary is kept: no offsets, no checksum.
    footer = footer[:9] + moved + bytes(12) + footer[-8:]
    path.write_bytes(data[:end_of_data] + record + data[end_of_data:-37] + footer)


def with_statistics_of_zero(path: Path) -> None:
    """As by a writer that does not count: the summary states no message."""
    with path.open("rb") as file:
        summary = make_reader(file).get_summary()
    assert summary is not None and summary.statistics is not None
    nothing = dict.fromkeys(summary.statistics.channel_message_counts, 0)
    zero = replace(summary.statistics, message_count=0, channel_message_counts=nothing)
    written, wanted = (RecordBuilder() for _ in range(2))
    summary.statistics.write(written)
    zero.write(wanted)
    data = path.read_bytes()
    before, after = written.end(), wanted.end()
    assert data.count(before) == 1
    path.write_bytes(data.replace(before, after))
