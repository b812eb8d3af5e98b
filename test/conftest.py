"""Fixtures that every test tree shares."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# A shell starts its background jobs with SIGINT ignored, and children inherit that: tests that
# interrupt a process as Ctrl-C does need it heard wherever the suite was started.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference data and real frames, from OCC_SHARED; skips where it is unset."""
    folder = os.environ.get("OCC_SHARED")
    if not folder:
        pytest.skip("OCC_SHARED is unset: reference data and real frames are not available")
    path = Path(folder)
    assert path.is_dir(), f"OCC_SHARED={folder} is not a folder"
    return path
