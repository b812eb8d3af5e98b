"""Files for other programs, read back by independent parsers."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from small_footage import CAMERAS, GRID, ROAD, guess_at, truth_at
from small_streams import drive, surround_rig

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid, matrix_from_pose, transform_points
from occ_perception.labels import PALETTE
from occ_perception.viewer.point_files import lidar_columns, voxel_columns, write_ply
from occ_perception.viewer.voxel_boxes import boxes_of_voxels, triangles_of_boxes


def read_ply(path) -> dict[str, np.ndarray]:
    """A reader by the format's description: header lines, then rows of properties."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    (count,) = (int(line.split()[2]) for line in lines if line.startswith("element vertex"))
    types = {"float": "<f4", "uchar": "u1", "ushort": "<u2", "int": "<i4"}
    dtype = [(line.split()[2], types[line.split()[1]]) for line in lines if "property" in line]
    rows = np.frombuffer(body, dtype)
    assert len(rows) == count
    return {name: rows[name] for name, _ in dtype}


def test_voxels_come_back_as_coloured_points_in_ego(tmp_path):
    pose = matrix_from_pose((0.9, 0, 1.8), (0, 0, -0.70711, 0.70711))
    prediction = guess_at(10**9)
    turned = OccupancyPrediction(**{**vars(prediction), "ego_T_grid": pose})
    write_ply(tmp_path / "a" / "voxels.ply", voxel_columns(turned), "labels from 0: others barrier")
    points = read_ply(tmp_path / "a" / "voxels.ply")
    voxels = np.argwhere(prediction.labels != prediction.empty_class)
    ids = prediction.labels[tuple(voxels.T)]
    places = transform_points(pose, GRID.centers(voxels))
    np.testing.assert_allclose(
        np.column_stack([points[n] for n in "xyz"]), places, rtol=0, atol=1e-5
    )
    np.testing.assert_array_equal(points["label"], ids)
    on_road = np.column_stack([points[n] for n in ("red", "green", "blue")])[ids == ROAD]
    assert (on_road == PALETTE["driveable_surface"]).all()
    np.testing.assert_array_equal(points["vx"], prediction.flow[..., 0][tuple(voxels.T)])


def test_lidar_points_are_read_back_and_invalid_columns_refused(tmp_path):
    rng = np.random.default_rng(0)
    points, intensity = rng.normal(size=(20, 3)), rng.uniform(size=20)
    write_ply(tmp_path / "lidar.ply", lidar_columns(points, intensity))
    got = read_ply(tmp_path / "lidar.ply")
    np.testing.assert_allclose(got["y"], points[:, 1], rtol=1e-6)
    np.testing.assert_allclose(got["intensity"], intensity, rtol=1e-6)
    write_ply(tmp_path / "empty.ply", lidar_columns(np.empty((0, 3))))
    assert len(read_ply(tmp_path / "empty.ply")["x"]) == 0
    with pytest.raises(ValueError, match="t is i8; PLY has f4"):
        write_ply(tmp_path / "bad.ply", {"t": np.zeros(3, np.int64)})
    with pytest.raises(ValueError, match=r"of lengths \[2, 3\]"):
        write_ply(tmp_path / "bad.ply", {"x": np.zeros(3, "f4"), "y": np.zeros(2, "f4")})


def test_open3d_reads_our_points(tmp_path):
    open3d = pytest.importorskip("open3d")
    prediction = guess_at(10**9)
    write_ply(tmp_path / "voxels.ply", voxel_columns(prediction))
    cloud = open3d.t.io.read_point_cloud(str(tmp_path / "voxels.ply"))
    ids = prediction.labels[prediction.labels != prediction.empty_class]
    np.testing.assert_array_equal(cloud.point["label"].numpy().ravel(), ids)
    assert cloud.point["colors"].numpy().dtype == np.uint8


SMALL = VoxelGrid((-1.0, 2.0, 0.0), (0.5, 0.4, 0.3), (5, 4, 4))


@given(hnp.arrays(np.uint8, SMALL.dims, elements=st.sampled_from([0, 1, 2, 2, 255])))
def test_boxes_cover_what_is_seen_once_and_nothing_else(labels):
    p = OccupancyPrediction(0, "base_link", SMALL, np.eye(4), labels, ("car", "truck", "free"), 2)
    boxes = boxes_of_voxels(p)
    covered = np.zeros(SMALL.dims, int)
    centres = SMALL.centers(np.stack(np.indices(SMALL.dims), axis=-1))
    for centre, half, label in zip(boxes.centres, boxes.half_sizes, boxes.labels, strict=True):
        inside = (np.abs(centres - centre) < half).all(-1)
        assert (labels[inside] == label).all()
        covered += inside
    occupied = labels < 2
    assert covered.max(initial=0) <= 1
    assert not covered[~occupied].any()
    for at in np.argwhere(occupied & (covered == 0)):
        for axis in range(3):  # enclosed: all six neighbours exist and are occupied
            for step in (-1, 1):
                beside = at.copy()
                beside[axis] += step
                assert SMALL.contains(beside)
                assert occupied[tuple(beside)]


def test_a_road_is_few_boxes():
    p = truth_at(10**9)
    assert len(boxes_of_voxels(p).labels) < 12
    assert (p.labels != p.empty_class).sum() > 1000


def test_triangles_enclose_the_boxes_volume():
    """The divergence theorem: signed volumes under outward triangles sum to the volume."""
    boxes = boxes_of_voxels(truth_at(10**9))
    vertices, triangles, box = triangles_of_boxes(boxes)
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    signed = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
    volume = np.bincount(box[triangles[:, 0]], signed)
    np.testing.assert_allclose(volume, 8 * boxes.half_sizes.prod(axis=1), rtol=1e-9)


def test_a_rerun_recording_holds_every_frame(tmp_path):
    """Read back by rerun's own tools."""
    pytest.importorskip("rerun")
    from rerun.chunk import RrdReader

    from occ_perception.viewer.rerun_log import RerunLog

    frames = drive([10.0, 10.5, 11.0], surround_rig(CAMERAS))
    path = tmp_path / "new" / "drive.rrd"
    with RerunLog(path) as log:
        for frame in frames:
            log.add(guess_at(frame.stamp_ns), frame, truth_at(frame.stamp_ns))
    rows: dict[str, int] = {}
    stamps, ids = [], []
    for chunk in RrdReader(path).stream().to_chunks():
        rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + chunk.num_rows
        if chunk.entity_path == "/world/ego/prediction/voxels":
            table = chunk.to_record_batch()
            stamps += [stamp.value for stamp in table["stamp"]]
            ids += table["Boxes3D:class_ids"].to_pylist()
    assert stamps == [frame.stamp_ns for frame in frames]
    for frame, got in zip(frames, ids, strict=True):
        expected = boxes_of_voxels(guess_at(frame.stamp_ns)).labels
        np.testing.assert_array_equal(got, expected)
    for entity in ("prediction/voxels", "truth/voxels", "motion", "cameras/CAM_BACK"):
        assert rows[f"/world/ego/{entity}"] >= 3, entity
    assert rows["/world/path/1"] == 3


def test_a_recording_is_replaced_by_a_whole_one_only(tmp_path):
    pytest.importorskip("rerun")
    from occ_perception.viewer.rerun_log import RerunLog

    path = tmp_path / "drive.rrd"
    path.write_bytes(b"precious")
    with pytest.raises(RuntimeError), RerunLog(path) as log:
        log.add(guess_at(10**9))
        raise RuntimeError
    with RerunLog(path):
        pass  # no frame
    assert path.read_bytes() == b"precious"
    with RerunLog(path) as log:
        log.add(guess_at(10**9))
    assert path.read_bytes() != b"precious"
    assert [file.name for file in tmp_path.iterdir()] == ["drive.rrd"]


def test_the_logged_path_grows_with_the_drive_not_with_its_square(tmp_path):
    """The log has the complete path of one sequence."""
    pytest.importorskip("rerun")
    from rerun.chunk import RrdReader

    from occ_perception.viewer.rerun_log import RerunLog

    (frame,) = drive([10.0], surround_rig(CAMERAS))
    images = {frame.reference_camera: frame.images[frame.reference_camera]}
    guess = guess_at(frame.stamp_ns)
    with RerunLog(tmp_path / "drive.rrd") as log:
        for n in range(240):
            pose = np.eye(4)
            pose[0, 3] = n
            poses = dict.fromkeys(frame.world_T_ego, pose)
            sequence = "first" if n < 20 else "second"
            moved = replace(frame, images=images, world_T_ego=poses, sequence=sequence)
            log.add(guess, moved)
    logged, cleared = 0, 0
    last: dict[str, list] = {}
    for chunk in RrdReader(tmp_path / "drive.rrd").stream().to_chunks():
        table = chunk.to_record_batch()
        if "LineStrips3D:strips" in table.column_names:
            strips = [row[0] for row in table["LineStrips3D:strips"].to_pylist()]
            logged += sum(map(len, strips))
            last[chunk.entity_path] = max(last.get(chunk.entity_path, []), *strips, key=len)
        cleared += "Clear:is_recursive" in table.column_names
    assert cleared == 1
    assert logged < 240 * 30
    pieces = sorted(last.values(), key=lambda points: points[0][0])
    assert [points[0][0] for points in pieces] == [0, 20, 69, 118, 167, 216]
    assert pieces[-1][-1][0] == 239


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("rerun", "from occ_perception.viewer.rerun_log import RerunLog; RerunLog('x.rrd')"),
        (
            "open3d",
            "from occ_perception.viewer.open3d_window import Open3DWindow; Open3DWindow([])",
        ),
    ],
)
def test_an_extra_that_is_missing_is_named(module, code):
    code = f"import sys; sys.modules[{module!r}] = None\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert re.search(
        rf"MissingPackageError: .*pip install 'occ_perception\[{module}\]'", done.stderr
    )
