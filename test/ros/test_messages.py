"""Predictions survive the conversion to messages and back, through ROS serialization."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.serialization import deserialize_message, serialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import PointCloud2

from occ_msgs.msg import OccupancyFlow, SemanticOccupancy
from occ_perception.codec import DENSE, RLE, SPARSE, MessageError
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS
from occ_perception.ros.messages import (
    flow_from_message,
    flow_message,
    occupancy_message,
    points_message,
    prediction_from_message,
)

pytestmark = pytest.mark.ros

OCC3D = LABEL_SETS["occ3d"]


def prediction(
    seed: int = 0,
    dims: tuple[int, int, int] = (7, 5, 3),
    ego_T_grid: np.ndarray | None = None,
    with_flow: bool = False,
) -> OccupancyPrediction:
    rng = np.random.default_rng(seed)
    labels = rng.choice([4, 11, 16, 17, 17, 17, UNKNOWN_CLASS], size=dims).astype(np.uint8)
    flow = rng.normal(size=(*dims, 2)).astype(np.float32) if with_flow else None
    return OccupancyPrediction(
        stamp_ns=1_533_151_603_512_404_001,
        frame_id="base_link",
        grid=VoxelGrid((-1.4, -1.0, -1.0), (0.4, 0.4, 0.4), dims),
        ego_T_grid=np.eye(4) if ego_T_grid is None else ego_T_grid,
        labels=labels,
        class_names=OCC3D.class_names,
        empty_class=OCC3D.empty_class,
        flow=flow,
        model="some_model@0123",
        camera_stamps_ns={
            "CAM_FRONT": 1_533_151_603_512_404_001,
            "CAM_BACK": 1_533_151_603_5 * 10**8,
        },
        committed=False,
        history_length=3,
        history_break="time went back",
    )


def through_ros(message: object, kind: type) -> object:
    return deserialize_message(serialize_message(message), kind)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), encoding=st.sampled_from([DENSE, SPARSE, RLE]))
def test_a_prediction_survives_the_wire(seed: int, encoding: int) -> None:
    dims = tuple(int(n) for n in np.random.default_rng(seed).integers(1, 9, 3))
    seen = np.random.default_rng(seed).random(dims) < 0.5 if seed % 2 else None
    sent = replace(prediction(seed, dims), observed=seen)
    got = prediction_from_message(through_ros(occupancy_message(sent, encoding), SemanticOccupancy))
    np.testing.assert_array_equal(got.labels, sent.labels)
    np.testing.assert_array_equal(got.observed, seen)
    assert got.grid == sent.grid
    np.testing.assert_array_equal(got.ego_T_grid, sent.ego_T_grid)
    for name in (
        "stamp_ns", "frame_id", "class_names", "empty_class", "model", "camera_stamps_ns",
        "committed", "history_length", "history_break",
    ):  # fmt: skip
        assert getattr(got, name) == getattr(sent, name), name


def test_a_turned_and_shifted_grid_keeps_its_voxels_in_place() -> None:
    ego_T_grid = np.eye(4)
    ego_T_grid[:3, :3] = Rotation.from_euler("zyx", [90, 3, -2], degrees=True).as_matrix()
    ego_T_grid[:3, 3] = [0.94, 0.1, 1.84]
    sent = prediction(ego_T_grid=ego_T_grid)
    got = prediction_from_message(through_ros(occupancy_message(sent, RLE), SemanticOccupancy))
    voxels = np.argwhere(np.ones(sent.grid.dims, dtype=bool))

    def places(p: OccupancyPrediction) -> np.ndarray:
        centers = np.c_[p.grid.centers(voxels), np.ones(len(voxels))]
        return centers @ p.ego_T_grid.T

    np.testing.assert_allclose(places(got), places(sent), atol=1e-6)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("format_version", 9, "format version 9"),
        ("encoding", 7, "encoding"),
        ("empty_class", 200, "empty_class is 200"),
        ("class_names", [], "class_names has 0 entries"),
        ("camera_names", ["CAM_FRONT"], "camera_names has 1 entries and camera_stamps 2"),
        ("run_lengths", [1, 2], "run"),
    ],
)
def test_a_message_that_contradicts_itself_is_refused(
    field: str, value: object, message: str
) -> None:
    bad = occupancy_message(prediction(), RLE)
    setattr(bad, field, value)
    with pytest.raises(MessageError, match="(?i)" + message):
        prediction_from_message(through_ros(bad, SemanticOccupancy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda grid: setattr(grid, "dims", np.array([7, 0, 3], np.uint32)), "dims"),
        (lambda grid: setattr(grid, "dims", np.array([2**31, 2**31, 3], np.uint32)), "voxels"),
        (
            lambda grid: setattr(grid, "voxel_size", np.array([0.4, np.nan, 0.4], np.float32)),
            "size",
        ),
        (lambda grid: setattr(grid.origin.orientation, "w", 0.0), "quaternion"),
        (lambda grid: setattr(grid.origin.position, "x", float("inf")), "finite"),
    ],
)
def test_an_impossible_grid_is_refused(change: object, message: str) -> None:
    bad = occupancy_message(prediction(), RLE)
    change(bad.grid)
    with pytest.raises(MessageError, match=message):
        prediction_from_message(through_ros(bad, SemanticOccupancy))


def test_flow_lists_moving_voxels_that_are_fast_enough() -> None:
    sent = prediction(with_flow=True)
    message = through_ros(flow_message(sent, 0.8), OccupancyFlow)
    flow, grid = flow_from_message(message)
    assert grid == sent.grid
    listed = (sent.labels == OCC3D.class_names.index("car")) & (
        np.linalg.norm(sent.flow, axis=-1) >= 0.8
    )
    assert listed.any()
    np.testing.assert_array_equal(flow, np.where(listed[..., None], sent.flow, 0))
    with pytest.raises(ValueError, match="predicts no flow"):
        flow_message(prediction(), 0.0)


def test_points_are_the_centres_of_occupied_voxels_with_their_colours() -> None:
    ego_T_grid = np.eye(4)
    ego_T_grid[:3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    sent = prediction(ego_T_grid=ego_T_grid)
    cloud = through_ros(points_message(sent), PointCloud2)
    raw = np.frombuffer(cloud.data, np.uint8).reshape(cloud.width, cloud.point_step)
    xyz = raw[:, :12].copy().view("<f4")
    labels = raw[:, 16:20].copy().view("<u4")[:, 0]
    occupied = (sent.labels != OCC3D.empty_class) & (sent.labels != UNKNOWN_CLASS)
    assert cloud.width == occupied.sum()
    voxels = sent.grid.indices(xyz @ ego_T_grid[:3, :3])
    np.testing.assert_array_equal(sent.labels[tuple(voxels.T)], labels)
    # Bytes of rgb in memory are blue, green, red, 0: what RViz and PCL read.
    np.testing.assert_array_equal(raw[:, [14, 13, 12]], OCC3D.palette()[labels])
    assert not raw[:, 15].any()


def test_a_full_grid_is_encoded_quickly() -> None:
    """Assigning an array element by element would take a hundred times longer."""
    rng = np.random.default_rng(0)
    labels = np.full((200, 200, 16), 17, np.uint8)
    labels[:, :, 0] = 11
    labels[rng.random(labels.shape) < 0.05] = 16
    base = prediction()
    full = OccupancyPrediction(
        stamp_ns=base.stamp_ns,
        frame_id="base_link",
        grid=VoxelGrid((-40.0, -40.0, -1.0), (0.4, 0.4, 0.4), (200, 200, 16)),
        ego_T_grid=np.eye(4),
        labels=labels,
        class_names=OCC3D.class_names,
        empty_class=17,
    )
    best = {}
    for encoding in (DENSE, SPARSE, RLE):
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            occupancy_message(full, encoding)
            times.append(time.perf_counter() - begin)
        best[encoding] = min(times)
    assert max(best.values()) < 0.03, best
