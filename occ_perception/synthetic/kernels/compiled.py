"""The decorator of every kernel: compiles on first use and caches the machine code on disk.

The cache is in ``$NUMBA_CACHE_DIR`` if that is set, otherwise in the user's cache folder
(``$XDG_CACHE_HOME`` or ``~/.cache``), in a folder named after a hash of this package's sources.
numba alone detects a change in the file of a kernel, but not in a function of another file that it
calls; the hash prevents the use of code compiled from other sources.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from occ_perception.errors import needed_for
from occ_perception.user_cache import cache_folder

with needed_for("the town", "synthetic"):
    import numba
    import numba.core.config


def kernel(fast: bool = False, inline: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function with numba, without the GIL, cached on disk.

    Args:
        fast: let the compiler reorder arithmetic. Only for pixel colours: labels, masks and ranges
            must be bit-equal on every machine.
        inline: copy the code into its callers. For functions that run once per ray and have few
            callers, because a call passes every array of the world by value.
    """

    settings: Any = numba.core.config

    def decorate(function: Callable[..., Any]) -> Any:
        previous = settings.CACHE_DIR
        settings.CACHE_DIR = str(_CACHE_FOLDER)
        try:
            # Kernels allocate nothing. Without numba's reference counting they run three times
            # as fast: it would count every array of the world at every call, atomically.
            njit: Any = numba.njit
            return njit(
                cache=True,
                nogil=True,
                fastmath=fast,
                error_model="numpy",
                _nrt=False,
                forceinline=inline,
            )(function)
        finally:
            settings.CACHE_DIR = previous

    return decorate


def _cache_folder() -> Path:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    name = f"town-kernels-{digest.hexdigest()[:16]}"
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen) / name
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to, as in many containers
        folder = _private_folder() / name
    return folder


def _private_folder() -> Path:
    """A folder for temporary files that no other user can write to, the same one every time.

    numba reads pickles there, and a pickle of someone else could run code.
    """
    folder = Path(tempfile.gettempdir()) / f"occ_perception-{os.getuid()}"
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        is_ours = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid()
        if is_ours and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return folder
    return Path(tempfile.mkdtemp(prefix="occ_perception-"))


_CACHE_FOLDER = _cache_folder()
