"""A rig with fewer cameras: as if the absent ones saw nothing, with the trained numbers."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from small_networks import INPUT_SIZE, inputs, small_network
from small_streams import drive, small_card, surround_rig

from occ_perception.models.card import ModelError
from occ_perception.models.inputs import CameraTensors
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.state import state_tensors
from occ_perception.models.zoo import get_card
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

ABSENT = 2
# What has parts that could mix cameras: plain, extra samples between objects with matching,
# fusion of depth, attention from the grid to the images.
MODELS = ("alocc_2d_mini", "alocc_3d", "alocc_3d_gf", "fbocc")


def without(step, camera: int):
    """The same input without a camera."""
    kept = [n for n in range(step.images_BN3HW.shape[1]) if n != camera]
    cameras = {f.name: getattr(step.cameras, f.name)[:, kept] for f in fields(CameraTensors)}
    motion = step.control.previous_cam_T_cam_BN44[:, kept]
    return replace(
        step,
        images_BN3HW=step.images_BN3HW[:, kept],
        cameras=CameraTensors(**cameras),
        control=replace(step.control, previous_cam_T_cam_BN44=motion),
    )


def looking_away(step, camera: int):
    """The same input with a camera a hundred kilometres below the ground that looks down."""
    pose = step.cameras.grid_T_cam_BN44.clone()
    pose[:, camera, :3, :3] = torch.tensor([[1.0, 0, 0], [0, -1, 0], [0, 0, -1]])
    pose[:, camera, :3, 3] = torch.tensor([0.0, 0.0, -1e5])
    cameras = step.cameras
    affine = cameras.image_rotation_BN33, cameras.image_translation_BN3
    return replace(step, cameras=CameraTensors.of(pose, cameras.K_BN33, *affine))


@pytest.mark.parametrize("name", MODELS)
def test_an_absent_camera_is_one_that_sees_nothing(name):
    card = get_card(name)
    present = [c for n, c in enumerate(card.cameras) if n != ABSENT]
    whole, part = small_network(card), small_network(card.with_cameras(present))
    assert part.state_dict().keys() == whole.state_dict().keys()
    state, expected_state = part.initial_state(1), whole.initial_state(1)
    with torch.no_grad():
        for position in range(3):
            step = inputs(0, position, position)
            got, state = part(without(step, ABSENT), state)
            expected, expected_state = whole(looking_away(step, ABSENT), expected_state)
            spread = expected.logits_BKXYZ.std()
            assert (got.logits_BKXYZ - expected.logits_BKXYZ).abs().max() < 1e-4 * spread
    assert tuple(step.images_BN3HW.shape[-2:]) == INPUT_SIZE


def test_the_extra_samples_keep_the_trained_number_of_bins():
    card = get_card("alocc_3d")
    assert card.with_cameras(card.cameras[:4]).config.inter_object.last_bin == 5
    assert card.config.inter_object.last_bin == 5


def test_a_card_says_what_it_does_without():
    card = get_card("alocc_2d_mini")
    assert card.with_cameras([*card.cameras, "CAM_ROOF"]) is card
    part = card.with_cameras({"CAM_BACK", "CAM_FRONT_LEFT"})
    assert part.cameras == ("CAM_FRONT_LEFT", "CAM_BACK")
    assert part.absent_cameras == tuple(c for c in card.cameras if c not in part.cameras)
    assert part.reference_camera == "CAM_FRONT_LEFT"
    assert part.config.geometry.num_cameras == 2
    with pytest.raises(ModelError, match=r"at least one of the cameras CAM_FRONT_LEFT, .*; there "):
        card.with_cameras(["left", "right"])


def test_a_stream_runs_with_the_cameras_there_are():
    card = small_card()
    names = [name for name in card.cameras if name != "CAM_BACK"]
    part = card.with_cameras(names)
    net = part.build()
    fill_random_weights(net, part)
    model = LoadedModel(part, net.eval(), torch.device("cpu"), "random:0")
    stream = OccupancyStream(model)
    predictions = [stream.step(frame) for frame in drive([1.0, 1.5], surround_rig(names))]
    assert predictions[1].history_length == 1
    assert set(predictions[0].camera_stamps_ns) == set(names)
    assert predictions[0].model == "alocc_2d_mini@random:0 without CAM_BACK"
    assert state_tensors(stream.snapshot().state)
