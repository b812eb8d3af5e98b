"""The decorator of loops that numba compiles for a CPU; importing this module loads numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function that allocates nothing; its machine code is kept beside its module.

    Multiplications and additions may fuse, as in torch; nothing may be reordered.
    """
    settings: Any = {
        "nogil": True,
        "_nrt": False,  # no reference counting: nothing is allocated
        "fastmath": {"contract"},
        "error_model": "numpy",
    }
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # nowhere to keep machine code: read-only package, no home
        return numba.njit(**settings)(function)
