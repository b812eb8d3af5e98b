"""A bag read for a model: its cameras, its names, and the lidar's mount if it is needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from small_footage import BASE_T_LIDAR, write_footage

from occ_perception.bags.drive import open_recording
from occ_perception.bags.recording import BagError
from occ_perception.frames import CameraRig
from occ_perception.models.zoo import get_card
from occ_perception.sensing.layouts import LayoutError, load_layout


@pytest.fixture(scope="module")
def vehicle(tmp_path_factory):
    return write_footage(tmp_path_factory.mktemp("vehicle"), count=2).cameras


def test_the_lidars_mount_comes_from_the_bag_where_the_grid_lies_there(vehicle):
    with open_recording(vehicle, model=get_card("alocc_3d_surroundocc")) as frames:
        assert frames.rig.ego_T_lidar is not None
        np.testing.assert_allclose(frames.rig.ego_T_lidar, BASE_T_LIDAR, atol=1e-4)
    with open_recording(vehicle, model=get_card("alocc_3d")) as frames:
        assert frames.rig.ego_T_lidar is None


def test_a_lidar_without_a_mount_is_named(vehicle):
    layout = replace(load_layout("occ_perception"), lidar_frame="velodyne")
    with pytest.raises(BagError, match=r"needs the mount of the lidar: no mount of velodyne in tf"):
        open_recording(vehicle, layout=layout, model=get_card("alocc_3d_surroundocc"))


def test_only_the_models_cameras_are_read(vehicle):
    card = get_card("alocc_3d_waymo")
    with open_recording(vehicle, model=card) as frames:
        first = next(iter(frames))
    assert set(first.images) == set(frames.rig.names) == set(card.cameras[:3])


def test_a_rig_without_the_reference_camera_is_refused(vehicle):
    with open_recording(vehicle) as frames:
        cameras = tuple(c for c in frames.rig.cameras if c.name != "CAM_FRONT")
    with pytest.raises(LayoutError, match="reference camera CAM_FRONT is not among"):
        open_recording(vehicle, rig=CameraRig(cameras), model=get_card("alocc_2d_mini"))
