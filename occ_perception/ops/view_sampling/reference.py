"""View sampling in plain torch.

Legend: B batch, F frames in memory, T frames looked at, N cameras, Q queries, G channel groups,
P places per group, L levels of a feature pyramid, h, w pixels of a level, C channels of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_NEAREST = 1e-5


class Views(NamedTuple):
    """Where places are seen.

    Attributes:
        camera_BTQGP: int64, the first camera that sees the place, 0 where none does.
        u_BTQGP, v_BTQGP: position in that camera's picture, 0 to 1 from edge to edge; outside
            that range where no camera sees the place.
    """

    camera_BTQGP: Tensor
    u_BTQGP: Tensor
    v_BTQGP: Tensor


def first_views(
    places_BQGP3: Tensor, pixel_T_grid_BTN44: Tensor, input_size: tuple[int, int]
) -> Views:
    """The first camera, in the order of the camera axis, that each place is seen by.

    A place is seen where it lies in front of the camera and strictly inside the picture
    (SparseOcc, arXiv 2312.17118; the sampling is that of SparseBEV, arXiv 2308.09244).

    Args:
        places_BQGP3: metres, in the grid's frame.
        pixel_T_grid_BTN44: places to (u depth, v depth, depth) in input pixels.
        input_size: height and width of the pictures.
    """
    B, Q, G, P, _ = places_BQGP3.shape
    places_B3S = places_BQGP3.flatten(1, 3).mT[:, None, None]
    rows = pixel_T_grid_BTN44[..., :3, :]
    x, y, depth = (rows[..., :3] @ places_B3S + rows[..., 3:]).unbind(-2)
    height, width = input_size
    before = depth.clamp(min=_NEAREST)
    u, v = x / before / width, y / before / height
    seen = (depth > _NEAREST) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
    camera = seen.to(torch.uint8).argmax(dim=2, keepdim=True)  # of several maxima the first
    found = (camera, u.gather(2, camera), v.gather(2, camera))
    return Views(*(part.view(B, -1, Q, G, P) for part in found))


def sample_views(
    levels: Sequence[Tensor], frame_BT: Tensor, views: Views, shares_BTQGPL: Tensor
) -> Tensor:
    """Features at places, mixed over the levels of a pyramid.

    Each level is interpolated linearly between pixels; pixel 0 is met at position 0 and the last
    one at position 1, and pixels outside count as zero (``grid_sample`` with zero padding, aligned
    corners). Channels of group g are read at the places of group g.

    Args:
        levels: maps (B, F, N, h, w, G * C), one per level.
        frame_BT: int64, which of the F frames is looked at.
        views: from :func:`first_views`.
        shares_BTQGPL: weight of each level.

    Returns:
        (B, Q, G, T, P, C).
    """
    B, T, Q, G, P = views.camera_BTQGP.shape
    frames, cameras = levels[0].shape[1:3]
    slot = frame_BT + frames * torch.arange(B, device=frame_BT.device)[:, None]
    picture = slot.view(B, T, 1, 1, 1) * cameras + views.camera_BTQGP
    picture, u, v = (part.permute(0, 2, 3, 1, 4) for part in (picture, *views[1:]))
    group = torch.arange(G, device=frame_BT.device).view(G, 1, 1)
    shares = shares_BTQGPL.permute(0, 2, 3, 1, 4, 5).unbind(-1)
    total: Tensor | None = None
    for level, share in zip(levels, shares, strict=True):
        h, w, channels = level.shape[3:]
        corners, weights = [], []
        for row, row_weight in _neighbours(v * (h - 1), h):
            for column, column_weight in _neighbours(u * (w - 1), w):
                pixel = (picture * h + row) * w + column
                corners.append((pixel * G + group).int().flatten())
                weights.append((share * row_weight * column_weight).flatten())
        sampled = F.embedding_bag(
            torch.stack(corners, dim=-1),
            level.reshape(-1, channels // G),
            mode="sum",
            per_sample_weights=torch.stack(weights, dim=-1),
        )
        total = sampled if total is None else total + sampled
    assert total is not None
    return total.view(B, Q, G, T, P, -1)


def _neighbours(position: Tensor, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The two nodes around each position and their weights, zero outside 0..count - 1."""
    low = position.floor()
    upper = position - low
    for node, weight in ((low, 1.0 - upper), (low + 1.0, upper)):
        inside = (node >= 0) & (node < count)
        # Places behind a camera lie far outside: too far for an integer.
        yield torch.where(inside, node, 0.0).long(), torch.where(inside, weight, 0.0)
