"""Stereo cost as one GPU kernel; importing this module loads the package triton.

Nothing of the size of (pixels, depths, channels) is ever stored: a sample is interpolated, compared
and added up while it is in the registers. Not measured on a GPU.

Legend: n cameras of the batch, C channels, D depth bins, h, w feature pixels, P = h * w.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

# A program's part of a camera. Neighbouring lanes are neighbouring pixels of one depth, whose
# samples share cache lines, and the depths of a program reread the same lines.
DEPTHS = 4
PIXELS = 64
WARPS = 4
_GROUP = tl.constexpr(4)


@triton.jit
def _axis(place, count: tl.constexpr):
    """Both nodes along one axis and their shares; a node outside has none."""
    low = tl.floor(place)
    upper = place - low
    first = (low >= 0) & (low < count)
    second = (low + 1.0 >= 0) & (low + 1.0 < count)
    return (
        tl.where(first, low, 0.0).to(tl.int32),
        tl.where(second, low + 1.0, 0.0).to(tl.int32),
        tl.where(first, 1.0 - upper, 0.0),
        tl.where(second, upper, 0.0),
    )


@triton.jit
def cost_kernel(
    now_nCP,
    then_nCP,
    places_nPD2,
    cost_nDP,
    outside_cost,
    C: tl.constexpr,
    D: tl.constexpr,
    h: tl.constexpr,
    w: tl.constexpr,
    DEPTHS: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Costs of PIXELS pixels of a camera at DEPTHS depths, in one program.

    One index runs over both, so that all values of a sample lie in the same lane.
    """
    P: tl.constexpr = h * w
    i = tl.arange(0, DEPTHS * PIXELS)
    pixel = tl.program_id(0) * PIXELS + i % PIXELS
    depth = tl.program_id(1) * DEPTHS + i // PIXELS
    camera = tl.program_id(2).to(tl.int64)
    live = (pixel < P) & (depth < D)
    # Lanes past the end repeat the first sample and store nothing.
    source = tl.where(live, pixel, 0)
    place = places_nPD2 + camera * (P * D * 2) + (source * D + tl.where(live, depth, 0)) * 2
    top, bottom, above, below = _axis(tl.load(place).to(tl.float32), h)
    left, right, before, behind = _axis(tl.load(place + 1).to(tl.float32), w)
    share_a, share_b = above * before, above * behind
    share_c, share_d = below * before, below * behind
    now = now_nCP + camera * (C * P) + source
    then = then_nCP + camera * (C * P)
    a, b = then + (top * w + left), then + (top * w + right)
    c, d = then + (bottom * w + left), then + (bottom * w + right)
    total = tl.full([DEPTHS * PIXELS], 0.0, tl.float32)
    probe = total
    for first in range(0, C, _GROUP):
        group = tl.full([DEPTHS * PIXELS], 0.0, tl.float32)
        for k in tl.static_range(_GROUP):
            plane = (first + k) * P
            match = share_a * tl.load(a + plane).to(tl.float32)
            match = match + share_b * tl.load(b + plane).to(tl.float32)
            match = match + share_c * tl.load(c + plane).to(tl.float32)
            match = match + share_d * tl.load(d + plane).to(tl.float32)
            if k == 0:
                probe = match
            group = group + tl.abs(match - tl.load(now + plane).to(tl.float32))
        total = total + group
    cost = total + tl.where(probe == 0.0, outside_cost, 0.0)
    out = cost_nDP + camera * (D * P) + depth * P + pixel
    tl.store(out, cost.to(cost_nDP.dtype.element_ty), mask=live)


@triton_op("occ_perception::stereo_cost", mutates_args={})
def stereo_cost(
    current_nChw: Tensor, previous_nChw: Tensor, position_nhwD2: Tensor, outside_cost: float
) -> Tensor:
    """See :func:`occ_perception.ops.stereo_cost.stereo_cost`; positions are float32.

    Features in half precision are compared and added up in single precision; the sums are rounded
    to the features' format.
    """
    n, C, h, w = current_nChw.shape
    D = position_nhwD2.shape[3]
    cost_nDhw = torch.empty((n, D, h, w), dtype=current_nChw.dtype, device=current_nChw.device)
    grid = (triton.cdiv(h * w, PIXELS), triton.cdiv(D, DEPTHS), n)
    # Products and sums are rounded apart, as in the reference on a CPU. A compiler that builds the
    # launch into a graph of its own has no such option, and may round a pair once.
    rounding = {} if torch.compiler.is_compiling() else {"enable_fp_fusion": False}
    wrap_triton(cost_kernel)[grid](
        current_nChw.contiguous(),
        previous_nChw.contiguous(),
        position_nhwD2.contiguous(),
        cost_nDhw,
        outside_cost,
        C=C,
        D=D,
        h=h,
        w=w,
        DEPTHS=DEPTHS,
        PIXELS=PIXELS,
        num_warps=WARPS,
        **rounding,
    )
    return cost_nDhw
