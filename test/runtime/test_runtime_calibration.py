"""Camera geometry at the network's input, against plain projection and the reference frames."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_streams import frame_at, pose, surround_rig

from occ_perception.frames import CameraCalibration, CameraFrame, CameraRig
from occ_perception.geometry import invert_transform, project_points, transform_points
from occ_perception.models.card import ModelError
from occ_perception.models.zoo import get_card
from occ_perception.runtime.calibration import Calibrator

CPU = torch.device("cpu")
CARD = get_card("alocc_2d_mini")
LIDAR_CARD = get_card("alocc_2d_mini_surroundocc")


def _tensors(frame: CameraFrame, card=CARD):
    calibrator = Calibrator(card)
    tables = calibrator.tables(frame.rig)
    world_T_cam = calibrator.world_T_cameras(frame, tables)
    return calibrator.camera_tensors(frame.world_T_reference_ego, world_T_cam, tables)


def _network_pixels(cameras, camera: int, points_grid: np.ndarray) -> np.ndarray:
    """Pixels of the network input, from the tensors the network gets."""
    cam_T_grid = np.linalg.inv(cameras.grid_T_cam_BN44[0, camera].double().numpy())
    native, _ = project_points(cameras.K_BN33[0, camera].double().numpy(), cam_T_grid, points_grid)
    rotation = cameras.image_rotation_BN33[0, camera].double().numpy()[:2, :2]
    shift = cameras.image_translation_BN3[0, camera].double().numpy()[:2]
    return native @ rotation.T + shift


@settings(max_examples=30, deadline=None)
@given(
    image=st.sampled_from([(1600, 900), (800, 450), (1280, 720), (1920, 1080), (2400, 1600)]),
    t_s=st.floats(0, 1e4),
    speed=st.floats(0, 40),
    turn=st.floats(-60, 60),
)
def test_points_reach_the_pixels_that_plain_projection_finds(image, t_s, speed, turn) -> None:
    """World point -> each camera at its own exposure -> its own image -> resize and crop."""
    rig = surround_rig(CARD.cameras, image)
    frame = frame_at(t_s, rig, speed, turn)
    cameras = _tensors(frame)
    rng = np.random.default_rng(3)
    ego_T_grid = np.eye(4)
    for number, name in enumerate(CARD.cameras):
        camera = rig.camera(name)
        in_camera = rng.uniform((-3, -2, 4), (3, 2, 30), (8, 3))
        world_T_cam = frame.world_T_ego[name] @ camera.ego_T_cam
        points_world = transform_points(world_T_cam, in_camera)
        pixels, _ = project_points(camera.K, invert_transform(world_T_cam), points_world)
        scale = 704 / camera.width
        top = int(camera.height * scale) - 256
        wanted = pixels * scale - (0, top)

        world_T_grid = frame.world_T_reference_ego @ ego_T_grid
        points_grid = transform_points(invert_transform(world_T_grid), points_world)
        assert np.abs(_network_pixels(cameras, number, points_grid) - wanted).max() < 0.02


def test_intrinsics_are_those_of_the_native_image_whatever_arrives() -> None:
    full = _tensors(frame_at(1.0, surround_rig(CARD.cameras, (1600, 900))))
    half = _tensors(frame_at(1.0, surround_rig(CARD.cameras, (800, 450))))
    assert torch.allclose(full.K_BN33, half.K_BN33, rtol=1e-6)
    assert torch.equal(full.image_rotation_BN33, half.image_rotation_BN33)
    assert torch.equal(full.image_translation_BN3, half.image_translation_BN3)
    assert full.K_BN33[0, 0, 0, 0].item() == pytest.approx(0.79 * 1600, rel=1e-6)


def test_reference_camera_tensors_are_reproduced(shared_dir: Path) -> None:
    golden = np.load(shared_dir / "reference" / "golden" / f"{CARD.config_stem}.npz")
    meta = json.loads(str(golden["meta"]))
    input_size = tuple(meta["input_size"])
    card = CARD.resized(input_size)
    height, width = meta["src_size"]
    black = np.zeros((height, width, 3), np.uint8)
    for n in range(5):
        given_inputs = {
            key: golden[f"f{n}/in/{key}"].astype(np.float64)
            for key in ("rots", "trans", "intrins", "post_rots", "post_trans", "sensor2egos")
        }
        rig = CameraRig(
            tuple(
                CameraCalibration(camera, width, height, K, _rigid(ego_T_cam))
                for camera, K, ego_T_cam in zip(
                    card.cameras, given_inputs["intrins"], given_inputs["sensor2egos"], strict=True
                )
            )
        )
        poses = golden[f"f{n}/in/ego2globals"].astype(np.float64)
        frame = CameraFrame(
            rig=rig,
            images=dict.fromkeys(card.cameras, black),
            stamps_ns=dict.fromkeys(card.cameras, 0),
            world_T_ego={c: _rigid(p) for c, p in zip(card.cameras, poses, strict=True)},
            reference_camera=card.reference_camera,
        )
        cameras = _tensors(frame, card)
        grid_T_cam = cameras.grid_T_cam_BN44[0].numpy()
        assert np.abs(grid_T_cam[:, :3, :3] - given_inputs["rots"]).max() < 1e-5
        # The reference multiplied kilometre-sized float32 translations.
        assert np.abs(grid_T_cam[:, :3, 3] - given_inputs["trans"]).max() < 5e-4
        assert np.allclose(cameras.K_BN33[0].numpy(), given_inputs["intrins"], rtol=1e-6)
        assert np.allclose(
            cameras.image_rotation_BN33[0].numpy(), given_inputs["post_rots"], rtol=1e-6
        )
        assert np.array_equal(cameras.image_translation_BN3[0].numpy(), given_inputs["post_trans"])


def _rigid(matrix: np.ndarray) -> np.ndarray:
    """Float32 rounding removed from the rotation part."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    out = np.array(matrix)
    out[:3, :3] = u @ vt
    return out


def test_a_lidar_grid_is_the_same_world_seen_from_the_lidar() -> None:
    rig = surround_rig(LIDAR_CARD.cameras, (1600, 900), lidar=True)
    frame = frame_at(7.0, rig)
    in_lidar, in_ego = _tensors(frame, LIDAR_CARD), _tensors(frame, CARD)
    assert rig.ego_T_lidar is not None
    back = rig.ego_T_lidar @ in_lidar.grid_T_cam_BN44[0].double().numpy()
    assert np.abs(back - in_ego.grid_T_cam_BN44[0].double().numpy()).max() < 1e-6


def test_a_lidar_grid_needs_the_lidars_pose() -> None:
    frame = frame_at(0.0, surround_rig(LIDAR_CARD.cameras))
    with pytest.raises(ModelError, match="rig has no ego_T_lidar"):
        _tensors(frame, LIDAR_CARD)


def test_a_rig_without_a_camera_of_the_model_is_refused_by_name() -> None:
    rig = surround_rig([name for name in CARD.cameras if name != "CAM_BACK"])
    with pytest.raises(ModelError, match="needs camera CAM_BACK, which the rig does not have"):
        Calibrator(CARD).tables(rig)


def test_neither_camera_order_nor_unused_cameras_nor_an_unused_lidar_make_another_rig() -> None:
    rig = surround_rig(CARD.cameras)
    extra = replace(rig.cameras[0], name="CAM_INSIDE")
    other = CameraRig((extra, *reversed(rig.cameras)), ego_T_lidar=pose(1.0))
    calibrator = Calibrator(CARD)
    assert calibrator.tables(other) is calibrator.tables(rig)


def test_a_changed_calibration_is_another_rig() -> None:
    rig = surround_rig(CARD.cameras)
    turned = replace(rig.cameras[2], ego_T_cam=pose(yaw_deg=0.1) @ rig.cameras[2].ego_T_cam)
    changed = CameraRig((*rig.cameras[:2], turned, *rig.cameras[3:]))
    calibrator = Calibrator(CARD)
    assert calibrator.tables(changed).fingerprint != calibrator.tables(rig).fingerprint


def test_few_rigs_are_remembered() -> None:
    calibrator = Calibrator(CARD)
    rigs = [surround_rig(CARD.cameras, (800 + 16 * n, 450 + 9 * n)) for n in range(6)]
    tables = [calibrator.tables(rig) for rig in rigs]
    assert calibrator.tables(rigs[-1]) is tables[-1]
    assert calibrator.tables(rigs[0]) is not tables[0]
