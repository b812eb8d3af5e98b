"""The example rig in config/: five cameras as on Waymo vehicles, two with lower images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_streams import frame_at

from occ_perception.geometry import project_points
from occ_perception.models.card import WAYMO_CAMERAS
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import get_card
from occ_perception.runtime.calibration import Calibrator
from occ_perception.runtime.preprocess import Preprocessor
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel
from occ_perception.sensing.calibration import load_rig

EXAMPLE = Path(__file__).resolve().parents[2] / "config" / "rig_waymo_example.yaml"
CPU = torch.device("cpu")
YAW_DEG = {
    "CAM_FRONT": 0,
    "CAM_FRONT_LEFT": 45,
    "CAM_FRONT_RIGHT": -45,
    "CAM_SIDE_LEFT": 90,
    "CAM_SIDE_RIGHT": -90,
}


@pytest.fixture(scope="module")
def rig():
    return load_rig(EXAMPLE)


def test_cameras_look_where_the_comments_say(rig):
    assert rig.names == tuple(WAYMO_CAMERAS)
    for camera in rig.cameras:
        forward, down = camera.ego_T_cam[:3, 2], camera.ego_T_cam[:3, 1]
        yaw = np.radians(YAW_DEG[camera.name])
        np.testing.assert_allclose(forward, (np.cos(yaw), np.sin(yaw), 0), atol=1e-5)
        np.testing.assert_allclose(down, (0, 0, -1), atol=1e-5)


def test_low_images_lie_on_the_lower_edge_under_black_rows(rig):
    card = get_card("alocc_3d_waymo")
    tables = Calibrator(card).tables(rig)
    assert [plan.box[1] for plan in tables.plans] == [0, 0, 0, -197, -197]
    white = [np.full((c.height, c.width, 3), 255, np.uint8) for c in rig.cameras]
    images = Preprocessor(card.preprocessing, CPU)(white, tables.plans)
    assert images.shape == (5, 3, 640, 960)
    assert images[0, 0].unique().numel() == 1  # the front image fills its input
    for side in (3, 4):
        rows = images[side, 0, :, 480]
        assert rows[:197].unique().numel() == 1 and rows[197:].unique().numel() == 1
        assert rows[0] < rows[-1]
    # The calibration goes with the image: the optical axis lands where its pixel was moved to.
    camera = rig.camera("CAM_SIDE_LEFT")
    pixel, _ = project_points(camera.K, np.eye(4), np.array([[0.0, 0.0, 9.0]]))
    scale, shift = tables.image_rotation_BN33[0, 3], tables.image_translation_BN3[0, 3]
    got = scale.numpy()[:2, :2] @ pixel[0] + shift.numpy()[:2]
    np.testing.assert_allclose(got, (950 * 0.5, 240 * 0.5 + 197))


def test_a_waymo_model_runs_on_it(rig):
    card = get_card("alocc_3d_waymo")
    grid = replace(card.grid, lower=(-8.0, -4.0, -1.0), dims=(40, 20, 16))
    card = card.resized((128, 192), grid)
    net = card.build()
    fill_random_weights(net, card)
    stream = OccupancyStream(LoadedModel(card, net, CPU, "random:0"))
    prediction = stream.step(frame_at(3.0, rig))
    assert prediction.labels.shape == (40, 20, 16)
    assert prediction.class_names[-1] == "free" and len(prediction.class_names) == 16
    assert "bicyclist" in prediction.class_names
    assert list(prediction.camera_stamps_ns) == list(WAYMO_CAMERAS)
