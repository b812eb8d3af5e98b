"""Fixtures that every test tree shares."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from room_minutes import RoomMinutes

# A shell starts its background jobs with SIGINT ignored, and children inherit that. Tests that
# interrupt a process like Ctrl-C need SIGINT to work however the suite was started.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Register the table of minutes at the end of every run."""
    config.pluginmanager.register(RoomMinutes(), "room minutes")


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of reference data and real frames, from OCC_SHARED; skips if that is unset."""
    folder = os.environ.get("OCC_SHARED")
    if not folder:
        pytest.skip("OCC_SHARED is unset: reference data and real frames are not available")
    path = Path(folder)
    assert path.is_dir(), f"OCC_SHARED={folder} is not a folder"
    return path


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a separate file system of 1 MB; skips if mounting is not permitted."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    """A folder that this process may read but not write; root changes its user id meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        was_root = os.geteuid() == 0
        if was_root:
            os.seteuid(65534)
        yield folder
        if was_root:
            os.seteuid(0)
        folder.chmod(0o755)
