"""Adaptive mixing: sampled features through layers whose weights the query itself generates.

Legend: n queries of all slots, E width of a query, G channel groups, P sampled points in, O mixed
points out, C channels of a group.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# A query generates up to 32768 numbers. So many queries at once: their numbers stay in a CPU's
# cache, and take a few hundred megabytes on a GPU.
_QUERIES_AT_ONCE = {"cpu": 128}
_QUERIES_AT_ONCE_ELSEWHERE = 2048


class LinearMap(NamedTuple):
    """``weight @ x + bias``."""

    weight: Tensor
    bias: Tensor


def adaptive_mixing(
    samples_nGPC: Tensor, query_nE: Tensor, generate: LinearMap, merge: LinearMap
) -> Tensor:
    """What the sampled features tell the query (AdaMixer, arXiv 2203.16507).

    Per group, the query generates a channel matrix M (C, C) and a point matrix S (O, P)::

        x = relu(norm(x M))             norm over points and channels together,
        x = relu(norm(S x))             without gain and shift

    and all groups together are brought back to the width of a query.

    Args:
        samples_nGPC: x.
        query_nE: what generates the matrices.
        generate: E to G * (C * C + O * P), per group M and then S.
        merge: G * O * C to E.

    Returns:
        (n, E).
    """
    count = _QUERIES_AT_ONCE.get(samples_nGPC.device.type, _QUERIES_AT_ONCE_ELSEWHERE)
    blocks = zip(torch.split(samples_nGPC, count), torch.split(query_nE, count), strict=True)
    return torch.cat([_mix(samples, query, generate, merge) for samples, query in blocks])


def _mix(samples_nGPC: Tensor, query_nE: Tensor, generate: LinearMap, merge: LinearMap) -> Tensor:
    n, G, P, C = samples_nGPC.shape
    numbers = F.linear(query_nE, *generate).view(n, G, -1)
    channel_nGCC = numbers[..., : C * C].view(n, G, C, C)
    point_nGOP = numbers[..., C * C :].view(n, G, -1, P)
    x = samples_nGPC @ channel_nGCC
    x = F.relu(F.layer_norm(x, x.shape[-2:]))
    x = point_nGOP @ x
    x = F.relu(F.layer_norm(x, x.shape[-2:]))
    return F.linear(x.flatten(1), *merge)
