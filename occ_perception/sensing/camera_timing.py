"""The timing of cameras as observed in their stamps: their period, and the tolerance it calls for.

Cameras that are triggered one after another, as by a lidar that sweeps over them, have a constant
phase. The images of one trigger then have a constant spread, and the tightest mixture of two
triggers a constant larger one. The tolerance lies halfway between the two.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

UNOBSERVED_TOLERANCE_NS = 50_000_000
"""Tolerance while too few images have been observed. The images of a sweep of nuScenes spread over
43 ms, those of two sweeps mixed over 73 ms and more."""

_FEWEST_OBSERVATIONS = 4
_JITTERS = 4
"""Frame sets may be wider than usual by this many times the usual deviation of their spread."""


def observed_period(stamps: Sequence[int]) -> int | None:
    """Usual time between two images: the median, the lower one of two; None for fewer than two.

    Args:
        stamps: stamps of a camera, ascending.
    """
    if len(stamps) < 2:
        return None
    steps = sorted(after - before for before, after in pairwise(stamps))
    return steps[(len(steps) - 1) // 2]


def observed_tolerance(stamps: Mapping[str, Sequence[int]]) -> int | None:
    """The spread in ns that tells the images of one trigger from mixtures of two triggers.

    For every image of the slowest camera there is a tightest group around it with an image of every
    camera, and a second tightest, which mixes two triggers. The tolerance is the middle between
    their spreads, or more where spreads vary as much as in cameras without a common trigger. Lost
    images make single groups wider; the lower quartile is not affected by them.

    Args:
        stamps: stamps of each camera, ascending.

    Returns:
        The tolerance; None for a single camera, or if there are too few images of some camera.
    """
    if len(stamps) < 2 or min(map(len, stamps.values())) < _FEWEST_OBSERVATIONS:
        return None
    groups = _tight_groups(stamps)
    begins, ends = [begin for begin, _, _ in groups], [end for _, end, _ in groups]
    slowest = min(stamps, key=lambda camera: len(stamps[camera]))
    tightest, middles = [], []
    for place in _places(stamps, slowest):
        around = groups[bisect_left(ends, place) : bisect_right(begins, place)]
        if len(around) > 1:
            first, second = sorted(spread for _, _, spread in around)[:2]
            tightest.append(first)
            middles.append((first + second) // 2)
    if len(tightest) < _FEWEST_OBSERVATIONS:
        return None
    low, usual = np.quantile(tightest, (0.05, 0.25), method="lower").tolist()
    middle = int(np.quantile(middles, 0.25, method="lower"))
    return max(middle, int(usual + _JITTERS * (usual - low)))


def _in_order(stamps: Mapping[str, Sequence[int]]) -> list[tuple[int, str]]:
    """(stamp, camera) of all images."""
    return sorted((stamp, camera) for camera, own in stamps.items() for stamp in own)


def _places(stamps: Mapping[str, Sequence[int]], wanted: str) -> list[int]:
    """Where the images of a camera come in the order of all images."""
    return [place for place, (_, camera) in enumerate(_in_order(stamps)) if camera == wanted]


def _tight_groups(stamps: Mapping[str, Sequence[int]]) -> list[tuple[int, int, int]]:
    """(place of the first image, place of the last, spread) of groups with every camera.

    Of the groups that begin with the same image only the one that ends first.
    """
    groups: list[tuple[int, int, int]] = []
    newest: dict[str, tuple[int, int]] = {}
    for place, (stamp, camera) in enumerate(_in_order(stamps)):
        newest[camera] = (place, stamp)
        if len(newest) == len(stamps):
            begin, oldest = min(newest.values())
            if not groups or begin > groups[-1][0]:
                groups.append((begin, place, stamp - oldest))
    return groups
