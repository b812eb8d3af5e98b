"""Observed space: rays of cameras through a volume, and the memory of them in a moving vehicle."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from occ_perception.errors import OptionError
from occ_perception.frames import CameraCalibration, CameraFrame, CameraRig, OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.mapping.visibility import ObservedSpace, observed_voxels
from occ_perception.metrics.raycast import first_hits

FREE, CAR = 0, 1
GRID = VoxelGrid((-8.0, -8.0, -1.0), (0.4, 0.4, 0.4), (40, 40, 10))
FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])


def pose(x=0.0, y=0.0, z=0.0, turn=0.0) -> np.ndarray:
    result = np.eye(4)
    c, s = math.cos(turn), math.sin(turn)
    result[:2, :2] = (c, -s), (s, c)
    result[:3, 3] = x, y, z
    return result


def camera(name: str, turn: float) -> CameraCalibration:
    """90 degrees wide, 1.5 m above the ego origin, looking along ``turn``."""
    ego_T_cam = pose(z=1.5, turn=turn)
    ego_T_cam[:3, :3] = ego_T_cam[:3, :3] @ FORWARD
    return CameraCalibration(
        name, 400, 300, np.array([[200.0, 0, 199.5], [0, 200.0, 149.5], [0, 0, 1]]), ego_T_cam
    )


def frame(world_T_ego: np.ndarray, seconds: float = 0.0, turns=(0.0,)) -> CameraFrame:
    cameras = tuple(camera(f"CAM_{n}", turn) for n, turn in enumerate(turns))
    return CameraFrame(
        rig=CameraRig(cameras),
        images={c.name: np.zeros((300, 400, 3), np.uint8) for c in cameras},
        stamps_ns={c.name: round(seconds * 1e9) for c in cameras},
        world_T_ego={c.name: world_T_ego for c in cameras},
        reference_camera="CAM_0",
    )


def volume(labels: np.ndarray, seconds: float = 0.0, ego_T_grid=None) -> OccupancyPrediction:
    return OccupancyPrediction(
        stamp_ns=round(seconds * 1e9),
        frame_id="base_link",
        grid=GRID,
        ego_T_grid=np.eye(4) if ego_T_grid is None else ego_T_grid,
        labels=labels,
        class_names=("free", "car"),
        empty_class=FREE,
    )


def seen_in(space: ObservedSpace, now: CameraFrame, given: OccupancyPrediction) -> np.ndarray:
    observed = space.add(now, given).observed
    assert observed is not None
    return observed


def empty() -> np.ndarray:
    return np.full(GRID.dims, FREE, np.uint8)


def voxel(x: float, y: float, z: float) -> tuple[int, ...]:
    return tuple(GRID.indices([x, y, z]))


def test_a_camera_sees_to_the_first_occupied_voxel_inside_its_view() -> None:
    labels = empty()
    wall = voxel(4.0, 0.0, 0.0)[0]
    labels[wall, 15:25] = CAR
    seen = observed_voxels(frame(np.eye(4)), volume(labels))
    assert seen[voxel(3.0, 0.0, 1.5)] and seen[wall, 20, 6]
    assert not seen[wall + 1 :, 20, 6].any(), "behind the wall"
    assert seen[voxel(7.0, 6.0, 1.5)], "beside the wall"
    assert not seen[: voxel(-0.5, 0.0, 0.0)[0]].any(), "behind the camera"
    assert not seen[voxel(1.0, 3.0, 1.5)], "outside of the image"


def test_every_first_hit_of_the_readable_ray_caster_is_seen() -> None:
    rng = np.random.default_rng(0)
    labels = empty()
    labels[rng.random(GRID.dims) < 0.01] = CAR
    labels[19:22, 19:22] = FREE
    seen = observed_voxels(frame(np.eye(4)), volume(labels))
    origin = torch.tensor([[0.0, 0.0, 1.5]], dtype=torch.float64)
    u, v = np.meshgrid(np.arange(400.0), np.arange(300.0), indexing="ij")
    rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3)
    one = camera("CAM", 0.0)
    ways = rays @ np.linalg.inv(one.K).T @ one.ego_T_cam[:3, :3].T
    hits = first_hits(torch.from_numpy(labels != FREE)[None], origin, torch.from_numpy(ways), GRID)
    found = np.unique(hits.voxels.numpy())
    occupied = found[labels.reshape(-1)[found] != FREE]
    assert len(occupied) > 30
    assert seen.reshape(-1)[occupied].mean() > 0.97


def test_a_ray_ends_inside_of_a_wall_and_passes_a_corner() -> None:
    labels = empty()
    wall = voxel(4.0, 0.0, 0.0)[0]
    labels[wall : wall + 3] = CAR
    seen = observed_voxels(frame(np.eye(4)), volume(labels))
    assert seen[wall, 20, 6] and not seen[wall + 1, 20, 6]
    # The ray to (6.2, 3.41) goes 0.12 m through a voxel that ends at y = 1.6 m.
    labels = empty()
    near, far = voxel(2.85, 1.58, 1.5), voxel(6.2, 3.41, 1.5)
    labels[near] = CAR
    seen = observed_voxels(frame(np.eye(4)), volume(labels))
    assert seen[near] and seen[far]


def test_the_ground_is_seen_where_the_space_above_it_is() -> None:
    """Rays at grazing angles meet the ground far apart."""
    labels = empty()
    labels[:, :, 2] = CAR
    seen = observed_voxels(frame(np.eye(4)), volume(labels))
    ahead = seen[voxel(3.0, 0.0, 0.0)[0] :, 18:22, 2]
    assert ahead.all()
    assert not seen[:, :, :2].any(), "below the ground"


def test_a_tilted_grid_and_late_cameras_are_placed_by_their_poses() -> None:
    labels = empty()
    straight = observed_voxels(frame(np.eye(4)), volume(labels))
    # The grid turned by 90 degrees: the same rays run along its y axis.
    turned = observed_voxels(frame(np.eye(4)), volume(labels, ego_T_grid=pose(turn=math.pi / 2)))
    same = np.rot90(turned, axes=(0, 1)) == straight
    assert same.mean() > 0.995


def test_what_was_seen_is_remembered_in_the_world_for_a_while() -> None:
    space = ObservedSpace(memory_s=5.0)
    before = seen_in(space, frame(np.eye(4)), volume(empty()))
    place = np.array([6.0, 3.0, 0.6])
    assert before[voxel(*place)]
    # Two seconds later the vehicle has turned round and stands 2 m ahead.
    later = pose(x=2.0, turn=math.pi)
    local = np.linalg.inv(later) @ [*place, 1.0]
    now = seen_in(space, frame(later, 2.0), volume(empty(), 2.0))
    assert now[voxel(*local[:3])]
    assert not observed_voxels(frame(later, 2.0), volume(empty(), 2.0))[voxel(*local[:3])]
    # After the memory has passed only what is seen now is left.
    last = seen_in(space, frame(later, 7.5), volume(empty(), 7.5))
    assert not last[voxel(*local[:3])]
    np.testing.assert_array_equal(last, observed_voxels(frame(later), volume(empty())))


def test_the_window_follows_the_vehicle() -> None:
    space = ObservedSpace(memory_s=1000.0)
    for n in range(100):
        away = seen_in(space, frame(pose(x=2.0 * n), n), volume(empty(), n))
    assert away[observed_voxels(frame(pose(x=198.0)), volume(empty()))].all()
    assert away[voxel(-6.0, 0.5, 1.5)], "seen from further back"
    assert not away[voxel(7.0, 7.9, -0.9)], "it has just come into the grid"


@pytest.mark.parametrize("way", [9.6, 20.0, 25.2, 200.0])
def test_cells_that_the_window_leaves_are_forgotten(way: float) -> None:
    """They are used again for places ahead, here behind a wall."""
    space = ObservedSpace(memory_s=1000.0)
    for turn in (0.0, math.pi / 2, math.pi, -math.pi / 2):
        seen_in(space, frame(pose(turn=turn)), volume(empty()))
    labels = empty()
    labels[voxel(1.0, 0.0, 0.0)[0]] = CAR
    seen = seen_in(space, frame(pose(x=way), 1.0), volume(labels, 1.0))
    hidden = max(voxel(2.0, 0.0, 0.0)[0], int((8.8 - way + 8.0) / 0.4))
    assert not seen[hidden:].any()


def test_a_break_of_the_history_and_a_stamp_that_goes_back_forget() -> None:
    turned = frame(pose(turn=math.pi), 1.0)
    alone = observed_voxels(turned, volume(empty(), 1.0))
    for given in (replace(volume(empty(), 1.0), history_break="a jump"), volume(empty(), -1.0)):
        space = ObservedSpace()
        space.add(frame(np.eye(4)), volume(empty()))
        np.testing.assert_array_equal(seen_in(space, turned, given), alone)


def test_no_memory_is_what_is_seen_now() -> None:
    space = ObservedSpace(memory_s=0.0)
    seen_in(space, frame(np.eye(4)), volume(empty()))
    turned = pose(turn=math.pi)
    np.testing.assert_array_equal(
        seen_in(space, frame(turned, 1.0), volume(empty(), 1.0)),
        observed_voxels(frame(turned), volume(empty())),
    )
    with pytest.raises(OptionError, match="memory of observed space is -1"):
        ObservedSpace(-1.0)
