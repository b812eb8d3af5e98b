"""The folder of this user for files that can be made or fetched again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``occ_perception`` in ``$XDG_CACHE_HOME``, or in ``~/.cache``; it may not exist yet."""
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "occ_perception"
