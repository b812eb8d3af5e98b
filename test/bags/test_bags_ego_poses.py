"""The ego pose of a recording without its cameras: odometry, tf, jumps in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from occ_perception.bags.ego_poses import RecordedPoses
from occ_perception.bags.recording import BagError
from occ_perception.bags.writing import BagWriter
from occ_perception.geometry import matrix_from_pose
from occ_perception.sensing.ego_pose import PoseUnavailable
from occ_perception.sensing.layouts import PoseSource, TopicLayout

PERIOD_NS = 100_000_000


def pose(n: float) -> np.ndarray:
    """Along a curve, 1 m per period."""
    return matrix_from_pose((n, 0.5 * n, 0.0), (0.0, 0.0, np.sin(0.05), np.cos(0.05)))


def write(path: Path, stamps: list[int], kind: str) -> Path:
    with BagWriter(path) as bag:
        for n in stamps:
            stamp = 10**9 + n * PERIOD_NS
            if kind == "odometry":
                bag.write_odometry(stamp, pose(n))
                continue
            chain = [("map", "odom", pose(n)), ("odom", "base_link", pose(0))]
            bag.write_transforms(stamp, chain)
    return path


@pytest.mark.parametrize("kind", ["odometry", "tf"])
def test_poses_are_interpolated_along_a_drive(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "bag", list(range(200)), kind)
    layout = TopicLayout("by tf", (), PoseSource("tf", "/tf", "map", "base_link"), "")
    poses = RecordedPoses(path, layout if kind == "tf" else None)
    for n in (0, 3.25, 3.5, 150, 199):
        world_T_ego = poses.at(10**9 + round(n * PERIOD_NS))
        expected = pose(n) @ pose(0) if kind == "tf" else pose(n)
        np.testing.assert_allclose(world_T_ego, expected, atol=1e-9)
    with pytest.raises(PoseUnavailable, match="newer than the newest pose"):
        poses.at(10**9 + 205 * PERIOD_NS)
    poses.close()
    assert not poses.problems


def test_poses_end_where_time_goes_back(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag") as bag:
        write_message = bag.write
        for late_ns in (0, 30 * PERIOD_NS):  # the second lap has the stamps of the first
            bag.write = lambda topic, at_ns, message, late_ns=late_ns: write_message(
                topic, at_ns + late_ns, message
            )
            for n in range(30):
                bag.write_odometry(10**9 + n * PERIOD_NS, pose(n))
    poses = RecordedPoses(tmp_path / "bag")
    np.testing.assert_allclose(poses.at(10**9 + 28 * PERIOD_NS), pose(28), atol=1e-9)
    with pytest.raises(PoseUnavailable):
        poses.at(10**9 + 40 * PERIOD_NS)
    assert ["the poses end there" in str(problem) for problem in poses.problems] == [True]
    poses.close()


def test_an_ambiguous_or_missing_source_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "tf", [0, 1], "tf")
    with pytest.raises(BagError, match="has no odometry; name the source"):
        RecordedPoses(path)
    with pytest.raises(BagError, match="no ego pose on /odom"):
        RecordedPoses(path, "occ_perception")
