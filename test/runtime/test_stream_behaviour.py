"""What a stream promises, on a real network with small images and a small grid."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from small_streams import drive, frame_at, small_card, surround_rig

from occ_perception.frames import CameraFrame, CameraRig, OccupancyPrediction
from occ_perception.models.card import ModelError
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.state import state_tensors
from occ_perception.runtime.schedule import HistoryLimits
from occ_perception.runtime.stream import OccupancyStream, StreamSnapshot
from occ_perception.runtime.weights import LoadedModel

KEYFRAMES_S = [10.0, 10.5, 11.0, 11.5, 12.0]
FRAME_SETS_S = [10.0 + n / 12 for n in range(13)]


def _model(name: str) -> LoadedModel:
    card = small_card(name)
    net = card.build()
    fill_random_weights(net, card, suffix=":7")
    return LoadedModel(card, net.eval(), torch.device("cpu"), "random:7")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from threads, and lose a lot on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return _model("alocc_2d_mini")


@pytest.fixture(scope="module")
def rig(model: LoadedModel) -> CameraRig:
    return surround_rig(model.card.cameras)


def labels_of(stream: OccupancyStream, frames: list[CameraFrame]) -> list[np.ndarray]:
    return [stream.step(frame).labels for frame in frames]


def assert_equal(first: list[np.ndarray], second: list[np.ndarray]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a, b)


def state_bytes_of(snapshot: StreamSnapshot) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in state_tensors(snapshot.state).items()}


@pytest.fixture(scope="module")
def reference(model: LoadedModel, rig: CameraRig) -> list[OccupancyPrediction]:
    stream = OccupancyStream(model)
    return [stream.step(frame) for frame in drive(KEYFRAMES_S, rig)]


def test_predictions_say_what_they_are(model, rig, reference) -> None:
    frames = drive(KEYFRAMES_S, rig)
    for number, (frame, prediction) in enumerate(zip(frames, reference, strict=True)):
        assert prediction.stamp_ns == frame.stamp_ns
        assert prediction.labels.shape == model.card.grid.dims == prediction.grid.dims
        assert prediction.labels.max() < len(prediction.class_names)
        assert prediction.class_names[prediction.empty_class] == "free"
        assert prediction.model == "alocc_2d_mini@random:7"
        assert dict(prediction.camera_stamps_ns) == dict(frame.stamps_ns)
        assert prediction.history_length == number
        assert prediction.committed and prediction.history_break == ""
        stages = dict(prediction.timings_ms)
        assert stages.pop("total") == pytest.approx(sum(stages.values()), rel=1e-6)
        assert set(stages) == {"preprocess", "network", "labels"}
        assert np.array_equal(prediction.ego_T_grid, np.eye(4))


def test_the_network_is_not_blind(model, rig, reference) -> None:
    """Guards the other tests: labels vary, and depend on images, motion and history."""
    assert len(np.unique(reference[0].labels)) > 3
    frames = drive(KEYFRAMES_S, rig)
    alone = OccupancyStream(model).step(frames[-1]).labels
    assert (alone != reference[-1].labels).mean() > 0.01  # history matters
    stream = OccupancyStream(model)
    parked = drive(KEYFRAMES_S, rig, speed_mps=0.0, turn_dps=0.0)
    moved = labels_of(stream, parked)[-1]
    assert (moved != reference[-1].labels).mean() > 0.001  # motion matters
    swapped = dict(frames[0].images)
    swapped["CAM_FRONT"], swapped["CAM_BACK"] = swapped["CAM_BACK"], swapped["CAM_FRONT"]
    mixed_up = OccupancyStream(model).step(replace(frames[0], images=swapped)).labels
    assert (mixed_up != reference[0].labels).mean() > 0.001  # images matter, per camera


def test_reset_is_a_fresh_stream(model, rig, reference) -> None:
    stream = OccupancyStream(model)
    for frame in drive([1.0, 1.5, 2.0], rig, speed_mps=3.0):
        stream.step(frame)
    stream.reset("the driver asked for it")
    again = [stream.step(frame) for frame in drive(KEYFRAMES_S, rig)]
    assert_equal([p.labels for p in again], [p.labels for p in reference])
    assert [p.history_length for p in again] == [0, 1, 2, 3, 4]
    assert [p.history_break for p in again] == ["the driver asked for it", "", "", "", ""]


def test_resetting_an_empty_stream_is_not_a_break(model, rig) -> None:
    stream = OccupancyStream(model)
    stream.reset()
    assert stream.step(frame_at(0.0, rig)).history_break == ""


def test_a_break_is_a_fresh_start_with_a_reason(model, rig, reference) -> None:
    stream = OccupancyStream(model)
    for frame in drive([50.0, 50.5], rig):
        stream.step(frame)
    again = [stream.step(frame) for frame in drive(KEYFRAMES_S, rig)]
    assert_equal([p.labels for p in again], [p.labels for p in reference])
    assert again[0].history_break == "time went back by 40.500 s"
    assert again[1].history_break == ""


def test_snapshot_and_restore_continue_bit_for_bit(model, rig, reference) -> None:
    frames = drive(KEYFRAMES_S, rig)
    stream = OccupancyStream(model)
    labels_of(stream, frames[:3])
    snapshot = stream.snapshot()
    kept = state_bytes_of(snapshot)
    first = labels_of(stream, frames[3:])
    labels_of(stream, drive([90.0, 90.5], rig, speed_mps=1.0))
    assert state_bytes_of(snapshot) == kept  # later steps left it alone
    stream.restore(snapshot)
    assert_equal(labels_of(stream, frames[3:]), first)

    other = OccupancyStream(model)
    other.restore(snapshot)
    continued = [other.step(frame) for frame in frames[3:]]
    assert_equal([p.labels for p in continued], first)
    assert [p.history_length for p in continued] == [3, 4]
    assert_equal(first, [p.labels for p in reference[3:]])


def test_a_snapshot_of_other_weights_is_refused(model) -> None:
    other = OccupancyStream(replace(model, weights_id="random:8"))
    with pytest.raises(ValueError, match=r"belongs to model alocc_2d_mini@random:8"):
        OccupancyStream(model).restore(other.snapshot())


def test_two_streams_do_not_disturb_each_other(model, rig, reference) -> None:
    mine, other = OccupancyStream(model), OccupancyStream(model)
    labels = []
    others = drive([3.0 + 0.4 * n for n in range(5)], rig, speed_mps=15.0, turn_dps=-20.0)
    for frame, disturbance in zip(drive(KEYFRAMES_S, rig), others, strict=True):
        labels.append(mine.step(frame).labels)
        other.step(disturbance)
    assert_equal(labels, [p.labels for p in reference])


def test_without_commit_nothing_is_remembered(model, rig, reference) -> None:
    stream = OccupancyStream(model)
    labels = []
    for frame, what_if in zip(
        drive(KEYFRAMES_S, rig),
        # a later frame set, an earlier one, another scene: all would change the history
        [*drive([10.2, 10.7, 9.0], rig), *drive([3.0, 99.0], rig, sequence="elsewhere")],
        strict=True,
    ):
        labels.append(stream.step(frame).labels)
        before = stream.snapshot()
        bits = state_bytes_of(before)
        asked = stream.step(what_if, commit=False)
        assert not asked.committed
        assert stream.snapshot() is before
        assert state_bytes_of(before) == bits
    assert asked.history_break.startswith("sequence changed")
    assert_equal(labels, [p.labels for p in reference])


def test_what_if_gives_what_a_step_would_give(model, rig) -> None:
    stream = OccupancyStream(model)
    for frame in drive(KEYFRAMES_S, rig):
        asked = stream.step(frame, commit=False)
        done = stream.step(frame)
        assert np.array_equal(asked.labels, done.labels)
        assert asked.history_length == done.history_length


def test_faster_frame_sets_commit_the_keyframes_and_predict_the_same_there(model, rig, reference):
    stream = OccupancyStream(model)
    predictions = [stream.step(frame) for frame in drive(FRAME_SETS_S, rig)]
    committed = [p for p in predictions if p.committed]
    assert [p.stamp_ns for p in committed] == [p.stamp_ns for p in reference[:3]]
    assert_equal([p.labels for p in committed], [p.labels for p in reference[:3]])
    # Frame sets between keyframes see the history of the last keyframe and the motion since.
    assert [p.history_length for p in predictions[:8]] == [0, 1, 1, 1, 1, 1, 1, 2]
    between = OccupancyStream(model)
    between.step(frame_at(FRAME_SETS_S[0], rig))
    assert np.array_equal(
        between.step(frame_at(FRAME_SETS_S[4], rig)).labels, predictions[4].labels
    )


@settings(max_examples=5, deadline=None)
@given(gaps_ms=st.lists(st.integers(30, 300), min_size=5, max_size=9))
def test_only_committed_frames_leave_traces(model, rig, gaps_ms: list[int]) -> None:
    """Whatever frame sets came between, the last prediction is that of a stream which saw only the
    committed frames."""
    times = [2.0, *(2.0 + np.cumsum(gaps_ms) / 1000)]
    frames = drive(times, rig)
    busy = OccupancyStream(model)
    predictions = [busy.step(frame) for frame in frames]
    kept = [f for f, p in zip(frames[:-1], predictions[:-1], strict=True) if p.committed]
    calm = OccupancyStream(model, commit_spacing_s=0.0)
    labels_of(calm, kept)
    last = calm.step(frames[-1])
    assert last.history_length == predictions[-1].history_length == len(kept)
    assert np.array_equal(last.labels, predictions[-1].labels)


def test_the_world_frame_is_arbitrary(model, rig, reference) -> None:
    world = np.eye(4)
    world[:3, :3] = Rotation.from_euler("zyx", (123, 4, -3), degrees=True).as_matrix()
    world[:3, 3] = (1200.0, -3400.0, 25.0)
    stream = OccupancyStream(model)
    for frame, wanted in zip(drive(KEYFRAMES_S, rig, world=world), reference, strict=True):
        prediction = stream.step(frame)
        assert (prediction.labels == wanted.labels).mean() > 0.999
        assert prediction.history_break == ""


def test_the_order_of_cameras_does_not_matter(model, rig, reference) -> None:
    stream = OccupancyStream(model)
    shuffled = CameraRig(tuple(rig.cameras[i] for i in (3, 0, 5, 1, 4, 2)))
    for number, (frame, wanted) in enumerate(
        zip(drive(KEYFRAMES_S, shuffled), reference, strict=True)
    ):
        if number % 2:  # the same rig listed differently is no calibration change either
            frame = replace(frame, rig=rig)
        prediction = stream.step(frame)
        assert prediction.history_break == ""
        assert np.array_equal(prediction.labels, wanted.labels)


def test_a_recalibration_breaks_the_history(model, rig) -> None:
    stream = OccupancyStream(model)
    stream.step(frame_at(0.0, rig))
    bigger = surround_rig(model.card.cameras, (800, 450))
    assert stream.step(frame_at(0.5, bigger)).history_break == "camera calibration changed"


def test_a_missing_image_is_named_and_costs_nothing(model, rig) -> None:
    stream = OccupancyStream(model)
    first, second = drive([0.0, 0.5], rig)
    stream.step(first)
    before = stream.snapshot()
    fewer = {name: image for name, image in second.images.items() if name != "CAM_BACK_LEFT"}
    with pytest.raises(ModelError, match=r"no image of camera CAM_BACK_LEFT, which model"):
        stream.step(replace(second, images=fewer))
    assert stream.snapshot() is before
    assert stream.step(second).history_length == 1


def test_spacing_and_limits_can_be_chosen(model, rig) -> None:
    stream = OccupancyStream(
        model, commit_spacing_s=0.25, limits=HistoryLimits(max_gap_s=0.6), frame_id="ego"
    )
    predictions = [stream.step(f) for f in drive([0.0, 0.083, 0.167, 0.25, 0.5, 1.2], rig)]
    assert [p.committed for p in predictions] == [True, False, False, True, True, True]
    assert predictions[-1].history_break.endswith("limit 0.6 s")
    assert predictions[0].frame_id == "ego"


def test_a_model_without_history_in_the_lidar_frame() -> None:
    model = _model("alocc_2d_mini_surroundocc")
    rig = surround_rig(model.card.cameras, lidar=True)
    stream = OccupancyStream(model)
    predictions = [stream.step(frame) for frame in drive([5.0, 5.5, 2.0], rig)]
    assert rig.ego_T_lidar is not None
    for prediction in predictions:
        assert (prediction.committed, prediction.history_length) == (False, 0)
        assert prediction.history_break == ""
        assert np.array_equal(prediction.ego_T_grid, rig.ego_T_lidar)
    fresh = OccupancyStream(model).step(frame_at(5.5, rig))
    assert np.array_equal(fresh.labels, predictions[1].labels)
