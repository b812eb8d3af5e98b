"""Recorded predictions hold coloured voxels that Foxglove shows: decoded here as it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from scipy.spatial.transform import Rotation

from occ_perception.bags.foxglove import (
    FIELD_TYPE,
    VOXEL_GRID_TOPIC,
    VOXEL_GRID_TYPE,
    PredictionWriter,
)
from occ_perception.bags.predictions import BagPredictions
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid, matrix_from_pose, transform_points
from occ_perception.labels import LABEL_SETS, PALETTE, UNKNOWN_CLASS

STAMP = 1_533_151_603_512_404_001
OCC3D = LABEL_SETS["occ3d"]


def prediction(dims: tuple[int, int, int] = (7, 5, 3)) -> OccupancyPrediction:
    """Random classes on a grid whose three sides differ, in a turned and shifted frame."""
    labels = np.random.default_rng(1).choice([4, 11, 16, 17, 17, 17, 255], size=dims)
    turned = Rotation.from_euler("zyx", [-90, 3, 2], degrees=True).as_quat()
    return OccupancyPrediction(
        stamp_ns=STAMP,
        frame_id="base_link",
        grid=VoxelGrid((-1.4, -1.0, -1.0), (0.4, 0.5, 0.25), dims),
        ego_T_grid=matrix_from_pose((0.94, 0.1, 1.84), turned),
        labels=labels.astype(np.uint8),
        class_names=OCC3D.class_names,
        empty_class=OCC3D.empty_class,
    )


def messages(folder: Path) -> list[tuple[int, Any]]:
    """The grids of a recording, with the reader that takes the types from the file."""
    found = []
    with AnyReader([folder]) as reader:
        wanted = [c for c in reader.connections if c.topic == VOXEL_GRID_TOPIC]
        assert [c.msgtype for c in wanted] == [VOXEL_GRID_TYPE]
        for connection, received_ns, raw in reader.messages(wanted):
            found.append((received_ns, reader.deserialize(raw, connection.msgtype)))
    return found


def shown(message: Any) -> dict[tuple[int, int, int], tuple[int, ...]]:
    """The visible voxels by the published rule: for byte i, z is i / slice_stride and so on.

    Keys are layer, row and column of the centre, values the colours.
    """
    offsets = {field.name: field.offset for field in message.fields}
    assert {field.type for field in message.fields} == {1}
    data, visible = bytes(message.data), {}
    for i in range(0, len(data), message.cell_stride):
        z, rest = divmod(i, message.slice_stride)
        y, rest = divmod(rest, message.row_stride)
        x = rest // message.cell_stride
        assert x < message.column_count and y < message.row_count
        if data[i + offsets["alpha"]]:
            assert data[i + offsets["alpha"]] == 255
            visible[x, y, z] = tuple(data[i + offsets[c]] for c in ("red", "green", "blue"))
    return visible


def test_the_voxels_that_foxglove_shows_are_those_of_the_prediction(tmp_path: Path) -> None:
    made = prediction()
    with PredictionWriter(tmp_path / "out") as writer:
        writer.write_prediction(made)
    ((received_ns, message),) = messages(tmp_path / "out")
    assert received_ns == STAMP == message.timestamp.sec * 10**9 + message.timestamp.nanosec
    assert message.frame_id == "base_link"
    assert (message.column_count, message.row_count) == (7, 5)
    assert len(message.data) == 3 * message.slice_stride

    visible = shown(message)
    occupied = (made.labels != made.empty_class) & (made.labels != UNKNOWN_CLASS)
    assert set(visible) == {tuple(map(int, index)) for index in np.argwhere(occupied)}
    for index, colour in visible.items():
        assert colour == tuple(PALETTE[made.class_names[made.labels[index]]])

    # Where Foxglove draws them: corner, then the middle of the cell along its axes.
    p, q = message.pose.position, message.pose.orientation
    ego_T_corner = matrix_from_pose((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
    size = np.array([message.cell_size.x, message.cell_size.y, message.cell_size.z])
    voxels = np.array(sorted(visible))
    np.testing.assert_allclose(
        transform_points(ego_T_corner, (voxels + 0.5) * size),
        transform_points(made.ego_T_grid, made.grid.centers(voxels)),
        atol=1e-6,
    )


def test_they_are_compressed_and_the_prediction_is_read_as_ever(tmp_path: Path) -> None:
    made = replace(prediction((200, 200, 16)), labels=np.full((200, 200, 16), 17, np.uint8))
    made.labels[:, :, 2] = 11
    with PredictionWriter(tmp_path / "out") as writer:
        for second in range(3):
            writer.write_prediction(replace(made, stamp_ns=STAMP + second * 10**9))
    (file,) = (tmp_path / "out").glob("*.mcap")
    assert file.stat().st_size < 0.05 * 3 * 4 * made.labels.size
    predictions = BagPredictions(tmp_path / "out")
    assert predictions.expected == 3
    for got in predictions:
        np.testing.assert_array_equal(got.labels, made.labels)
    assert not predictions.problems
    predictions.close()


def test_the_file_states_the_type_that_foxglove_knows(tmp_path: Path) -> None:
    """Read with the library of the file format, and compared with the published definition."""
    with PredictionWriter(tmp_path / "out") as writer:
        writer.write_prediction(prediction())
    (file,) = (tmp_path / "out").glob("*.mcap")
    with file.open("rb") as stream:
        schemas = make_reader(stream).get_summary().schemas.values()
    (schema,) = (schema for schema in schemas if schema.name == VOXEL_GRID_TYPE)
    assert schema.encoding == "ros2msg"
    types = get_types_from_msg(schema.data.decode(), VOXEL_GRID_TYPE)
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    assert [name for name, _ in store.fielddefs[VOXEL_GRID_TYPE][1]] == [
        *("timestamp", "frame_id", "pose", "row_count", "column_count", "cell_size"),
        *("slice_stride", "row_stride", "cell_stride", "fields", "data"),
    ]
    constants, fields = store.fielddefs[FIELD_TYPE]
    assert [name for name, _ in fields] == ["name", "offset", "type"]
    assert {name: value for name, _, value in constants} == {
        name: value
        for value, name in enumerate(
            ["UNKNOWN", "UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "FLOAT64"]
        )
    }


@pytest.mark.parametrize("names", [("car", "a class without a colour", "free")])
def test_a_class_without_a_colour_is_visible(tmp_path: Path, names: tuple[str, ...]) -> None:
    labels = np.full((2, 2, 2), 2, np.uint8)
    labels[1, 0, 1] = 1
    made = replace(
        prediction(),
        labels=labels,
        grid=VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (2, 2, 2)),
        class_names=names,
        empty_class=2,
    )
    with PredictionWriter(tmp_path / "out") as writer:
        writer.write_prediction(made)
    ((_, message),) = messages(tmp_path / "out")
    assert shown(message) == {(1, 0, 1): (255, 0, 255)}
