"""Ray casting against an independent way: intersect each ray with each voxel's box (slabs)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from occ_perception.geometry import VoxelGrid
from occ_perception.metrics import OCC3D_GRID, first_hits
from occ_perception.metrics.counting import MetricsError

GRID = VoxelGrid(lower=(-1.5, -1.0, -0.5), voxel_size=(0.5, 0.5, 0.5), dims=(6, 5, 4))


def unit_vectors(rng: np.random.Generator, count: int) -> np.ndarray:
    directions = rng.normal(size=(count, 3))
    return (directions / np.linalg.norm(directions, axis=1, keepdims=True)).astype(np.float32)


def slab_intervals(origin: np.ndarray, direction: np.ndarray):
    """Per voxel of GRID the ray parameters (metres) of entry and exit; entry > exit: not crossed.

    Works on float32 voxel coordinates, like the reference code.
    """
    edge = np.float32(GRID.voxel_size[0])
    lower = np.array(GRID.lower)
    start = ((origin - lower) / edge).astype(np.float32).astype(np.float64)
    end = ((origin + direction.astype(np.float64) - lower) / edge).astype(np.float32)
    d = end.astype(np.float64) - start
    d /= np.linalg.norm(d)
    corners = np.stack(np.meshgrid(*(np.arange(n) for n in GRID.dims), indexing="ij"), axis=-1)
    with np.errstate(divide="ignore"):
        first, second = (corners - start) / d, (corners + 1 - start) / d
    entry = np.minimum(first, second).max(-1)
    leave = np.maximum(first, second).min(-1)
    return np.maximum(entry, 0.0) * edge, leave * edge


@pytest.mark.parametrize("seed", range(6))
def test_hits_equal_the_nearest_box_the_ray_meets(seed):
    rng = np.random.default_rng(seed)
    occupied = rng.random((2, *GRID.dims)) < (0.05, 0.2, 0.6)[seed % 3]
    inside = rng.uniform(np.array(GRID.lower), np.array(GRID.upper), (3, 3))
    # Slightly below 0 still counts as the first voxel in the reference code, so stay well outside.
    outside = inside[:2] + rng.choice([-1, 1], (2, 3)) * np.array([4.0, 3.5, 3.0])
    origins, directions = np.concatenate([inside, outside]), unit_vectors(rng, 120)
    hits = first_hits(
        torch.from_numpy(occupied), torch.from_numpy(origins), torch.from_numpy(directions), GRID
    )
    missed = met = 0
    for n, (origin, direction) in enumerate((o, d) for o in origins for d in directions):
        entry, leave = slab_intervals(origin, direction)
        crossed = entry < leave
        for volume in range(2):
            voxel = np.unravel_index(int(hits.voxels[volume, n]), GRID.dims)
            distance = float(hits.distances[volume, n])
            if not crossed.any():
                missed += 1
                assert (voxel, distance) == ((0, 0, 0), -0.5)
                continue
            solid = crossed & occupied[volume]
            if solid.any():
                met += 1
                expected = np.unravel_index(np.where(solid, entry, np.inf).argmin(), GRID.dims)
            else:  # the last voxel on the way out
                expected = np.unravel_index(np.where(crossed, leave, -np.inf).argmax(), GRID.dims)
            assert voxel == tuple(expected)
            assert distance == pytest.approx(leave[voxel], abs=1e-5)
    assert missed > 0 and met > 50  # the draw exercised both


def test_axis_parallel_rays_leave_the_hit_voxel_at_its_far_face():
    occupied = torch.zeros(1, *GRID.dims, dtype=torch.bool)
    occupied[0, 4, 2, 1] = True  # x 0.5..1.0
    origin = torch.tensor([[-1.25, 0.25, 0.25]])
    axes = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, 0, -1.0]])
    hits = first_hits(occupied, origin, axes, GRID)
    values = hits.values(occupied)[0]
    assert values.tolist() == [True, False, False, False]
    assert hits.distances[0].tolist() == pytest.approx([2.25, 0.25, 1.25, 0.75])


def test_origin_inside_an_occupied_voxel_hits_at_once():
    occupied = torch.ones(1, *GRID.dims, dtype=torch.bool)
    origin = torch.tensor([[0.25, 0.25, 0.25]])
    hits = first_hits(occupied, origin, torch.tensor([[1.0, 0, 0]]), GRID)
    assert np.unravel_index(int(hits.voxels), GRID.dims) == (3, 2, 1)
    assert float(hits.distances) == pytest.approx(0.25)


def test_diagonal_ray_through_voxel_corners_crosses_z_before_y_before_x():
    # From a voxel centre along (1, 1, 1) all three crossings tie at each corner.
    occupied = torch.zeros(3, *GRID.dims, dtype=torch.bool)
    occupied[0, 1, 1, 2] = True  # after z alone
    occupied[1, 1, 2, 2] = True  # after z and y
    occupied[2, 2, 1, 1] = True  # after x alone: never visited
    origin = torch.tensor([GRID.centers([1, 1, 1]).tolist()])
    hits = first_hits(occupied, origin, torch.ones(1, 3), GRID)
    assert hits.values(occupied)[:, 0].tolist() == [True, True, False]


def test_volumes_are_independent_and_the_ray_order_is_origin_major():
    rng = np.random.default_rng(0)
    occupied = torch.from_numpy(rng.random((7, *GRID.dims)) < 0.2)
    origins = torch.from_numpy(rng.uniform(-1, 1, (3, 3)))
    directions = torch.from_numpy(unit_vectors(rng, 50))
    together = first_hits(occupied, origins, directions, GRID)
    for volume in range(7):
        for row in range(3):
            alone = first_hits(
                occupied[volume : volume + 1], origins[row : row + 1], directions, GRID
            )
            rays = slice(50 * row, 50 * row + 50)
            assert torch.equal(alone.voxels[0], together.voxels[volume, rays])
            assert torch.equal(alone.distances[0], together.distances[volume, rays])


def test_wrong_volumes_are_refused():
    rays = (torch.zeros(1, 3), torch.ones(1, 3))
    with pytest.raises(ValueError, match="of shape"):
        first_hits(torch.zeros(1, 6, 5, 5, dtype=torch.bool), *rays, GRID)
    with pytest.raises(ValueError, match="1 to 7 volumes"):
        first_hits(torch.zeros(8, *GRID.dims, dtype=torch.bool), *rays, GRID)
    flat = VoxelGrid(lower=(0, 0, 0), voxel_size=(0.5, 0.5, 0.25), dims=(2, 2, 2))
    with pytest.raises(MetricsError, match="cubic"):
        first_hits(torch.zeros(1, 2, 2, 2, dtype=torch.bool), *rays, flat)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_the_same_hits():
    rng = np.random.default_rng(0)
    occupied = torch.from_numpy(rng.random((2, *OCC3D_GRID.dims)) < 0.02)
    origins = torch.from_numpy(rng.uniform((-39, -39, 1), (39, 39, 3), (8, 3)))
    directions = torch.from_numpy(unit_vectors(rng, 5000))
    cpu = first_hits(occupied, origins, directions, OCC3D_GRID)
    gpu = first_hits(occupied.cuda(), origins.cuda(), directions.cuda(), OCC3D_GRID)
    assert torch.equal(cpu.voxels, gpu.voxels.cpu())
    torch.testing.assert_close(cpu.distances, gpu.distances.cpu(), atol=1e-5, rtol=0)
