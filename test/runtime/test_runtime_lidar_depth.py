"""Lidar points as the cameras see them, and the networks that are given them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_streams import drive, pose, small_card, surround_rig

from occ_perception.frames import LidarPoints
from occ_perception.models.card import ModelError
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.runtime.calibration import Calibrator
from occ_perception.runtime.lidar_depth import lidar_depth
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel
from occ_perception.sensing.lidar_projection import first_by_float32_rank

CPU = torch.device("cpu")
SCALE = {"depth_net.context_conv.weight": 20.0, "alocc_head.mask_embed.4.weight": 0.1}


def depth_of(card, frame, lidar, **options):
    calibrator = Calibrator(card)
    tables = calibrator.tables(frame.rig)
    poses = calibrator.world_T_cameras(frame, tables)
    hint = lidar_depth(lidar, poses, tables, card.config.geometry, CPU, **options)
    return hint.depth_BNHW[0].numpy(), hint.rate


@pytest.fixture(scope="module")
def card():
    return small_card("alocc_3d_depth")


@pytest.fixture(scope="module")
def frame(card):
    (only,) = drive([10.0], surround_rig(card.cameras), turn_dps=0.0)
    return only


def camera_point(frame, camera, u, v, depth):
    """World coordinates of what a camera sees at a pixel of its image."""
    calibration = frame.rig.camera(camera)
    ray = np.linalg.inv(calibration.K) @ (u, v, 1.0)
    in_ego = calibration.ego_T_cam @ (*(depth * ray), 1.0)
    return (frame.world_T_ego[camera] @ in_ego)[:3]


def points_at(frame, world_T_ego, *world_points):
    inverse = np.linalg.inv(world_T_ego)
    points = [inverse[:3, :3] @ p + inverse[:3, 3] for p in world_points]
    return LidarPoints(frame.stamp_ns, np.array(points), world_T_ego)


def test_a_point_lands_where_its_camera_sees_it_whenever_it_was_measured(card, frame):
    """Images are 400x225; the input is 176x64: scaled by 0.44, then rows are cut off on top."""
    seen = camera_point(frame, "CAM_BACK", 130.0, 180.0, 12.5)
    column, row = round(130 * 0.44), round(180 * 0.44) - (99 - 64)
    for world_T_ego in (pose(), pose(80.0, 2.0, 30.0)):  # long ago, and now
        depth, rate = depth_of(card, frame, points_at(frame, world_T_ego, seen))
        camera = card.cameras.index("CAM_BACK")
        assert depth[camera, row, column] == pytest.approx(12.5, abs=1e-4)
        assert np.count_nonzero(depth[camera]) == 1
        assert rate == 1.0


def test_points_behind_outside_or_out_of_range_leave_nothing(card, frame):
    behind = camera_point(frame, "CAM_FRONT", 200.0, 150.0, -5.0)
    too_near = camera_point(frame, "CAM_FRONT", 200.0, 150.0, 0.9)
    too_far = camera_point(frame, "CAM_FRONT", 200.0, 150.0, 45.1)
    cut_off = camera_point(frame, "CAM_FRONT", 200.0, 10.0, 8.0)
    lidar = points_at(frame, pose(), behind, too_near, too_far, cut_off)
    depth, _ = depth_of(card, frame, lidar)
    assert not depth[card.cameras.index("CAM_FRONT")].any()


def test_the_nearest_of_a_pixel_counts_unless_the_published_rule_is_asked_for(card, frame):
    far, near = (camera_point(frame, "CAM_FRONT", 200.0, 180.0, d) for d in (8.5, 8.0))
    lidar = points_at(frame, pose(), far, near)
    camera = card.cameras.index("CAM_FRONT")
    assert depth_of(card, frame, lidar)[0][camera].max() == pytest.approx(8.0, abs=1e-4)
    # In single precision, 0.5 m are less than a step at that pixel: the earlier point stays.
    ranked, _ = depth_of(card, frame, lidar, winners=first_by_float32_rank)
    assert ranked[camera].max() in (pytest.approx(8.0, abs=1e-4), pytest.approx(8.5, abs=1e-4))


@pytest.mark.parametrize("name", ["alocc_3d_depth", "alocc_3d_gf_depth"])
def test_a_network_that_is_given_depth_reads_it_and_asks_for_it(name):
    card = small_card(name)
    net = card.build()
    fill_random_weights(net, card, scale=SCALE)
    model = LoadedModel(card, net.requires_grad_(False), CPU, "random")
    frames = drive([10.0, 10.5], surround_rig(card.cameras))
    stream = OccupancyStream(model)
    usual = [stream.step(frame).labels for frame in frames]
    elsewhere = replace(frames[0].lidar, points=frames[0].lidar.points * 1.5)
    other = OccupancyStream(model).step(replace(frames[0], lidar=elsewhere)).labels
    assert (other != usual[0]).mean() > 0.001
    before = stream.snapshot()
    with pytest.raises(ModelError, match=rf"model {name} is given lidar depth, but the frame at"):
        stream.step(replace(frames[1], lidar=None))
    assert stream.snapshot() is before


def test_points_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(5, 4\), expected \(n, 3\)"):
        LidarPoints(0, np.zeros((5, 4)), np.eye(4))
