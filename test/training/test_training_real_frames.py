"""A data set of four real key frames: images and poses as in the reference code, step by step."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from occ_training.data.dataset import OccupancyDataset, SampleOptions
from occ_training.data.index import DatasetIndex
from occ_training.data.records import CameraRecord, DatasetHeader, FrameRecord, LidarRecord
from PIL import Image

from occ_perception.models.zoo import get_card

CARD = get_card("alocc_2d")


@pytest.fixture(scope="module")
def raw(shared_dir: Path) -> tuple[Path, list[dict]]:
    folder = shared_dir / "data" / "nuscenes-scene0103-seq4"
    return folder, json.loads((folder / "frames.json").read_text())["frames"]


@pytest.fixture(scope="module")
def dataset(raw) -> OccupancyDataset:
    folder, frames = raw
    records = []
    for frame in frames:
        cameras = {
            name: CameraRecord(
                image=camera["file"],
                stamp_ns=camera["timestamp_us"] * 1000,
                K=np.array(camera["K"]),
                width=camera["width"],
                height=camera["height"],
                ego_T_cam=np.array(camera["cam2ego"]),
                world_T_ego=np.array(camera["ego2global"]),
            )
            for name, camera in frame["cams"].items()
        }
        stamp_ns = frame["timestamp_us"] * 1000
        lidar = LidarRecord(
            None, ("x", "y", "z"), stamp_ns, np.array(frame["lidar2ego"]),
            np.array(frame["ego2global"]),
        )  # fmt: skip
        records.append(
            FrameRecord(frame["token"], frame["scene"], stamp_ns, "CAM_FRONT", cameras, lidar)
        )
    index = DatasetIndex(folder, DatasetHeader("real", CARD.cameras), tuple(records))
    contents = ("previous_images", "ray_origins")
    return OccupancyDataset(index, CARD, SampleOptions(contents=contents))


def reference_image(path: Path) -> np.ndarray:
    """Pillow's default resize, crop, channels swapped, constants of red, green, blue in order."""
    image = Image.open(path).resize((704, 396)).crop((0, 140, 704, 396))
    blue_first = np.asarray(image)[..., ::-1].astype(np.float32)
    mean = np.array([123.675, 116.28, 103.53], dtype=np.float32)
    reciprocal = 1 / np.array([58.395, 57.12, 57.375], dtype=np.float32).astype(np.float64)
    return ((blue_first - mean) * reciprocal).astype(np.float32).transpose(2, 0, 1)


def test_images_now_and_before(raw, dataset: OccupancyDataset) -> None:
    folder, frames = raw
    sample = dataset[2]
    for n, name in enumerate(CARD.cameras):
        for images, frame in ((sample.images_N3HW, frames[2]), (
            sample.previous_images_N3HW, frames[1]
        )):  # fmt: skip
            expected = reference_image(folder / frame["cams"][name]["file"])
            assert np.array_equal(images[n].numpy(), expected), name


def test_matrices_are_the_products_of_the_reference_code(raw, dataset: OccupancyDataset) -> None:
    _, frames = raw
    sample, now, before = dataset[3], frames[3], frames[2]
    front = np.array(now["cams"]["CAM_FRONT"]["ego2global"])
    for n, name in enumerate(CARD.cameras):
        E, S = (np.array(now["cams"][name][key]) for key in ("ego2global", "cam2ego"))
        assert sample.grid_T_cam_N44[n].numpy() == pytest.approx(
            np.linalg.inv(front) @ E @ S, abs=2e-6
        )
        E0, S0 = (np.array(before["cams"][name][key]) for key in ("ego2global", "cam2ego"))
        assert sample.previous_cam_T_cam_N44[n].numpy() == pytest.approx(
            np.linalg.inv(E0 @ S0) @ E @ S, abs=1e-6
        )
        assert sample.K_N33[n].numpy() == pytest.approx(np.array(now["cams"][name]["K"]), abs=1e-4)
    motion = np.linalg.inv(np.array(before["ego2global"])) @ np.array(now["ego2global"])
    assert sample.previous_T_current_44.numpy() == pytest.approx(motion, abs=1e-6)
    assert 3.5 < motion[0, 3] < 5.0  # about 8 m/s for half a second, straight ahead
    assert torch.equal(sample.image_translation_N3[0], torch.tensor([0.0, -140.0, 0.0]))


def test_ray_origins_are_where_the_lidar_was_in_the_scene(raw, dataset: OccupancyDataset) -> None:
    _, frames = raw
    origins = dataset[1].lidar_origins_T3.numpy()
    E, L = (np.array(frames[1][key]) for key in ("ego2global", "lidar2ego"))
    for origin, frame in zip(origins, frames, strict=True):
        world = np.array(frame["ego2global"]) @ np.array(frame["lidar2ego"])
        assert origin == pytest.approx((np.linalg.inv(E) @ world)[:3, 3], abs=1e-4)
    assert origins[1] == pytest.approx(L[:3, 3])
