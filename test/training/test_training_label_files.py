"""Label files of the public sets, against their format definitions and real files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from occ_training.data.label_files import (
    LABEL_FORMATS,
    DataFileError,
    lidarseg_to_occ3d,
    read_labels,
    read_point_classes,
    read_points,
    read_ray_mask,
)
from scipy.spatial import cKDTree

from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.devkit_tables import GENERAL_ID


def occupied_rows(dims: tuple[int, int, int], seed: int) -> np.ndarray:
    """Distinct voxels with ids 0 to 16 and a few 255, columns x, y, z, id."""
    rng = np.random.default_rng(seed)
    flat = rng.choice(np.prod(dims), size=400, replace=False)
    ids = rng.integers(0, 17, size=400)
    ids[:5], ids[5:10] = 0, 255
    return np.column_stack([*np.unravel_index(flat, dims), ids])


@pytest.mark.parametrize(("name", "columns"), [("surroundocc", "xyz"), ("openoccupancy", "zyx")])
def test_rows_land_in_their_voxels(tmp_path: Path, name: str, columns: str) -> None:
    label_format = LABEL_FORMATS[name]
    rows = occupied_rows(label_format.grid.dims, seed=1)
    order = ["xyz".index(axis) for axis in columns]
    np.save(tmp_path / "rows.npy", np.column_stack([rows[:, order], rows[:, 3]]))
    volume = read_labels(tmp_path / "rows.npy", label_format).semantics_XYZ
    expected = np.full(label_format.grid.dims, 17)
    for x, y, z, label in rows:
        expected[x, y, z] = 17 if label == 0 else label
    assert np.array_equal(volume, expected)
    assert (volume == 255).sum() == 5


def test_files_of_the_other_row_order_are_refused(tmp_path: Path) -> None:
    rows = np.array([[500, 3, 20, 4]])  # x, y, z: not an OpenOccupancy row
    np.save(tmp_path / "rows.npy", rows)
    with pytest.raises(DataFileError, match="outside"):
        read_labels(tmp_path / "rows.npy", LABEL_FORMATS["openoccupancy"])


def test_waymo_free_space_is_renumbered_and_seen_means_both(shared_dir: Path, tmp_path) -> None:
    with np.load(shared_dir / "reference/golden_metrics/waymo_style.npz") as golden:
        arrays = {name: golden[name] for name in ("voxel_label", "infov", "final_voxel_state")}
    np.savez(tmp_path / "000_04.npz", **arrays)
    labels = read_labels(tmp_path / "000_04.npz", LABEL_FORMATS["waymo"])
    raw = arrays["voxel_label"]
    assert np.array_equal(labels.semantics_XYZ[raw != 23], raw[raw != 23])
    assert (labels.semantics_XYZ[raw == 23] == LABEL_SETS["waymo"].empty_class).all()
    both = np.logical_and(arrays["infov"], arrays["final_voxel_state"])
    assert np.array_equal(labels.camera_mask_XYZ, both)
    assert 0 < both.sum() < arrays["infov"].sum()


def test_real_occ3d_file_means_what_the_class_table_says(shared_dir: Path) -> None:
    file = shared_dir / "data/occ3d-openocc-labels/occ3d_labels.npz"
    labels = read_labels(file, LABEL_FORMATS["occ3d"])
    ids = {name: k for k, name in enumerate(LABEL_SETS["occ3d"].class_names)}
    volume = labels.semantics_XYZ
    occupied = volume != ids["free"]
    assert occupied.sum() == 31_107
    assert (occupied & labels.camera_mask_XYZ).sum() == 23_153
    assert labels.camera_mask_XYZ.mean() == pytest.approx(0.157, abs=5e-4)

    def voxels(*names: str) -> np.ndarray:
        return np.argwhere(np.isin(volume, [ids[name] for name in names]))

    def heights(*names: str) -> np.ndarray:
        return voxels(*names)[:, 2]

    # Ground lies about z = 0 (voxel 2); trees and houses rise above, cars stand on the road.
    assert np.bincount(heights("driveable_surface")).argmax() == 2
    assert (abs(heights("driveable_surface", "sidewalk") - 2) <= 2).mean() > 0.95
    assert heights("vegetation").mean() > 5 and heights("manmade").mean() > 5
    road, car = voxels("driveable_surface"), voxels("car")
    below = road[cKDTree(road[:, :2]).query(car[:, :2])[1]]
    assert 1 <= np.median(car[:, 2] - below[:, 2]) <= 4


def test_real_openocc_file_means_what_the_class_table_says(shared_dir: Path) -> None:
    file = shared_dir / "data/occ3d-openocc-labels/openocc_flow_labels.npz"
    labels = read_labels(file, LABEL_FORMATS["openocc"])
    label_set = LABEL_SETS["openocc"]
    assert labels.flow_XYZ2 is not None and labels.flow_XYZ2.dtype == np.float32
    moving = np.isin(labels.semantics_XYZ, label_set.moving_ids())
    assert not labels.flow_XYZ2[~moving].any()
    assert np.abs(labels.flow_XYZ2[moving]).max() > 1.0
    road = label_set.class_names.index("driveable_surface")
    assert np.bincount(np.nonzero(labels.semantics_XYZ == road)[2]).argmax() in (1, 2)
    # With the table of Occ3D, whose free space is 17, the same file gives wrong classes.
    as_occ3d = read_labels(file, LABEL_FORMATS["occ3d"])
    assert (as_occ3d.semantics_XYZ == LABEL_SETS["occ3d"].empty_class).sum() == 0


def test_lidarseg_classes_undo_the_numbering_of_the_town() -> None:
    table = lidarseg_to_occ3d()
    assert table[GENERAL_ID].tolist() == [*range(17), 0]  # no point lies in free space
    assert sorted(set(table.tolist())) == list(range(17))
    assert np.bincount(table).tolist() == [12, 1, 1, 2, 1, 1, 1, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def test_point_classes_are_matched_by_name(tmp_path: Path) -> None:
    raw = np.array([17, 14, 24, 0, 31], dtype=np.uint8)  # car, bicycle, road, noise, ego vehicle
    raw.tofile(tmp_path / "x_lidarseg.bin")
    occ3d, openocc = LABEL_SETS["occ3d"], LABEL_SETS["openocc"]
    read = read_point_classes(tmp_path / "x_lidarseg.bin", "lidarseg", occ3d, 5)
    assert [occ3d.class_names[k] for k in read[:4]] == [
        "car", "bicycle", "driveable_surface", "others"
    ]  # fmt: skip
    read = read_point_classes(tmp_path / "x_lidarseg.bin", "lidarseg", openocc, 5)
    assert [openocc.class_names[k] for k in read[:3]] == ["car", "bicycle", "driveable_surface"]
    assert read[3:].tolist() == [255, 255]  # OpenOcc has no class for the rest
    np.savez(tmp_path / "x.npz", lidar_seg=np.array([[4], [2]], dtype=np.uint8))
    assert read_point_classes(tmp_path / "x.npz", "occ3d", occ3d, 2).tolist() == [4, 2]
    np.array([40], dtype=np.uint8).tofile(tmp_path / "y.bin")
    with pytest.raises(DataFileError, match=r"y\.bin.*lidarseg"):
        read_point_classes(tmp_path / "y.bin", "lidarseg", occ3d, 1)
    with pytest.raises(DataFileError, match=r"x\.npz: 2 classes for the 3 points"):
        read_point_classes(tmp_path / "x.npz", "occ3d", occ3d, 3)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    label_format = LABEL_FORMATS["occ3d"]
    volume = np.full(label_format.grid.dims, 17, dtype=np.uint8)

    def refused(name: str, message: str, **arrays: np.ndarray) -> None:
        if arrays:
            np.savez_compressed(tmp_path / name, **arrays)
        with pytest.raises(DataFileError, match=f"{name}.*{message}"):
            read_labels(tmp_path / name, label_format)

    refused("absent.npz", "no such file")
    refused("named.npz", "semantics", labels=volume)
    refused("small.npz", "expected", semantics=volume[:10])
    refused("ids.npz", r"\[18, 23\]", semantics=np.where(volume == 17, [18, 23] * 8, 0))
    np.savez_compressed(tmp_path / "whole.npz", semantics=volume)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-40])
    refused("cut.npz", "")
    damaged = bytearray((tmp_path / "whole.npz").read_bytes())
    damaged[100] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(damaged)
    refused("flipped.npz", "")
    np.savez(tmp_path / "objects.npz", semantics=np.array([{"x": 1}], dtype=object))
    refused("objects.npz", "")
    (tmp_path / "points.bin").write_bytes(b"\0" * 30)
    with pytest.raises(DataFileError, match="whole number of points"):
        read_points(tmp_path / "points.bin", ("x", "y", "z"))
    np.savez(tmp_path / "mask.npz", ray_mask2=np.ones((3, 3, 3), dtype=bool))
    with pytest.raises(DataFileError, match="mask of shape"):
        read_ray_mask(tmp_path / "mask.npz", label_format)


@pytest.mark.parametrize(
    "member",
    [
        b"no array at all",
        b"\x93NUMPY\x01\x00\x20\x00{'descr': '|u1', 'shape': (2,   \n",
        b"\x93NUMPY\x01\x00\x76\x00"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }".ljust(117)
        + b"\n",
    ],
    ids=["no array", "header cut", "petabyte"],
)
def test_damaged_arrays_in_whole_zip_files_are_refused(tmp_path: Path, member: bytes) -> None:
    file = tmp_path / "labels.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("semantics.npy", member)
        archive.writestr("lidar_seg.npy", member)
    with pytest.raises(DataFileError, match=r"labels\.npz: "):
        read_labels(file, LABEL_FORMATS["occ3d"])
    with pytest.raises(DataFileError, match=r"labels\.npz: "):
        read_point_classes(file, "occ3d", LABEL_SETS["occ3d"], 10)
