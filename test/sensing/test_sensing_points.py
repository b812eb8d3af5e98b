"""Points of lidar drivers: padded rows, and times in their fields and units."""

from __future__ import annotations

import array
from types import SimpleNamespace

import numpy as np
import pytest

from occ_perception.codec import MessageError
from occ_perception.sensing.from_messages import points_from_message, positions_from_message
from occ_perception.sensing.point_times import point_offsets_ns

STAMP = 1_600_000_000_000_000_000
POINTS = np.arange(18, dtype="<f4").reshape(6, 3)


def cloud(data: bytes, height: int = 1, row_step: int | None = None, step: int = 12):
    fields = [
        SimpleNamespace(name=name, offset=4 * k, datatype=7, count=1)
        for k, name in enumerate("xyz")
    ]
    return SimpleNamespace(
        fields=fields,
        is_bigendian=False,
        height=height,
        width=6 // height,
        point_step=step,
        row_step=12 * 6 // height if row_step is None else row_step,
        data=data,
    )


def padded(rows: int, padding: int, last: bool = True) -> bytes:
    data = b"".join(row.tobytes() + b"\xff" * padding for row in np.split(POINTS, rows))
    return data if last else data[:-padding]


@pytest.mark.parametrize("container", [
    bytes, lambda data: np.frombuffer(data, np.uint8), lambda data: array.array("B", data),
])  # fmt: skip
@pytest.mark.parametrize("last_is_padded", [True, False])
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_padding_of_rows_is_skipped(rows, last_is_padded, container):
    data = container(padded(rows, 8, last_is_padded))
    message = cloud(data, rows, row_step=12 * 6 // rows + 8)
    np.testing.assert_array_equal(positions_from_message(message), POINTS)


@pytest.mark.parametrize("row_step", [0, 1, 35, 37, 72, 10**6])
def test_a_row_step_that_contradicts_the_data_is_ignored(row_step):
    message = cloud(POINTS.tobytes(), 2, row_step)
    np.testing.assert_array_equal(positions_from_message(message), POINTS)


def test_an_empty_cloud_has_no_points():
    message = cloud(b"", 1, 0)
    message.width = 0
    assert len(points_from_message(message)) == 0


def test_a_field_outside_of_its_point_is_refused():
    with pytest.raises(MessageError, match="contradict point_step 11"):
        points_from_message(cloud(POINTS.tobytes(), step=11))


SECONDS = np.array([0.0, 0.05])
SECONDS_OF_STAMP = STAMP * 1e-9


@pytest.mark.parametrize(("name", "kind", "values"), [
    ("t", "u4", SECONDS * 1e9),
    ("time_offset", "u4", SECONDS * 1e9),
    ("offset_time", "u4", SECONDS * 1e9),
    ("time_stamp", "u4", SECONDS * 1e9),
    ("time", "f4", SECONDS),
    ("t", "f4", SECONDS),
    ("t", "f8", SECONDS),
    ("time", "f4", SECONDS * 1e6),
    ("time", "f4", SECONDS * 1e9),
    ("timestamp", "f4", SECONDS),
    ("timestamp", "f8", SECONDS + SECONDS_OF_STAMP),
    ("timestamp", "f8", SECONDS * 1e6 + SECONDS_OF_STAMP * 1e6),
    ("timestamp", "f8", SECONDS * 1e9 + STAMP),
    ("time_stamp", "f8", SECONDS + SECONDS_OF_STAMP),
    ("time", "f8", SECONDS + SECONDS_OF_STAMP),
])  # fmt: skip
def test_times_are_read_in_the_units_of_drivers(name, kind, values):
    rows = np.array([(0.0, value) for value in values], dtype=[("x", "f4"), (name, kind)])
    np.testing.assert_allclose(point_offsets_ns(rows, STAMP), [0, 50_000_000], atol=1000)


def test_points_before_the_stamp_have_negative_times():
    rows = np.array([(-0.1,), (0.0,)], dtype=[("time", "f4")])
    np.testing.assert_allclose(point_offsets_ns(rows, STAMP), [-100_000_000, 0], atol=10)


def test_points_without_times():
    assert point_offsets_ns(np.zeros(3, dtype=[("x", "f4")]), STAMP) is None
    assert len(point_offsets_ns(np.zeros(0, dtype=[("t", "f4")]), STAMP)) == 0
    some = np.array([(np.nan,), (0.05,)], dtype=[("t", "f8")])
    np.testing.assert_array_equal(point_offsets_ns(some, STAMP), [0, 50_000_000])


def test_times_in_no_known_unit_are_refused():
    rows = np.array([(50,)], dtype=[("time", "f4")])
    with pytest.raises(MessageError, match="times 50 to 50 in their field time, in ever"):
        point_offsets_ns(rows, STAMP)
    rows = np.array([(2_000_000_000,)], dtype=[("t", "u4")])
    with pytest.raises(MessageError, match="another unit or clock"):
        point_offsets_ns(rows, STAMP)
