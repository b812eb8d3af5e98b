"""The readable beginning of an mcap file whose end is missing.

A recorder that is killed, or a disk that is full, leaves a file without the index at its end. The
records before the damage are complete: closed off with an empty summary they are a valid file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

_MAGIC = b"\x89MCAP0\r\n"
_FOOTER, _DATA_END = 0x02, 0x0F
# Data end without checksum; a footer that says there is no summary.
_CLOSING = (
    struct.pack("<BQI", _DATA_END, 4, 0) + struct.pack("<BQQQI", _FOOTER, 20, 0, 0, 0) + _MAGIC
)


@contextmanager
def intact_part_of_mcap(path: Path) -> Iterator[Path]:
    """A temporary file with the complete records of ``path``, gone when the context ends.

    Raises:
        ValueError: not an mcap file of ROS messages at all.
    """
    with path.open("rb") as damaged, TemporaryDirectory() as folder:
        end = _end_of_intact_records(damaged)
        part = Path(folder) / path.name
        damaged.seek(0)
        with part.open("wb") as copy:
            _copy(damaged, copy, end)
            copy.write(_CLOSING)
        yield part


def _end_of_intact_records(file: BinaryIO) -> int:
    """Where the last complete record of the data section ends."""
    size = os.fstat(file.fileno()).st_size
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it does not start as an mcap file does")
    position = len(_MAGIC)
    while True:
        head = file.read(9)
        if len(head) < 9:
            return position
        kind, length = struct.unpack("<BQ", head)
        end = position + 9 + length
        if end > size or kind in (_DATA_END, _FOOTER) or not 0x01 <= kind <= 0x0F:
            return position
        if position == len(_MAGIC):
            profile = file.read(length)[4:8]
            if profile != b"ros2":
                raise ValueError(
                    "it holds no ROS 2 messages; the current nuscenes2mcap writes Foxglove "
                    "messages, which `ros2 bag play` cannot play either"
                )
        position = end
        file.seek(position)


def _copy(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count:
        block = source.read(min(count, 1 << 20))
        target.write(block)
        count -= len(block)
