"""Atomic writing: a file or folder appears under its name complete, or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from occ_perception.errors import OccError, reason_of

_SUFFIX, _LOCK = ".unfinished", ".lock"

# A hidden folder's name holds this many letters of the target's name; names have at most 255 bytes.
_SHOWN = 100

# With fewer free bytes than this the disk counts as full.
_FULL = 1 << 16


class OutputError(OccError):
    """An output cannot be written; no partial output is left."""


@contextmanager
def atomic_path(path: str | Path, alone: bool = False) -> Iterator[Path]:
    """Write a file or folder to a temporary path, and move it to ``path`` when it is complete.

    The yielded path has the name of ``path`` and lies in a hidden folder beside it, which no other
    call uses. When the context ends without an exception, the output is moved to ``path``; an
    existing file is replaced, an existing folder is not. When it ends with an exception, Ctrl-C
    included, the hidden folder is deleted. Leftovers of a killed process are deleted by the next
    call for ``path``. If nothing was written, ``path`` is not created.

    The data is not synced to the disk: a power cut may lose it, as with any file just closed.

    Args:
        path: the file or folder to create; parent folders are created.
        alone: fail while another process writes ``path``. Otherwise the last writer wins.

    Raises:
        OutputError: the system refused (a full disk, no permission, a file where a folder should
            be), a folder exists at ``path``, or another process is writing it.
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
                    raise OutputError(f"{target} is an existing folder; choose another name")
                unfinished.replace(target)
        except OccError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and _is_about(error, hidden):
                raise _failure(target, reason_of(error)) from error
            # On a full disk each library raises its own error.
            is_full = shutil.disk_usage(hidden).free < _FULL
            if is_full or os.strerror(errno.ENOSPC) in str(error):
                raise _failure(target, reason_of(OSError(errno.ENOSPC, ""))) from error
            raise


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file atomically, text as UTF-8; errors as in :func:`atomic_path`."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(content.encode() if isinstance(content, str) else content)


def refuse_existing(path: str | Path) -> None:
    """Raise :class:`OutputError` if ``path`` exists."""
    if Path(path).exists():
        raise OutputError(f"{path} exists already, and nothing is overwritten; choose another name")


@contextmanager
def _hidden_folder(target: Path, alone: bool) -> Iterator[Path]:
    """An empty folder beside the target for this call only, deleted when the context ends."""
    usual = target.with_name(f".{target.name[:_SHOWN]}{_SUFFIX}")
    with suppress(FileExistsError):  # `exist_ok` fails if its owner removes it in that moment
        usual.mkdir()
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
    """A lock on a folder, held until it is closed; None if another process holds it."""
    try:
        lock = (folder / _LOCK).open("w")
    except FileNotFoundError:  # its owner is removing it
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
    """Remove leftovers of a killed process."""
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif left.name != _LOCK:
            left.unlink()


def _failure(target: Path, why: str) -> OutputError:
    return OutputError(f"{target} could not be written: {why}; no partial output is left")


def _why_no_folder(target: Path, error: OSError) -> str:
    """Why nothing can be created beside ``target``: its nearest existing parent, and the error."""
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir():
        error = OSError(errno.ENOTDIR, "")
    return f"{above}: {reason_of(error)}"


def _is_about(error: OSError, folder: Path) -> bool:
    """Whether an error is about writing in a folder; errors on open files have no file name."""
    if error.filename is None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return Path(os.fsdecode(error.filename)).is_relative_to(folder)
