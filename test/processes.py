"""Real processes for the ROS tests: started, watched, ended with SIGINT."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SMALL_MODEL_NODE = Path(__file__).with_name("small_model_node.py")
OCC = [sys.executable, "-c", "from occ_perception.cli import main; main()"]


class RunningProcess:
    """A child process whose output goes to a file, so that a full pipe cannot block it."""

    def __init__(
        self, command: Sequence[str | Path], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.log = log
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, timeout_s: float) -> int:
        """Exit code; a process that does not end in time is killed and fails the test."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"process did not end within {timeout_s} s:\n{self.output()}"
            ) from None

    def stop(self, timeout_s: float = 60.0) -> int:
        """Send SIGINT and return the exit code."""
        if self.is_running:
            self._process.send_signal(signal.SIGINT)
        return self.wait(timeout_s)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process, for clean-up only; removes its leftover shared memory."""
        if self.is_running:
            self._process.kill()
            self._process.wait()
            remove_orphaned_shared_memory()


def python_module(module: str, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", module, *arguments]


def python_file(path: Path, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, path, *arguments]


def wait_for(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def remove_orphaned_shared_memory() -> None:
    """Delete Fast DDS segments that no living process has mapped."""
    mapped = {
        line.split()[-1]
        for maps in Path("/proc").glob("[0-9]*/maps")
        for line in _lines(maps)
        if "fast" in line
    }
    for pattern in ("fastdds_*", "sem.fastdds_*"):
        for file in Path("/dev/shm").glob(pattern):
            if str(file) not in mapped and file.stat().st_uid == os.getuid():
                file.unlink(missing_ok=True)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:  # the process ended meanwhile, or is not ours
        return []
