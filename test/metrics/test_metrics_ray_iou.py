"""RayIoU and flow scores against loops over rays, and on scenes with known scores."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS
from occ_perception.metrics import OCC3D_GRID, FlowScore, RayIoU, first_hits, lidar_directions
from occ_perception.metrics.counting import MetricsError

OCC3D, OPENOCC = LABEL_SETS["occ3d"], LABEL_SETS["openocc"]
SMALL = VoxelGrid.from_ranges((-4.0, 4.0, 0.4), (-4.0, 4.0, 0.4), (-1.0, 2.2, 0.4))
ORIGINS = np.array([[0.1, 0.05, 0.9], [1.3, -2.1, 0.7]])


def random_frames(label_set, seed: int, frames: int = 2):
    """Truth, similar prediction, flows: (frames, X, Y, Z[, 2]), about a tenth occupied."""
    rng = np.random.default_rng(seed)
    shape = (frames, *SMALL.dims)
    free = label_set.empty_class
    truth = np.where(rng.random(shape) < 0.1, rng.integers(0, free, shape), free)
    preds = np.where(rng.random(shape) < 0.8, truth, rng.integers(0, free + 1, shape))
    truth = np.where(rng.random(shape) < 0.01, 255, truth)
    flows = rng.normal(size=(2, *shape, 2)).astype(np.float32)
    return preds, truth, flows[0], flows[1]


def rays_of(preds, truth, label_set):
    """True and predicted label, true and predicted voxel, depth error of each counted ray."""
    free = label_set.empty_class
    volumes = torch.from_numpy(np.stack([truth, preds]))
    directions = torch.from_numpy(lidar_directions())
    hits = first_hits(volumes != free, torch.from_numpy(ORIGINS), directions, SMALL)
    labels, voxels = hits.values(volumes).numpy(), hits.voxels.numpy()
    depths = hits.distances.double().numpy()
    errors = np.abs(depths[0] - depths[1])
    columns = (*labels, *voxels, errors)
    for ray in zip(*(column.tolist() for column in columns), strict=True):
        if ray[0] != free:
            yield ray


def test_ray_iou_equals_a_loop_over_rays():
    preds, truth, _, _ = random_frames(OCC3D, seed=4)
    metric = RayIoU(OCC3D, SMALL)
    metric.update(preds, truth, [ORIGINS, ORIGINS])
    scores = metric.compute()
    rays = [ray for frame in range(2) for ray in rays_of(preds[frame], truth[frame], OCC3D)]
    expected = {}
    for tolerance in (1, 2, 4):
        for k in range(17):
            hit = either = 0
            for t, p, _, _, error in rays:
                if t == k or p == k:
                    positive = t == p and error < tolerance
                    hit += positive
                    # Wrong depth costs twice: a missed true ray and a false predicted one.
                    either += positive or int(t == k) + int(p == k)
            expected[tolerance, k] = hit / either if either else math.nan
            name = f"RayIoU@{tolerance}[{OCC3D.class_names[k]}]"
            assert float(scores[name]) == pytest.approx(expected[tolerance, k], nan_ok=True)
    for tolerance in (1, 2, 4):
        mean = np.nanmean([expected[tolerance, k] for k in range(17)])
        assert float(scores[f"RayIoU@{tolerance}"]) == pytest.approx(mean)
    assert float(scores["RayIoU"]) == pytest.approx(np.nanmean(list(expected.values())))
    assert "RayIoU@1[free]" not in scores


@pytest.mark.parametrize(
    ("shift_voxels", "expected"),
    # One voxel is 0.4 m, a little more along slanting rays.
    [(0, (1.0, 1.0, 1.0)), (1, (1.0, 1.0, 1.0)), (4, (0.0, None, 1.0)), (20, (0.0, 0.0, 0.0))],
)
def test_wall_at_the_wrong_depth_counts_from_its_tolerance_on(shift_voxels, expected):
    truth = torch.full((1, *OCC3D_GRID.dims), 17)
    preds = truth.clone()
    truth[:, 125, 75:125] = 15
    preds[:, 125 + shift_voxels, 75:125] = 15
    # The sensor sits in a box with one window: every ray that sees one wall sees the other.
    for volume in (truth, preds):
        volume[:, [96, 104]] = volume[:, 96:105, [96, 104]] = 1
        volume[:, 104, 99:102, 7:11] = 17
    metric = RayIoU(OCC3D)
    metric.update(preds, truth, [torch.tensor([[0.2, 0.2, 2.25]])])
    scores = metric.compute()
    assert int(metric.true_rays[15]) > 100
    for tolerance, value in zip((1, 2, 4), expected, strict=True):
        if value is not None:
            assert float(scores[f"RayIoU@{tolerance}[manmade]"]) == value


def test_unlabelled_voxels_stop_rays_but_belong_to_no_class():
    truth = torch.full((1, *SMALL.dims), 17)
    truth[:, 12, :, :] = 4
    preds = truth.clone()
    truth[:, 11, :, :] = 255  # hides the cars from the origin's side
    metric = RayIoU(OCC3D, SMALL)
    metric.update(preds, truth, [[[0.1, 0.1, 0.5]]])
    assert int(metric.rays) > 0
    assert int(metric.true_rays.sum()) == 0
    assert int(metric.predicted_rays[4]) > 0
    assert int(metric.predicted_rays[[4, 17]].sum()) == int(metric.rays)
    assert float(metric.compute()["RayIoU@4[car]"]) == 0.0


def test_rays_that_end_free_in_truth_are_not_counted():
    truth = torch.full((1, *SMALL.dims), 17)
    metric = RayIoU(OCC3D, SMALL)
    metric.update(torch.full_like(truth, 4), truth, [[[0.1, 0.1, 0.5]]])
    assert int(metric.rays) == 0
    assert math.isnan(float(metric.compute()["RayIoU"]))


def test_ray_metric_refuses_other_grids_and_missing_origins():
    labels = torch.full((1, *SMALL.dims), 17)
    with pytest.raises(MetricsError, match="pass the volumes' grid"):
        RayIoU(OCC3D).update(labels, labels, [ORIGINS])
    metric = RayIoU(OCC3D, SMALL)
    for origins in ([], [ORIGINS, ORIGINS], [np.zeros((0, 3))], [np.zeros(3)]):
        with pytest.raises(MetricsError, match="ray origins"):
            metric.update(labels, labels, origins)
    with pytest.raises(MetricsError, match="cannot merge"):
        metric.merge(RayIoU(OCC3D))


def test_flow_scores_equal_loops_over_rays_and_voxels():
    preds, truth, flow_pred, flow_true = random_frames(OPENOCC, seed=9)
    flow_pred = flow_pred.astype(np.float16)
    metric = FlowScore(OPENOCC, SMALL)
    metric.update(preds, truth, [ORIGINS, ORIGINS], flow_pred, flow_true)
    scores = metric.compute()
    errors = {("AVE_TP", k): [] for k in range(8)}
    errors |= {("AVE_GT_RAY", k): [] for k in range(8)}
    errors |= {("AVE_VOXEL", k): [] for k in range(8)}
    for frame in range(2):
        flat_true = flow_true[frame].reshape(-1, 2).astype(np.float64)
        flat_pred = flow_pred[frame].reshape(-1, 2).astype(np.float64)
        for t, p, true_voxel, pred_voxel, apart in rays_of(preds[frame], truth[frame], OPENOCC):
            if t < 8:
                error = math.dist(flat_true[true_voxel], flat_pred[pred_voxel])
                errors["AVE_GT_RAY", t].append(error)
                if t == p and apart < 2:
                    errors["AVE_TP", t].append(error)
        for voxel, label in enumerate(truth[frame].reshape(-1)):
            if label < 8:
                errors["AVE_VOXEL", label].append(math.dist(flat_true[voxel], flat_pred[voxel]))
    for (score, k), values in errors.items():
        got = float(scores[f"{score}[{OPENOCC.class_names[k]}]"])
        assert got == pytest.approx(np.mean(values), abs=1e-6)
    means = {
        score: np.mean([np.mean(errors[score, k]) for k in range(8)])
        for score in ("AVE_TP", "AVE_GT_RAY", "AVE_VOXEL")
    }
    for score, mean in means.items():
        assert float(scores[f"m{score}"]) == pytest.approx(mean, abs=1e-6)
    assert f"AVE_TP[{OPENOCC.class_names[8]}]" not in scores
    assert means["AVE_TP"] > 1  # so the velocity term is clamped
    assert float(scores["OccScore"]) == pytest.approx(0.9 * float(scores["RayIoU"]))


@pytest.mark.parametrize(("speed_error", "velocity_term"), [(0.0, 0.1), (0.3, 0.07), (2.5, 0.0)])
def test_occ_score_of_right_occupancy_and_wrong_speed(speed_error, velocity_term):
    _, truth, _, _ = random_frames(OPENOCC, seed=6)
    truth = np.where(truth == 255, OPENOCC.empty_class, truth)
    flow = np.zeros((*truth.shape, 2))
    shifted = flow + speed_error * np.array([0.6, -0.8])
    metric = FlowScore(OPENOCC, SMALL)
    metric.update(truth, truth, [ORIGINS, ORIGINS], shifted, flow)
    scores = metric.compute()
    assert float(scores["mAVE_TP"]) == pytest.approx(speed_error, abs=1e-6)
    assert float(scores["mAVE_VOXEL"]) == pytest.approx(speed_error, abs=1e-6)
    assert float(scores["OccScore"]) == pytest.approx(0.9 + velocity_term, abs=1e-6)


def test_nan_flow_is_refused_where_compared_and_ignored_elsewhere():
    truth = torch.full((1, *SMALL.dims), OPENOCC.empty_class)
    truth[:, 12, 10, 4] = 0  # one car voxel
    flow = torch.zeros(1, *SMALL.dims, 2)
    wrong = flow.clone()
    wrong[:, 0] = math.nan
    metric = FlowScore(OPENOCC, SMALL)
    metric.update(truth, truth, [ORIGINS], wrong, flow)
    wrong[:, 12, 10, 4, 0] = math.inf
    with pytest.raises(MetricsError, match="not finite"):
        metric.update(truth, truth, [ORIGINS], wrong, flow)
    with pytest.raises(MetricsError, match="predicted flow"):
        metric.update(truth, truth, [ORIGINS], wrong[..., :1], flow)
