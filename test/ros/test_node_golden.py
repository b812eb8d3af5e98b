"""The golden replay: 60 frame sets, and faults between them, against the stored log of messages."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from golden_replay import (
    FRAME_SETS,
    LOST,
    SHARE_OF_GRID,
    differences,
    node_command,
    read_log,
    replay,
)
from ros_fixtures import Launch

pytestmark = pytest.mark.ros


@pytest.mark.slow(ci=True)
def test_the_node_sends_what_is_logged(launch: Launch, tmp_path: Path, ros_context: None) -> None:
    assert ros_context is None
    process = launch(node_command(tmp_path))
    node = rclpy.create_node("golden_replay")
    got = replay(node)
    assert differences(read_log(), got) == []
    assert process.stop() == 0, process.output()
    node.destroy_node()


def test_the_log_holds_the_drive_and_its_faults() -> None:
    log = read_log()
    assert len(log.messages) == len(log.grids) == FRAME_SETS
    assert log.counters["inference: frame_sets_failed_undecodable_image"] == 1
    assert log.counters["synchronization: dropped_incomplete"] == len(LOST) - 1
    breaks = [message["history_break"] for message in log.messages if message["history_break"]]
    assert len(breaks) == 2 and "no frame entered" in breaks[0] and "went back" in breaks[1]
    assert all(len(np.unique(grid)) > 2 for grid in log.grids)


def test_every_difference_is_found() -> None:
    log = read_log()
    assert differences(log, copy.deepcopy(log)) == []
    other = copy.deepcopy(log)
    other.messages[3]["history_length"] += 1
    other.messages[7]["cameras"]["CAM_BACK"] += 1
    other.counters["time: jumps_back"] += 1
    other.grids = other.grids.copy()
    changed = int(SHARE_OF_GRID * other.grids[0].size) + 1
    other.grids[9].reshape(-1)[:changed] += 1
    found = differences(log, other)
    assert [line.split(" is ")[0] for line in found[:3]] == [
        "time: jumps_back", "message 3: history_length", "message 7: cameras"
    ]  # fmt: skip
    assert found[3:] == [
        f"message 9: {changed / other.grids[9].size:.2%} of the voxels have another class"
    ]
    other.grids = 1 - log.grids
    assert differences(log, other)[-1].endswith("of all voxels have another class")
