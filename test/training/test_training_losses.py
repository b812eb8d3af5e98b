"""Every training loss against a second computation: loops in numpy, or autograd."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from occ_training.losses.causal import causal_loss
from occ_training.losses.classes import (
    class_frequencies,
    head_targets,
    log_weights,
    mask_weights,
    sampling_weights,
)
from occ_training.losses.flow import flow_losses, moving_voxels
from occ_training.losses.image_branch import (
    depth_binary_cross_entropy,
    depth_cross_entropy,
    image_logits,
    nearest_point_labels,
)
from occ_training.losses.masks import MaskLoss, MaskLossConfig, race

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

GRID = VoxelGrid((-4.0, -4.0, -1.0), (1.0, 1.0, 1.0), (8, 8, 4))
GEOMETRY = ViewGeometry((32, 48), DepthBins(1.0, 9.0, 0.5), GRID, num_cameras=2)


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


# --- class tables ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label_set", "first", "last"),
    [
        ("occ3d", [0, 1, 0.951716, 1.152814, 0.936707], [0.744526, 0.740756, 0.644061]),
        ("openocc", [0, 1, 1.067526, 1.133594, 1.133361], [0.900833, 0.896272, 0.779276]),
        ("waymo", [0, 1, 0.92768, 1.054686, 1.153748], [0.87221, 0.897864, 0.736472]),
    ],
)
def test_mask_weights_are_those_of_the_reference_code(label_set, first, last) -> None:
    weights = mask_weights(label_set)
    assert len(weights) == LABEL_SETS[label_set].num_classes + 1
    assert weights[: len(first)].tolist() == pytest.approx(first, abs=2e-6)
    assert weights[-len(last) :].tolist() == pytest.approx(last, abs=2e-6)


def test_sampling_weights_are_those_of_the_reference_code() -> None:
    expected = [0, 6.6914, 5.6199, 10.5566, 5.3038, 3.2502, 7.15, 10.0029, 5.4958, 8.2253, 5.3078]
    expected += [4.229, 1.8111, 4.5868, 2.4634, 2.3561, 2.0557, 2.0079, 1.0]
    assert sampling_weights("occ3d").tolist() == pytest.approx(expected, abs=6e-5)


def test_openocc_counts_are_those_of_the_same_names() -> None:
    openocc_order = [4, 10, 9, 3, 5, 2, 6, 7, 8, 1, 11, 12, 13, 14, 15, 16, 17]
    occ3d = class_frequencies("occ3d")
    assert class_frequencies("openocc").tolist() == occ3d[openocc_order].tolist()


def test_head_targets_shift_ids_and_keep_unknown() -> None:
    labels = torch.tensor([0, 17, 255, 254], dtype=torch.uint8)
    assert head_targets(labels).tolist() == [1, 18, 255, 255]


# --- masks ----------------------------------------------------------------------------------------


def mask_example():
    generator = random(1)
    logits = torch.randn(2, 19, 600, generator=generator)
    targets = torch.randint(0, 6, (2, 600), generator=generator) * 3 + 1
    targets[targets > 18] = 255
    targets[0, :300] = 255
    return logits.requires_grad_(), targets


def test_mask_and_dice_against_loops_over_the_drawn_points() -> None:
    logits, targets = mask_example()
    loss = MaskLoss("occ3d", MaskLossConfig(points=40))
    got = loss(logits, targets, [random(7), random(8)])

    weights = mask_weights("occ3d").tolist()
    mask_sum = dice_sum = weight_sum = 0.0
    logits = logits.detach()
    for sample, seed in ((0, 7), (1, 8)):
        present = sorted(set(targets[sample].tolist()) - {255})
        chosen = loss.draw_points(logits[sample, present].detach(), targets[sample], random(seed))
        assert chosen.shape == (len(present), 40)
        for row, k in enumerate(present):
            entropy = overlap = total = 0.0
            for voxel in chosen[row].tolist():
                x = float(logits[sample, k, voxel].detach())
                t = float(targets[sample, voxel] == k)
                p = sigmoid(x)
                entropy -= math.log(p) if t else math.log(1 - p)
                overlap += p * t
                total += p + t
            mask_sum += weights[k] * entropy / 40
            dice_sum += weights[k] * (1 - (2 * overlap + 1) / (total + 1))
            weight_sum += weights[k]
    assert got.mask.item() == pytest.approx(5 * mask_sum / weight_sum, rel=1e-5)
    assert got.dice.item() == pytest.approx(5 * dice_sum / weight_sum, rel=1e-5)


def test_points_are_distinct_within_each_draw_and_prefer_what_is_uncertain() -> None:
    logits, targets = mask_example()
    loss = MaskLoss("occ3d", MaskLossConfig(points=100))
    drawn = loss.draw_points(logits[1, [1, 4]].detach(), targets[1], random(3))
    important, anywhere = drawn[:, :75], drawn[:, 75:]
    for row in range(2):
        assert len(set(important[row].tolist())) == 75
        assert len(set(anywhere[row].tolist())) == 25
        assert bool((targets[1][drawn[row]] < 255).all())  # enough supervised voxels
    certain = logits[1, [1, 4]].detach().abs()
    assert float(certain.gather(1, important).mean()) < 0.7 * float(certain.mean())


def test_unsupervised_voxels_fill_up_if_there_are_too_few() -> None:
    logits, targets = mask_example()
    targets[1, 20:] = 255
    drawn = MaskLoss("occ3d", MaskLossConfig(points=30)).draw_points(
        logits[1, [1]].detach(), targets[1], random(3)
    )
    assert (targets[1][drawn] == 255).any()


def test_the_race_draws_in_proportion_to_the_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 2.0, 5.0])
    firsts = race(weights.expand(40_000, -1), 1, random(5))[:, 0]
    shares = torch.bincount(firsts, minlength=4) / 40_000
    assert shares.tolist() == pytest.approx([0, 1 / 8, 2 / 8, 5 / 8], abs=0.01)


def test_masks_depend_on_the_sample_alone() -> None:
    """One process and two agree because a sample's terms do not depend on its batch."""
    logits, targets = mask_example()
    loss = MaskLoss("occ3d", MaskLossConfig(points=40))
    both = loss(logits, targets, [random(7), random(8)])
    weights = mask_weights("occ3d")
    parts, shares = [], []
    for sample, seed in ((0, 7), (1, 8)):
        one = slice(sample, sample + 1)
        parts.append(loss(logits[one], targets[one], [random(seed)]).dice)
        present = targets[one][targets[one] < 255].unique()
        shares.append(weights[present].sum())
    joined = sum(p * s for p, s in zip(parts, shares, strict=True)) / sum(shares)
    assert both.dice.item() == pytest.approx(joined.item(), rel=1e-5)


# --- depth and image semantics --------------------------------------------------------------------


def depth_example():
    generator = random(2)
    depth = 10.0 * torch.rand(2, 2, 32, 48, generator=generator)
    depth[torch.rand(depth.shape, generator=generator) < 0.99] = 0.0
    surface = torch.randn(2, 2, 16, 2, 3, generator=generator).requires_grad_()
    return surface.softmax(dim=2), depth


def measured_bins(depth: torch.Tensor) -> dict[tuple[int, int, int, int], int]:
    """Bin of the nearest measurement per feature pixel, by loops."""
    bins = {}
    for b, n, y, x in np.ndindex(2, 2, 2, 3):
        voxel = depth[b, n, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].numpy()
        if (voxel > 0).any():
            number = math.floor((voxel[voxel > 0].min() - 1.0) / 0.5)
            if 0 <= number < 16:
                bins[b, n, y, x] = number
    return bins


def test_depth_cross_entropy_against_loops() -> None:
    surface, depth = depth_example()
    bins = measured_bins(depth)
    assert 5 < len(bins) < 24
    terms = [-math.log(float(surface[b, n, k, y, x]) + 1e-8) for (b, n, y, x), k in bins.items()]
    got = depth_cross_entropy(surface, depth, GEOMETRY)
    assert float(got) == pytest.approx(np.mean(terms), rel=1e-5)


def test_depth_binary_cross_entropy_against_loops() -> None:
    surface, depth = depth_example()
    bins = measured_bins(depth)
    total = 0.0
    for (b, n, y, x), known in bins.items():
        for k in range(16):
            p = float(surface[b, n, k, y, x])
            total -= math.log(p if k == known else 1 - p)
    got = depth_binary_cross_entropy(surface, depth, GEOMETRY)
    assert float(got) == pytest.approx(total / len(bins), rel=1e-5)


@pytest.mark.parametrize("loss", [depth_cross_entropy, depth_binary_cross_entropy])
def test_without_measurements_the_loss_is_zero_and_not_nan(loss) -> None:
    surface, depth = depth_example()
    value = loss(surface, torch.zeros_like(depth), GEOMETRY)
    (gradient,) = torch.autograd.grad(value, surface)
    assert float(value) == 0.0 and not gradient.any()


def test_pixels_take_the_label_of_their_nearest_point() -> None:
    _, depth = depth_example()
    labels = torch.where(depth > 0, torch.randint(0, 17, depth.shape, generator=random(4)), 255)
    got = nearest_point_labels(depth, labels, 16)
    for b, n, y, x in np.ndindex(2, 2, 2, 3):
        window = (b, n, slice(16 * y, 16 * y + 16), slice(16 * x, 16 * x + 16))
        voxel, names = depth[window].numpy(), labels[window].numpy()
        expected = names[voxel == voxel[voxel > 0].min()][0] if (voxel > 0).any() else 255
        assert int(got[b, n, y, x]) == expected


def test_image_logits_are_products_with_the_prototypes() -> None:
    context, prototypes = torch.randn(1, 2, 5, 3, 4), torch.randn(19, 5)
    logits = image_logits(context, prototypes)
    assert logits.shape == (1, 19, 2, 3, 4)
    expected = float(prototypes[7] @ context[0, 1, :, 2, 3])
    assert float(logits[0, 7, 1, 2, 3]) == pytest.approx(expected, rel=1e-5)


# --- flow -----------------------------------------------------------------------------------------


def test_flow_losses_against_loops() -> None:
    generator = random(9)
    bins = torch.randn(3, 88, 2, generator=generator)
    truth = 6 * torch.randn(3, 2, generator=generator)
    truth[0] = torch.tensor([30.0, -0.25])  # outside of the bins; a tie between two
    truth[2] = 0.0  # standing
    got = flow_losses(bins, truth)

    entropy, squared, cosine = [], [], []
    for n in range(3):
        shares = np.exp(bins[n].numpy()) / np.exp(bins[n].numpy()).sum(axis=0)
        v, w = (np.arange(-22, 22, 0.5)[:, None] * shares).sum(axis=0), truth[n].numpy()
        for component in range(2):
            number = int(np.clip(np.rint((w[component] + 22) / 0.5), 0, 87))
            logits = bins[n, :, component].numpy()
            entropy.append(np.log(np.exp(logits).sum()) - logits[number])
            squared.append((v[component] - w[component]) ** 2)
        length = np.linalg.norm(v) * np.linalg.norm(w)
        cosine.append(0.0 if length == 0 else v @ w / length)
    assert float(got.bins) == pytest.approx(np.mean(entropy), rel=1e-5)
    assert float(got.squared) == pytest.approx(np.mean(squared), rel=1e-5)
    assert float(got.cosine) == pytest.approx(-np.mean(cosine), rel=1e-5)


def test_flow_is_supervised_for_movable_classes_with_a_known_velocity() -> None:
    labels = torch.tensor([0, 7, 8, 16, 255, 3], dtype=torch.uint8).view(1, 6, 1, 1)
    flow = torch.zeros(1, 6, 1, 1, 2)
    flow[0, 5, 0, 0, 1] = float("inf")
    known = moving_voxels(labels, flow, LABEL_SETS["openocc"])
    assert known.flatten().tolist() == [True, True, False, False, False, False]


def test_without_moving_voxels_the_flow_loss_is_zero() -> None:
    bins = torch.zeros(0, 88, 2, requires_grad=True)
    losses = flow_losses(bins, torch.zeros(0, 2))
    assert [float(value) for value in losses] == [0.0, 0.0, 0.0]
    torch.stack(losses).sum().backward()
    assert bins.grad is not None  # data parallel training also needs gradients that are zero


# --- causal ---------------------------------------------------------------------------------------


def test_causal_loss_against_a_known_influence() -> None:
    """The gradient of a linear "lifting" is its weights, so the loss has a closed form."""
    generator = random(11)
    context = torch.randn(1, 1, 2, 1, 3, generator=generator, requires_grad=True)
    share = torch.rand(4, 3, generator=generator).requires_grad_()  # voxel, pixel
    volume = torch.einsum("vp,cp->cv", share, context[0, 0, :, 0]).view(1, 2, 4, 1, 1)
    targets = torch.tensor([5, 5, 7, 255]).view(1, 4, 1, 1)
    pixels = torch.tensor([5, 255, 7]).view(1, 1, 1, 3)
    picked = set()
    for seed in range(6):
        got = causal_loss(volume, context, targets, pixels, [random(seed)])
        target = [5, 7][int(torch.randint(2, (1,), generator=random(seed)))]
        picked.add(target)
        rows = [v for v in range(4) if int(targets.flatten()[v]) == target]
        influence = share.detach()[rows].sum(0).clamp(0, 1).numpy()
        terms = []
        for pixel in (0, 2):
            a = float(influence[pixel])
            hit = int(pixels.flatten()[pixel]) == target
            terms.append(-max(math.log(a) if hit else math.log(1 - a) if a < 1 else -100, -100))
        assert float(got) == pytest.approx(np.mean(terms), rel=1e-4)
    assert picked == {5, 7}
    (gradient,) = torch.autograd.grad(got, share)
    assert gradient.any()


def test_causal_loss_has_the_gradient_of_its_influence() -> None:
    """The gradient of the loss is a second derivative; checked numerically through a splat."""
    generator = random(12)
    voxels = torch.randint(0, 6, (4, 5), generator=generator)  # of each pixel's samples
    context = torch.randn(1, 1, 3, 1, 4, generator=generator, dtype=torch.float64)
    context.requires_grad_()
    weights = 0.2 * torch.rand(4, 5, generator=generator, dtype=torch.float64)
    targets = torch.tensor([3, 3, 9, 9, 3, 9]).view(1, 6, 1, 1)
    pixels = torch.tensor([3, 9, 9, 3]).view(1, 1, 1, 4)

    def loss_of(weights: torch.Tensor) -> torch.Tensor:
        lifted = torch.einsum("cp,ps->cps", context[0, 0, :, 0], weights).flatten(1)
        empty = torch.zeros(3, 6, dtype=torch.float64)
        volume = empty.index_add(1, voxels.flatten(), lifted).view(1, 3, 6, 1, 1)
        return causal_loss(volume, context, targets, pixels, [random(1)])

    assert torch.autograd.gradcheck(loss_of, (weights.requires_grad_(),))
    (gradient,) = torch.autograd.grad(loss_of(weights), weights)
    assert gradient.any()


def test_log_weights_have_no_dummy_class() -> None:
    weights = log_weights("occ3d")
    assert float(weights[0]) == 0.0
    assert float(weights[1]) == pytest.approx(1 / math.log(944004.001))
