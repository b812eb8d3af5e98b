"""Folders of images with a rig file and poses, read as drives."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch")  # of the models' cards

from occ_perception.bags.camera_drives import open_drive
from occ_perception.bags.image_folder import is_image_folder, open_images
from occ_perception.bags.pose_file import read_poses, stamp_of_name
from occ_perception.bags.recording import BagError
from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import (
    Float64,
    interpolate_transform,
    matrix_from_pose,
    pose_from_matrix,
)
from occ_perception.models.zoo import get_card
from occ_perception.sensing.calibration import save_rig

WIDTH, HEIGHT = 24, 16
MOMENTS = 4
START_NS = 1_600_000_000_000_000_000
STEP_NS = 100_000_000
DELAY_NS = {"CAM_FRONT": 0, "CAM_BACK": 20_000_000}


def pose(number: float) -> Float64:
    """The pose at a moment: a straight line, and a turn to the left."""
    half = 0.05 * number
    return matrix_from_pose((2.0 * number, 0.5, 0.0), (0.0, 0.0, np.sin(half), np.cos(half)))


def stamp(camera: str, number: int) -> int:
    return START_NS + number * STEP_NS + DELAY_NS[camera]


def image(camera: str, number: int) -> np.ndarray:
    rng = np.random.default_rng([list(DELAY_NS).index(camera), number])
    return rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write_image(path: Path, rgb: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), rgb[:, :, ::-1])


@pytest.fixture
def rig() -> CameraRig:
    K = np.array([[20.0, 0, 12], [0, 20.0, 8], [0, 0, 1]])
    ahead = np.array([[0, 0, 1.0, 1.5], [-1, 0, 0, 0], [0, -1, 0, 1.5], [0, 0, 0, 1]])
    return CameraRig(tuple(CameraCalibration(name, WIDTH, HEIGHT, K, ahead) for name in DELAY_NS))


def by_camera(folder: Path, name: Callable[[str, int], str]) -> Path:
    for camera in DELAY_NS:
        for number in range(MOMENTS):
            write_image(folder / camera / f"{name(camera, number)}.png", image(camera, number))
    return folder


def by_moment(folder: Path, name: Callable[[int], str]) -> Path:
    for camera in DELAY_NS:
        for number in range(MOMENTS):
            write_image(folder / name(number) / f"{camera}.png", image(camera, number))
    return folder


def tum(path: Path, count: int = MOMENTS + 1) -> Path:
    """Poses at the moments, and one after the last, so that no image is after all poses."""
    rows = []
    for number in range(count):
        t, q = pose_from_matrix(pose(number))
        time = START_NS + number * STEP_NS
        words = [f"{time // 10**9}.{time % 10**9:09d}", *(repr(float(v)) for v in (*t, *q))]
        rows.append(" ".join(words))
    path.write_text("# time x y z qx qy qz qw\n" + "\n".join(rows) + "\n")
    return path


def kitti(path: Path, count: int = MOMENTS) -> Path:
    rows = [" ".join(map(repr, pose(n)[:3].flatten().tolist())) for n in range(count)]
    path.write_text("\n".join(rows) + "\n")
    return path


def assert_pose(got: Float64, expected: Float64) -> None:
    np.testing.assert_allclose(got, expected, atol=1e-9)


def test_images_named_by_time_are_grouped_and_poses_interpolated(tmp_path, rig) -> None:
    folder = by_camera(tmp_path / "drive", lambda c, n: f"x__{c}__{stamp(c, n) // 1000}")
    save_rig(tmp_path / "rig.yaml", rig)
    with open_images(folder, tmp_path / "rig.yaml", tum(tmp_path / "poses.txt")) as drive:
        frames = list(drive)
        again = list(drive)
    assert len(frames) == len(again) == drive.expected_frames == MOMENTS
    assert drive.problems == []
    for number, frame in enumerate(frames):
        assert frame.sequence == "drive"
        assert frame.reference_camera == "CAM_FRONT"
        for camera, delay in DELAY_NS.items():
            assert frame.stamps_ns[camera] == stamp(camera, number)
            np.testing.assert_array_equal(frame.images[camera], image(camera, number))
            between = interpolate_transform(pose(number), pose(number + 1), delay / STEP_NS)
            assert_pose(frame.world_T_ego[camera], between)


@pytest.mark.parametrize("form", ["cameras", "moments"])
def test_numbered_images_belong_to_the_pose_of_the_same_position(tmp_path, rig, form) -> None:
    # Number 10 comes after number 9, although its name sorts before it.
    if form == "cameras":
        folder = by_camera(tmp_path / "drive", lambda _, n: f"{n + 8}")
    else:
        folder = by_moment(tmp_path / "drive", lambda n: f"frame{n + 8}")
    frames = list(open_images(folder, rig, kitti(tmp_path / "poses.txt"), rate_hz=4.0))
    assert len(frames) == MOMENTS
    steps = np.diff([frame.stamp_ns for frame in frames])
    assert set(steps.tolist()) == {250_000_000}
    for number, frame in enumerate(frames):
        for camera in DELAY_NS:
            np.testing.assert_array_equal(frame.images[camera], image(camera, number))
            assert_pose(frame.world_T_ego[camera], pose(number))


def test_kitti_poses_take_their_times_from_the_file_beside_them(tmp_path, rig) -> None:
    folder = by_moment(tmp_path / "drive", str)
    poses = kitti(tmp_path / "poses.txt")
    (tmp_path / "times.txt").write_text("0.0\n0.104\n0.207\n0.311\n")
    stamps = [frame.stamp_ns for frame in open_images(folder, rig, poses)]
    assert np.diff(stamps).tolist() == [104_000_000, 103_000_000, 104_000_000]
    assert stamps[0] > 0  # a stamp of zero means none


def test_a_csv_may_name_every_image(tmp_path, rig) -> None:
    folder = by_moment(tmp_path / "drive", lambda n: f"frame{n}")
    poses = tmp_path / "poses.csv"
    with poses.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "stamp_ns", "x", "y", "z", "qx", "qy", "qz", "qw", "comment"])
        for camera, delay in DELAY_NS.items():
            for number in range(MOMENTS):
                t, q = pose_from_matrix(pose(number + delay / STEP_NS))
                row = [f"frame{number}/{camera}.png", stamp(camera, number), *t, *q, "ignored"]
                writer.writerow(row)
    frames = list(open_images(folder, rig, poses, reference_camera="CAM_BACK"))
    assert [frame.stamp_ns for frame in frames] == [stamp("CAM_BACK", n) for n in range(MOMENTS)]
    for number, frame in enumerate(frames):
        for camera, delay in DELAY_NS.items():
            assert frame.stamps_ns[camera] == stamp(camera, number)
            assert_pose(frame.world_T_ego[camera], pose(number + delay / STEP_NS))


def test_cameras_of_an_own_rig_stand_for_those_of_a_model(tmp_path, rig) -> None:
    folder = by_moment(tmp_path / "drive", str)
    for path in folder.glob("*/CAM_*.png"):
        path.rename(path.with_stem({"CAM_FRONT": "bow", "CAM_BACK": "stern"}[path.stem]))
    own = rig.renamed({"CAM_FRONT": "bow", "CAM_BACK": "stern"})
    poses = kitti(tmp_path / "poses.txt")
    card = get_card("alocc_2d_mini")
    with pytest.raises(BagError, match=r"cameras bow, stern, and model .* needs .*CAM_FRONT"):
        open_images(folder, own, poses, rate_hz=2.0, model=card)
    names = {"bow": "CAM_FRONT", "stern": "CAM_BACK"}
    drive = open_images(folder, own, poses, rate_hz=2.0, model=card, cameras=names)
    assert set(drive.rig.names) == {"CAM_FRONT", "CAM_BACK"}
    np.testing.assert_array_equal(next(iter(drive)).images["CAM_BACK"], image("CAM_BACK", 0))


def test_what_is_left_out_is_said(tmp_path, rig) -> None:
    folder = by_moment(tmp_path / "drive", str)
    (folder / "0" / "CAM_BACK.png").unlink()
    (folder / "1" / "CAM_FRONT.png").unlink()
    (folder / "2" / "CAM_FRONT.png").write_bytes(b"no image")
    poses = kitti(tmp_path / "poses.txt")
    drive = open_images(folder, rig, poses, rate_hz=2.0)
    for _ in range(2):
        assert len(list(drive)) == 1
        assert [problem.reason for problem in drive.problems] == [
            "unmatched",
            "missing_camera",
            "undecodable_image",
        ]
    assert "1 images are in no frame set" in drive.problems[0].text


def _of_form(tmp_path: Path, form: str) -> Path:
    folder = tmp_path / "drive"
    return by_moment(folder, str) if form == "moments" else by_camera(folder, lambda _, n: str(n))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d, _: (d / "0" / "CAM_BACK.jpg").write_bytes(b""), "have one name"),
        (lambda d, _: (d / "5").mkdir() or write_image(d / "5/CAM_BACK.png", image("CAM_BACK", 0)),
         "has 5 moments, .* has 4 poses"),
        (lambda _, p: p.write_text("1 2 3\n"), "line 1: 3 numbers, expected 8 .* or 12"),
        (lambda _, p: p.write_text("# nothing\n"), "the file has no pose"),
        (lambda _, p: p.write_text("x,y\n1,2\n"), "no column z, qx, qy, qz, qw, stamp_ns or stamp"),
        (lambda _, p: p.write_text("1 0 0 0 0 0 0 1\n1 0 0 0 0 0 0 1\n"), "line 2: time .* rise"),
        (lambda _, p: p.write_text("1 0 0 0 0 0 0 0\n"), "line 1: .*quaternion"),
        (lambda _, p: p.write_text("1 0 0 0 0 0 0 1\n2 0 0 a 0 0 0 1\n"), "line 2: 'a' is not a"),
        (lambda _, p: p.write_text("1 0 0 0 0 1 0 0 0 0 1 7\n" * 2 + "1 2\n"), "line 3: 2 numbers"),
        (lambda _, p: p.write_text("2 0 0 0 0 1 0 0 0 0 1 7\n"), "line 1: pose is not a rigid"),
        (lambda _, p: p.write_text("stamp_ns,x,y,z,qx,qy,qz,qw\n1.5e18,0,0,0,0,0,0,1\n"),
         "line 2: stamp_ns '1.5e18' is not a whole number"),
        (lambda _, p: p.unlink(), "cannot be read"),
    ],
)  # fmt: skip
def test_bad_folders_and_poses_are_refused(tmp_path, rig, spoil, message) -> None:
    folder = _of_form(tmp_path, "moments")
    poses = kitti(tmp_path / "poses.txt")
    spoil(folder, poses)
    with pytest.raises(BagError, match=message):
        open_images(folder, rig, poses, rate_hz=2.0)


def test_other_mistakes(tmp_path, rig) -> None:
    folder = _of_form(tmp_path, "cameras")
    poses = kitti(tmp_path / "poses.txt")
    with pytest.raises(BagError, match=r"state no times \(KITTI\): put times.txt"):
        open_images(folder, rig, poses)
    with pytest.raises(BagError, match="must be positive, got 0"):
        open_images(folder, rig, poses, rate_hz=0.0)
    with pytest.raises(BagError, match="reference camera 'CAM_LEFT' is not one of CAM_FRONT"):
        open_images(folder, rig, poses, rate_hz=1.0, reference_camera="CAM_LEFT")
    with pytest.raises(BagError, match="`cameras` names bow, and the rig has CAM_FRONT, CAM_BACK"):
        open_images(folder, rig, poses, rate_hz=1.0, cameras={"bow": "CAM_FRONT"})
    others = replace(rig, cameras=(replace(rig.cameras[0], name="left"),))
    with pytest.raises(BagError, match=r"none of the rig's cameras left: its folders are CAM_BACK"):
        open_images(folder, others, poses, rate_hz=1.0)
    (folder / "CAM_FRONT" / "0.png").rename(folder / "CAM_FRONT" / "1600000000.5.png")
    with pytest.raises(BagError, match=r"image 0 has no time in its name, but 1600000000.5 has"):
        open_images(folder, rig, poses, rate_hz=1.0)
    with pytest.raises(BagError, match=r"grid of .* lies in the lidar frame"):
        open_images(folder, rig, poses, rate_hz=1.0, model=get_card("alocc_3d_surroundocc"))
    with pytest.raises(BagError, match="needs lidar points"):
        open_images(folder, rig, poses, rate_hz=1.0, model=get_card("alocc_3d_depth"))
    with pytest.raises(BagError, match=r"has no images: expected CAMERA/TIME.jpg"):
        open_images(tmp_path, rig, poses, rate_hz=1.0)


def test_one_function_opens_bags_and_folders(tmp_path, rig) -> None:
    folder = _of_form(tmp_path, "moments")
    poses = kitti(tmp_path / "poses.txt")
    assert is_image_folder(folder)
    assert not is_image_folder(tmp_path / "missing")
    with open_drive(folder, rig=rig, poses=poses, rate_hz=2.0) as drive:
        assert len(list(drive)) == MOMENTS
    with pytest.raises(BagError, match=r"need a file of poses \(--rig, --poses\)"):
        open_drive(folder, rig=rig)
    with pytest.raises(BagError, match="need a rig file and a file of poses"):
        open_drive(folder)
    with pytest.raises(BagError, match="has no topics"):
        open_drive(folder, rig=rig, poses=poses, layout="autoware")
    with pytest.raises(BagError, match="a bag has its own poses"):
        open_drive(tmp_path / "bag.mcap", poses=poses)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("n008__CAM_FRONT__1533151603512404", 1533151603512404000),
        ("1533151603", 1533151603 * 10**9),
        ("1533151603.512404123", 1533151603512404123),
        ("1533151603512", 1533151603512000000),
        ("1533151603512404123", 1533151603512404123),
        ("000017", None),
        ("front", None),
    ],
)
def test_times_in_names(stem, expected) -> None:
    assert stamp_of_name(stem) == expected


def test_tum_times_are_exact(tmp_path) -> None:
    path = tmp_path / "poses.txt"
    path.write_text("1533151603.512404123 0 0 0 0 0 0 1\n1533151603.6 0 0 0 0 0 0 1\n")
    assert read_poses(path).stamps_ns == (1533151603512404123, 1533151603600000000)


def test_real_images_with_a_rig_and_poses(tmp_path, shared_dir) -> None:
    """Six real images per moment; every image has its own time and pose."""
    folder = shared_dir / "data/nuscenes-scene0103-seq4"
    moments = json.loads((folder / "frames.json").read_text())["frames"]
    rig, poses = real_rig_and_poses(tmp_path, moments)
    card = get_card("alocc_2d_mini")
    with open_images(folder, rig, poses, model=card) as drive:
        frames = list(drive)
    assert drive.problems == []
    assert len(frames) == 4
    for frame, moment in zip(frames, moments, strict=True):
        assert set(frame.images) == set(card.cameras)
        for name, camera in moment["cams"].items():
            assert frame.stamps_ns[name] == camera["timestamp_us"] * 1000
            expected = np.array(camera["ego2global"])
            np.testing.assert_allclose(frame.world_T_ego[name], expected, atol=2e-6)
            stored = cv2.imread(str(folder / camera["file"]))[:, :, ::-1]
            np.testing.assert_array_equal(frame.images[name], stored)


def real_rig_and_poses(folder: Path, moments: list[dict]) -> tuple[Path, Path]:
    """A rig file and a CSV of poses, as a user would write them."""
    cameras = tuple(
        CameraCalibration(
            name,
            camera["width"],
            camera["height"],
            np.array(camera["K"]),
            rigid(camera["cam2ego"]),
        )
        for name, camera in moments[0]["cams"].items()
    )
    save_rig(folder / "rig.yaml", CameraRig(cameras))
    with (folder / "poses.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "stamp_ns", "x", "y", "z", "qx", "qy", "qz", "qw"])
        for moment in moments:
            for camera in moment["cams"].values():
                t, q = pose_from_matrix(rigid(camera["ego2global"]))
                writer.writerow([camera["file"], camera["timestamp_us"] * 1000, *t, *q])
    return folder / "rig.yaml", folder / "poses.csv"


def rigid(rows: list[list[float]]) -> Float64:
    """A matrix with rounded numbers, made orthogonal again."""
    matrix = np.array(rows)
    u, _, v = np.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = u @ v
    return matrix
