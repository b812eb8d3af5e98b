"""Labels from lidar: flat ground, a wall and a car that crosses, with labels computed by hand."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from occ_training.lidar_labels.boxes import (
    BoxFileError,
    BoxTracks,
    boxes_from_message,
    read_box_file,
)
from occ_training.lidar_labels.ground import find_ground
from occ_training.lidar_labels.labelling import LabelledFrame, LidarLabeller
from occ_training.lidar_labels.sweeps import NO_CLASS, Sweep
from occ_training.lidar_labels.visibility import camera_mask
from occ_training.lidar_labels.window import LabelRule

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import VoxelGrid, matrix_from_pose
from occ_perception.labels import LABEL_SETS

GRID = VoxelGrid.from_ranges((-8.0, 16.0, 0.4), (-12.0, 12.0, 0.4), (-1.0, 3.0, 0.4))
OCC3D = LABEL_SETS["occ3d"]
CAR, ROAD, WALL = (OCC3D.class_names.index(n) for n in ("car", "driveable_surface", "manmade"))
FREE = OCC3D.empty_class

SENSOR = np.array([0.0, 0.0, 1.8])
GROUND_Z = -0.1  # not on a border of voxels
WALL_LOW, WALL_HIGH = np.array([10.1, -5.0, -1.0]), np.array([10.5, 5.0, 2.5])
CAR_SIZE = np.array([1.6, 1.6, 1.2])
SPEED = 4.0


def car_at(t: float) -> np.ndarray:
    """Centre of the car, which crosses between the sensor and the wall."""
    return np.array([6.1, -10.0 + SPEED * t, GROUND_Z + 0.05 + CAR_SIZE[2] / 2])


def ego_at(t: float) -> np.ndarray:
    """Ego pose; the vehicle moves forward slowly."""
    pose = np.eye(4)
    pose[0, 3] = 0.3 * t
    return pose


def meet_box(origin, rays, low, high):
    """Distance at which rays enter a box, infinite if they miss."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a, b = (low - origin) / rays, (high - origin) / rays
    near, far = np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)
    return np.where((near <= far) & (near > 0), near, np.inf)


def sweep(t: float, labelled: bool = True, with_car: bool = True) -> Sweep:
    elevation, azimuth = np.meshgrid(
        np.radians(np.linspace(-30, 10, 41)), np.radians(np.arange(0, 360, 0.5)), indexing="ij"
    )
    rays = np.stack(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth),
         np.sin(elevation)], axis=-1
    ).reshape(-1, 3)  # fmt: skip
    pose = ego_at(t)
    origin = pose[:3, 3] + SENSOR
    with np.errstate(divide="ignore"):
        ground = (GROUND_Z - origin[2]) / rays[:, 2]
    distances = [np.where(ground > 0, ground, np.inf), meet_box(origin, rays, WALL_LOW, WALL_HIGH)]
    classes = [ROAD, WALL]
    if with_car:
        centre = car_at(t)
        distances.append(meet_box(origin, rays, centre - CAR_SIZE / 2, centre + CAR_SIZE / 2))
        classes.append(CAR)
    distance = np.min(distances, axis=0)
    hit = distance < 60
    kinds = np.array(classes, np.uint8)[np.argmin(distances, axis=0)][hit]
    points = origin + rays[hit] * distance[hit, None]
    mount = np.eye(4)
    mount[:3, 3] = SENSOR
    return Sweep(
        0, round(t * 1e9), pose, mount, origin[None], np.array([0, len(points)]), points,
        kinds if labelled else np.full(len(points), NO_CLASS, np.uint8),
    )  # fmt: skip


TIMES = np.arange(0.0, 5.01, 0.1)
FRAME_T = 2.5  # the car is in the middle, before the wall


def front_camera() -> CameraRig:
    ego_T_cam = np.eye(4)
    ego_T_cam[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    ego_T_cam[:3, 3] = (0.5, 0.0, 1.5)
    K = np.array([[200.0, 0, 160], [0, 200.0, 90], [0, 0, 1]])
    return CameraRig((CameraCalibration("FRONT", 320, 180, K, ego_T_cam),))


def labels_of(sweeps, boxes=None, t=FRAME_T, rule=None):
    rig = front_camera()
    frame = LabelledFrame(0, round(t * 1e9), rig, ego_at(t), {"FRONT": rig.cameras[0].ego_T_cam})
    ((_, labels),) = LidarLabeller(GRID, OCC3D, boxes, rule).label([frame], sweeps)
    return labels


def tracks() -> BoxTracks:
    boxes = BoxTracks()
    for t in TIMES[::5]:
        pose = matrix_from_pose(car_at(t), (0, 0, 0, 1))
        boxes.add("7", "car", round(t * 1e9), pose, CAR_SIZE)
    return boxes


def touched(low, high, t=FRAME_T) -> np.ndarray:
    """Voxels that touch a world box, in the grid at ``t``."""
    centres = GRID.centers(np.stack(np.indices(GRID.dims), axis=-1)) + ego_at(t)[:3, 3]
    half = np.array(GRID.voxel_size) / 2 + 1e-3
    return ((centres + half >= low) & (centres - half <= high)).all(axis=-1)


def truth(t=FRAME_T) -> dict[str, np.ndarray]:
    low = np.array([-99.0, -99.0, GROUND_Z])
    high = np.array([99.0, 99.0, GROUND_Z])
    centre = car_at(t)
    return {
        "ground": touched(low, high, t),
        "wall": touched(WALL_LOW, WALL_HIGH, t),
        "car": touched(centre - CAR_SIZE / 2, centre + CAR_SIZE / 2, t),
    }


def voxel(x, y, z) -> tuple[int, ...]:
    """Voxel of a world point in the frame's grid."""
    return tuple(GRID.indices(np.array([x, y, z]) - ego_at(FRAME_T)[:3, 3]))


@pytest.fixture(scope="module")
def sweeps():
    return [sweep(t) for t in TIMES]


@pytest.fixture(scope="module")
def known() -> dict[str, np.ndarray]:
    return truth()


def test_free_space_is_not_occupied(sweeps, known) -> None:
    """In particular the car leaves no trail: its places before and after were seen as free."""
    occupied = labels_of(sweeps).semantics != FREE
    anything = known["ground"] | known["wall"] | known["car"]
    assert not (occupied & ~anything).any()


def test_static_objects_are_found_with_their_class(sweeps, known) -> None:
    labels = labels_of(sweeps)
    x = voxel(WALL_LOW[0] + 0.01, 0, 1)[0]
    face = known["wall"].copy()
    face[:x] = face[x + 1 :] = False  # the side towards the sensor
    face &= ~known["ground"]
    inner = np.zeros_like(face)
    low, high = voxel(0, -4.5, GROUND_Z + 0.4), voxel(0, 4.6, 2.2)
    inner[:, low[1] : high[1], low[2] : high[2]] = True
    assert face[inner].sum() > 100
    assert (labels.semantics[face & inner] == WALL).all()
    ground = known["ground"] & ~known["wall"] & ~known["car"]
    near = np.zeros_like(ground)
    near[voxel(3, 0, 0)[0] : voxel(9, 0, 0)[0], voxel(0, -5, 0)[1] : voxel(0, 5, 0)[1]] = True
    assert (labels.semantics[ground & near] == ROAD).mean() > 0.97


def test_gaps_between_rings_on_the_ground_are_filled_and_shadows_are_not(sweeps, known) -> None:
    without = labels_of(sweeps, rule=LabelRule(ground_gap_m=0.1)).semantics == ROAD
    closed = labels_of(sweeps).semantics == ROAD
    assert closed[known["ground"]].sum() > without[known["ground"]].sum() * 1.1
    assert not (without & ~closed).any()
    behind = np.zeros_like(closed)
    behind[voxel(14.5, 0, 0)[0] :, voxel(0, -1, 0)[1] : voxel(0, 1, 0)[1]] = True
    assert not closed[behind].any()


def test_a_moving_object_is_at_its_place_in_the_frame(sweeps, known) -> None:
    labels = labels_of(sweeps)
    car = labels.semantics == CAR
    assert car.any() and not (car & ~known["car"]).any()
    assert labels.flow is None


def test_boxes_collect_a_moving_object_from_all_sweeps_and_give_its_flow(sweeps, known) -> None:
    alone, gathered = labels_of(sweeps), labels_of(sweeps, tracks())
    assert (gathered.semantics == CAR).sum() > 1.3 * (alone.semantics == CAR).sum()
    assert not ((gathered.semantics == CAR) & ~known["car"]).any()
    moving = gathered.flow.any(axis=-1)
    assert moving.any() and not (moving & (gathered.semantics != CAR) & ~known["ground"]).any()
    assert np.allclose(gathered.flow[moving], (0.0, SPEED), atol=0.05)


def test_a_parked_car_that_leaves_is_kept_until_then() -> None:
    stays = [sweep(t) if t < 2.45 else sweep(t, with_car=False) for t in TIMES]
    parked = [s if t >= 2.45 else _parked(t) for t, s in zip(TIMES, stays, strict=True)]
    before, after = (labels_of(parked, t=t).semantics == CAR for t in (1.0, 4.0))
    assert before.sum() > 10
    assert not after.any()


def _parked(t: float) -> Sweep:
    """A sweep with the car parked in the middle."""
    now = sweep(t, with_car=False)
    origin = now.origins[0]
    rays = now.points - origin
    centre = car_at(FRAME_T)
    share = meet_box(origin, rays, centre - CAR_SIZE / 2, centre + CAR_SIZE / 2)
    blocked = share < 1.0
    points = np.where(blocked[:, None], origin + rays * np.minimum(share, 1.0)[:, None], now.points)
    classes = np.where(blocked, np.uint8(CAR), now.classes)
    return Sweep(
        0, now.stamp_ns, now.world_T_ego, now.ego_T_lidar, now.origins, now.starts, points, classes
    )


def test_free_space_is_observed_up_to_the_first_surface(sweeps) -> None:
    still = [s for s in sweeps if abs(s.stamp_ns - FRAME_T * 1e9) < 1e8]
    labels = labels_of(still)
    assert labels.mask_lidar[voxel(3.0, 0.0, 1.0)]
    assert labels.semantics[voxel(3.0, 0.0, 1.0)] == FREE
    assert not labels.mask_lidar[voxel(8.0, 0.0, 0.5)], "shadow of the car"
    assert not labels.mask_lidar[voxel(12.5, 0.0, 1.0)], "behind the wall"
    occupied = labels.semantics != FREE
    assert labels.mask_lidar[occupied].all()
    assert not (labels.mask_camera & ~labels.mask_lidar).any()
    assert labels.mask_camera[voxel(3.0, 0.0, 1.0)]
    assert not labels.mask_camera[voxel(-3.0, 0.0, 1.0)], "the camera looks ahead"


def test_points_without_classes_give_geometry(sweeps) -> None:
    plain = labels_of([sweep(t, labelled=False) for t in TIMES]).semantics
    assert set(np.unique(plain)) == {0, FREE}
    assert np.array_equal(plain == FREE, labels_of(sweeps).semantics == FREE)


def test_frames_far_from_every_sweep_get_no_labels(sweeps) -> None:
    assert labels_of(sweeps[:10]) is None
    assert labels_of([]) is None


def test_long_drives_are_processed_in_sections_and_memory_does_not_grow() -> None:
    rule = LabelRule(window_s=1.0, slot_s=0.1)  # sections of 4.4 s
    alive: list[int] = []

    def stream():
        for n, t in enumerate(np.arange(0.0, 20.0, 0.5)):
            alive.append(n)
            yield sweep(t, with_car=False)

    rig = front_camera()
    frames = [
        LabelledFrame(0, round(t * 1e9), rig, ego_at(t), {}) for t in np.arange(0.5, 19.0, 2.0)
    ]
    read_when = []
    for frame, labels in LidarLabeller(GRID, OCC3D, None, rule).label(frames, stream()):
        read_when.append((frame.stamp_ns * 1e-9, alive[-1] * 0.5))
        assert labels is not None and (labels.semantics == ROAD).sum() > 1000
    assert len(read_when) == len(frames)
    assert all(read <= t + 4.4 + 1.0 + 0.5 for t, read in read_when)


def test_camera_rays_stop_at_the_first_occupied_voxel_and_include_distortion() -> None:
    rig = front_camera()
    occupied = np.zeros(GRID.dims, bool)
    occupied[GRID.indices((6.1, 0, 0))[0], :, :] = True
    poses = {"FRONT": rig.cameras[0].ego_T_cam}
    seen = camera_mask(occupied, rig, poses, GRID)
    beyond = GRID.indices((6.1, 0, 0))[0] + 1
    assert seen[beyond - 1].any() and not seen[beyond:].any()
    wide = CameraRig(
        (CameraCalibration(
            "FRONT", 320, 180, rig.cameras[0].K, rig.cameras[0].ego_T_cam,
            distortion_model="plumb_bob", distortion=(-0.25, 0.0, 0.0, 0.0),
        ),)
    )  # fmt: skip
    barrel = camera_mask(occupied, wide, poses, GRID)
    assert barrel.sum() > 1.02 * seen.sum(), "a barrel lens sees more"


def test_ground_follows_the_road_and_leaves_out_objects_on_it() -> None:
    rng = np.random.default_rng(0)
    xy = rng.uniform(-20, 20, (40_000, 2))
    z = 0.05 * xy[:, 0]
    stands = (np.abs(xy - (5, 5)) < 0.9).all(axis=1)
    points = np.column_stack([xy, z + np.where(stands, 1.4, 0.0)]).astype(np.float32)
    vehicle = np.eye(4)[None]
    ground = find_ground(points, 0.4, 4.0, vehicle)
    on_ground = ground.holds(points)
    assert on_ground[~stands].mean() > 0.99
    assert not on_ground[stands].any()


def test_boxes_of_a_file_are_interpolated_and_bad_lines_named(tmp_path) -> None:
    row = {"stamp_ns": 0, "track": 3, "class": "car", "center": [0, 0, 0], "size": [4, 2, 1.5],
           "quaternion_xyzw": [0, 0, 0, 1]}  # fmt: skip
    later = row | {"stamp_ns": 1_000_000_000, "center": [10, 0, 0]}
    file = tmp_path / "boxes.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps(later) + "\n")
    (box,) = read_box_file(file).at(250_000_000)
    assert np.allclose(box.world_T_box[:3, 3], (2.5, 0, 0))
    assert np.allclose(box.velocity, (10, 0)) and box.name == "car"
    assert not read_box_file(file).at(2_000_000_000)
    file.write_text(json.dumps(row) + "\n" + json.dumps(row | {"size": [4, 0, 1]}))
    with pytest.raises(BoxFileError, match="line 2"):
        read_box_file(file)


def test_detections_of_vision_msgs_are_boxes() -> None:
    def at(**fields):
        return SimpleNamespace(**fields)

    header = at(frame_id="map", stamp=at(sec=1, nanosec=0))
    pose = at(position=at(x=1, y=2, z=3), orientation=at(x=0, y=0, z=0, w=1))
    detection = at(
        header=at(frame_id="", stamp=None),
        id="7",
        results=[at(hypothesis=at(class_id="bus", score=0.4)),
                 at(hypothesis=at(class_id="car", score=0.6))],
        bbox=at(center=pose, size=at(x=4.0, y=2.0, z=1.5)),
    )  # fmt: skip
    ((track, name, stamp, place, size),) = boxes_from_message(
        at(header=header, detections=[detection]), "map"
    )
    assert (track, name, stamp) == ("7", "car", 1_000_000_000)
    assert np.allclose(place[:3, 3], (1, 2, 3)) and np.allclose(size, (4, 2, 1.5))
    with pytest.raises(ValueError, match="world frame"):
        list(boxes_from_message(at(header=header, detections=[detection]), "odom"))
