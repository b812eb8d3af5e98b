"""Files and folders that appear under their names complete, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from occ_perception.errors import OccError, reason_of

_SUFFIX, _LOCK = ".unfinished", ".lock"

# Letters of its name that a hidden folder's name has: names are at most 255 bytes.
_SHOWN = 100

# Fewer free bytes than this, and the disk counts as full.
_FULL = 1 << 16


class OutputError(OccError):
    """Something cannot be written where it was asked for; nothing of it is kept."""


@contextmanager
def atomic_path(path: str | Path, alone: bool = False) -> Iterator[Path]:
    """Where to write a file or folder, so that it takes its name only when it is whole.

    What is yielded has the name of ``path`` and lies in a hidden folder beside it, which belongs
    to this call alone. When the context ends well, it is moved to ``path``; an older file there
    is replaced, an older folder is not. When it ends with an exception, Ctrl-C included, the
    hidden folder goes; what a killed process left goes with the next writing of ``path``. Where
    nothing was written, nothing appears.

    Nothing is forced to the disk: a power cut may lose what was written last, as it may with any
    file that was just closed.

    Args:
        path: the file or folder to make; folders above it are made.
        alone: refuse while another process writes ``path``. Otherwise the last one counts.

    Raises:
        OutputError: the system refused (a full disk, no permission, a file where a folder should
            be), a folder is at ``path`` already, or another process writes it.
    """
    target = Path(path)
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            hidden = stack.enter_context(_hidden_folder(target, alone))
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


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file (text as UTF-8); errors and promises are those of :func:`atomic_path`."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def refuse_existing(path: str | Path) -> None:
    """Raise :class:`OutputError` where something is at ``path`` already."""
    if Path(path).exists():
        raise OutputError(f"{path} exists already, and nothing is overwritten; choose another name")


@contextmanager
def _hidden_folder(target: Path, alone: bool) -> Iterator[Path]:
    """An empty folder beside the target for this call alone, gone when the context ends."""
    usual = target.with_name(f".{target.name[:_SHOWN]}{_SUFFIX}")
    usual.mkdir(exist_ok=True)
    lock = _locked(usual)
    if lock is None and alone:
        raise OutputError(
            f"{target} is being written by another process; wait for it or choose another name"
        )
    hidden = usual
    if lock is None:
        hidden = Path(tempfile.mkdtemp(_SUFFIX, usual.stem + ".", target.parent))
    try:
        _empty(hidden)
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if lock is not None:
            lock.close()


def _locked(folder: Path) -> IO[str] | None:
    """A lock on a folder until it is closed; None where another process holds it."""
    try:
        lock = (folder / _LOCK).open("w")
    except FileNotFoundError:  # its owner is just removing it
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock.fileno()), (folder / _LOCK).stat()):
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    lock.close()
    return None


def _empty(folder: Path) -> None:
    """Remove what a killed process left."""
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name != _LOCK:
            left.unlink()


def _failure(target: Path, why: str) -> OutputError:
    return OutputError(f"{target} could not be written: {why}; no partial output is left")


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
