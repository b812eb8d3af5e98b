"""Waymo folders: numbering, the swapped cameras, poses from a pickle."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from occ_training.cli import app
from occ_training.data.dataset import OccupancyDataset, SampleOptions
from occ_training.data.file_checks import CheckReport
from occ_training.data.index import DatasetIndex
from occ_training.data.records import DatasetError
from occ_training.data.waymo import index_from_waymo
from PIL import Image
from typer.testing import CliRunner

from occ_perception.models.card import WAYMO_CAMERAS
from occ_perception.models.zoo import get_card

SIZES = [(192, 128), (192, 128), (192, 128), (192, 88), (192, 88)]
NUMBERS = [1_003_004, 1_003_005, 1_007_000]


def ego_pose(frame: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:2, 3] = (5.0 * frame, 1.0)
    return matrix


def camera_pose(camera: int) -> np.ndarray:
    """Optical axes looking forward, mounted ``camera`` metres to the left."""
    matrix = np.eye(4)
    matrix[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    matrix[:3, 3] = (1.5, camera, 1.5)
    return matrix


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "validation"
    rng = np.random.default_rng(0)
    for k, size in enumerate(SIZES):
        (folder / f"image_{k}").mkdir(parents=True)
        for number in NUMBERS:
            image = Image.new("RGB", size, (40 * k, 10, 10))
            image.save(folder / f"image_{k}" / f"{number:07d}.png")
    (folder / "velodyne").mkdir()
    for number in NUMBERS:
        points = rng.uniform(2, 30, (200, 6)).astype("<f4")
        points.tofile(folder / "velodyne" / f"{number:07d}.bin")
        file = tmp_path / "occ" / f"{number % 10**6 // 1000:03d}" / f"{number % 1000:03d}_04.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        volume = np.full((200, 200, 16), 23, dtype=np.uint8)
        volume[:, :, 2] = 13
        np.savez_compressed(
            file,
            voxel_label=volume,
            infov=np.arange(200)[:, None, None] < np.full(volume.shape, 150),
            final_voxel_state=np.ones(volume.shape, dtype=np.uint8),
            origin_voxel_state=np.ones(volume.shape, dtype=np.uint8),
        )
    return folder


def poses(numbers: list[int] = NUMBERS) -> dict:
    result: dict = {}
    for number in numbers:
        scene, frame = number % 10**6 // 1000, number % 1000
        result.setdefault(scene, {})[frame] = [
            {
                "intrinsics": np.diag([100.0 + c, 100.0 + c, 1.0]),
                "sensor2ego": camera_pose(c),
                "ego2global": ego_pose(frame),
            }
            for c in range(5)
        ]
    return result


def test_images_and_poses_of_cameras_two_and_three_are_swapped(root: Path) -> None:
    index = index_from_waymo(root, poses(), root.parent / "occ")
    assert index.sequences() == {"003": range(0, 2), "007": range(2, 3)}
    first = index.frames[0]
    assert list(first.cameras) == list(WAYMO_CAMERAS)
    folders = [first.cameras[name].image.split("/")[0] for name in WAYMO_CAMERAS]
    assert folders == ["image_0", "image_1", "image_3", "image_2", "image_4"]
    for camera, name in enumerate(WAYMO_CAMERAS):
        assert first.cameras[name].K[0, 0] == 100.0 + camera
        assert first.cameras[name].ego_T_cam[1, 3] == camera
    assert (first.cameras["CAM_FRONT_RIGHT"].width, first.cameras["CAM_FRONT_RIGHT"].height) == (
        SIZES[3]
    )
    assert index.path(first.labels["waymo"]).resolve() == (
        root.parent / "occ" / "003" / "004_04.npz"
    )
    assert first.lidar.world_T_lidar == pytest.approx(ego_pose(4))


def test_keys_of_the_pose_file_can_be_numbers_or_text(root: Path) -> None:
    as_text = {
        f"{scene:03d}": {str(frame): entry for frame, entry in frames.items()}
        for scene, frames in poses().items()
    }
    for a, b in zip(
        index_from_waymo(root, as_text).frames, index_from_waymo(root, poses()).frames, strict=True
    ):
        assert np.array_equal(a.world_T_lidar_ego, b.world_T_lidar_ego)
    with pytest.raises(DatasetError, match="no frame 5"):
        index_from_waymo(root, poses(NUMBERS[:1]))


def test_poses_that_lack_cost_their_camera_or_their_frame(root: Path) -> None:
    content = poses()
    del content[3][4][1]["ego2global"]
    content[3][5][0]["intrinsics"] = "none"
    report = CheckReport()
    index = index_from_waymo(root, content, report=report)
    assert [frame.token for frame in index.frames] == ["1003004", "1007000"]
    assert set(WAYMO_CAMERAS) - set(index.frames[0].cameras) == {WAYMO_CAMERAS[1]}
    assert report.left_out == ["1003005"] and report.frames == 3
    assert "pose without ego2global" in report.problems[0]
    assert "frame 1003005: intrinsics is no matrix" in report.problems[1]


def test_samples_of_the_waymo_model(root: Path) -> None:
    index = index_from_waymo(root, poses(), root.parent / "occ", scenes=["003"])
    card = get_card("alocc_3d_waymo")
    dataset = OccupancyDataset(
        index, card, SampleOptions(contents=("labels", "depth"), ignore_unseen="camera")
    )
    first, second = dataset[0], dataset[1]
    assert (first.start, second.start) == (True, False)
    assert second.previous_T_current_44.numpy() == pytest.approx(
        np.linalg.inv(ego_pose(4)) @ ego_pose(5)
    )
    assert first.images_N3HW.shape == (5, 3, 640, 960)
    # 1920 px of the native image become 960; the side images get 200 black rows on top
    # (here 440 rows of 640 are left by images of 88 px).
    assert first.image_translation_N3[3].tolist() == [0.0, 0.0, 0.0]  # folder 2 is a front one
    black = (0 - np.array(card.preprocessing.mean)) / card.preprocessing.std
    assert first.images_N3HW[2, :, 199, 5].numpy() == pytest.approx(black, abs=1e-5)
    assert first.images_N3HW[2, 2, 201, 5] > black[2]
    assert first.labels_XYZ[:150, :, 2].unique().tolist() == [13]
    assert first.labels_XYZ[:150, :, 3].unique().tolist() == [15]
    assert first.labels_XYZ[150:].unique().tolist() == [255]


def test_prepare_waymo(root: Path, tmp_path: Path) -> None:
    (tmp_path / "poses.pkl").write_bytes(pickle.dumps(poses()))
    infos = [{"image": {"image_idx": number}} for number in NUMBERS[:2]]
    (tmp_path / "infos.pkl").write_bytes(pickle.dumps(infos))
    command = ["prepare", "waymo", str(root), "--poses", str(tmp_path / "poses.pkl")]
    command += ["--labels", str(tmp_path / "occ"), "--frames", str(tmp_path / "infos.pkl")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "1 sequences, labels waymo; 2 of 2 frames are usable" in result.output
    assert len(DatasetIndex.load(root)) == 2
