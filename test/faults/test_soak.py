"""Half an hour of stream time in one node: memory, threads and files stay what they were."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

from car import spin_for
from fault_bench import SECOND
from sensor_msgs.msg import PointCloud2

pytestmark = [pytest.mark.ros, pytest.mark.slow]

_MINUTES = 30
_PERIOD_S = 0.5
_SAMPLED_EVERY = 200
_WARM_UP = 400
"""Frame sets until allocators and caches have what they keep."""


@dataclass(frozen=True)
class Usage:
    """What a process holds: resident memory in MB, threads, open files."""

    rss_mb: float
    threads: int
    files: int

    @staticmethod
    def of(pid: int) -> Usage:
        """Read from /proc."""
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return Usage(int(values["VmRSS"].split()[0]) / 1024, int(values["Threads"]), files)


def test_half_an_hour_leaves_no_trace(bench, capsys) -> None:
    one = bench(parameters={"missing_camera": "mask"})
    one.node.create_subscription(
        PointCloud2, "/occupancy_node/occupancy_points", lambda _message: None, 5
    )
    samples: list[Usage] = []
    lost = 0
    sets = round(60 * _MINUTES / _PERIOD_S)
    for number in range(sets):
        one.now_ns += round(_PERIOD_S * SECOND)
        # Every five minutes a camera is away for five seconds, and once the drive starts over.
        without = ["CAM_BACK"] if number % 600 in range(300, 310) else []
        if number == sets // 2:
            one.now_ns += 3600 * SECOND
        stamp_ns = one.car.frame_set(one.now_ns, without=without)
        give_up = time.monotonic() + 10.0
        while not without and stamp_ns not in one.listener.grids:
            if time.monotonic() > give_up:  # its deadline passed on a busy machine
                lost += 1
                break
            spin_for(one.node, 0.01)
        one.listener.grids.clear()
        one.listener.reports[:-1] = []
        if number >= _WARM_UP and number % _SAMPLED_EVERY == 0:
            samples.append(Usage.of(one.process.pid))
    first, last = samples[0], samples[-1]
    with capsys.disabled():
        print(f"\n{sets} frame sets, {lost} without a grid: {first} -> {last}")
    assert lost < 0.01 * sets
    assert last.threads == first.threads
    assert last.files == first.files
    assert max(s.rss_mb for s in samples) < 1.05 * first.rss_mb
