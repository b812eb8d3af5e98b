"""Stereo cost in plain torch.

Legend: n cameras of the batch, C channels, D depth bins, h, w feature pixels.
"""

from __future__ import annotations

from torch import Tensor

from occ_perception.ops.sampling import linear_corners, sample_rows

# Depth hypotheses handled at once: their sampled features then stay in a CPU's cache. Elsewhere the
# number of launches counts, and memory is the limit.
_PLACES_AT_ONCE_ON_CPU = 2048
_PLACES_AT_ONCE = 1 << 18
# Released models add the channels up four by four, and look for samples without a source in the
# first channel of the last four only. After a ReLU it is also exactly zero inside the image.
_GROUP = 4


def stereo_cost(
    current_nChw: Tensor, previous_nChw: Tensor, position_nhwD2: Tensor, outside_cost: float
) -> Tensor:
    """Sum of absolute differences between a pixel and its match under each depth hypothesis.

    ``cost = sum_c |current_c - previous_c(position)|``, plus ``outside_cost`` where the sampled
    probe channel is exactly 0.0 (plane sweep with L1 matching, BEVStereo, arXiv 2209.10248).

    Args:
        current_nChw: features now.
        previous_nChw: features of the same cameras one frame ago.
        position_nhwD2: (row, column) in ``previous`` that each pixel would have come from.
        outside_cost: added where nothing was seen.

    Returns:
        (n, D, h, w).
    """
    n, C, h, w = current_nChw.shape
    D = position_nhwD2.shape[3]
    on_cpu = current_nChw.device.type == "cpu"
    pixels_at_once = max(1, (_PLACES_AT_ONCE_ON_CPU if on_cpu else _PLACES_AT_ONCE) // D)
    now = current_nChw.movedim(1, -1).reshape(n, h * w, 1, C)
    then = previous_nChw.movedim(1, -1).reshape(n, 1, h * w, C)
    places = position_nhwD2.reshape(n, h * w, D, 2)
    cost = current_nChw.new_empty(n, h * w, D)
    for camera in range(n):
        for first in range(0, h * w, pixels_at_once):
            part = slice(first, min(first + pixels_at_once, h * w))
            corners = linear_corners(places[camera, part].reshape(1, -1, 2), (h, w))
            match = sample_rows(then[camera], corners).view(-1, D, C)
            unseen = match[..., C - _GROUP] == 0.0
            distance = _sum_of_differences(now[camera, part], match)
            cost[camera, part] = distance + outside_cost * unseen
    return cost.view(n, h, w, D).movedim(-1, 1)


def _sum_of_differences(pixel_p1C: Tensor, match_pDC: Tensor) -> Tensor:
    """(p, D) sums over the channels, four by four from first to last.

    The sums reach hundreds and meet a softmax, which turns their last bits into visible
    differences: the order of additions is kept as trained.
    """
    difference = (match_pDC - pixel_p1C).abs_().view(*match_pDC.shape[:2], -1, _GROUP)
    group = difference[..., 0]
    for channel in range(1, _GROUP):
        group = group + difference[..., channel]
    total: Tensor = group[..., 0].clone()
    for number in range(1, group.shape[-1]):
        total += group[..., number]
    return total
