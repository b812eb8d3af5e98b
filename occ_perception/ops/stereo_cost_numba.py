"""Stereo cost in compiled loops for CPUs; importing this module loads the package numba.

Nothing of the size of (pixels, depths, channels) is ever stored: a sample is interpolated,
compared and added up while it is in the registers.

Legend: n cameras of the batch, C channels in G groups of four, D depth bins, h, w feature pixels,
P = h * w.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from occ_perception.ops.compiled import kernel

# Depth hypotheses that are added up side by side: each sum has to wait for its last addition.
_SIDE_BY_SIDE = 8
_GROUP = 4


@kernel
def _axis(place: Any, count: int) -> Any:
    """Both nodes along one axis and their shares; a node outside has none."""
    low = math.floor(place)
    upper = np.float32(place - np.float32(low))
    first, second = int(low), int(low) + 1
    lower = np.float32(1.0) - upper
    if first < 0 or first >= count:
        first, lower = 0, np.float32(0.0)
    if second < 0 or second >= count:
        second, upper = 0, np.float32(0.0)
    return first, second, lower, upper


@kernel
def _group_sums(now: Any, then: Any, row: float, column: float, h: int, w: int, sums: Any) -> Any:
    """Absolute differences of one sample, added within groups; returns the probe channel."""
    G = sums.shape[0]
    top, bottom, above, below = _axis(row, h)
    left, right, before, behind = _axis(column, w)
    a, b = then[top * w + left], then[top * w + right]
    c, d = then[bottom * w + left], then[bottom * w + right]
    wa, wb, wc, wd = above * before, above * behind, below * before, below * behind
    for g in range(G):
        total = np.float32(0.0)
        for channel in range(g, _GROUP * G, G):
            match = wa * a[channel] + wb * b[channel] + wc * c[channel] + wd * d[channel]
            total += abs(match - now[channel])
        sums[g] = total
    probe = G - 1
    return wa * a[probe] + wb * b[probe] + wc * c[probe] + wd * d[probe]


@kernel
def _cost_of_pixels(
    now_PC: Any,
    then_PC: Any,
    places_PD2: Any,
    h: int,
    w: int,
    outside: Any,
    sums: Any,
    totals: Any,
    cost_PD: Any,
) -> None:
    D, G = cost_PD.shape[1], sums.shape[1]
    for pixel in range(cost_PD.shape[0]):
        for start in range(0, D, _SIDE_BY_SIDE):
            count = min(_SIDE_BY_SIDE, D - start)
            for k in range(count):
                row, column = places_PD2[pixel, start + k, 0], places_PD2[pixel, start + k, 1]
                probe = _group_sums(now_PC[pixel], then_PC, row, column, h, w, sums[k])
                cost_PD[pixel, start + k] = outside if probe == 0.0 else np.float32(0.0)
            for k in range(_SIDE_BY_SIDE):
                totals[k] = sums[k, 0]
            for g in range(1, G):
                for k in range(_SIDE_BY_SIDE):
                    totals[k] += sums[k, g]
            for k in range(count):
                cost_PD[pixel, start + k] += totals[k]


def stereo_cost(
    current_nChw: Tensor, previous_nChw: Tensor, position_nhwD2: Tensor, outside_cost: float
) -> Tensor:
    """See :func:`occ_perception.ops.stereo_cost.stereo_cost`; float32 on a CPU."""
    n, _, h, w = current_nChw.shape
    D = position_nhwD2.shape[3]
    now, then = _by_place_in_group(current_nChw), _by_place_in_group(previous_nChw)
    places = position_nhwD2.reshape(n, h * w, D, 2).contiguous().numpy()
    cost = np.empty((n, h * w, D), np.float32)
    threads = torch.get_num_threads()
    bounds = np.linspace(0, h * w, threads + 1).astype(int)

    def work(part: int) -> None:
        sums = np.zeros((_SIDE_BY_SIDE, now.shape[2] // _GROUP), np.float32)
        totals = np.zeros(_SIDE_BY_SIDE, np.float32)
        pixels = slice(bounds[part], bounds[part + 1])
        for camera in range(n):
            _cost_of_pixels(
                now[camera, pixels],
                then[camera],
                places[camera, pixels],
                h,
                w,
                np.float32(outside_cost),
                sums,
                totals,
                cost[camera, pixels],
            )

    if threads == 1:
        work(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, range(threads)))
    return torch.from_numpy(cost).view(n, h, w, D).movedim(-1, 1)


def _by_place_in_group(features_nChw: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(n, P, C) with all first channels of the groups in front, then all second ones, ...

    So that the sums of all groups are made at once.
    """
    n, C, h, w = features_nChw.shape
    groups = features_nChw.detach().reshape(n, C // _GROUP, _GROUP, h * w).permute(0, 3, 2, 1)
    by_place: np.ndarray[Any, np.dtype[np.float32]] = groups.flatten(2).contiguous().numpy()
    return by_place
