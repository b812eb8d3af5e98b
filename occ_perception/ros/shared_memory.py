"""Shared memory of Fast DDS that killed processes have left behind.

Fast DDS keeps each segment in /dev/shm, and its owner holds a lock (flock) on the file
``SEGMENT_el`` as long as it lives. The kernel releases the lock however the owner ends, and it is
seen across containers that share /dev/shm. A segment whose lock is free has no owner any more.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import suppress
from pathlib import Path

_FOLDER = Path("/dev/shm")
_LOCK_FILE = re.compile(r"fastdds_[0-9a-f]{16}_el")
# A process that starts creates the file a moment before it takes the lock.
_YOUNG_S = 5.0


def remove_orphaned_segments(folder: Path = _FOLDER) -> tuple[int, int]:
    """Remove this user's segments whose owner has ended; returns how many, and their bytes.

    Processes that still read such a segment keep what they have mapped.
    """
    count = size = 0
    for lock_file in _lock_files(folder):
        segment = lock_file.with_name(lock_file.name.removesuffix("_el"))
        # Another process may be removing the same files.
        with suppress(OSError):
            lock = os.open(lock_file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size += segment.stat().st_size
                segment.unlink()
                count += 1
                lock_file.unlink()
            finally:
                os.close(lock)
    return count, size


def _lock_files(folder: Path) -> list[Path]:
    """Lock files of this user that are not new."""
    found = []
    with suppress(OSError):
        for path in sorted(folder.iterdir()):
            if _LOCK_FILE.fullmatch(path.name) is None:
                continue
            with suppress(OSError):
                state = path.lstat()
                if state.st_uid == os.geteuid() and time.time() - state.st_mtime > _YOUNG_S:
                    found.append(path)
    return found
