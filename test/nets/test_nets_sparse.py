"""Parts of the sparse network against their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_networks import inputs
from small_sparse import GRID, small_config

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.cameras import CameraTensors
from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.sparse.frame_history import FrameHistoryConfig
from occ_perception.nets.sparse.geometry import SparseGeometry
from occ_perception.nets.sparse.mask_points import (
    Draws,
    EvenDrawsConfig,
    SeededDrawsConfig,
    pick_voxels,
)
from occ_perception.nets.sparse.pyramid import Pyramid
from occ_perception.nets.sparse.sampling import FrameSampling, LookConfig
from occ_perception.nets.sparse.voxel_decoder import DistanceAttention

GEOMETRY = SparseGeometry((64, 96), GRID, num_cameras=6)
DIMS = torch.tensor(GRID.dims)


def published_picks(inside, voxels, within, anywhere, dims):
    """All (query, voxel) pairs in one list, as the reference code has them, one sample."""
    Q, P = within.shape
    pairs = np.argwhere(inside)
    if not len(pairs):
        return anywhere.copy()
    starts = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    places = np.zeros((Q, P, 3))
    empty = 0
    for q in range(Q):
        count = starts[q + 1] - starts[q]
        for p in range(P):
            at = min(
                int(np.floor(np.float32(within[q, p]) * np.float32(count))) + starts[q],
                len(pairs) - 1,
            )
            places[q, p] = voxels[pairs[at][1]]
        if count == 0:
            places[q] = anywhere[empty] * dims
            empty += 1
    return places


def drawn_masks(share: float, seed: int):
    rng = np.random.default_rng(seed)
    inside = rng.random((2, 7, 40)) < share
    inside[0, [2, 5]] = False
    voxels = rng.integers(0, 16, (2, 40, 3))
    draws = Draws(
        torch.from_numpy(rng.random((2, 7, 4)).astype(np.float32)),
        torch.from_numpy(rng.random((2, 7, 4, 3)).astype(np.float32)),
    )
    return inside, voxels, draws


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_picks_are_those_of_one_list_of_all_pairs(share: float) -> None:
    inside, voxels, draws = drawn_masks(share, seed=3)
    got = pick_voxels(torch.from_numpy(inside), torch.from_numpy(voxels), draws, DIMS)
    for b in range(2):
        wanted = published_picks(
            inside[b],
            voxels[b],
            draws.within_BQP[b].numpy(),
            draws.anywhere_BQP3[b].numpy(),
            np.array(GRID.dims),
        )
        np.testing.assert_allclose(got[b].numpy(), wanted, rtol=1e-6)


def test_without_any_mask_all_places_lie_in_the_first_voxel() -> None:
    inside, voxels, draws = drawn_masks(0.5, seed=4)
    inside[1] = False
    got = pick_voxels(torch.from_numpy(inside), torch.from_numpy(voxels), draws, DIMS)
    assert torch.equal(got[1], draws.anywhere_BQP3[1])
    assert got[0, 2].max() > 1  # an empty mask among others is spread over the grid


def test_seeded_draws_are_uniform_and_follow_their_seed() -> None:
    build = [SeededDrawsConfig(seed=s).build(2, 100, 16).eval() for s in (0, 0, 1)]
    first, same, other = (draws(0, 1) for draws in build)
    assert torch.equal(first.within_BQP, same.within_BQP)
    assert not torch.equal(first.within_BQP, other.within_BQP)
    assert not torch.equal(first.within_BQP, build[0](1, 1).within_BQP)  # rounds differ
    assert first.within_BQP.mean().item() == pytest.approx(0.5, abs=0.03)
    assert first.anywhere_BQP3.shape == (1, 100, 16, 3)


def test_draws_are_new_in_every_step_of_training() -> None:
    draws = SeededDrawsConfig().build(2, 10, 4).train()
    a, b = draws(0, 3), draws(0, 3)
    assert not torch.equal(a.within_BQP, b.within_BQP)
    assert not torch.equal(a.within_BQP[0], a.within_BQP[1])


def test_even_draws_are_spread_and_never_random() -> None:
    torch.manual_seed(1)
    one = EvenDrawsConfig().build(2, 100, 16).train()
    torch.manual_seed(2)
    two = EvenDrawsConfig().build(2, 100, 16)
    for number in (0, 1):
        assert all(torch.equal(a, b) for a, b in zip(one(number, 2), two(number, 2), strict=True))
    draws = one(0, 1)
    # One pick in each sixteenth of a mask, and as many points in each eighth of the grid.
    assert torch.equal((draws.within_BQP[0, 0] * 16).int(), torch.arange(16, dtype=torch.int32))
    eighth = ((draws.anywhere_BQP3 > 0.5).long() * torch.tensor([4, 2, 1])).sum(dim=-1)
    assert torch.bincount(eighth.flatten()).sub(200).abs().max() <= 4


def test_levels_are_weighed_with_another_groups_weights() -> None:
    sampling = FrameSampling(256, LookConfig(points=4, mixed_points=128), GEOMETRY)
    table = [[t // 2] * 4 for t in range(8)]
    assert sampling.weights_of_TG.tolist() == table


def test_attention_fades_with_distance() -> None:
    torch.manual_seed(0)
    attention = DistanceAttention(16, 2).eval()
    query = torch.randn(1, 3, 16)
    place = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [500.0, 0.0]]])
    torch.nn.init.zeros_(attention.fading.weight)
    torch.nn.init.ones_(attention.fading.bias)
    alone = DistanceAttention.forward(attention, query[:, :2], place[:, :2])
    together = attention(query, place)
    torch.testing.assert_close(together[:, :2], alone)  # what is 500 m away does not count
    torch.nn.init.zeros_(attention.fading.bias)
    assert not torch.allclose(attention(query, place)[:, :2], alone, atol=1e-3)


def test_projection_is_rotation_intrinsics_and_crop_in_turn() -> None:
    cameras = inputs(0, 0, 0).cameras
    affine = torch.tensor([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 1.0]]).expand(1, 6, 3, 3)
    shift = torch.tensor([3.0, -7.0, 0.0]).expand(1, 6, 3)
    cameras = CameraTensors.of(cameras.grid_T_cam_BN44, cameras.K_BN33, affine, shift)
    place = torch.tensor([2.0, -1.0, 0.7, 1.0], dtype=torch.float64)
    projected = cameras.pixel_T_grid_BN44[0] @ place
    for n in range(6):
        pose, K = cameras.grid_T_cam_BN44[0, n].double(), cameras.K_BN33[0, n].double()
        x, y, depth = (torch.linalg.inv(pose) @ place)[:3].tolist()
        u = 0.5 * (K[0, 0] * x / depth + K[0, 2]) + 3.0
        v = 0.5 * (K[1, 1] * y / depth + K[1, 2]) - 7.0
        wanted = torch.tensor([u * depth, v * depth, depth], dtype=torch.float64)
        torch.testing.assert_close(projected[n, :3], wanted)


def test_memory_reads_the_oldest_frame_where_older_ones_are_missing() -> None:
    history = FrameHistoryConfig(frames=3, channels=2).build(GEOMETRY)
    state = history.initial_state(1, None, torch.float32)
    read = []
    for number in range(6):
        step = inputs(0, number, number % 5)  # the last frame starts again
        maps = Pyramid(*(torch.full((1, 6, *m.shape[3:]), float(number)) for m in state.maps))
        frames, state = history(maps, step.cameras, state, step.control, step.augmentation)
        at = frames.frame_BT[0]
        read.append([frames.maps.stride8[0, i, 0, 0, 0, 0].item() for i in at])
    assert read == [
        [0, 0, 0, 0],
        [1, 0, 0, 0],
        [2, 1, 0, 0],
        [3, 2, 1, 0],
        [4, 3, 2, 1],
        [5, 5, 5, 5],
    ]


def test_augmented_grid_is_seen_where_the_plain_one_is() -> None:
    history = FrameHistoryConfig(frames=1, channels=2).build(GEOMETRY)
    step = inputs(0, 0, 0)
    state = history.initial_state(1, None, torch.float32)
    maps = Pyramid(*(m[:, 0] for m in state.maps))
    turn = torch.tensor([[[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    plain, _ = history(maps, step.cameras, state, step.control, step.augmentation)
    turned, _ = history(maps, step.cameras, state, step.control, GridAugmentation.of(turn))
    place = torch.tensor([3.0, 1.0, 0.5, 1.0])
    there = torch.cat([turn[0] @ place[:3], place[3:]])
    torch.testing.assert_close(
        turned.pixel_T_grid_BTN44 @ there, plain.pixel_T_grid_BTN44 @ place, rtol=1e-5, atol=1e-4
    )


def test_a_grid_that_blocks_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"do not fill a grid of \(20, 32, 16\)"):
        SparseGeometry((64, 96), VoxelGrid((0, 0, 0), (1, 1, 1), (20, 32, 16)), 6)


def test_small_configuration_keeps_every_part_but_the_sizes() -> None:
    config, full = small_config(), small_config("sparseocc_even")
    assert replace(full, masks=config.masks) == config
