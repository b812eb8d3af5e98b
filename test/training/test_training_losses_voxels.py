"""Losses over all voxels, or over listed ones, against loops in numpy, or autograd."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from occ_training.losses.classes import class_frequencies
from occ_training.losses.matching import covered_labels, listed_voxel_loss, matched_losses
from occ_training.losses.terms import (
    DepthCrossEntropy,
    DrawnVoxels,
    ImageMasks,
    SupervisedStep,
    Velocities,
    VoxelCrossEntropy,
    VoxelMasks,
    reads_all_logits,
)
from occ_training.losses.voxels import (
    away_from_ends,
    cross_entropy,
    focal,
    geometric_scale,
    lovasz_occupied,
    lovasz_softmax,
    radial_weights,
    semantic_scale,
    supervised,
)

from occ_perception.models.zoo import get_card


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


# --- voxels ---------------------------------------------------------------------------------------


def voxel_example():
    generator = random(6)
    logits = torch.randn(40, 6, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(1, 6, (40,), generator=generator)
    targets[targets == 3] = 2  # class 3 does not occur
    return logits, targets


def test_supervised_leaves_out_unknown_voxels_and_zeroes_overflow() -> None:
    logits = torch.randn(1, 4, 2, 2, 2)
    logits[0, 1, 0, 0, 0] = float("inf")
    targets = torch.tensor([1, 2, 255, 3, 0, 1, 255, 2]).view(1, 2, 2, 2)
    logits_VK, targets_V = supervised(logits, targets)
    assert targets_V.tolist() == [1, 2, 3, 0, 1, 2]
    assert float(logits_VK[0, 1]) == 0.0
    assert logits_VK[1].tolist() == logits[0, :, 0, 0, 1].tolist()


def test_cross_entropy_against_loops() -> None:
    logits, targets = voxel_example()
    rows = logits.detach().numpy()
    terms = [math.log(np.exp(r).sum()) - r[t] for r, t in zip(rows, targets.tolist(), strict=True)]
    assert float(cross_entropy(logits, targets)) == pytest.approx(np.mean(terms), rel=1e-9)


def test_focal_against_loops() -> None:
    logits, targets = voxel_example()
    class_weights = torch.arange(6, dtype=torch.float64) / 5
    radial = torch.linspace(1, 2, 40, dtype=torch.float64)
    total = 0.0
    for v, k in np.ndindex(40, 6):
        p = sigmoid(float(logits[v, k]))
        if int(targets[v]) == k:
            term = -0.25 * (1 - p) ** 2 * math.log(p)
        else:
            term = -0.75 * p**2 * math.log(1 - p)
        total += term * float(class_weights[k]) * float(radial[v])
    got = focal(logits, targets, class_weights, radial)
    assert float(got) == pytest.approx(100 * total / 40, rel=1e-9)


def test_radial_weights_are_one_in_the_middle_and_two_in_the_corner() -> None:
    weights = radial_weights((200, 200))
    assert float(weights[100, 100]) == 1.0 and float(weights[0, 0]) == 2.0
    assert float(weights[100, 0]) == pytest.approx(1 + 100 / 141.42136, rel=1e-6)


def affinity(p: np.ndarray, t: np.ndarray) -> float:
    ratios = [
        (p * t).sum() / (p.sum() + 1e-5),
        (p * t).sum() / (t.sum() + 1e-5),
        ((1 - p) * (1 - t)).sum() / ((1 - t).sum() + 1e-5),
    ]
    return -sum(math.log(r) for r in ratios)


def test_scale_losses_against_numpy() -> None:
    logits, targets = voxel_example()
    p = logits.softmax(1).detach().numpy()
    t = targets.numpy()
    semantic = np.mean([affinity(p[:, k], t == k) for k in (1, 2, 4)])
    assert float(semantic_scale(logits, targets)) == pytest.approx(semantic, rel=1e-6)
    geometric = affinity(1 - p[:, 5], t != 5)
    assert float(geometric_scale(logits, targets)) == pytest.approx(geometric, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 4e-6, 1e-5, 0.5, 0.999985, 0.999992, 1.0])
def test_ratios_leave_the_ends_by_steps_and_keep_their_gradient(value: float) -> None:
    expected = value
    while expected >= 1 - 1e-5:
        expected -= 1e-5
    while expected < 1e-5:
        expected += 1e-5
    ratio = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    moved = away_from_ends(ratio)
    moved.backward()
    assert float(moved) == pytest.approx(expected, abs=1.0001e-5)
    assert 1e-5 - 1e-12 <= float(moved) < 1 - 1e-5 + 1e-12
    assert float(ratio.grad) == 1.0


def test_lovasz_against_its_definition() -> None:
    """The extension integrates the Jaccard loss over the sets of voxels above a threshold."""
    logits, targets = voxel_example()
    p, t = logits.softmax(1).detach().numpy(), targets.numpy()
    losses = []
    for k in sorted(set(t.tolist())):
        truth = t == k
        errors = np.abs(truth - p[:, k])
        levels = np.concatenate([[0.0], np.sort(errors)])
        total = 0.0
        for low, high in itertools.pairwise(levels):
            wrong = errors > low  # voxels that are wrong at this level
            predicted = truth ^ wrong
            jaccard = (truth & predicted).sum() / (truth | predicted).sum()
            total += (high - low) * (1 - jaccard)
        losses.append(total)
    assert float(lovasz_softmax(logits, targets)) == pytest.approx(np.mean(losses), rel=1e-6)


def test_voxel_losses_differentiate() -> None:
    logits, targets = voxel_example()
    logits, targets = logits.detach()[:8].requires_grad_(), targets[:8]
    for loss in (cross_entropy, semantic_scale, geometric_scale, lovasz_softmax):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, targets), (logits,))


def test_without_supervised_voxels_the_loss_is_zero() -> None:
    logits = torch.zeros(0, 6, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    for loss in (cross_entropy, semantic_scale, lovasz_softmax):
        assert float(loss(logits, nothing)) == 0.0


# --- listed voxels and matched masks --------------------------------------------------------------


def test_listed_voxels_are_compared_with_all_they_cover() -> None:
    labels = torch.randint(0, 5, (8, 8, 4), generator=random(13))
    labels[0, 0, 0] = 255
    corners = torch.tensor([[0, 0, 0], [4, 2, 2]])
    covered = covered_labels(corners, 2, labels)
    for row, (x, y, z) in enumerate(corners.tolist()):
        block = labels[x : x + 2, y : y + 2, z : z + 2]
        assert sorted(covered[row].tolist()) == sorted(block.flatten().tolist())

    logits = torch.randn(2, 5, generator=random(14), dtype=torch.float64)
    weights = torch.linspace(0.5, 1.5, 5)
    got = listed_voxel_loss(logits, covered, weights)
    dense, targets = [], []
    for row in range(2):
        for label in covered[row].tolist():
            if label != 255:
                dense.append(logits[row].float())
                targets.append(label)
    dense, targets = torch.stack(dense), torch.tensor(targets)
    p, t = dense.softmax(1).numpy().astype(np.float64), targets.numpy()
    semantic = np.mean([affinity(p[:, k], t == k) for k in range(4) if (t == k).any()])
    entropy = -sum(weights[k].item() * math.log(row[k]) for row, k in zip(p, t, strict=True))
    entropy /= sum(weights[k].item() for k in t)
    geometric = affinity(1 - p[:, 4], t != 4)
    lovasz = float(lovasz_softmax(dense, targets))
    assert float(got) == pytest.approx(semantic + entropy + geometric + lovasz, rel=1e-4)


def test_matching_is_the_cheapest_of_all_assignments() -> None:
    generator = random(15)
    classes = torch.randn(4, 6, generator=generator)
    masks = 2 * torch.randn(4, 30, generator=generator)
    labels = torch.randint(0, 3, (30,), generator=generator) * 2  # 0, 2, 4
    labels[:5] = 6  # free
    labels[5] = 255
    present = [0, 2, 4]

    def pair(q: int, k: int) -> tuple[float, float, float]:
        truth = (labels == k).double()
        p = masks[q].double().sigmoid()
        entropy = -(truth * p.log() + (1 - truth) * (1 - p).log()).mean()
        dice = 1 - (2 * (p * truth).sum() + 1) / (p.sum() + truth.sum() + 1)
        s = sigmoid(float(classes[q, k]))
        focal = -math.log(s) * 0.25 * (1 - s) ** 2 + math.log(1 - s) * 0.75 * s**2
        return 5 * float(entropy), 5 * float(dice), 4 * focal

    best = min(
        itertools.permutations(range(4), 3),
        key=lambda rows: sum(sum(pair(q, k)) for q, k in zip(rows, present, strict=True)),
    )
    got = matched_losses(classes, masks, labels)
    chosen = [pair(q, k) for q, k in zip(best, present, strict=True)]
    assert got.matches.item() == 3
    assert got.mask.item() == pytest.approx(sum(c[0] for c in chosen), rel=1e-4)
    assert got.dice.item() == pytest.approx(sum(c[1] for c in chosen), rel=1e-4)
    total = 0.0
    wanted = dict(zip(best, present, strict=True))
    for q, k in np.ndindex(4, 6):
        s = sigmoid(float(classes[q, k]))
        hit = wanted.get(q) == k
        total += -0.25 * (1 - s) ** 2 * math.log(s) if hit else -0.75 * s**2 * math.log(1 - s)
    assert got.classes.item() == pytest.approx(4 * total, rel=1e-4)


# --- drawn voxels ---------------------------------------------------------------------------------


def test_drawn_voxels_have_the_logits_and_labels_of_their_places() -> None:
    """With labels that tell the place, and a volume that does as well, in one small volume."""
    volume = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(1, 2, 3, 4, 5)
    labels = torch.arange(60).view(1, 3, 4, 5) % 17
    labels[0, 0] = 255
    net = SimpleNamespace(class_logits=lambda volume, at: volume[at.b, :, at.x, at.y, at.z])
    batch = SimpleNamespace(labels_BXYZ=labels, indices=(3,))
    outputs = SimpleNamespace(logits_BKXYZ=None, volume_BCXYZ=volume)
    step = SupervisedStep(
        net=net, card=get_card("alocc_town"), batch=batch, outputs=outputs, seed=0
    )
    rows, targets = DrawnVoxels(points=500)._drawn(step)
    assert rows.shape == (500, 2)
    places = rows[:, 0].long()
    assert places.min() >= 20 and len(places.unique()) == 40  # none without a label, every other
    assert torch.equal(targets, places % 17 + 1)
    torch.testing.assert_close(rows[:, 1] - rows[:, 0], torch.full((500,), 60.0))
    dense = replace(step, outputs=SimpleNamespace(logits_BKXYZ=volume, volume_BCXYZ=None))
    for got, expected in zip(DrawnVoxels(points=500)._drawn(dense), (rows, targets), strict=True):
        assert torch.equal(got, expected)  # beside a term that reads all logits


def test_class_weights_of_drawn_voxels_have_the_mean_one() -> None:
    """Uniform logits: the weighted cross entropy of voxels as frequent as the classes is ln K."""
    card = get_card("alocc_town")
    counts = (
        (class_frequencies("occ3d") / class_frequencies("occ3d").sum() * 200_000).round().long()
    )
    labels = torch.repeat_interleave(torch.arange(18), counts).view(1, -1, 1, 1)
    net = SimpleNamespace(class_logits=lambda _, places: torch.zeros(len(places.b), 19))
    step = SupervisedStep(
        net=net,
        card=card,
        batch=SimpleNamespace(labels_BXYZ=labels, indices=(0,)),
        outputs=SimpleNamespace(
            logits_BKXYZ=None, volume_BCXYZ=torch.zeros(1, 1, *labels.shape[1:])
        ),
        seed=0,
    )
    losses = DrawnVoxels(points=100_000)(step)
    assert float(losses["voxel_ce"]) == pytest.approx(math.log(19), rel=0.02)
    names = ("ce", "semantic", "geometric", "lovasz", "occupied")
    assert set(losses) == {f"voxel_{name}" for name in names}


def test_the_occupied_loss_does_not_see_which_class_it_is() -> None:
    """It is the Lovász loss of two classes, and falls to zero for the right answer."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 5, generator=generator)
    targets = torch.randint(1, 5, (50,), generator=generator)
    among = targets < 4
    mixed = torch.where(among, among.cumsum(0) % 3 + 1, targets)
    assert lovasz_occupied(logits, targets) == lovasz_occupied(logits, mixed)
    occupied = logits[:, :4].logsumexp(dim=1) - logits[:, 4]
    two = torch.stack([occupied, torch.zeros(50)], dim=1)
    errors = lovasz_softmax(two, (~among).long())
    both = [lovasz_occupied(two, (~among).long()), lovasz_occupied(two.flip(1), among.long())]
    torch.testing.assert_close(torch.stack(both).mean(), errors)
    right = 50.0 * F.one_hot(targets, 5)
    assert float(lovasz_occupied(right, targets)) < 1e-6


def test_all_logits_are_computed_where_some_term_reads_them() -> None:
    drawn = (DrawnVoxels(), ImageMasks(), DepthCrossEntropy(), Velocities())
    assert not reads_all_logits(drawn)
    assert reads_all_logits((*drawn, VoxelMasks()))
    assert reads_all_logits((VoxelCrossEntropy(),))
