"""Recorded occupancy is read back, joined with images and ground truth; damage is reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from small_footage import (
    BASE_T_LIDAR,
    SEEN,
    SmallFootage,
    guess_at,
    points_at,
    truth_at,
    write_footage,
)

from occ_perception.bags.lidar import LidarSweeps
from occ_perception.bags.message_types import ros2_types
from occ_perception.bags.playback import Playback
from occ_perception.bags.predictions import ArrayFolder, BagPredictions, write_arrays
from occ_perception.bags.recording import BagError
from occ_perception.bags.stamp_join import StampJoin
from occ_perception.bags.writing import BagWriter
from occ_perception.codec import MessageError
from occ_perception.geometry import matrix_from_pose, transform_points
from occ_perception.sensing.from_messages import points_from_message


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> SmallFootage:
    return write_footage(tmp_path_factory.mktemp("footage"))


def assert_same(got, expected) -> None:
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert (got.flow is None) == (expected.flow is None)
    if expected.flow is not None:
        np.testing.assert_array_equal(got.flow, expected.flow)
    for name in ("stamp_ns", "frame_id", "class_names", "empty_class", "model", "history_length"):
        assert getattr(got, name) == getattr(expected, name), name
    index = np.array([(0, 0, 0), (3, 4, 2)])
    np.testing.assert_allclose(
        transform_points(got.ego_T_grid, got.grid.centers(index)),
        transform_points(expected.ego_T_grid, expected.grid.centers(index)),
        atol=1e-6,
    )


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_predictions_come_back_with_their_flow(tmp_path, storage):
    lidar = matrix_from_pose((0.9, 0, 1.8), (0, 0, -0.70711, 0.70711))
    written = [
        guess_at(10**9),
        replace(guess_at(2 * 10**9), flow=None),
        replace(guess_at(3 * 10**9), ego_T_grid=lidar, history_break="gap of 3 s"),
    ]
    with BagWriter(tmp_path / "bag", storage) as bag:
        for prediction in written:
            bag.write_occupancy(prediction)
    predictions = BagPredictions(tmp_path / "bag")
    for _ in range(2):
        got = list(predictions)
        assert len(got) == predictions.expected == 3
        for one, expected in zip(got, written, strict=True):
            assert_same(one, expected)
    assert got[2].history_break == "gap of 3 s"
    assert not predictions.problems


def test_flow_may_be_recorded_before_or_long_after_its_occupancy(tmp_path):
    """A recorder stores messages in the order of arrival; the flow of the second is missing."""
    written = [guess_at(n * 10**9) for n in range(1, 5)]
    with BagWriter(tmp_path / "bag") as bag:
        arrivals = [(9.0, 4.5), (9.1, None), (9.2, 12.0), (9.3, 9.2)]
        messages = []
        for prediction, (occupancy_s, flow_s) in zip(written, arrivals, strict=True):
            messages.append((occupancy_s, replace(prediction, flow=None), None))
            if flow_s is not None:
                messages.append((flow_s, prediction, "flow"))
        for seconds, prediction, only in sorted(messages, key=lambda m: m[0]):
            if only is None:
                bag.write_occupancy(prediction, received_ns=int(seconds * 1e9))
            else:
                write_flow_only(bag, prediction, int(seconds * 1e9))
    got = list(BagPredictions(tmp_path / "bag"))
    assert [p.stamp_ns for p in got] == [p.stamp_ns for p in written]
    assert [p.flow is not None for p in got] == [True, False, True, True]
    np.testing.assert_array_equal(got[2].flow, written[2].flow)


def write_flow_only(bag: BagWriter, prediction, received_ns: int) -> None:
    write = bag.write
    bag.write = lambda topic, *rest: write(topic, *rest) if topic.endswith("flow") else None
    try:
        bag.write_occupancy(prediction, received_ns=received_ns)
    finally:
        bag.write = write


def test_a_message_that_contradicts_itself_is_skipped_and_named(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.write_occupancy(guess_at(10**9))
        new = bag.new

        def shortened(kind: str, **fields):
            if "run_lengths" in fields:
                fields["run_lengths"] = fields["run_lengths"][:-1]
            return new(kind, **fields)

        bag.new = shortened
        bag.write_occupancy(guess_at(2 * 10**9))
        bag.new = new
        bag.write_occupancy(guess_at(3 * 10**9))
    predictions = BagPredictions(tmp_path / "bag")
    assert [p.stamp_ns for p in predictions] == [10**9, 3 * 10**9]
    (problem,) = predictions.problems
    assert "run_lengths" in str(problem)


def test_an_ambiguous_topic_is_refused(tmp_path, footage):
    with BagWriter(tmp_path / "two") as bag:
        bag.write_occupancy(guess_at(10**9), namespace="/front")
        bag.write_occupancy(guess_at(10**9), namespace="/back")
    with pytest.raises(BagError, match=r"/back/occupancy, /front/occupancy; choose one"):
        BagPredictions(tmp_path / "two")
    assert BagPredictions(tmp_path / "two", "/back/occupancy").flow_topic == "/back/flow"
    with pytest.raises(BagError, match=r"has no .* on '/up'; it has /back/occupancy"):
        BagPredictions(tmp_path / "two", "/up")
    with BagWriter(tmp_path / "none") as bag:
        bag.write_odometry(10**9, np.eye(4))
    with pytest.raises(BagError, match="`occ run"):
        BagPredictions(tmp_path / "none")
    # The vehicle's bag has ground truth only, in two versions; the complete one is the default.
    assert BagPredictions(footage.cameras).topic == "/ground_truth/occupancy"


def test_a_folder_of_arrays_reads_as_the_run_wrote_it(tmp_path):
    written = [guess_at(n * 10**9) for n in (1, 2)]
    for n, prediction in enumerate(written):
        write_arrays(tmp_path / f"{n:06d}.npz", prediction)
    (tmp_path / "000002.npz").write_bytes(b"PK no archive")
    np.savez(tmp_path / "000003.npz", semantics=np.zeros(3))
    folder = ArrayFolder(tmp_path)
    for got, expected in zip(folder, written, strict=True):
        np.testing.assert_array_equal(got.labels, expected.labels)
        np.testing.assert_array_equal(got.flow, expected.flow)
        assert (got.stamp_ns, got.grid) == (expected.stamp_ns, expected.grid)
    damaged, other = map(str, folder.problems)
    assert "000002.npz is not a prediction" in damaged
    assert "000003.npz has no array 'labels_XYZ'" in other
    with pytest.raises(BagError, match=r"no \.npz files"):
        ArrayFolder(tmp_path / "nothing")


def test_playback_joins_images_and_truth_by_stamp(footage):
    with Playback(footage.predictions, cameras=footage.cameras) as joined:
        frames = list(joined)
        assert not joined.problems
    assert [shown.prediction.stamp_ns for shown in frames] == footage.stamps
    for shown, frame in zip(frames, footage.frames, strict=True):
        assert_same(shown.prediction, guess_at(frame.stamp_ns))
        assert_same(shown.truth, truth_at(frame.stamp_ns))
        np.testing.assert_array_equal(shown.in_view_XYZ, SEEN)
        assert shown.camera_frame.stamps_ns == dict(frame.stamps_ns)
        assert not shown.is_truth


def test_a_bag_with_ground_truth_only_is_shown_as_ground_truth(footage):
    with Playback(footage.cameras) as joined:
        frames = list(joined)
    assert all(shown.is_truth and shown.truth is None for shown in frames)
    assert all(shown.camera_frame is not None for shown in frames)


def test_a_results_folder_leads_to_the_bag_it_was_made_from(tmp_path, footage):
    (tmp_path / "predictions").symlink_to(footage.predictions)
    (tmp_path / "summary.json").write_text(json.dumps({"bag": str(footage.cameras)}))
    with Playback(tmp_path) as joined:
        frames = list(joined)
    assert all(shown.camera_frame is not None and shown.truth is not None for shown in frames)
    (tmp_path / "summary.json").write_text(json.dumps({"bag": str(tmp_path / "moved away")}))
    with Playback(tmp_path) as joined:
        assert all(shown.camera_frame is None and shown.truth is None for shown in joined)


def test_predictions_alone_have_neither_images_nor_truth(footage):
    with Playback(footage.predictions) as joined:
        assert [(shown.camera_frame, shown.truth) for shown in joined] == [(None, None)] * 4
    with pytest.raises(BagError):
        Playback(footage.predictions, cameras=footage.predictions)


class At:
    def __init__(self, stamp_ns: int) -> None:
        self.stamp_ns = stamp_ns


@given(
    st.lists(st.integers(0, 200), max_size=12).map(sorted),
    st.lists(st.integers(0, 200), max_size=12).map(sorted),
    st.integers(0, 30),
)
def test_a_stamp_join_gives_the_nearest_within_the_tolerance(stamps, wanted, tolerance):
    follower = StampJoin(map(At, stamps), tolerance)
    for stamp in wanted:
        distance = min((abs(s - stamp) for s in stamps), default=None)
        got = follower.at(stamp)
        if distance is None or distance > tolerance:
            assert got is None
        else:
            assert abs(got.stamp_ns - stamp) == distance


def test_lidar_points_lie_in_the_ego_frame(footage):
    sweeps = list(LidarSweeps(footage.cameras))
    assert [s.stamp_ns for s in sweeps] == [stamp + 20_000_000 for stamp in footage.stamps]
    written = points_at(footage.stamps[1])
    kept = np.isfinite(written[:, 0])
    expected = transform_points(BASE_T_LIDAR, written[kept, :3].astype(np.float64))
    np.testing.assert_allclose(sweeps[1].points, expected, atol=1e-5)
    np.testing.assert_array_equal(sweeps[1].intensity, written[kept, 3])
    with pytest.raises(BagError, match="there is no topic of type sensor_msgs/msg/PointCloud2"):
        LidarSweeps(footage.predictions)


def cloud(**changes):
    types = ros2_types().types
    field = types["sensor_msgs/msg/PointField"]
    points = np.zeros(3, [("x", ">f8"), ("ring", ">u2"), ("y", ">f8"), ("z", ">f8")])
    points["x"], points["ring"] = (1.5, -2.0, 3.0), (7, 8, 9)
    arguments = {
        "header": None,
        "height": 1,
        "width": 3,
        "fields": [
            field("x", 0, 8, 1),
            field("ring", 8, 4, 1),
            field("y", 10, 8, 1),
            field("z", 18, 8, 1),
        ],
        "is_bigendian": True,
        "point_step": 26,
        "row_step": 78,
        "data": points.view(np.uint8),
        "is_dense": True,
    }
    return types["sensor_msgs/msg/PointCloud2"](**{**arguments, **changes})


def test_points_of_any_layout_are_read_or_refused():
    rows = points_from_message(cloud())
    np.testing.assert_array_equal(rows["x"], (1.5, -2.0, 3.0))
    np.testing.assert_array_equal(rows["ring"], (7, 8, 9))
    fields = cloud().fields
    for changes, message in (
        ({"width": 4}, "4 points of 26 bytes, but only 78 bytes"),
        ({"fields": fields[:2]}, "fields x, ring, expected x, y and z"),
        ({"fields": [*fields[:3], type(fields[0])("z", 18, 11, 1)]}, "unknown type"),
    ):
        with pytest.raises(MessageError, match=message):
            points_from_message(cloud(**changes))


def test_a_missing_recording_is_an_error(tmp_path: Path):
    with pytest.raises(BagError, match="no recording at"):
        Playback(tmp_path / "nothing.mcap")
