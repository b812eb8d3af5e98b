"""Errors that a user can fix, and their messages.

Every such error derives from :class:`OccError`; its class is defined in the module that raises it.
A wrong argument of a function (a shape, an axis, a value out of range) is a ``ValueError``, as
elsewhere in Python: a programming error, for which the traceback is wanted.

Programs (command lines, the node) print the message from :func:`sentence_for`. If it returns None,
they show the traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class OccError(Exception):
    """A wrong option, file, folder, name or recording; the message says how to fix it.

    Programs print the message alone. Write it as one line: what is wrong, what was expected, what
    was got, for which file, camera or topic, and the next step.
    """


class OptionError(OccError):
    """An option or argument that does not exist or contradicts another one."""


class MissingPackageError(OccError, ModuleNotFoundError):
    """An optional package is not installed; the message says how to install it."""


_ROS = "run `make setup` and `. ./env.sh`, or install ROS 2 and source it and your workspace"
_TRAINING = "pip install ./training"

# How to install an optional package, by import name.
_INSTALLED_BY = {
    "av": "pip install av",
    "lightning": _TRAINING,
    "numba": "pip install 'occ_perception[viewer]'",
    "nuscenes": "pip install nuscenes-devkit",
    "occ_msgs": _ROS,
    "onnx": "pip install 'occ_perception[export]'",
    "onnxruntime": "pip install 'occ_perception[export]'",
    "onnxscript": "pip install 'occ_perception[export]'",
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
    errno.EACCES: ("permission denied", "choose another place, or change the permissions"),
    errno.EPERM: ("permission denied", "choose another place, or change the permissions"),
    errno.EISDIR: ("is a folder, expected a file", "choose another name"),
    errno.ENOTDIR: ("is a file, expected a folder", "choose another name"),
    errno.EEXIST: ("exists already", "choose another name"),
    errno.ENOENT: ("does not exist", "check the name"),
    errno.EMFILE: ("too many files are open", "raise the limit, see `ulimit -n`"),
}
# Errors that a user can fix although they name no file.
_NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE)
_OUT_OF_MEMORY = (
    "there is not enough memory; run with smaller images, a smaller model or batch, fewer "
    "processes or jobs, or on another device"
)


@contextmanager
def needed_for(purpose: str, extra: str = "") -> Iterator[None]:
    """Context for the import of an optional package; a missing one raises a helpful error.

    Args:
        purpose: what needs the package, a noun.
        extra: extra of occ_perception to install, if several extras contain the package.

    Raises:
        MissingPackageError: an optional package is not installed. Other import errors pass
            through unchanged.
    """
    try:
        yield
    except ImportError as error:
        advice = _how_to_install(error, extra)
        if advice is None:
            raise
        raise MissingPackageError(f"{purpose} needs {advice}", name=error.name) from error


def sentence_for(error: BaseException) -> str | None:
    """The message to print instead of a traceback; None for an error that a user cannot fix.

    Besides our own errors, messages exist for errors of the system: no file, no permission, no
    space, no memory, no package.
    """
    if isinstance(error, OccError):
        return str(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {reason_of(error)}"
    if isinstance(error, OSError) and error.errno in _NAMELESS:
        return reason_of(error)
    if isinstance(error, ImportError):
        missing = _how_to_install(error)
        return None if missing is None else f"this needs {missing}"
    return _OUT_OF_MEMORY if is_out_of_memory(error) else None


def did_you_mean(name: str, known: Iterable[str], most: int = 3) -> str:
    """``did you mean a, b?`` with the known names nearest to another one; "" if none is near."""
    spelt = {own.lower(): own for own in known}
    near = get_close_matches(name.lower(), spelt, n=most)
    return f"did you mean {', '.join(spelt[own] for own in near)}?" if near else ""


def reason_of(error: OSError) -> str:
    """Why the system refused a file, and the next step; without the file's name."""
    why, advice = _ADVICE.get(error.errno or 0, (error.strerror or str(error), ""))
    return f"{why}; {advice}" if advice else why


def git_lfs_advice(beginning: bytes) -> str:
    """What to do if a file, by its first bytes, is a Git LFS pointer; "" if it is none."""
    if not beginning.startswith(b"version https://git-lfs.github.com/spec/"):
        return ""
    return "it is a Git LFS pointer in place of the file; run `git lfs pull` in its repository"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: that of the process, or that of a device of torch."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")  # if it raised the error, it is imported
    return torch is not None and (
        isinstance(error, torch.cuda.OutOfMemoryError)
        # The CPU allocator has no class of its own.
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))
    )


def _how_to_install(error: ImportError, extra: str = "") -> str | None:
    package = (error.name or "").partition(".")[0]
    if package not in _INSTALLED_BY:
        return None
    is_absent = isinstance(error, ModuleNotFoundError)
    problem = "is not installed" if is_absent else f"cannot be imported ({error})"
    remedy = f"pip install 'occ_perception[{extra}]'" if extra else _INSTALLED_BY[package]
    return f"{package}, which {problem}; {remedy}"
