"""One training step of every family: the recipe's terms reach every parameter of the network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from occ_training.data.sample import Batch
from occ_training.module import OccupancyModule
from occ_training.recipes import RECIPES
from small_networks import INPUT_SIZE, batched, inputs, small_card, small_network
from small_sparse import small_sparse, small_sparse_card

from occ_perception.models.card import ModelCard
from occ_perception.models.zoo import get_card

pytestmark = pytest.mark.slow

# Parameters that a step does not reach: family -> prefixes of their names.
UNREACHED = {
    "alocc_3d_waymo": ("head.image_embed",),  # no classes of lidar points, no image term
    "causal_bevdetocc": ("depth.depth_logits.bias",),
    "causal_alocc_3d_16f": ("depth.depth_logits.bias",),
}
FAMILIES = (
    "alocc_2d_mini",
    "alocc_3d",
    "alocc_3d_depth",
    pytest.param("alocc_flow_2d", marks=pytest.mark.slow(ci=True)),  # the most terms of all
    "alocc_2d_gf",
    "alocc_3d_gf_depth",
    "bevdetocc_sf",
    "fbocc",
    "causal_bevdetocc",
    "causal_alocc_3d_16f",
)


def batch_of(card: ModelCard, grid: tuple[int, int, int], frame: int) -> Batch:
    """Two slots of random images, depths, labels and velocities."""
    cameras = len(card.cameras)
    joint = batched(*(inputs(slot, frame, frame, cameras=cameras, depth=True) for slot in (0, 1)))
    generator = torch.Generator().manual_seed(frame)
    labels = torch.randint(0, card.labels.num_classes, (2, *grid), generator=generator)
    labels[:, ::3] = 255
    assert joint.depth is not None
    classes = torch.randint(0, 17, joint.depth.depth_BNHW.shape, generator=generator)
    return Batch(
        indices=(2 * frame, 2 * frame + 1),
        tokens=("a", "b"),
        sequences=("s", "t"),
        groups=(0, 1),
        start_B=joint.control.start_B,
        images_BN3HW=joint.images_BN3HW,
        cameras=joint.cameras,
        augmentation=joint.augmentation,
        previous_T_current_B44=joint.control.previous_T_current_B44,
        previous_cam_T_cam_BN44=joint.control.previous_cam_T_cam_BN44,
        previous_images_BN3HW=joint.images_BN3HW.flip(0),
        depth_BNHW=joint.depth.depth_BNHW,
        semantics_BNHW=torch.where(joint.depth.depth_BNHW > 0, classes, 255).to(torch.uint8),
        labels_BXYZ=labels.to(torch.uint8),
        flow_BXYZ2=torch.randn(2, *grid, 2, generator=generator),
    )


def step_of(net: torch.nn.Module, card: ModelCard, name: str, grid: tuple[int, int, int]):
    recipe = replace(RECIPES[name](), recomputed=(), history_from=0)
    training = OccupancyModule(net, card, recipe)
    training.on_train_start()
    for frame in range(2):
        batch = batch_of(card, grid, frame)
        losses = training.losses(batch, training(batch))
    return training, losses


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_reaches_every_parameter(name: str) -> None:
    net = small_network(get_card(name))
    assert net.config.geometry.input_size == INPUT_SIZE
    card = small_card(get_card(name))
    training, losses = step_of(net, card, name, card.grid.dims)
    assert all(value.isfinite() for value in losses.values()), losses
    sum(losses.values()).backward()
    still = [
        n
        for n, p in training.net.named_parameters()
        if p.grad is None or not p.grad.isfinite().all()
    ]
    assert [n for n in still if not n.startswith(UNREACHED.get(name, ()) or ("-",))] == []


@pytest.mark.slow(ci=True)
def test_sparseocc_trains_voxels_and_masks() -> None:
    card = small_sparse_card()
    net = small_sparse().requires_grad_(True)
    training, losses = step_of(net, card, "sparseocc", card.grid.dims)
    assert set(losses) == {"voxels_0", "voxels_1", "voxels_2", "mask", "dice", "classes"}
    assert all(value.isfinite() for value in losses.values()), losses
    sum(losses.values()).backward()
    assert sum(p.grad is not None for p in training.net.parameters()) > 100
