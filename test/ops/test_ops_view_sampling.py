"""View sampling against torch's own sampler, and the choice of cameras against a loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from occ_perception.ops.backend import Views, first_views, sample_views

B, FRAMES, T, N, Q, G, P, C = 2, 4, 3, 3, 5, 2, 2, 4
SIZES = ((6, 10), (3, 5))
IMAGE = (48, 80)


def drawn_cameras(seed: int) -> torch.Tensor:
    """(B, T, N, 4, 4) projections of cameras that look into three directions, with a little noise
    and overlapping fields of view."""
    generator = torch.Generator().manual_seed(seed)
    height, width = IMAGE
    K = torch.eye(4)
    K[:2, :3] = torch.tensor([[30.0, 0, width / 2], [0, 30.0, height / 2]])
    matrices = torch.empty(B, T, N, 4, 4)
    for b in range(B):
        for t in range(T):
            for n in range(N):
                angle = torch.tensor(2.1 * n + 0.1 * t + 0.2 * b)
                s, c = angle.sin(), angle.cos()
                pose = torch.eye(4)
                pose[:3, :3] = torch.stack(
                    [
                        torch.stack([s, -c, 0 * s]),
                        torch.tensor([0, 0, -1.0]),
                        torch.stack([c, s, 0 * s]),
                    ]
                )
                pose[:3, 3] = 0.3 * torch.randn(3, generator=generator)
                matrices[b, t, n] = K @ pose
    return matrices


def drawn_places(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 6 * torch.randn(B, Q, G, P, 3, generator=generator)


def literal_view(place, matrices):
    """The first camera that sees a place, and where, by the definition."""
    height, width = IMAGE
    found = []
    for n, matrix in enumerate(matrices):
        x, y, depth = (matrix[:3, :3] @ place + matrix[:3, 3]).tolist()
        u, v = x / max(depth, 1e-5) / width, y / max(depth, 1e-5) / height
        found.append((n, u, v))
        if depth > 1e-5 and 0 < u < 1 and 0 < v < 1:
            return n, u, v, True
    return (*found[0], False)


def test_the_first_camera_that_sees_a_place_is_taken() -> None:
    places, matrices = drawn_places(0), drawn_cameras(1)
    views = first_views(places, matrices, IMAGE)
    seen = later = 0
    for b in range(B):
        for t in range(T):
            for q in range(Q):
                for g in range(G):
                    for p in range(P):
                        n, u, v, sees = literal_view(places[b, q, g, p], matrices[b, t])
                        assert views.camera_BTQGP[b, t, q, g, p] == n
                        seen, later = seen + sees, later + (sees and n > 0)
                        if sees:
                            assert views.u_BTQGP[b, t, q, g, p].item() == pytest.approx(u, abs=1e-5)
                            assert views.v_BTQGP[b, t, q, g, p].item() == pytest.approx(v, abs=1e-5)
    assert 20 < seen < B * T * Q * G * P - 5  # both kinds of places are there
    assert later > 10


def test_of_two_cameras_the_order_decides() -> None:
    front = drawn_cameras(1)[:1, :1, :1]
    place = torch.tensor([2.0, 0.1, 0.1]).expand(1, 1, 1, 1, 3)
    inverse = torch.linalg.inv(front[0, 0, 0])
    ahead = (inverse @ torch.tensor([40.0 * 5, 24.0 * 5, 5.0, 1.0]))[:3].expand_as(place)
    nudged = front.clone()
    nudged[..., 0, 3] += 5.0
    both = torch.cat([front, nudged], dim=2)
    assert first_views(ahead, both, IMAGE).u_BTQGP.item() == pytest.approx(0.5, abs=1e-4)
    assert first_views(ahead, both.flip(2), IMAGE).u_BTQGP.item() > 0.505


def drawn_levels(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(B, FRAMES, N, h, w, G * C, generator=generator) for h, w in SIZES]


def drawn_views(seed: int) -> Views:
    generator = torch.Generator().manual_seed(seed)
    shape = (B, T, Q, G, P)
    u, v = (1.4 * torch.rand(shape, generator=generator) - 0.2 for _ in range(2))
    return Views(torch.randint(0, N, shape, generator=generator), u, v)


def by_grid_sample(levels, frame_BT, views, shares):
    """One volume per frame, group and level, the cameras along its depth axis."""
    out = torch.zeros(B, Q, G, T, P, C)
    for b in range(B):
        for t in range(T):
            for g in range(G):
                n = views.camera_BTQGP[b, t, :, g]
                place = [views.u_BTQGP[b, t, :, g], views.v_BTQGP[b, t, :, g], n / (N - 1)]
                grid = 2 * torch.stack(place, dim=-1).view(1, 1, Q, P, 3) - 1
                for number, level in enumerate(levels):
                    volume = level[b, frame_BT[b, t]].unflatten(-1, (G, C))[..., g, :]
                    sampled = F.grid_sample(
                        volume.permute(3, 0, 1, 2)[None].double(), grid.double(), align_corners=True
                    )
                    share = shares[b, t, :, g, :, number, None]
                    out[b, :, g, t] += share * sampled[0, :, 0].permute(1, 2, 0).float()
    return out


def test_samples_are_those_of_the_three_dimensional_sampler() -> None:
    levels, views = drawn_levels(2), drawn_views(3)
    frame_BT = torch.tensor([[0, 2, 3], [1, 1, 0]])
    shares = torch.rand(B, T, Q, G, P, len(SIZES), generator=torch.Generator().manual_seed(4))
    got = sample_views(levels, frame_BT, views, shares)
    torch.testing.assert_close(got, by_grid_sample(levels, frame_BT, views, shares))


def test_places_far_outside_give_zero() -> None:
    views = drawn_views(3)
    far = Views(views.camera_BTQGP, torch.full_like(views.u_BTQGP, -3e9), views.v_BTQGP)
    shares = torch.ones(B, T, Q, G, P, len(SIZES))
    frame_BT = torch.zeros(B, T, dtype=torch.int64)
    assert not sample_views(drawn_levels(2), frame_BT, far, shares).any()


def test_gradients_reach_maps_places_and_shares() -> None:
    generator = torch.Generator().manual_seed(5)
    level = torch.randn(1, 1, 2, 3, 4, 2, dtype=torch.float64, generator=generator)
    camera = torch.randint(0, 2, (1, 1, 2, 1, 2), generator=generator)
    u, v = (
        0.1 + 0.8 * torch.rand(camera.shape, dtype=torch.float64, generator=generator)
        for _ in range(2)
    )
    share = torch.rand(*camera.shape, 1, dtype=torch.float64, generator=generator)
    frame_BT = torch.zeros(1, 1, dtype=torch.int64)

    def op(level, u, v, share):
        return sample_views([level], frame_BT, Views(camera, u, v), share)

    inputs = tuple(x.requires_grad_() for x in (level, u, v, share))
    assert torch.autograd.gradcheck(op, inputs)
