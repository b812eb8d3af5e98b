"""Voxel scores against loops over small volumes, and their conventions one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from occ_perception.labels import LABEL_SETS, LabelSet
from occ_perception.metrics import SurroundOccIoU, VoxelIoU
from occ_perception.metrics.counting import MetricsError

OCC3D = LABEL_SETS["occ3d"]
DYNAMIC_OCC3D = (2, 3, 4, 5, 6, 7, 9, 10)
DYNAMIC_WAYMO = (1, 2, 4, 8, 9)


def random_volumes(label_set: LabelSet, seed: int, frames: int = 3, unknown: float = 0.1):
    rng = np.random.default_rng(seed)
    shape = (frames, 6, 5, 4)
    truth = rng.integers(0, label_set.num_classes, shape)
    preds = np.where(rng.random(shape) < 0.5, truth, rng.integers(0, label_set.num_classes, shape))
    truth = np.where(rng.random(shape) < unknown, 255, truth)
    mask = rng.random(shape) < 0.6
    return preds.astype(np.uint8), truth.astype(np.uint8), mask


def looped_iou(preds, truth, counted, belongs_true, belongs_pred):
    """Intersection and union by visiting every voxel."""
    both = either = 0
    for index in np.ndindex(preds.shape):
        if counted(index):
            t, p = belongs_true(truth[index]), belongs_pred(preds[index])
            both += t and p
            either += t or p
    return both, either


@pytest.mark.parametrize("name", ["occ3d", "openocc", "waymo"])
@pytest.mark.parametrize("masked", [False, True])
def test_scores_equal_loops_over_voxels(name, masked):
    label_set = LABEL_SETS[name]
    preds, truth, mask = random_volumes(label_set, seed=3)
    if not masked:
        mask = np.ones_like(mask)
    metric = VoxelIoU(label_set)
    metric.update(preds, truth, mask if masked else None)
    scores = metric.compute()

    expected = []
    for k in range(label_set.num_classes):
        both, either = looped_iou(
            preds,
            truth,
            lambda i: mask[i] and truth[i] != 255,
            lambda label, k=k: label == k,
            lambda label, k=k: label == k,
        )
        expected.append(both / either if either else math.nan)
        assert float(scores[f"IoU[{label_set.class_names[k]}]"]) == pytest.approx(
            expected[k], abs=1e-12, nan_ok=True
        )
    free = label_set.empty_class
    # 255 counts as occupied here, unlike in the ratios of single classes.
    both, either = looped_iou(
        preds, truth, lambda i: mask[i], lambda label: label != free, lambda label: label != free
    )
    moving = {"occ3d": DYNAMIC_OCC3D, "openocc": tuple(range(8)), "waymo": DYNAMIC_WAYMO}[name]
    semantic = [k for k in range(label_set.num_classes) if k != free]
    assert float(scores["mIoU"]) == pytest.approx(np.nanmean([expected[k] for k in semantic]))
    assert float(scores["mIoU_D"]) == pytest.approx(np.nanmean([expected[k] for k in moving]))
    assert float(scores["IoU"]) == pytest.approx(both / either)
    assert float(scores["frames"]) == 3


def test_surroundocc_scores_equal_loops_over_voxels():
    label_set = LABEL_SETS["surroundocc"]
    preds, truth, _ = random_volumes(label_set, seed=5)
    truth[truth == 9] = 17  # class 9 is absent from the truth,
    preds[preds == 9] = 17  # and from the prediction
    metric = SurroundOccIoU(label_set)
    metric.update(preds, truth)
    scores = metric.compute()
    expected = []
    for k in range(1, 18):
        both, either = looped_iou(
            preds,
            truth,
            lambda i: truth[i] != 255,
            lambda label, k=k: label == k,
            lambda label, k=k: label == k,
        )
        expected.append(both / (either + 1e-8))
    names = label_set.class_names[1:]
    got = [float(scores[f"IoU[{name}]"]) for name in names]
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert "IoU[others]" not in scores
    assert got[8] == 0.0  # absent, and yet part of the mean
    assert float(scores["mIoU"]) == pytest.approx(np.mean(expected[:16]))
    dynamic = [expected[k - 1] for k in DYNAMIC_OCC3D]
    assert float(scores["mIoU_D"]) == pytest.approx(np.mean(dynamic))
    both, either = looped_iou(
        preds, truth, lambda i: truth[i] != 255, lambda t: t != 17, lambda p: p != 17
    )
    assert float(scores["IoU"]) == pytest.approx(both / either)


def test_absent_class_has_no_value_but_wrongly_predicted_class_scores_zero():
    truth = torch.full((1, 2, 2, 2), 17)
    truth[0, 0] = 4  # four voxels of car
    preds = truth.clone()
    preds[0, 0, 0, 0] = 10  # one of them taken for a truck
    metric = VoxelIoU(OCC3D)
    metric.update(preds, truth)
    scores = metric.compute()
    assert float(scores["IoU[car]"]) == 0.75
    assert float(scores["IoU[truck]"]) == 0.0
    assert math.isnan(float(scores["IoU[bus]"]))
    assert float(scores["mIoU"]) == pytest.approx((0.75 + 0.0) / 2)
    assert float(scores["IoU"]) == 1.0


def test_scores_are_ratios_of_sums_not_means_of_frames():
    small_hit, big_miss = torch.full((1, 4, 4, 4), 17), torch.full((1, 4, 4, 4), 17)
    small_hit[0, 0, 0, 0] = 4
    big_miss[0, :2] = 4
    metric = VoxelIoU(OCC3D)
    metric.update(small_hit, small_hit)  # car: 1 of 1
    metric.update(torch.full_like(big_miss, 17), big_miss)  # car: 0 of 32
    assert float(metric.compute()["IoU[car]"]) == pytest.approx(1 / 33)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_types_do_not_matter(dtype):
    preds, truth, mask = random_volumes(OCC3D, seed=1)
    metric, other = VoxelIoU(OCC3D), VoxelIoU(OCC3D)
    metric.update(preds, truth, mask)
    other.update(
        torch.from_numpy(preds).to(dtype), torch.from_numpy(truth).to(dtype), mask.astype(np.uint8)
    )
    assert torch.equal(metric.confusion, other.confusion)
    assert torch.equal(metric.occupancy, other.occupancy)


@pytest.mark.parametrize(
    ("preds", "truth", "message"),
    [
        (torch.full((1, 2, 2, 2), 18), torch.zeros(1, 2, 2, 2).long(), "prediction: ids"),
        (torch.full((1, 2, 2, 2), 255), torch.zeros(1, 2, 2, 2).long(), "prediction: ids"),
        (torch.zeros(1, 2, 2, 2).long(), torch.full((1, 2, 2, 2), 23), r"ground truth: ids \[23\]"),
        (torch.zeros(2, 2, 2).long(), torch.zeros(2, 2, 2).long(), "leading axis"),
        (torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2).long(), "integer class ids"),
        (torch.zeros(1, 2, 2, 3).long(), torch.zeros(1, 2, 2, 2).long(), "shape"),
    ],
)
def test_wrong_input_is_named_and_not_counted(preds, truth, message):
    metric = VoxelIoU(OCC3D)
    with pytest.raises(MetricsError, match=message):
        metric.update(preds, truth)
    assert not any(counter.any() for counter in metric.counters().values())


def test_wrong_mask_shape_is_refused():
    metric = VoxelIoU(OCC3D)
    labels = torch.zeros(1, 2, 2, 2).long()
    with pytest.raises(MetricsError, match="mask"):
        metric.update(labels, labels, torch.ones(1, 2, 2, 1))


def test_metrics_of_different_label_sets_do_not_merge():
    with pytest.raises(MetricsError, match="cannot merge"):
        VoxelIoU(OCC3D).merge(VoxelIoU(LABEL_SETS["waymo"]))
    with pytest.raises(MetricsError, match="cannot merge"):
        VoxelIoU(OCC3D).merge(SurroundOccIoU(OCC3D))


def test_real_label_file_against_itself_and_against_nothing(shared_dir):
    with np.load(shared_dir / "data/occ3d-openocc-labels/occ3d_labels.npz") as archive:
        truth, mask = archive["semantics"][None], archive["mask_camera"][None]
    metric = VoxelIoU(OCC3D)
    metric.update(truth, truth, mask)
    scores = metric.compute()
    assert float(scores["mIoU"]) == float(scores["mIoU_D"]) == float(scores["IoU"]) == 1.0
    empty = VoxelIoU(OCC3D)
    empty.update(np.full_like(truth, 17), truth, mask)
    scores = empty.compute()
    assert float(scores["mIoU"]) == float(scores["IoU"]) == 0.0
    share_free = np.mean(truth[mask != 0] == 17)
    assert float(scores["IoU[free]"]) == pytest.approx(share_free)
