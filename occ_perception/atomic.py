"""Files and folders that appear under their names complete, or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from occ_perception.errors import OccError, reason_of

_SUFFIX = ".unfinished"

# Letters of a name that the hidden folder's name has: names may not be longer than 255 bytes.
_SHOWN = 40

# Fewer free bytes than this, and the disk counts as full.
_FULL = 1 << 16


class OutputError(OccError):
    """Something cannot be written where it was asked for; nothing of it is kept."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Where to write a file or folder, so that it takes its name only when it is whole.

    What is yielded has the name of ``path`` and lies in a hidden folder beside it, which belongs
    to this call alone. When the context ends well, it is moved to ``path``; an older file there
    is replaced, an older folder is not. When it ends with an exception, Ctrl-C included, the
    hidden folder goes; only a killed process leaves it, see :func:`remove_leftovers`. Where nothing
    was written, nothing appears.

    Nothing is forced to the disk: a power cut may lose what was written last, as it may with any
    file that was just closed.

    Args:
        path: the file or folder to make; folders above it are made.

    Raises:
        OutputError: the system refused (a full disk, no permission, a file where a folder should
            be), or a folder is at ``path`` already.
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = Path(tempfile.mkdtemp(_SUFFIX, _prefix(target), target.parent))
    except OSError as error:
        raise _failure(target, _why_no_folder(target, error)) from error
    unfinished = hidden / target.name
    try:
        yield unfinished
        if unfinished.exists():
            if target.is_dir():
                raise OutputError(f"{target} is a folder already; choose another name")
            unfinished.replace(target)
    except OccError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and _is_about(error, hidden):
            raise _failure(target, reason_of(error)) from error
        # A full disk shows in as many ways as there are libraries that write.
        is_full = shutil.disk_usage(hidden).free < _FULL
        if is_full or os.strerror(errno.ENOSPC) in str(error):
            raise _failure(target, reason_of(OSError(errno.ENOSPC, ""))) from error
        raise
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file (text as UTF-8); errors and promises are those of :func:`atomic_path`."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def refuse_existing(path: str | Path) -> None:
    """Raise :class:`OutputError` where something is at ``path`` already."""
    if Path(path).exists():
        raise OutputError(f"{path} exists already, and nothing is overwritten; choose another name")


def remove_leftovers(path: str | Path) -> None:
    """Remove what killed processes left of ``path``; to be called where no other one writes it."""
    target = Path(path)
    for hidden in target.parent.glob(f".*{_SUFFIX}"):
        if (hidden / target.name).exists():
            shutil.rmtree(hidden, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name[:_SHOWN]}."


def _failure(target: Path, why: str) -> OutputError:
    return OutputError(f"{target} could not be written: {why}; nothing of it is kept")


def _why_no_folder(target: Path, error: OSError) -> str:
    """Why nothing can be made beside ``target``: of the last folder above it that there is."""
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir():
        error = OSError(errno.ENOTDIR, "")
    return f"{above}: {reason_of(error)}"


def _is_about(error: OSError, folder: Path) -> bool:
    """Whether an error is about writing in a folder; those of writing to open files name none."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return Path(os.fsdecode(error.filename)).is_relative_to(folder)
