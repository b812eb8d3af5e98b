"""Linear sampling: values between the nodes of tables, and features at places that cameras see.

Legend: B batch, P sampled places, A axes of the table (2 or 3), C channels. Of cameras: F frames in
memory, T frames looked at, N cameras, Q queries, G channel groups, P places per group, L levels of
a feature pyramid, h, w pixels of a level, C channels of a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS_AT_ONCE = 65536
_NEAREST = 1e-5


class Corners(NamedTuple):
    """Where sampled places get their values from.

    Attributes:
        row: (B * P, 2^A) int32, into the flattened table.
        share: (B * P, 2^A), zero for corners outside the table.
    """

    row: Tensor
    share: Tensor


def linear_corners(position_BPA: Tensor, sizes: tuple[int, ...]) -> Corners:
    """The nodes around each place; node i is met exactly at position i.

    The corners are found once and serve every table of the same sizes. Corners outside count as
    zero and the rest is not renormalised (``grid_sample`` with zero padding, aligned corners).

    Args:
        position_BPA: in nodes, one coordinate per axis of the table, in the table's axis order.
        sizes: of the table's axes.
    """
    low_BPA = position_BPA.floor()
    upper_BPA = position_BPA - low_BPA
    ends = []
    for axis, count in enumerate(sizes):
        low, upper = low_BPA[..., axis], upper_BPA[..., axis]
        both = ((low, 1.0 - upper), (low + 1.0, upper))
        inside = [(node >= 0) & (node < count) for node, _ in both]
        ends.append(
            [
                (torch.where(ok, node, 0).int(), torch.where(ok, share, 0))
                for ok, (node, share) in zip(inside, both, strict=True)
            ]
        )
    nodes_per_slot = 1
    for count in sizes:
        nodes_per_slot *= count
    slots = torch.arange(len(position_BPA), dtype=torch.int32, device=position_BPA.device)
    indices, weights = [], []
    for corner in product(*ends):
        index, weight = slots[:, None], torch.ones_like(position_BPA[..., 0])
        for count, (node, share) in zip(sizes, corner, strict=True):
            index, weight = index * count + node, weight * share
        indices.append(index.flatten())
        weights.append(weight.flatten())
    return Corners(torch.stack(indices, dim=-1), torch.stack(weights, dim=-1))


def sample_rows(table_BNC: Tensor, corners: Corners, out_BPC: Tensor | None = None) -> Tensor:
    """Interpolated rows (B, P, C) of a table whose axes are flattened to N.

    A weighted bag of 4 or 8 rows per place, with the channels contiguous.

    Args:
        table_BNC: the table.
        corners: of the places.
        out_BPC: where to write, without gradients; a new tensor unless given.
    """
    B, _, C = table_BNC.shape
    share = corners.share.to(table_BNC.dtype)
    rows = table_BNC.reshape(-1, C)
    if out_BPC is None:
        return _bags(corners.row, rows, share).view(B, -1, C)
    P = out_BPC.shape[1]
    for slot, out in enumerate(out_BPC):
        for part in row_parts(P, out.device):
            places = slice(slot * P + part.start, slot * P + part.stop)
            out[part] = _bags(corners.row[places], rows, share[places])
    return out_BPC


def row_parts(count: int, device: torch.device) -> list[slice]:
    """Slices that cover ``count`` rows: on a CPU small enough that what is computed of them in
    between stays in the cache, elsewhere all rows at once.
    """
    at_once = _ROWS_AT_ONCE if device.type == "cpu" else max(count, 1)
    return [slice(first, min(first + at_once, count)) for first in range(0, count, at_once)]


def _bags(row: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    if torch.compiler.is_exporting():  # other runtimes have no bags
        corners = zip(row.unbind(-1), share.unbind(-1), strict=True)
        return torch.stack([rows[r.long()] * s[:, None] for r, s in corners]).sum(dim=0)
    return F.embedding_bag(row, rows, mode="sum", per_sample_weights=share)


class Views(NamedTuple):
    """Where places are seen.

    Attributes:
        camera_BTQGP: int64, the first camera that sees the place, 0 where none does.
        u_BTQGP, v_BTQGP: position in that camera's image, 0 to 1 from edge to edge; outside
            that range where no camera sees the place.
    """

    camera_BTQGP: Tensor
    u_BTQGP: Tensor
    v_BTQGP: Tensor


def first_views(
    places_BQGP3: Tensor, pixel_T_grid_BTN44: Tensor, input_size: tuple[int, int]
) -> Views:
    """The first camera, in the order of the camera axis, that each place is seen by.

    A place is seen where it lies in front of the camera and strictly inside the image
    (SparseOcc, arXiv 2312.17118; the sampling is that of SparseBEV, arXiv 2308.09244).

    Args:
        places_BQGP3: metres, in the grid's frame.
        pixel_T_grid_BTN44: places to (u depth, v depth, depth) in input pixels.
        input_size: height and width of the images.
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
    image = slot.view(B, T, 1, 1, 1) * cameras + views.camera_BTQGP
    image, u, v = (part.permute(0, 2, 3, 1, 4) for part in (image, *views[1:]))
    group = torch.arange(G, device=frame_BT.device).view(G, 1, 1)
    shares = shares_BTQGPL.permute(0, 2, 3, 1, 4, 5).unbind(-1)
    total: Tensor | None = None
    for level, share in zip(levels, shares, strict=True):
        h, w, channels = level.shape[3:]
        corners, weights = [], []
        for row, row_weight in _neighbours(v * (h - 1), h):
            for column, column_weight in _neighbours(u * (w - 1), w):
                pixel = (image * h + row) * w + column
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
