"""Cameras that fall silent and come back within a stream."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_sparse import small_sparse, small_sparse_card
from small_streams import drive, small_card, surround_rig

from occ_perception.frames import CameraFrame
from occ_perception.models.card import ModelCard, ModelError
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

LOST = "CAM_BACK"
MATCHING = ("alocc_3d", "alocc_3d_gf", "sparseocc")
"""Networks that compare each camera's images with earlier ones."""


def loaded(card: ModelCard) -> LoadedModel:
    net = card.build()
    if card.name == "sparseocc":
        net.load_state_dict(small_sparse().state_dict())
    else:
        fill_random_weights(net, card)
    return LoadedModel(card, net.eval().requires_grad_(False), torch.device("cpu"), "random:0")


def card_of(name: str) -> ModelCard:
    return small_sparse_card() if name == "sparseocc" else small_card(name)


def without(frame: CameraFrame, name: str = LOST) -> CameraFrame:
    images = {camera: image for camera, image in frame.images.items() if camera != name}
    return replace(frame, images=images, masked=(name,))


@pytest.mark.parametrize("name", ["alocc_2d_mini", *MATCHING])
def test_a_masked_camera_is_as_an_absent_one(name: str) -> None:
    """Masked from the first frame on, the stream is that of a rig without the camera."""
    card = card_of(name)
    frames = drive([1.0, 1.5, 2.0], surround_rig(card.cameras))
    rest = [camera for camera in card.cameras if camera != LOST]
    model = loaded(card)
    masked = OccupancyStream(model)
    absent = OccupancyStream(loaded(card.with_cameras(rest)))
    for number, frame in enumerate(frames):
        got = masked.step(without(frame))
        expected = absent.step(replace(without(frame), masked=(), rig=surround(frame, rest)))
        np.testing.assert_array_equal(got.labels, expected.labels)
        assert got.history_length == number == expected.history_length
        assert got.model == f"{card.name}@random:0 without {LOST}" == expected.model
        assert got.camera_stamps_ns == expected.camera_stamps_ns
        assert LOST not in got.camera_stamps_ns


def surround(frame: CameraFrame, names: list[str]):
    return replace(frame.rig, cameras=tuple(frame.rig.camera(name) for name in names))


@pytest.mark.parametrize("name", ["alocc_2d_mini", *MATCHING])
def test_the_history_stays_when_a_camera_is_lost_and_matching_networks_restart_with_it(
    name: str,
) -> None:
    card = card_of(name)
    frames = drive([1.0, 1.5, 2.0, 2.5], surround_rig(card.cameras))
    model = loaded(card)
    stream = OccupancyStream(model)
    sent = [frames[0], without(frames[1]), without(frames[2]), frames[3]]
    predictions = [stream.step(frame) for frame in sent]
    lengths = [prediction.history_length for prediction in predictions]
    breaks = [prediction.history_break for prediction in predictions]
    assert not any(breaks[:3]) and lengths[:3] == [0, 1, 2]
    if name not in MATCHING:
        assert (lengths[3], breaks[3]) == (3, "")
        return
    assert (lengths[3], breaks[3]) == (0, f"{LOST} sends images again")
    fresh = OccupancyStream(model).step(frames[3])
    np.testing.assert_array_equal(predictions[3].labels, fresh.labels)


def test_the_state_of_the_other_cameras_is_theirs() -> None:
    """A lost camera in the middle of the axis must not shift the memory of those behind it."""
    card = card_of("alocc_3d")
    first, second = drive([1.0, 1.5], surround_rig(card.cameras))
    stream = OccupancyStream(loaded(card))
    stream.step(first)
    features = stream.snapshot().state.stereo.features_BNChw
    kept = [n for n, camera in enumerate(card.cameras) if camera != LOST]
    asked = stream._memory_of(tuple(card.cameras[n] for n in kept))
    assert torch.equal(asked.state.stereo.features_BNChw, features[:, kept])
    poses = stream.snapshot().committed_world_T_cam_N44
    np.testing.assert_array_equal(asked.committed_world_T_cam_N44, poses[kept])
    asked_only = stream.step(without(second), commit=False)
    assert stream.snapshot().cameras == card.cameras
    np.testing.assert_array_equal(asked_only.labels, stream.step(without(second)).labels)
    assert stream.snapshot().cameras == tuple(card.cameras[n] for n in kept)


def test_a_calibration_that_changes_while_its_camera_is_lost_clears_the_history() -> None:
    card = card_of("alocc_2d_mini")
    first, second = drive([1.0, 1.5], surround_rig(card.cameras))
    stream = OccupancyStream(loaded(card))
    stream.step(first)
    other = replace(second.rig.camera(LOST), K=np.diag([1.1, 1.1, 1.0]) @ second.rig.camera(LOST).K)
    cameras = tuple(other if c.name == LOST else c for c in second.rig.cameras)
    changed = replace(without(second), rig=replace(second.rig, cameras=cameras))
    assert stream.step(changed).history_break == "camera calibration changed"


def test_a_frame_with_a_camera_that_is_neither_there_nor_masked_is_refused() -> None:
    card = card_of("alocc_2d_mini")
    (frame,) = drive([1.0], surround_rig(card.cameras))
    stream = OccupancyStream(loaded(card))
    with pytest.raises(ModelError, match="has no image of camera CAM_BACK, which"):
        stream.step(replace(without(frame), masked=()))
    with pytest.raises(ModelError, match="has no image of camera CAM_FRONT_LEFT, CAM_FRONT, "):
        stream.step(replace(frame, masked=card.cameras))
