"""Samples of frames: images of the running node, geometry, sequences, lidar, bad files."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import training_folders as folders
from occ_training.data.bev_augmentation import BevAugmentation
from occ_training.data.dataset import OccupancyDataset, SampleOptions, Visit
from occ_training.data.images import ImageAugmentation
from occ_training.data.index import DatasetIndex
from occ_training.data.label_files import LABEL_FORMATS, DataFileError
from occ_training.data.records import DatasetError
from occ_training.data.sample import collate
from PIL import Image

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import VoxelGrid, invert_transform
from occ_perception.models.zoo import get_card
from occ_perception.runtime.calibration import Calibrator
from occ_perception.runtime.preprocess import CropPlan, Preprocessor
from occ_perception.sensing.lidar_projection import (
    first_by_float32_rank,
    nearest_point,
    project_lidar,
)

CARD = get_card("alocc_2d")
EVERYTHING = ("labels", "depth", "point_classes", "previous_images", "ray_origins")


def dataset(index: DatasetIndex | None = None, **options: object) -> OccupancyDataset:
    return OccupancyDataset(index or folders.town_index(), CARD, SampleOptions(**options))


def augmented(**options: object) -> OccupancyDataset:
    return dataset(image=ImageAugmentation(), bev=BevAugmentation(), **options)


# -- images and geometry ------------------------------------------------------------------------


def test_images_are_bit_for_bit_those_of_the_running_node() -> None:
    frame, sample = folders.town_index().frames[1], dataset(contents=())[1]
    images = [
        np.asarray(Image.open(folders.town_index().path(frame.cameras[name].image)))
        for name in CARD.cameras
    ]
    plan = CropPlan.fit(folders.IMAGE, CARD.preprocessing.input_size)
    expected = Preprocessor(CARD.preprocessing, torch.device("cpu"))(images, [plan] * 6)
    assert torch.equal(sample.images_N3HW, expected)


def test_calibration_is_that_of_the_running_node() -> None:
    frame, sample = folders.town_index().frames[1], dataset(contents=())[1]
    rig = CameraRig(
        tuple(
            CameraCalibration(name, c.width, c.height, c.K, c.ego_T_cam)
            for name, c in frame.cameras.items()
        )
    )
    calibrator = Calibrator(CARD)
    tables = calibrator.tables(rig)
    world_T_cam = np.stack([frame.cameras[name].world_T_cam for name in CARD.cameras])
    expected = calibrator.camera_tensors(frame.world_T_reference_ego, world_T_cam, tables)
    batch = collate([sample])
    for name, tensor in vars(expected).items():
        assert torch.equal(getattr(batch.cameras, name), tensor), name


def test_grids_of_the_lidar_frame_refer_to_the_lidar_at_its_own_stamp() -> None:
    card = get_card("alocc_3d_surroundocc")
    index = folders.town_index()
    sample = OccupancyDataset(index, card, SampleOptions(contents=()))[1]
    frame = index.frames[1]
    point_in_lidar = np.array([4.0, 9.0, -1.0, 1.0])
    world = frame.lidar.world_T_ego @ frame.lidar.ego_T_lidar @ point_in_lidar
    for n, name in enumerate(card.cameras):
        in_camera = invert_transform(frame.cameras[name].world_T_cam) @ world
        back = sample.grid_T_cam_N44[n].double().numpy() @ in_camera
        assert back == pytest.approx(point_in_lidar, abs=1e-4)


def test_a_voxel_projects_to_the_pixels_that_show_it_whatever_the_augmentation() -> None:
    """The chain from pixel to grid that networks use, inverted with the maps of the sample."""
    plain, changed = dataset(contents=())[1], augmented(contents=())[Visit(1, 5)]
    assert not torch.equal(plain.images_N3HW, changed.images_N3HW)
    native = {}
    for name, sample in (("plain", plain), ("changed", changed)):
        A = sample.image_rotation_N33.double().numpy()
        a = sample.image_translation_N3.double().numpy()
        pixel = np.array([352.0, 128.0, 12.0])  # input pixel and depth
        undone = np.linalg.solve(A, (pixel - a)[..., None])[..., 0]
        native[name] = undone
        assert np.allclose(undone[:, 2], 12.0)
    assert np.abs(native["plain"] - native["changed"]).max() > 10  # another pixel is there now
    # The same native pixel of both shows the same colours, once augmentation is undone.
    target = np.array([800.0, 620.0, 12.0])
    for n in range(6):
        colours = []
        for sample in (plain, changed):
            A, a = sample.image_rotation_N33[n].numpy(), sample.image_translation_N3[n].numpy()
            u, v = np.rint(A @ target + a)[:2].astype(int)
            patch = sample.images_N3HW[n, :, v - 4 : v + 5, u - 4 : u + 5]
            colours.append(patch.mean(dim=(1, 2)))
        assert torch.allclose(*colours, atol=0.35), n


def test_the_same_visit_gives_the_same_sample_and_another_does_not() -> None:
    first, again = augmented()[Visit(1, 3)], augmented()[Visit(1, 3)]
    other = augmented()[Visit(1, 4)]
    for name, value in vars(first).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(again, name)), name
    assert not torch.equal(first.images_N3HW, other.images_N3HW)
    assert not torch.equal(augmented(seed=1)[Visit(1, 3)].images_N3HW, first.images_N3HW)


def test_samples_do_not_depend_on_the_process() -> None:
    there = pickle.loads(pickle.dumps(augmented()))
    assert torch.equal(there[Visit(2, 7)].images_N3HW, augmented()[Visit(2, 7)].images_N3HW)


# -- sequences ------------------------------------------------------------------------------------


def test_starts_and_motion_follow_the_recordings() -> None:
    data = dataset(contents=())
    samples = [data[i] for i in range(6)]
    assert [s.start for s in samples] == [True, False, False, True, False, False]
    assert [s.group for s in samples] == [0, 0, 0, 1, 1, 1]
    frames = folders.town_index().frames
    for i in (1, 2, 4, 5):
        # As in the reference code, motion is between lidar times, whatever the cameras' stamps.
        expected = np.linalg.inv(frames[i - 1].lidar.world_T_ego) @ frames[i].lidar.world_T_ego
        assert samples[i].previous_T_current_44.numpy() == pytest.approx(expected, abs=1e-9)
        assert samples[i].previous_T_current_44.dtype == torch.float64
    for i in (0, 3):
        assert torch.equal(samples[i].previous_T_current_44, torch.eye(4, dtype=torch.float64))


def test_with_labels_at_the_reference_cameras_stamp_motion_refers_to_it_too() -> None:
    index = folders.town_index()
    label_format = replace(index.header.label_sets["occ3d"], time="reference_camera")
    header = replace(index.header, label_sets={**index.header.label_sets, "occ3d": label_format})
    sample = dataset(replace(index, header=header))[1]
    before, now = (f.world_T_reference_ego for f in index.frames[:2])
    expected = np.linalg.inv(before) @ now
    assert sample.previous_T_current_44.numpy() == pytest.approx(expected, abs=1e-9)


def test_matching_uses_the_previous_frame_even_across_a_cut() -> None:
    pieces = dataset(contents=("previous_images",), pieces=2)
    # Three frames in two pieces of ceil(3 / 2).
    assert pieces.groups_F.tolist() == [0, 0, 1, 2, 2, 3]
    cut = pieces[2]
    assert cut.start
    assert torch.equal(cut.previous_images_N3HW, pieces[1].images_N3HW)
    frames = folders.town_index().frames
    for n, name in enumerate(CARD.cameras):
        then, now = (frames[i].cameras[name].world_T_cam for i in (1, 2))
        assert cut.previous_cam_T_cam_N44[n].numpy() == pytest.approx(
            np.linalg.inv(then) @ now, abs=1e-9
        )
    begin = pieces[3]
    assert begin.start
    assert torch.equal(begin.previous_images_N3HW, begin.images_N3HW)
    assert torch.equal(begin.previous_cam_T_cam_N44[0], torch.eye(4, dtype=torch.float64))


def test_the_previous_frame_gets_the_same_augmentation() -> None:
    data = augmented(contents=("previous_images",))
    sample, plain = data[Visit(1, 2)], dataset(contents=())[0]
    # The previous image shows a native pixel at the same place.
    target = np.array([800.0, 560.0, 1.0])
    for n in range(6):
        A, a = sample.image_rotation_N33[n].numpy(), sample.image_translation_N3[n].numpy()
        u, v = np.rint(A @ target + a)[:2].astype(int)
        pu, pv = np.rint(target[:2] * 0.44 + (0, -140)).astype(int)
        there = sample.previous_images_N3HW[n, :, v - 4 : v + 5, u - 4 : u + 5].mean(dim=(1, 2))
        here = plain.images_N3HW[n, :, pv - 4 : pv + 5, pu - 4 : pu + 5].mean(dim=(1, 2))
        assert torch.allclose(there, here, atol=0.35)


# -- lidar ----------------------------------------------------------------------------------------


def test_depth_and_class_maps_against_a_loop_over_points() -> None:
    data = augmented(contents=("depth", "point_classes"))
    sample = data[Visit(4, 1)]
    frame = folders.town_index().frames[4]
    root = folders.town_folder()
    points = np.fromfile(root / frame.lidar.points, "<f4").reshape(-1, 5)
    raw = np.fromfile(root / frame.lidar.semantics, np.uint8)
    depth = np.zeros((6, 256, 704))
    source = np.full((6, 256, 704), -1)
    for n, name in enumerate(CARD.cameras):
        camera = frame.cameras[name]
        world = frame.lidar.world_T_ego @ frame.lidar.ego_T_lidar
        to_camera = np.linalg.inv(camera.world_T_ego @ camera.ego_T_cam) @ world
        in_camera = (to_camera @ np.c_[points[:, :3], np.ones(len(points))].T)[:3].T
        K = camera.K * np.array([[5.0], [5.0], [1.0]])  # 320 to 1600 columns
        A = sample.image_rotation_N33[n].double().numpy()
        a = sample.image_translation_N3[n].double().numpy()
        for i in np.flatnonzero((in_camera[:, 2] >= 1.0) & (in_camera[:, 2] < 45.0)):
            x, y, z = in_camera[i]
            u, v, _ = A @ [*(K @ [x / z, y / z, 1.0])[:2], z] + a
            column, row = round(u), round(v)
            if 0 <= column < 704 and 0 <= row < 256:
                best = depth[n, row, column]
                if best == 0 or z < best:
                    depth[n, row, column], source[n, row, column] = z, i
    ours = sample.depth_NHW.numpy()
    hit = depth > 0
    # The float32 matrices of the sample can move a point across the border of a pixel.
    same = (ours > 0) == hit
    assert hit.sum() > 10_000 and (~same).sum() < 10
    both = (ours > 0) & hit
    assert np.quantile(np.abs(ours - depth)[both], 0.999) < 1e-3
    classes = sample.semantics_NHW.numpy()
    assert (classes[ours == 0] == 255).all()
    names = {17: 4, 24: 11, 28: 15, 30: 16, 26: 13, 27: 14}  # car, road, house, tree, path, grass
    agree = [classes[both][raw[source[both]] == general] == k for general, k in names.items()]
    assert np.concatenate(agree).mean() > 0.999
    assert set(np.unique(classes)) <= {*range(17), 255}


def test_real_points_fall_on_what_the_cameras_see(shared_dir: Path) -> None:
    """Boxes and sweep of a real key frame: points inside a box project inside its outline."""
    folder = shared_dir / "data" / "nuscenes-keyframe-n015-0802"
    frame = json.loads((folder / "frames.json").read_text())["frames"][0]
    points = np.fromfile(folder / "LIDAR_TOP.bin", "<f4").reshape(-1, 5)[:, :3]
    ego_T_lidar, world_T_ego = np.array(frame["lidar2ego"]), np.array(frame["ego2global"])
    in_ego = points @ ego_T_lidar[:3, :3].T + ego_T_lidar[:3, 3]
    size, found = (256, 704), 0
    for camera in frame["cams"].values():
        world_T_cam = np.array(camera["ego2global"]) @ np.array(camera["cam2ego"])
        cam_T_lidar = np.linalg.inv(world_T_cam) @ world_T_ego @ ego_T_lidar
        pixel_map = (np.diag([0.44, 0.44, 1.0]), np.array([0.0, -140.0, 0.0]))
        K = np.array(camera["K"])
        everything = project_lidar(points, None, cam_T_lidar, K, pixel_map, size, (1.0, 45.0))
        assert 2_000 < (everything.depth_HW > 0).sum() < 5_000
        for box in frame["boxes"]:
            offset = in_ego - box["center"]
            cos, sin = np.cos(box["yaw"]), np.sin(box["yaw"])
            local = np.c_[offset[:, :2] @ [[cos, -sin], [sin, cos]], offset[:, 2]]
            half = np.array(box["size_lwh"]) / 2
            inside = (np.abs(local) <= half).all(axis=1)
            signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
            corners = signs * half @ [[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]] + box["center"]
            corners = (
                corners @ (np.linalg.inv(world_T_cam) @ world_T_ego)[:3, :3].T
                + (np.linalg.inv(world_T_cam) @ world_T_ego)[:3, 3]
            )
            if inside.sum() < 20 or (corners[:, 2] < 1.0).any():
                continue
            outline = (corners / corners[:, 2:]) @ K.T * 0.44 - [0, 140, 0]
            own = project_lidar(points[inside], None, cam_T_lidar, K, pixel_map, size, (1.0, 45.0))
            rows, columns = np.nonzero(own.depth_HW)
            assert (columns >= outline[:, 0].min() - 1).all()
            assert (columns <= outline[:, 0].max() + 1).all()
            assert (rows >= outline[:, 1].min() - 1).all()
            assert (rows <= outline[:, 1].max() + 1).all()
            found += len(rows)
    assert found > 300


def test_the_reference_rule_is_not_the_nearest_in_big_images() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 60_000, 90_000) + 120_000
    depths = rng.uniform(1, 45, 90_000).astype(np.float32)
    near, reference = nearest_point(pixels, depths), first_by_float32_rank(pixels, depths)
    assert np.array_equal(np.unique(pixels[near]), np.unique(pixels))
    assert np.array_equal(np.sort(pixels[reference]), np.unique(pixels))
    for p in pixels[near][:50]:
        assert depths[near][pixels[near] == p] == depths[pixels == p].min()
    farther = (
        depths[reference][np.argsort(pixels[reference])] - (depths[near][np.argsort(pixels[near])])
    )
    assert (farther >= 0).all() and 0 < (farther > 0).mean() < 0.2
    assert farther.max() < 1.6
    # In a small image single precision distinguishes all depths.
    assert depths[first_by_float32_rank(pixels % 500, depths)].tolist() == (
        depths[nearest_point(pixels % 500, depths)].tolist()
    )


# -- labels ---------------------------------------------------------------------------------------


def test_labels_masks_and_flow_are_those_of_the_files() -> None:
    frame = folders.town_index().frames[2]
    with np.load(folders.town_folder() / frame.labels["occ3d"]) as file:
        plain, ignoring = dataset()[2], dataset(ignore_unseen="camera")[2]
        assert np.array_equal(plain.labels_XYZ, file["semantics"])
        assert np.array_equal(plain.camera_mask_XYZ, file["mask_camera"] == 1)
        seen = file["mask_camera"] == 1
        assert np.array_equal(ignoring.labels_XYZ[seen], file["semantics"][seen])
        assert (ignoring.labels_XYZ[~seen] == 255).all()
    flow_card = get_card("alocc_flow_2d")
    sample = OccupancyDataset(folders.town_index(), flow_card)[2]
    with np.load(folders.town_folder() / frame.labels["openocc"]) as file:
        assert np.array_equal(sample.labels_XYZ, file["semantics"])
        assert np.array_equal(sample.flow_XYZ2, file["flow"])
        assert sample.camera_mask_XYZ is None


def test_a_missing_mask_is_none_and_cannot_be_used_to_ignore(tmp_path: Path) -> None:
    index = folders.town_index()
    np.savez(tmp_path / "labels.npz", semantics=np.zeros((200, 200, 16), dtype=np.uint8))
    frame = replace(index.frames[0], labels={"occ3d": str(tmp_path / "labels.npz")})
    bare = replace(index, frames=(frame,))
    assert dataset(bare)[0].camera_mask_XYZ is None
    with pytest.raises(DataFileError, match=r"labels\.npz: has no camera mask"):
        dataset(bare, ignore_unseen="camera")[0]


def test_a_ray_mask_is_read_from_its_own_label_set(tmp_path: Path) -> None:
    index = folders.town_index()
    mask = np.random.default_rng(0).random((200, 200, 16)) < 0.3
    np.savez(tmp_path / "labels.npz", ray_mask2=mask)
    label_format = replace(index.header.label_sets["openocc"], reader="ray_mask")
    sets = {**index.header.label_sets, "openocc_ray_mask": label_format}
    frames = tuple(
        replace(f, labels={**f.labels, "openocc_ray_mask": str(tmp_path / "labels.npz")})
        for f in index.frames
    )
    with_mask = replace(index, header=replace(index.header, label_sets=sets), frames=frames)
    options = SampleOptions(ignore_unseen="ray")
    sample = OccupancyDataset(with_mask, get_card("alocc_flow_2d"), options)[0]
    assert torch.equal(sample.labels_XYZ != 255, torch.from_numpy(mask))
    with pytest.raises(DatasetError, match="no labels 'openocc_ray_mask'"):
        OccupancyDataset(index, get_card("alocc_flow_2d"), options)


def test_labels_follow_the_augmented_grid_of_the_sample() -> None:
    plain, data = dataset()[1], augmented()
    grid = CARD.grid
    seen = set()
    for visit in range(6):
        sample = data[Visit(1, visit)]
        bda = sample.bev_augmentation_33.double().numpy()
        voxels = np.argwhere(plain.labels_XYZ.numpy() != 17)[::97]
        moved = grid.indices(grid.centers(voxels) @ bda.T)
        assert np.array_equal(sample.labels_XYZ[tuple(moved.T)], plain.labels_XYZ[tuple(voxels.T)])
        seen.add((bda[0, 0], bda[1, 1]))
    assert len(seen) > 1


@pytest.mark.parametrize("model", ["alocc_3d_surroundocc", "alocc_2d_mini_surroundocc"])
def test_surroundocc_voxels_are_taken_as_they_are(model: str, tmp_path: Path) -> None:
    """The released mini model has the values of another grid, but was trained with these labels."""
    rows = np.array([[0, 0, 0, 1], [199, 5, 15, 16], [100, 100, 8, 255]])
    np.save(tmp_path / "rows.npy", rows)
    index = folders.town_index()
    frame = replace(index.frames[0], labels={"surroundocc": str(tmp_path / "rows.npy")})
    header = replace(index.header, label_sets={"surroundocc": LABEL_FORMATS["surroundocc"]})
    options = SampleOptions(ignore_unseen="camera")  # as in the recipes; the set has no masks
    data = OccupancyDataset(
        replace(index, header=header, frames=(frame,)), get_card(model), options
    )
    labels = data[0].labels_XYZ
    assert labels[tuple(rows[:, :3].T)].tolist() == [1, 16, 255]
    assert (labels == 17).sum() == 200 * 200 * 16 - 3


def test_models_with_smaller_grids_and_images_read_the_same_files() -> None:
    config = CARD.config
    lifted = VoxelGrid((-20.0, -20.0, -1.0), (0.8, 0.8, 6.4), (50, 50, 1))
    geometry = replace(config.geometry, input_size=(128, 352), grid=lifted)
    small = config.with_geometry(geometry)
    small = replace(small, height=replace(small.height, voxels=8))
    data = OccupancyDataset(folders.town_index(), CARD, SampleOptions(), small)
    sample, full = data[0], dataset()[0]
    assert sample.images_N3HW.shape == (6, 3, 128, 352)
    assert sample.image_rotation_N33[0, 0, 0] == pytest.approx(0.22)
    assert sample.labels_XYZ.shape == (50, 50, 8)
    occupied = (full.labels_XYZ[50:150, 50:150] != 17).float()[None, None]
    pooled = torch.nn.functional.max_pool3d(occupied, 2)[0, 0] > 0
    assert torch.equal(sample.labels_XYZ != 17, pooled)


def test_labels_that_are_not_the_models_are_refused() -> None:
    with pytest.raises(DatasetError, match="classes of openocc"):
        dataset(labels="openocc")
    with pytest.raises(DatasetError, match="no labels 'surroundocc'"):
        OccupancyDataset(folders.town_index(), get_card("alocc_3d_surroundocc"))
    with pytest.raises(DatasetError, match="lie in the ego frame"):
        OccupancyDataset(
            folders.town_index(), get_card("alocc_3d_surroundocc"), SampleOptions(labels="occ3d")
        )
    with pytest.raises(DatasetError, match="unknown content lidar"):
        dataset(contents=("lidar",))


# -- batches and bad files ------------------------------------------------------------------------


def test_a_batch_is_what_the_network_takes() -> None:
    data = dataset(contents=EVERYTHING)
    samples = [data[1], data[3]]
    batch = collate(samples)
    assert len(batch) == 2 and batch.tokens == (samples[0].token, samples[1].token)
    inputs = batch.inputs(position_B=torch.tensor([1, 0]), depth_rate=0.5)
    assert inputs.images_BN3HW.shape == (2, 6, 3, 256, 704)
    assert inputs.control.start_B.tolist() == [False, True]
    assert inputs.control.previous_T_current_B44.dtype == torch.float64
    assert inputs.depth.rate == 0.5 and torch.equal(inputs.depth.depth_BNHW[1], data[3].depth_NHW)
    assert batch.inputs(torch.zeros(2)).depth is None
    assert [len(origins) for origins in batch.lidar_origins] == [3, 3]
    mount = folders.town_index().frames[1].lidar.ego_T_lidar
    assert samples[0].lidar_origins_T3[1].numpy() == pytest.approx(mount[:3, 3])
    assert batch.to("cpu").labels_BXYZ.shape == (2, 200, 200, 16)
    with pytest.raises(DatasetError, match=f"differ in depth_NHW.*{samples[1].token}"):
        collate([samples[0], replace(samples[1], depth_NHW=None)])
    with pytest.raises(ValueError, match="no measured depth"):
        collate([replace(s, depth_NHW=None) for s in samples]).inputs(torch.zeros(2), 1.0)


def test_frames_that_lack_something_are_left_out_and_listed() -> None:
    index = folders.town_index()
    first, second, *rest = index.frames
    cameras = {k: v for k, v in second.cameras.items() if k != "CAM_BACK"}
    frames = (replace(first, labels={}), replace(second, cameras=cameras), *rest)
    data = dataset(replace(index, frames=frames))
    assert len(data) == 4 and data.left_out.tokens == (first.token, second.token)
    assert data.left_out.summary(6) == (
        "left out 2 of 6 frames: no CAM_BACK in 1, occ3d labels in 1"
    )
    assert data[0].token == rest[0].token and data[0].start


def test_a_file_that_is_damaged_later_is_named(tmp_path: Path) -> None:
    index = folders.town_index()
    frame = index.frames[0]
    camera = frame.cameras["CAM_FRONT"]
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(index.path(camera.image).read_bytes()[:2000])

    def with_front(image: Path, **changes: int) -> OccupancyDataset:
        front = replace(camera, image=str(image), **changes)
        broken = replace(frame, cameras={**frame.cameras, "CAM_FRONT": front})
        return dataset(replace(index, frames=(broken,)), contents=())

    with pytest.raises(DataFileError, match=rf"{frame.token}.*cut\.jpg.*damaged.*prepare verify"):
        with_front(cut)[0]
    with pytest.raises(DataFileError, match=r"none\.jpg.*No such file"):
        with_front(tmp_path / "none.jpg")[0]
    with pytest.raises(DataFileError, match="320x180 pixels, its intrinsics are for 640x180"):
        with_front(index.path(camera.image), width=640)[0]
