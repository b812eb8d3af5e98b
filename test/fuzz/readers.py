"""The readers that are fed with mutated files: for each a small valid input, and a way to read it.

A reader gets a folder, whose files it made itself and one of which was changed. It may only return,
or raise an OccError.
"""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import bag_families
import numpy as np
from mutations import mutate_file, mutated_bytes, mutated_value
from nuscenes_folder import VERSION, drawn_images, drawn_scene
from PIL import Image

from occ_perception.errors import OccError


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        make: writes a valid input into an empty folder.
        read: reads the folder.
        change: changes the folder's files.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], None]
    change: Callable[[Path, Random], None]


def change_any_file(folder: Path, random: Random) -> None:
    """Change one of the folder's files; files of the data beside them stay."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".jpg", ".bin")
    )
    mutate_file(random.choice(files), random)


# -- recordings ----------------------------------------------------------------------------------


def _drawn_bag(folder: Path, storage: str) -> None:
    """A bag of two frame sets with everything in it that this package reads."""
    from occ_perception.bags.nuscenes import convert_nuscenes

    data = folder / "data"
    drawn_scene(data, keyframes=2, with_sweeps=False, size=(32, 18), lidar=True)
    token = json.loads((data / VERSION / "sample.json").read_text())[0]["token"]
    labels = data / "gts" / "scene-0001" / token
    labels.mkdir(parents=True)
    semantics = np.full((200, 200, 16), 17, np.uint8)
    semantics[:, :, 2] = 11
    np.savez_compressed(labels / "labels.npz", semantics=semantics, mask_camera=semantics == 11)
    convert_nuscenes(data, VERSION, "scene-0001", folder / "bag", storage, lidar=True)
    shutil.rmtree(data)


def _ros1_bag(folder: Path) -> None:
    bag_families.clynamen(folder / "bag.bag", drawn_images(2, with_sweeps=False, size=(32, 18)))


def _read_frames(folder: Path) -> None:
    from occ_perception.bags.drive import open_recording
    from occ_perception.bags.inspection import inspect_bag

    (bag,) = folder.iterdir()
    _in_turn(lambda: inspect_bag(bag), lambda: list(open_recording(bag)))


def _read_bag(folder: Path) -> None:
    from occ_perception.bags.lidar import LidarSweeps
    from occ_perception.bags.predictions import BagPredictions

    (bag,) = folder.iterdir()
    _in_turn(
        lambda: _read_frames(folder),
        lambda: list(BagPredictions(bag)),
        lambda: list(LidarSweeps(bag)),
    )


def _in_turn(*steps: Callable[[], object]) -> None:
    """Take every step, then raise the first refusal."""
    refusals = list(filter(None, map(_refusal, steps)))
    if refusals:
        raise refusals[0]


def _refusal(step: Callable[[], object]) -> OccError | None:
    try:
        step()
    except OccError as error:
        return error
    return None


def _change_messages(folder: Path, random: Random) -> None:
    """Rewrite the bag with a tenth of its messages changed; the container stays valid."""
    from rosbags.rosbag2 import Reader as BagReader
    from rosbags.rosbag2 import StoragePlugin, Writer

    old = (folder / "bag").rename(folder / "old")
    with (
        BagReader(old) as reader,
        Writer(folder / "bag", version=8, storage_plugin=StoragePlugin.MCAP) as writer,
    ):
        from occ_perception.bags.message_types import ros2_types

        types = ros2_types()
        made = {
            connection.topic: writer.add_connection(
                connection.topic, connection.msgtype, typestore=types
            )
            for connection in reader.connections
        }
        for connection, stamp, raw in reader.messages():
            changed = mutated_bytes(bytes(raw), random) if random.random() < 0.1 else bytes(raw)
            writer.write(made[connection.topic], stamp, changed)
    shutil.rmtree(old)


# -- files of a deployment -----------------------------------------------------------------------


def _make_rig(folder: Path) -> None:
    from occ_perception.sensing.calibration import load_rig, save_rig

    save_rig(folder / "rig.yaml", load_rig("nuscenes"))


def _read_rig(folder: Path) -> None:
    from occ_perception.sensing.calibration import load_rig

    load_rig(folder / "rig.yaml")


def _make_layout(folder: Path) -> None:
    from occ_perception.sensing import layouts

    shutil.copy(Path(layouts.__file__).with_name("autoware.yaml"), folder / "layout.yaml")


def _read_layout(folder: Path) -> None:
    from occ_perception.sensing.layouts import load_layout

    load_layout(folder / "layout.yaml")


def _make_image(folder: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (18, 32, 3), np.uint8))
    for name in ("a.jpeg", "b.png"):
        image.save(folder / name)


def _read_image(folder: Path) -> None:
    from occ_perception.sensing.images import EncodedImage, check_compressed, decode_image

    for path in sorted(folder.iterdir()):
        image = EncodedImage(path.suffix, path.read_bytes())
        check_compressed(image)
        decode_image(image)


# -- data sets -----------------------------------------------------------------------------------


def _make_tables(folder: Path) -> None:
    drawn_scene(folder, keyframes=3, with_sweeps=False, size=(32, 18), lidar=True)


def _read_tables(folder: Path) -> None:
    from occ_training.data.file_checks import CheckReport, check_files
    from occ_training.data.nuscenes import index_from_tables

    from occ_perception.bags.nuscenes import SceneReader

    reader = SceneReader(folder, VERSION, lidar=True)
    for scene in reader.scenes:
        reader.readings(scene, [])
        reader.truths(scene, [])
    report = CheckReport()
    check_files(index_from_tables(folder, VERSION, report=report), "whole", 1, report=report)


def _infos(folder: Path) -> dict:
    """An info file of the folder's tables."""
    from occ_training.data.file_checks import CheckReport
    from occ_training.data.nuscenes import index_from_tables

    from occ_perception.geometry import pose_from_matrix

    def pose(name: str, matrix: np.ndarray) -> dict:
        translation, (x, y, z, w) = pose_from_matrix(matrix)
        return {f"{name}_translation": translation, f"{name}_rotation": [w, x, y, z]}

    infos = []
    for frame in index_from_tables(folder, VERSION, report=CheckReport()).frames:
        cams = {
            name: {
                "data_path": camera.image,
                "timestamp": camera.stamp_ns // 1000,
                "cam_intrinsic": camera.K,
                **pose("sensor2ego", camera.ego_T_cam),
                **pose("ego2global", camera.world_T_ego),
            }
            for name, camera in frame.cameras.items()
        }
        infos.append(
            {
                "token": frame.token,
                "scene_name": frame.sequence,
                "timestamp": frame.stamp_ns // 1000,
                "lidar_path": frame.lidar.points,
                "cams": cams,
                **pose("lidar2ego", frame.lidar.ego_T_lidar),
                **pose("ego2global", frame.lidar.world_T_ego),
            }
        )
    return {"infos": infos, "metadata": {"version": VERSION}}


def _make_infos(folder: Path) -> None:
    _make_tables(folder)
    content = _infos(folder)
    shutil.rmtree(folder / VERSION)
    (folder / "infos.pkl").write_bytes(pickle.dumps(content, protocol=4))


def _change_pickle(folder: Path, random: Random) -> None:
    """Change a value of the pickle, or its bytes."""
    (file,) = folder.glob("*.pkl")
    if random.random() < 0.3:
        mutate_file(file, random)
        return
    content = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps(mutated_value(content, random), protocol=4))


def _read_infos(folder: Path) -> None:
    from occ_training.data.file_checks import CheckReport
    from occ_training.data.info_pickles import load_info_pickle
    from occ_training.data.nuscenes_infos import index_from_infos

    index_from_infos(folder, load_info_pickle(folder / "infos.pkl"), CheckReport())


def _make_waymo(folder: Path) -> None:
    camera = {
        "intrinsics": np.diag([100.0, 100.0, 1.0]).tolist(),
        "sensor2ego": np.eye(4).tolist(),
        "ego2global": np.eye(4).tolist(),
    }
    poses = {3: {frame: [camera] * 5 for frame in range(3)}}
    (folder / "poses.pkl").write_bytes(pickle.dumps(poses))
    (folder / "image_0").mkdir()
    for frame in range(3):
        Image.new("RGB", (32, 18)).save(folder / "image_0" / f"{3000 + frame:07d}.jpg")


def _read_waymo(folder: Path) -> None:
    from occ_training.data.file_checks import CheckReport
    from occ_training.data.info_pickles import load_info_pickle
    from occ_training.data.waymo import index_from_waymo

    index_from_waymo(folder, load_info_pickle(folder / "poses.pkl"), report=CheckReport())


def _make_index(folder: Path) -> None:
    from occ_training.data.file_checks import CheckReport
    from occ_training.data.nuscenes import index_from_tables

    _make_tables(folder)
    index_from_tables(folder, VERSION, report=CheckReport()).save(folder)
    shutil.rmtree(folder / VERSION)


def _read_index(folder: Path) -> None:
    from occ_training.data.file_checks import check_files
    from occ_training.data.index import DatasetIndex

    check_files(DatasetIndex.load(folder), "present", 1)


def _make_labels(folder: Path) -> None:
    volume = np.full((200, 200, 16), 17, np.uint8)
    masks = {name: np.ones_like(volume) for name in ("mask_lidar", "mask_camera")}
    np.savez_compressed(folder / "occ3d.npz", semantics=volume, **masks)
    np.savez_compressed(
        folder / "waymo.npz", voxel_label=np.full_like(volume, 23), infov=masks["mask_lidar"],
        final_voxel_state=masks["mask_lidar"],
    )  # fmt: skip
    np.save(folder / "surroundocc.npy", np.array([[1, 2, 3, 4], [5, 6, 7, 8]]))
    np.savez_compressed(folder / "classes.npz", lidar_seg=np.zeros(10, np.uint8))


def _read_labels(folder: Path) -> None:
    from occ_training.data.label_files import (
        LABEL_FORMATS,
        read_labels,
        read_point_classes,
    )

    from occ_perception.bags.occ3d import read_truth
    from occ_perception.labels import LABEL_SETS

    read_labels(folder / "occ3d.npz", LABEL_FORMATS["occ3d"])
    read_truth(folder / "occ3d.npz", 0, "base_link")
    read_labels(folder / "waymo.npz", LABEL_FORMATS["waymo"])
    read_labels(folder / "surroundocc.npy", LABEL_FORMATS["surroundocc"])
    read_point_classes(folder / "classes.npz", "occ3d", LABEL_SETS["occ3d"], 10)


def _make_predictions(folder: Path) -> None:
    np.savez_compressed(
        folder / "0.npz", labels_XYZ=np.zeros((4, 4, 2), np.uint8), stamp_ns=5,
        grid_lower=(0, 0, 0), voxel_size=(1, 1, 1), ego_T_grid=np.eye(4),
        class_names=np.array(["a", "b"]), empty_class=1,
    )  # fmt: skip


def _read_predictions(folder: Path) -> None:
    from occ_perception.bags.predictions import read_arrays

    read_arrays(folder / "0.npz")


# -- checkpoints ---------------------------------------------------------------------------------


def _make_checkpoints(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {"img_backbone.conv1.weight": torch.ones(64, 3, 7, 7), "a.b": torch.zeros(3)}
    save_file(tensors, folder / "a.safetensors")
    torch.save({"state_dict": tensors, "meta": {"epoch": 3}}, folder / "b.pth")
    torch.save(tensors, folder / "c.pth", _use_new_zipfile_serialization=False)


def _read_checkpoints(folder: Path) -> None:
    import torch

    from occ_perception.models.checkpoint import match_keys, read_tensors
    from occ_perception.models.zoo import get_card

    card = get_card("alocc_2d_mini")
    with torch.device("meta"):
        net = card.build()
    for path in sorted(folder.iterdir()):
        match_keys(net, card, read_tensors(path))


READERS = {
    "mcap": Reader(lambda f: _drawn_bag(f, "mcap"), _read_bag, change_any_file),
    "sqlite3": Reader(lambda f: _drawn_bag(f, "sqlite3"), _read_bag, change_any_file),
    "messages": Reader(lambda f: _drawn_bag(f, "mcap"), _read_bag, _change_messages),
    "ros1": Reader(_ros1_bag, _read_frames, change_any_file),
    "rig": Reader(_make_rig, _read_rig, change_any_file),
    "layout": Reader(_make_layout, _read_layout, change_any_file),
    "image": Reader(_make_image, _read_image, change_any_file),
    "tables": Reader(_make_tables, _read_tables, change_any_file),
    "infos": Reader(_make_infos, _read_infos, _change_pickle),
    "waymo": Reader(_make_waymo, _read_waymo, _change_pickle),
    "index": Reader(_make_index, _read_index, change_any_file),
    "labels": Reader(_make_labels, _read_labels, change_any_file),
    "predictions": Reader(_make_predictions, _read_predictions, change_any_file),
    "checkpoints": Reader(_make_checkpoints, _read_checkpoints, change_any_file),
}
"""Every reader by name."""
