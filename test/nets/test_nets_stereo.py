"""The plane sweep finds the depth an image was made at, and keeps its conventions."""

from __future__ import annotations

import torch

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.cameras import CameraTensors
from occ_perception.nets.stereo import PlaneSweepConfig, StereoState
from occ_perception.nets.temporal.step import StepControl
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

GEOMETRY = ViewGeometry(
    (64, 128), DepthBins(2.0, 10.0, 1.0), VoxelGrid((0, 0, 0), (1, 1, 1), (4, 4, 1)), 1
)
CAMERAS = CameraTensors.of(
    grid_T_cam_BN44=torch.eye(4).expand(1, 1, 4, 4),
    K_BN33=torch.tensor([[200.0, 0, 128], [0, 200, 64], [0, 0, 1]]).expand(1, 1, 3, 3),
    image_rotation_BN33=torch.diag(torch.tensor([0.5, 0.5, 1.0])).expand(1, 1, 3, 3),
    image_translation_BN3=torch.zeros(1, 1, 3),
)
CALIBRATION = (
    CAMERAS.K_BN33[0],
    CAMERAS.inverse_K_BN33[0],
    CAMERAS.image_rotation_BN33[0],
    CAMERAS.inverse_image_rotation_BN33[0],
    CAMERAS.image_translation_BN3[0],
)
SWEEP = PlaneSweepConfig(channels=8).build(GEOMETRY)


def step(sideways: float, start: bool = False) -> StepControl:
    motion = torch.eye(4, dtype=torch.float64)
    motion[0, 3] = sideways
    return StepControl(
        start_B=torch.tensor([start]),
        previous_T_current_B44=motion[None],
        position_B=torch.tensor([0 if start else 1]),
        previous_cam_T_cam_BN44=motion[None, None],
    )


def test_positions_shift_by_focal_length_times_baseline_over_depth():
    motion = step(0.5).previous_cam_T_cam_BN44[0].float()
    places = SWEEP.positions(motion, *CALIBRATION)
    assert places.shape == (1, 16, 32, 8, 2)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(32.0), indexing="ij")
    for k, depth in enumerate(GEOMETRY.depth.edges().tolist()):
        # 100 pixels of focal length in the input; one feature is (128 - 1) / (32 - 1) pixels.
        shift = 100 * 0.5 / depth * 31 / 127
        torch.testing.assert_close(places[0, :, :, k, 0], rows, atol=1e-4, rtol=0)
        torch.testing.assert_close(places[0, :, :, k, 1], columns + shift, atol=1e-4, rtol=0)


def test_points_behind_the_previous_camera_are_outside():
    motion = torch.eye(4)[None]
    motion[0, 2, 3] = -5.0
    places = SWEEP.positions(motion, *CALIBRATION)
    assert (places[0, :, :, :3] < 0).all()  # depths 2, 3 and 4 of a camera that was 5 m ahead


def test_the_most_probable_bin_is_the_depth_of_a_fronto_parallel_wall():
    depth_bin, baseline = 3, 0.5  # a wall 5 m away
    shift = 100 * baseline / 5.0 * 31 / 127
    frequency = torch.linspace(0.3, 0.9, 8)[:, None, None]
    phase = torch.rand(8, 16, 1, generator=torch.Generator().manual_seed(0)) * 6.28

    def image(offset):
        return 1.1 + torch.sin(frequency * (torch.arange(32.0) + offset) + phase)

    now, then = image(0.0)[None, None], image(-shift)[None, None]
    distribution, after = SWEEP(now, StereoState(then), step(baseline), CAMERAS)
    torch.testing.assert_close(distribution.sum(dim=2), torch.ones(1, 1, 16, 32))
    inner = distribution[0, 0, :, :, 2:-8].argmax(dim=0)
    assert (inner == depth_bin).float().mean() > 0.95
    assert torch.equal(after.features_BNChw, now)


def test_a_start_matches_the_image_with_itself_and_reads_no_state():
    features = torch.rand(1, 1, 8, 16, 32) + 0.1
    empty = SWEEP.initial_state(1, None, torch.float32)
    junk = StereoState(torch.full_like(empty.features_BNChw, float("nan")))
    fresh, _ = SWEEP(features, empty, step(0.0, start=True), CAMERAS)
    again, _ = SWEEP(features, junk, step(0.0, start=True), CAMERAS)
    assert torch.equal(fresh, again)
    inner = fresh[0, 0, :, 1:-1, 1:-1]  # rounding pushes some samples over the border
    torch.testing.assert_close(inner, torch.full_like(inner, 1 / 8), atol=1e-3, rtol=0)
