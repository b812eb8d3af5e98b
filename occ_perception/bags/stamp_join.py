"""Joins sorted streams of items by their stamps."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar


class Stamped(Protocol):
    """An item with a stamp."""

    @property
    def stamp_ns(self) -> int:
        """Time in nanoseconds."""


Item = TypeVar("Item", bound=Stamped)


class StampJoin(Generic[Item]):
    """Finds the item nearest to each of a sequence of increasing stamps, in one pass.

    Args:
        items: items in the order of their stamps.
        tolerance_ns: largest distance between a stamp and its item. Labels of nuScenes are 35 ms
            after the front camera, and 48 ms before its next image.
    """

    def __init__(self, items: Iterable[Item], tolerance_ns: int = 40_000_000) -> None:
        self._items = iter(items)
        self._tolerance = tolerance_ns
        self._nearest: Item | None = next(self._items, None)
        self._next: Item | None = next(self._items, None)

    def at(self, stamp_ns: int) -> Item | None:
        """The item nearest to the stamp, None beyond the tolerance; earlier items are skipped."""
        while self._next is not None and self._nearest is not None:
            if abs(self._next.stamp_ns - stamp_ns) > abs(self._nearest.stamp_ns - stamp_ns):
                break
            self._nearest, self._next = self._next, next(self._items, None)
        if self._nearest is None or abs(self._nearest.stamp_ns - stamp_ns) > self._tolerance:
            return None
        return self._nearest


def nearest_stamp(stamps: Sequence[int], stamp_ns: int) -> int | None:
    """Index of the nearest of sorted stamps; None if there are none."""
    if not stamps:
        return None
    at = bisect_left(stamps, stamp_ns)
    around = [n for n in (at - 1, at) if 0 <= n < len(stamps)]
    return min(around, key=lambda n: abs(stamps[n] - stamp_ns))
