"""Messages to look at, built without a node: velocities of points, arrows, overlay, voxels."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import CompressedImage, PointCloud2
from small_footage import CAMERAS, CAR, FREE, GRID, ROAD, guess_at, truth_at
from small_streams import drive, surround_rig
from visualization_msgs.msg import Marker, MarkerArray

from occ_perception.bags.foxglove import voxel_grid
from occ_perception.bags.message_types import ros2_types
from occ_perception.errors import MissingPackageError
from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.geometry import matrix_from_pose
from occ_perception.ros import visual_messages
from occ_perception.ros.messages import points_message
from occ_perception.ros.outputs import foxglove_outputs
from occ_perception.ros.visual_messages import (
    OVERLAY_WIDTH,
    JpegError,
    flow_markers_message,
    jpeg_of,
    overlay_message,
)
from occ_perception.viewer.camera_overlay import overlay_panel

pytestmark = pytest.mark.ros

STAMP = 12_500_000_007


def through_ros(message: Any, kind: type[Any]) -> Any:
    return deserialize_message(serialize_message(message), kind)


def columns(cloud: PointCloud2) -> dict[str, np.ndarray]:
    """The values of a cloud by name, read as its fields describe them."""
    kinds = {7: "<f4", 6: "<u4"}
    dtype = np.dtype(
        {
            "names": [field.name for field in cloud.fields],
            "formats": [kinds[field.datatype] for field in cloud.fields],
            "offsets": [field.offset for field in cloud.fields],
            "itemsize": cloud.point_step,
        }
    )
    points = np.frombuffer(bytes(cloud.data), dtype)
    assert len(points) == cloud.width and cloud.row_step == len(cloud.data)
    return {name: points[name] for name in dtype.names}


def test_points_carry_the_velocity_of_what_can_move() -> None:
    made = truth_at(STAMP)
    flow = made.flow.copy()
    flow[made.labels == ROAD] = (3.0, 1.0)  # of a class that cannot move
    first = tuple(np.argwhere(made.labels == CAR)[0])
    flow[first] = (np.nan, 5.0)
    made = replace(made, flow=flow)
    points = columns(through_ros(points_message(made), PointCloud2))
    assert list(points) == ["x", "y", "z", "rgb", "label", "vx", "vy"]
    place = np.array([made.grid.centers(np.array([first]))[0]])
    is_first = np.isclose(np.stack([points[a] for a in "xyz"], axis=1), place).all(axis=1)
    assert is_first.sum() == 1
    is_car = points["label"] == CAR
    np.testing.assert_array_equal(points["vx"], np.where(is_car & ~is_first, 2.0, 0.0))
    np.testing.assert_array_equal(points["vy"], np.zeros(len(is_car)))


def test_points_of_a_model_without_flow_have_the_same_fields() -> None:
    with_flow, without = (
        columns(points_message(made))
        for made in (truth_at(STAMP), replace(truth_at(STAMP), flow=None))
    )
    assert list(with_flow) == list(without)
    assert not without["vx"].any() and not without["vy"].any()
    np.testing.assert_array_equal(with_flow["x"], without["x"])


def two_cars() -> OccupancyPrediction:
    labels = np.full(GRID.dims, FREE, np.uint8)
    flow = np.zeros((*GRID.dims, 2), np.float32)
    for corner, velocity in (((4, 4, 2), (6.0, -2.0)), ((20, 24, 3), (-1.0, 0.0))):
        i, j, k = corner
        labels[i : i + 4, j : j + 3, k : k + 2] = CAR
        flow[i : i + 4, j : j + 3, k : k + 2] = velocity
    return replace(truth_at(STAMP), labels=labels, flow=flow)


def test_an_arrow_shows_the_way_of_one_second_on_top_of_its_object() -> None:
    # The grid stands on its side in the ego frame; flow is along the axes of the ego frame.
    ego_T_grid = matrix_from_pose((0.9, 0.1, 1.8), (0.0, 0.0, -np.sqrt(0.5), np.sqrt(0.5)))
    message = through_ros(
        flow_markers_message(replace(two_cars(), ego_T_grid=ego_T_grid)), MarkerArray
    )
    clear, *arrows = message.markers
    assert clear.action == Marker.DELETEALL
    assert len(arrows) == 2
    assert len({(arrow.ns, arrow.id) for arrow in arrows}) == 2
    found = set()
    for arrow in arrows:
        assert (arrow.type, arrow.action) == (Marker.ARROW, Marker.ADD)
        assert (arrow.header.stamp.sec, arrow.header.stamp.nanosec) == (12, 500_000_007)
        assert arrow.header.frame_id == "base_link"
        assert arrow.color.a == 1.0
        start, end = (np.array([p.x, p.y, p.z]) for p in arrow.points)
        way = end - start
        assert way[2] == 0
        # The head is no longer than the arrow, which RViz would draw beyond its end.
        assert 0 < arrow.scale.z < np.hypot(*way[:2])
        found.add((tuple(np.round(way[:2], 5)), tuple(np.round(start, 5))))
    # Middles of the two boxes: x and y of the grid become y and -x of the ego frame.
    expected = set()
    for (i, j, k), velocity in (((4, 4, 2), (6.0, -2.0)), ((20, 24, 3), (-1.0, 0.0))):
        x, y = -8 + 0.5 * (i + 2), -8 + 0.5 * (j + 1.5)
        top = -1 + 0.5 * (k + 2)
        place = (0.9 + y, 0.1 - x, 1.8 + top)
        expected.add((velocity, tuple(np.round(place, 5))))
    assert found == expected


def test_without_motion_the_old_arrows_are_deleted() -> None:
    still = replace(two_cars(), flow=np.zeros((*GRID.dims, 2), np.float32))
    (clear,) = flow_markers_message(still).markers
    assert clear.action == Marker.DELETEALL


@pytest.fixture(scope="module")
def frame() -> CameraFrame:
    (frame,) = drive([10.0], surround_rig(CAMERAS, (400, 224)))
    return frame


def test_the_overlay_is_a_jpeg_of_all_cameras_with_the_prediction(frame: CameraFrame) -> None:
    pytest.importorskip("numba")
    made = guess_at(frame.stamp_ns)
    message = through_ros(overlay_message(frame, made), CompressedImage)
    assert message.format == "jpeg"
    assert message.header.frame_id == "base_link"
    assert message.header.stamp.sec * 10**9 + message.header.stamp.nanosec == frame.stamp_ns
    image = cv2.imdecode(np.frombuffer(bytes(message.data), np.uint8), cv2.IMREAD_COLOR)
    expected = overlay_panel(frame, made, OVERLAY_WIDTH)
    assert image.shape == expected.shape and image.shape[1] == OVERLAY_WIDTH
    # JPEG loses something, but red and blue are not swapped.
    as_read, swapped = (
        np.abs(colours.astype(int) - expected).mean() for colours in (image[..., ::-1], image)
    )
    assert as_read < 8.0 and as_read < 0.3 * swapped
    empty = replace(made, labels=np.full(GRID.dims, FREE, np.uint8))
    assert (overlay_panel(frame, empty, OVERLAY_WIDTH) != expected).any(axis=2).mean() > 0.1


def test_without_numba_the_overlay_says_what_to_install(
    frame: CameraFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in [name for name in sys.modules if name.startswith("occ_perception.viewer.volume_k")]:
        monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr("occ_perception.viewer.volume_kernels", raising=False)
    monkeypatch.delitem(sys.modules, "occ_perception.ops.compiled", raising=False)
    with pytest.raises(MissingPackageError, match=r"needs numba, .* pip install"):
        overlay_message(frame, guess_at(frame.stamp_ns))


def test_an_image_that_cannot_be_encoded_is_an_error_of_our_own() -> None:
    with pytest.raises(JpegError, match=r"image of shape \(0, 5, 3\)"):
        jpeg_of(np.zeros((0, 5, 3), np.uint8))


@dataclass
class PackedElementField:
    """As generated from foxglove_msgs, for which there is no wheel."""

    name: str
    offset: int
    type: int


@dataclass
class VoxelGrid:
    timestamp: Any
    frame_id: str
    pose: Any
    row_count: int
    column_count: int
    cell_size: Any
    slice_stride: int
    row_stride: int
    cell_stride: int
    fields: list[PackedElementField]
    data: Any


def test_the_voxel_grid_is_an_output_where_foxglove_msgs_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "foxglove_msgs", None)
    assert foxglove_outputs() == ()
    package, module = ModuleType("foxglove_msgs"), ModuleType("foxglove_msgs.msg")
    module.VoxelGrid, module.PackedElementField = VoxelGrid, PackedElementField
    monkeypatch.setitem(sys.modules, "foxglove_msgs", package)
    monkeypatch.setitem(sys.modules, "foxglove_msgs.msg", module)
    (output,) = foxglove_outputs()
    assert (output.topic, output.message_type, output.when) == (
        "~/voxel_grid", VoxelGrid, "subscribed",
    )  # fmt: skip
    made = truth_at(STAMP)
    message = visual_messages.voxel_grid_message(made)
    # Field by field what the recordings hold, with message classes of ROS.
    types = ros2_types().types
    recorded = voxel_grid(made, lambda kind, **fields: types[kind](**fields))
    assert bytes(message.data) == bytes(recorded.data)
    assert type(message.data).__name__ == "array"  # a field of rclpy stores it without a copy
    assert (message.timestamp.sec, message.timestamp.nanosec) == (12, 500_000_007)
    assert message.pose.position.x == recorded.pose.position.x == -8.0
    assert message.cell_size.z == recorded.cell_size.z == 0.5
    for name in ("row_count", "column_count", "slice_stride", "row_stride", "cell_stride"):
        assert getattr(message, name) == getattr(recorded, name)
    assert [field.name for field in message.fields] == ["red", "green", "blue", "alpha"]
