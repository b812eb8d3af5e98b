"""Finds the messages of an mcap file, whatever its own index says or leaves out.

The format allows files without an index, with an index of chunks but none of messages, without
chunks, and with messages outside of chunks; a killed recorder leaves a file without its end. So the
data section is walked from record to record, without reading their contents. Chunks that the file's
own index lists are stepped over at once.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, ChunkIndex, McapRecord, Schema, Statistics
from mcap.stream_reader import get_chunk_data_stream
from mcap.summary import Summary

_MAGIC = b"\x89MCAP0\r\n"
_FOOTER_BYTES = 37  # with the magic
_RECORD = struct.Struct("<BQ")  # opcode, length
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time
_SPAN = struct.Struct("<QQ")
_LEAST_BYTES = {0: 1 << 64, Opcode.MESSAGE: _MESSAGE.size, Opcode.CHUNK: _SPAN.size}
"""Opcode -> length of the shortest record that is possible; no record has opcode 0."""


@dataclass(frozen=True)
class ChunkPlace:
    """A block of messages.

    Attributes:
        offset: of its record in the file.
        start_ns, end_ns: log times of its first and last message.
        channels: ids of the channels with messages in it; None if unknown.
    """

    offset: int
    start_ns: int
    end_ns: int
    channels: frozenset[int] | None


class McapMessage(NamedTuple):
    """A message: id of its channel, log time, serialized bytes."""

    channel: int
    log_ns: int
    raw: bytes


@dataclass
class ChunkContent:
    """What a chunk holds.

    Attributes:
        messages: in the order of the file.
        records: of schemas and channels.
        damage: what is damaged; "" if the chunk is intact.
    """

    messages: list[McapMessage]
    records: list[McapRecord]
    damage: str = ""


@dataclass
class McapIndex:
    """Where the messages of a file are.

    Attributes:
        chunks: blocks of messages.
        loose_ns, loose_offsets, loose_channels: log time, offset and channel id of every message
            outside of chunks, in the order of the file.
        schemas, channels: by id.
        counts: channel id -> number of messages, as the file's summary states it, or counted where
            there is no such statement.
        states_counts: whether the summary states them.
        span_ns: log times of the first and the last message; None without messages.
        damages: parts that cannot be read.
    """

    chunks: list[ChunkPlace] = field(default_factory=list)
    loose_ns: array[int] = field(default_factory=lambda: array("Q"))
    loose_offsets: array[int] = field(default_factory=lambda: array("Q"))
    loose_channels: array[int] = field(default_factory=lambda: array("H"))
    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    states_counts: bool = False
    span_ns: tuple[int, int] | None = None
    damages: list[str] = field(default_factory=list)

    def take(self, record: McapRecord) -> None:
        """Store what a record says about schemas and channels."""
        if isinstance(record, Schema):
            self.schemas[record.id] = record
        elif isinstance(record, Channel):
            self.channels[record.id] = record


def index_of(file: BinaryIO) -> McapIndex:
    """The index of an mcap file.

    Raises:
        ValueError: it is not an mcap file.
    """
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not start as an mcap file does")
    index = McapIndex()
    summary = _summary(file, index)
    for record in (*summary.schemas.values(), *summary.channels.values()):
        index.take(record)
    _walk(file, index, summary)
    if not _use_statistics(summary.statistics, index):
        _read_chunks(file, index)
    return index


def _summary(file: BinaryIO, index: McapIndex) -> Summary:
    """The summary at the end of the file; an empty one if it has none."""
    end = file.seek(0, 2)
    file.seek(max(end - _FOOTER_BYTES, 0))
    footer = file.read()
    if footer[:9] != _RECORD.pack(Opcode.FOOTER, 20) or not footer.endswith(_MAGIC):
        index.damages.append("its end is missing")
        return Summary()
    file.seek(0)
    try:
        return make_reader(file).get_summary() or Summary()
    except Exception as error:  # damage can raise any error of the parser
        index.damages.append(f"its summary is damaged ({error or type(error).__name__})")
        return Summary()


def _use_statistics(statistics: Statistics | None, index: McapIndex) -> bool:
    """Take the numbers of messages from the summary; returns whether it states all of them."""
    if statistics is None:
        return False
    counts = Counter(statistics.channel_message_counts)
    is_empty = not (index.chunks or index.loose_ns)
    index.states_counts = (
        counts.total() == statistics.message_count
        and (is_empty or counts.total() > 0)
        and counts.keys() <= index.channels.keys()
        and all(c.schema_id in {0, *index.schemas} for c in index.channels.values())
    )
    if index.states_counts and not is_empty:
        index.counts = counts
        index.span_ns = (statistics.message_start_time, statistics.message_end_time)
    return index.states_counts


def _walk(file: BinaryIO, index: McapIndex, summary: Summary) -> None:
    """Find chunks and messages from record to record."""
    indexed = {chunk.chunk_start_offset: chunk for chunk in summary.chunk_indexes}
    end = file.seek(0, 2)
    offset = len(_MAGIC)
    while offset < end:
        if offset in indexed:
            chunk = indexed[offset]
            index.chunks.append(_place_of(chunk))
            offset += max(chunk.chunk_length + chunk.message_index_length, _RECORD.size)
            continue
        file.seek(offset)
        opcode, length = _record_head(file)
        if opcode in (Opcode.DATA_END, Opcode.FOOTER):
            break
        following = offset + _RECORD.size + length
        if following > end or length < _LEAST_BYTES.get(opcode, 0):
            # The file's own index, if there is one, says where the next block begins.
            following = min((place for place in indexed if place > offset), default=end)
            index.damages.append(f"bytes {offset} to {following} are not readable")
        else:
            _take_record(file, index, opcode, offset)
        offset = following


def _take_record(file: BinaryIO, index: McapIndex, opcode: int, offset: int) -> None:
    """Store the place of a chunk or message, or what the record says; its head has been read."""
    if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
        try:
            stream = ReadDataStream(file)
            index.take(Schema.read(stream) if opcode == Opcode.SCHEMA else Channel.read(stream))
        except Exception:  # damage can raise any error of the parser
            index.damages.append(f"the description of a topic at byte {offset} is not readable")
    elif opcode == Opcode.CHUNK:
        start_ns, end_ns = _SPAN.unpack(file.read(_SPAN.size))
        index.chunks.append(ChunkPlace(offset, start_ns, end_ns, None))
    elif opcode == Opcode.MESSAGE:
        channel, _, log_ns, _ = _MESSAGE.unpack(file.read(_MESSAGE.size))
        index.loose_ns.append(log_ns)
        index.loose_offsets.append(offset)
        index.loose_channels.append(channel)


def _record_head(file: BinaryIO) -> tuple[int, int]:
    """Opcode and length of the record at the file's position; (0, 0) at a broken end."""
    head = file.read(_RECORD.size)
    return _RECORD.unpack(head) if len(head) == _RECORD.size else (0, 0)


def _place_of(chunk: ChunkIndex) -> ChunkPlace:
    # Without a message index it is unknown which channels the chunk holds.
    channels = frozenset(chunk.message_index_offsets) or None
    return ChunkPlace(
        chunk.chunk_start_offset, chunk.message_start_time, chunk.message_end_time, channels
    )


def _read_chunks(file: BinaryIO, index: McapIndex) -> None:
    """Read all chunks once, for their channels, numbers of messages and times."""
    index.counts = Counter(index.loose_channels)
    times = [min(index.loose_ns), max(index.loose_ns)] if index.loose_ns else []
    readable = []
    for chunk in index.chunks:
        content = content_of_chunk(file, chunk.offset)
        if content.damage:
            index.damages.append(content.damage)
        for record in content.records:
            index.take(record)
        if content.messages:
            counts = Counter(message.channel for message in content.messages)
            index.counts += counts
            start_ns = min(message.log_ns for message in content.messages)
            end_ns = max(message.log_ns for message in content.messages)
            times += [start_ns, end_ns]
            channels = frozenset(counts)
            readable.append(ChunkPlace(chunk.offset, start_ns, end_ns, channels))
    index.chunks = readable
    index.span_ns = (min(times), max(times)) if times else None


def content_of_chunk(file: BinaryIO, offset: int) -> ChunkContent:
    """The content of the chunk at an offset of the file, up to a damage in it."""
    content = ChunkContent([], [])
    try:
        file.seek(offset + _RECORD.size)
        chunk = Chunk.read(ReadDataStream(file))
        stream, size = get_chunk_data_stream(chunk, validate_crc=True)
        data = stream.read(size)
        at = 0
        while at < size:
            opcode, length = _RECORD.unpack_from(data, at)
            begin, at = at + _RECORD.size, at + _RECORD.size + length
            if at > size or length < _LEAST_BYTES.get(opcode, 0):
                raise ValueError(f"no record at byte {begin - _RECORD.size} of it")
            if opcode == Opcode.MESSAGE:
                channel, _, log_ns, _ = _MESSAGE.unpack_from(data, begin)
                raw = data[begin + _MESSAGE.size : at]
                content.messages.append(McapMessage(channel, log_ns, raw))
            elif opcode == Opcode.SCHEMA:
                content.records.append(Schema.read(ReadDataStream(BytesIO(data[begin:at]))))
            elif opcode == Opcode.CHANNEL:
                content.records.append(Channel.read(ReadDataStream(BytesIO(data[begin:at]))))
    except Exception as error:  # damage can raise any error of the parser
        why = str(error).rstrip(".") or type(error).__name__
        content.damage = f"the block of messages at byte {offset} is damaged ({why})"
    return content


def message_at(file: BinaryIO, offset: int) -> McapMessage:
    """The message at an offset of the file, outside of chunks."""
    file.seek(offset)
    _, length = _record_head(file)
    channel, _, log_ns, _ = _MESSAGE.unpack(file.read(_MESSAGE.size))
    return McapMessage(channel, log_ns, file.read(length - _MESSAGE.size))
