"""What goes wrong and a user can mend, and the words for it.

Every such error derives from :class:`OccError`; each class stands beside what raises it. What a
caller of a function got wrong (a shape, an axis, a value out of a function's range) is a
``ValueError`` as elsewhere in Python: a defect, whose traceback is wanted.

Programs (command lines, the node) show what :func:`sentence_for` says of an exception, and the
traceback of everything that it has no words for.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class OccError(Exception):
    """A wrong option, file, folder, name or recording; the message says what to do about it.

    Programs print the message alone. Write it as one line: what is wrong, what was expected, what
    was got, for which file, camera or topic, and the next step.
    """


class OptionError(OccError):
    """An option or argument that does not exist, or does not go with the others."""


class MissingPackageError(OccError, ModuleNotFoundError):
    """An optional package is not installed; the message says what brings it."""


_ROS = "run `make setup` and `. ./env.sh`, or install ROS 2 and source it and your workspace"
_TRAINING = "pip install ./training"

# Optional packages by the name they are imported by.
_BROUGHT_BY = {
    "lightning": _TRAINING,
    "numba": "pip install 'occ_perception[viewer]'",
    "nuscenes": "pip install nuscenes-devkit",
    "occ_msgs": _ROS,
    "open3d": "pip install 'occ_perception[open3d]'",
    "ray": "pip install ray",
    "rclpy": _ROS,
    "rerun": "pip install 'occ_perception[rerun]'",
    "tensorboard": _TRAINING,
    "timm": "pip install 'occ_perception[backbones]'",
}

_ROOM = "make room, then run the same command again"
_ADVICE = {
    errno.ENOSPC: ("there is no space left on the disk", _ROOM),
    errno.EDQUOT: ("the disk quota is used up", _ROOM),
    errno.EFBIG: ("the file would be larger than may be written here", "see `ulimit -f`"),
    errno.EROFS: ("the file system is read-only", "choose another place"),
    errno.EACCES: ("permission denied", "choose another place, or change whose it is"),
    errno.EPERM: ("permission denied", "choose another place, or change whose it is"),
    errno.EISDIR: ("is a folder, expected a file", "choose another name"),
    errno.ENOTDIR: ("a file stands where a folder should be", "choose another name"),
    errno.EEXIST: ("exists already", "choose another name"),
    errno.ENOENT: ("does not exist", "is the name right?"),
    errno.EMFILE: ("too many files are open", "raise the limit, see `ulimit -n`"),
}
# What a system says without naming a file, and a user can mend.
_NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE)
_OUT_OF_MEMORY = (
    "there is not enough memory; run with smaller images, a smaller model or batch, fewer "
    "processes or jobs, or on another device"
)


@contextmanager
def needed_for(purpose: str, extra: str = "") -> Iterator[None]:
    """Around the import of an optional package: says what brings it where it is missing.

    Args:
        purpose: what the package is needed for, a noun.
        extra: of occ_perception that the purpose belongs to, where several bring the package.

    Raises:
        MissingPackageError: an optional package is not installed. Any other import that fails
            does so with its own error.
    """
    try:
        yield
    except ImportError as error:
        advice = _what_brings(error, extra)
        if advice is None:
            raise
        raise MissingPackageError(f"{purpose} needs {advice}", name=error.name) from error


def sentence_for(error: BaseException) -> str | None:
    """What a user is told instead of a traceback; None for what no user can mend.

    Beside our own errors these are the ways in which a system refuses: no file, no permission, no
    space, no memory, no package.
    """
    if isinstance(error, OccError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {reason_of(error)}"
    if isinstance(error, OSError) and error.errno in _NAMELESS:
        return reason_of(error)
    if isinstance(error, ImportError):
        missing = _what_brings(error)
        return None if missing is None else f"this needs {missing}"
    return _OUT_OF_MEMORY if _is_out_of_memory(error) else None


def reason_of(error: OSError) -> str:
    """Why the system refused a file, and what to do about it; without the file's name."""
    why, advice = _ADVICE.get(error.errno or 0, (error.strerror or str(error), ""))
    return f"{why}; {advice}" if advice else why


def _what_brings(error: ImportError, extra: str = "") -> str | None:
    package = (error.name or "").partition(".")[0]
    if package not in _BROUGHT_BY:
        return None
    is_absent = isinstance(error, ModuleNotFoundError)
    problem = "is not installed" if is_absent else f"cannot be imported ({error})"
    remedy = f"pip install 'occ_perception[{extra}]'" if extra else _BROUGHT_BY[package]
    return f"{package}, which {problem}; {remedy}"


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # which raised it, or is not in use
    return torch is not None and (
        isinstance(error, torch.cuda.OutOfMemoryError)
        # The CPU allocator has no class of its own.
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )
