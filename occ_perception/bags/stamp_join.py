"""What belongs to a stamp: walking through two recordings side by side."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar


class Stamped(Protocol):
    """Anything that belongs to one instant."""

    @property
    def stamp_ns(self) -> int:
        """The instant."""


Item = TypeVar("Item", bound=Stamped)


class StampJoin(Generic[Item]):
    """Walks through stamped things beside something else that walks.

    Args:
        items: in the order of their stamps.
        tolerance_ns: how far from a stamp a thing may lie that belongs to it.
    """

    def __init__(self, items: Iterable[Item], tolerance_ns: int = 20_000_000) -> None:
        self._items = iter(items)
        self._tolerance = tolerance_ns
        self._nearest: Item | None = next(self._items, None)
        self._next: Item | None = next(self._items, None)

    def at(self, stamp_ns: int) -> Item | None:
        """The thing nearest to that stamp; what comes before it is passed over."""
        while self._next is not None and self._nearest is not None:
            if abs(self._next.stamp_ns - stamp_ns) > abs(self._nearest.stamp_ns - stamp_ns):
                break
            self._nearest, self._next = self._next, next(self._items, None)
        if self._nearest is None or abs(self._nearest.stamp_ns - stamp_ns) > self._tolerance:
            return None
        return self._nearest


def nearest_stamp(stamps: Sequence[int], stamp_ns: int) -> int | None:
    """Position of the nearest of sorted stamps; None where there are none."""
    if not stamps:
        return None
    at = bisect_left(stamps, stamp_ns)
    around = [n for n in (at - 1, at) if 0 <= n < len(stamps)]
    return min(around, key=lambda n: abs(stamps[n] - stamp_ns))
