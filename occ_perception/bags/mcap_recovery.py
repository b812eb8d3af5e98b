"""Recovers the readable part of an mcap file whose end is missing.

A killed recorder or a full disk leaves a file without the index at its end. The messages before
the damage are complete. They are copied into a new file, which has an index and can be read in the
order of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mcap.exceptions import InvalidMagic
from mcap.records import Channel, Header, Message, Schema
from mcap.stream_reader import StreamReader
from mcap.writer import CompressionType, Writer


@contextmanager
def intact_part_of_mcap(path: Path) -> Iterator[Path]:
    """A temporary file with the intact messages of ``path``, deleted when the context ends.

    Raises:
        ValueError: ``path`` is not an mcap file with ROS 2 messages.
    """
    with TemporaryDirectory() as folder:
        part = Path(folder) / path.name
        writer = Writer(str(part), compression=CompressionType.NONE)
        writer.start("ros2")
        _copy_intact(path, writer)
        writer.finish()
        yield part


def _copy_intact(path: Path, writer: Writer) -> None:
    """Copy all messages before the damage."""
    schemas: dict[int, int] = {}
    channels: dict[int, int] = {}
    for record in _intact_records(path):
        if isinstance(record, Header) and record.profile != "ros2":
            raise ValueError(
                "it holds no ROS 2 messages; the current nuscenes2mcap writes Foxglove messages, "
                "which `ros2 bag play` cannot play either"
            )
        if isinstance(record, Schema):
            schemas[record.id] = writer.register_schema(record.name, record.encoding, record.data)
        elif isinstance(record, Channel):
            channels[record.id] = writer.register_channel(
                record.topic, record.message_encoding, schemas[record.schema_id], record.metadata
            )
        elif isinstance(record, Message):
            writer.add_message(
                channels[record.channel_id], record.log_time, record.data, record.publish_time
            )


def _intact_records(path: Path) -> Iterator[object]:
    with path.open("rb") as file:
        try:
            yield from StreamReader(file, validate_crcs=True).records
        except InvalidMagic as error:
            raise ValueError("it does not start as an mcap file does") from error
        except Exception:  # damage can raise any error of the parsers
            return
