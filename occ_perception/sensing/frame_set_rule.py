"""The frame set rule, on stamps alone: which images form one frame set.

A frame set has one image of the reference camera and at most one of every other camera; newest
minus oldest stamp stays within the tolerance. No image is used twice. Among all ways to choose
complete frame sets the rule takes those with the most of them, among these the ones with the
smallest sum of spreads, and among these the earliest images. A reference image that is in no
complete frame set then takes what is left around it: the most cameras, then the smallest spread,
then the earliest images.

Frame sets never cross: of two, one has the earlier image of every camera. Swapping crossed images
makes no spread larger, so nothing is lost by it, and the choice becomes a shortest path through
the frame sets in the order of time (:func:`complete_sets`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence

Stamps = Mapping[str, Sequence[int]]
"""Camera -> stamps of its images in nanoseconds, ascending, each once."""

Chosen = dict[str, int]
"""Camera -> stamp of its image, for the cameras of one frame set."""

_Choice = tuple[int, ...]
"""One position per camera in the camera's list of stamps."""


def frame_sets_of(stamps: Stamps, reference_camera: str, tolerance_ns: int) -> list[Chosen]:
    """The frame sets of a drive, in the order of their reference stamps.

    Args:
        stamps: the images of every camera of a complete frame set.
        reference_camera: one of these cameras.
        tolerance_ns: largest spread of a frame set.

    Returns:
        One frame set for each image of the reference camera, complete or not. One that consists of
        its reference image alone may be an image too many, see :func:`is_surplus`.
    """
    sets: list[Chosen] = []
    references = stamps[reference_camera]
    begin = dict.fromkeys(stamps, 0)
    for whole in (*complete_sets(stamps, tolerance_ns), None):
        end = {
            camera: len(own) if whole is None else bisect_left(own, whole[camera], begin[camera])
            for camera, own in stamps.items()
        }
        sets += [
            _take(stamps, begin, end, reference_camera, reference, tolerance_ns)
            for reference in references[begin[reference_camera] : end[reference_camera]]
        ]
        if whole is not None:
            sets.append(whole)
            begin = {camera: position + 1 for camera, position in end.items()}
    return sets


def complete_sets(stamps: Stamps, tolerance_ns: int) -> list[Chosen]:
    """The most complete frame sets; among these the smallest sum of spreads, then the earliest.

    The k-th frame set of every choice lies, camera by camera, between the k-th of the choice that
    takes everything as early as possible and that of the one as late as possible. Where the two
    agree there is nothing to choose.
    """
    cameras = tuple(stamps)
    lists = [stamps[camera] for camera in cameras]
    earliest = _as_early_as_possible(lists, tolerance_ns)
    latest = _as_late_as_possible(lists, tolerance_ns)
    search = _Search(lists, tolerance_ns, list(zip(earliest, latest, strict=True)))
    return [
        {camera: own[k] for camera, own, k in zip(cameras, lists, choice, strict=True)}
        for choice in search.best()
    ]


class _Search:
    """The shortest path through frame sets in the order of time.

    A state after k frame sets is the images of the k-th. One that is later in every camera than
    another, and costs no less, is dropped. Where many remain, a narrow search first finds an upper
    limit of the cost; then those are dropped that cannot stay below it.

    Args:
        lists: stamps of each camera.
        tolerance: largest spread.
        ranges: for each frame set its earliest and its latest images.
    """

    def __init__(
        self, lists: list[Sequence[int]], tolerance: int, ranges: list[tuple[_Choice, _Choice]]
    ) -> None:
        self._lists = lists
        self._tolerance = tolerance
        self._ranges = ranges
        self._still_to_come: list[int] | None = None
        self._limit = 0

    def best(self) -> list[_Choice]:
        """The images of each frame set."""
        layers, is_exact = self._layers(width=_NARROW)
        if not is_exact:
            self._limit = min(cost for cost, _ in layers[-1].values())
            self._still_to_come = self._least_costs_to_come()
            layers, _ = self._layers(width=None)
        choice = min(layers[-1], key=lambda choice: layers[-1][choice][0])
        path: list[_Choice] = []
        for layer in reversed(layers[1:]):
            path.append(choice)
            choice = layer[choice][1]
        return path[::-1]

    def _layers(self, width: int | None) -> tuple[list[_Layer], bool]:
        none = (-1,) * len(self._lists)
        layers: list[_Layer] = [{none: (0, none)}]
        is_exact = True
        for number, (first, last) in enumerate(self._ranges, 1):
            layer = _without_dominated(self._following(number, layers[-1], first, last))
            if width is not None and len(layer) > width:
                is_exact = False
                layer = dict(list(layer.items())[:width])
            layers.append(layer)
        return layers, is_exact

    def _following(self, number: int, layer: _Layer, first: _Choice, last: _Choice) -> _Layer:
        following: _Layer = {}
        for before, (cost_before, _) in layer.items():
            start = tuple(max(f, b + 1) for f, b in zip(first, before, strict=True))
            for choice, spread in _tighter_and_tighter(self._lists, start, last, self._tolerance):
                cost = cost_before + spread
                if self._still_to_come and cost + self._still_to_come[number] > self._limit:
                    continue
                if choice not in following or cost < following[choice][0]:
                    following[choice] = (cost, before)
        return following

    def _least_costs_to_come(self) -> list[int]:
        """For each number of frame sets the least cost of all later ones."""
        costs = [0]
        for first, last in reversed(self._ranges):
            choices = _tighter_and_tighter(self._lists, first, last, self._tolerance)
            costs.append(costs[-1] + min(spread for _, spread in choices))
        return costs[::-1]


_NARROW = 16
_Layer = dict[_Choice, tuple[int, _Choice]]
"""Images of the k-th frame set -> smallest sum of spreads up to it, images of the one before."""


def is_surplus(frame_set: Chosen, stamps: Stamps, periods: Mapping[str, int]) -> bool:
    """Whether a reference image alone is one too many, as of a reference camera at a higher rate.

    It is if some other camera has an image as near to it as ever: that camera lost none. Its image
    is then in a frame set of another reference image.

    Args:
        frame_set: a frame set.
        stamps: all images, also those in other frame sets.
        periods: camera -> its usual time between two images; cameras without one lost an image.
    """
    if len(frame_set) > 1 or len(stamps) == 1:
        return False
    ((reference_camera, reference),) = frame_set.items()
    others = (camera for camera in stamps if camera != reference_camera)
    return any(
        camera in periods and not _lacks_image(stamps[camera], reference, periods[camera])
        for camera in others
    )


def may_become_tighter(frame_set: Chosen, later: Stamps) -> bool:
    """Whether later images in place of some of a frame set's, but not of all, make it tighter."""
    lists: list[Sequence[int]] = [[stamp, *later[camera]] for camera, stamp in frame_set.items()]
    first = (0,) * len(lists)
    last = tuple(len(own) - 1 for own in lists)
    spread = max(frame_set.values()) - min(frame_set.values())
    choices = _tighter_and_tighter(lists, first, last, spread)
    return any(choice != first and 0 in choice for choice, _ in choices)


def _lacks_image(stamps: Sequence[int], at: int, period: int) -> bool:
    """Whether a camera has no image as near to a time as its period leads to expect."""
    position = bisect_left(stamps, at)
    nearest = min(abs(stamp - at) for stamp in stamps[max(0, position - 1) : position + 1])
    return 4 * nearest > 3 * period


def _as_early_as_possible(lists: list[Sequence[int]], tolerance: int) -> Iterator[_Choice]:
    """Disjoint complete sets, each as early as possible in every camera; no choice has more."""
    at = [0] * len(lists)
    while all(k < len(own) for k, own in zip(at, lists, strict=True)):
        heads = [own[k] for k, own in zip(at, lists, strict=True)]
        oldest_allowed = max(heads) - tolerance
        if min(heads) >= oldest_allowed:
            yield tuple(at)
            at = [k + 1 for k in at]
        else:
            at = [
                k if head >= oldest_allowed else bisect_left(own, oldest_allowed, k)
                for k, own, head in zip(at, lists, heads, strict=True)
            ]


def _as_late_as_possible(lists: list[Sequence[int]], tolerance: int) -> list[_Choice]:
    """The same as late as possible: early in the time that runs backwards."""
    backwards: list[Sequence[int]] = [[-stamp for stamp in reversed(own)] for own in lists]
    choices = _as_early_as_possible(backwards, tolerance)
    ends = [len(own) - 1 for own in lists]
    late = [tuple(end - k for end, k in zip(ends, choice, strict=True)) for choice in choices]
    return late[::-1]


def _tighter_and_tighter(
    lists: list[Sequence[int]], start: _Choice, last: _Choice, tolerance: int
) -> Iterator[tuple[_Choice, int]]:
    """Choices from ``start`` on up to ``last``, with their spreads; each smaller than before.

    The camera with the oldest image moves on by one image at a time. Any other choice with the same
    oldest image is later in some camera and no tighter.
    """
    at = list(start)
    tightest = tolerance + 1
    while all(k <= end for k, end in zip(at, last, strict=True)):
        heads = [own[k] for k, own in zip(at, lists, strict=True)]
        oldest = min(heads)
        spread = max(heads) - oldest
        if spread < tightest:
            tightest = spread
            yield tuple(at), spread
        if spread == 0:
            return
        at[heads.index(oldest)] += 1


def _without_dominated(layer: _Layer) -> _Layer:
    """By cost, without the choices that another one equals or beats in cost and every camera."""
    if len(layer) == 1:
        return layer
    kept: _Layer = {}
    for choice in sorted(layer, key=lambda choice: (layer[choice][0], choice)):
        if not any(all(map(int.__le__, better, choice)) for better in kept):
            kept[choice] = layer[choice]
    return kept


def _take(
    stamps: Stamps,
    begin: dict[str, int],
    end: dict[str, int],
    reference_camera: str,
    reference: int,
    tolerance: int,
) -> Chosen:
    """The best frame set around a reference image among images from ``begin`` to before ``end``.

    Moves ``begin`` behind the images taken. Every possible oldest image is tried; the earliest
    image of every camera from there on gives the smallest spread.
    """
    nearby = {
        camera: own[
            bisect_left(own, reference - tolerance, begin[camera], end[camera]) : bisect_right(
                own, reference + tolerance, begin[camera], end[camera]
            )
        ]
        for camera, own in stamps.items()
        if camera != reference_camera
    }
    starts = {reference, *(s for own in nearby.values() for s in own if s <= reference)}
    best: Chosen = {}
    best_rank = (0, 0)
    for start in sorted(starts):
        chosen = {reference_camera: reference}
        for camera, own in nearby.items():
            position = bisect_left(own, start)
            if position < len(own) and own[position] <= start + tolerance:
                chosen[camera] = own[position]
        rank = (len(chosen), min(chosen.values()) - max(chosen.values()))
        if not best or rank > best_rank:
            best, best_rank = chosen, rank
    for camera, stamp in best.items():
        begin[camera] = bisect_right(stamps[camera], stamp, begin[camera])
    return {camera: best[camera] for camera in stamps if camera in best}
