"""Which cameras send images, judged by the images of the others."""

from __future__ import annotations

from collections.abc import Iterable

from occ_perception.sensing.camera_timing import observed_period

_STEPS = 5
"""Steps between images that a camera's period is observed on."""

_PERIODS = 3
"""Lost images of a slow camera are no silence: it lasts at least so many of its periods."""


class CameraPresence:
    """Tells cameras that have fallen silent from those that send.

    A camera is silent when another one has gone on by more than ``silent_after_ns`` since its last
    image, and by three of its own usual periods. What counts are the stamps that each camera has
    gone on by: neither a clock that is off, nor a paused or slow replay, nor a stop of all cameras
    makes one silent. It is present again with its next image.

    Args:
        cameras: names.
        silent_after_ns: as above.
    """

    def __init__(self, cameras: Iterable[str], silent_after_ns: int) -> None:
        self._silent_after_ns = silent_after_ns
        self._stamps: dict[str, list[int]] = {camera: [] for camera in cameras}
        self._others: dict[str, dict[str, int]] = {camera: {} for camera in self._stamps}
        """Camera -> each other camera's first stamp since its last image."""
        self._silent: set[str] = set()

    @property
    def silent(self) -> tuple[str, ...]:
        """The silent cameras, in the order given."""
        return tuple(camera for camera in self._stamps if camera in self._silent)

    @property
    def present(self) -> tuple[str, ...]:
        """The others."""
        return tuple(camera for camera in self._stamps if camera not in self._silent)

    def saw(self, camera: str, stamp_ns: int) -> bool:
        """Take note of an image; returns whether :attr:`present` has changed."""
        before = len(self._silent), camera in self._silent
        self._stamps[camera] = sorted({*self._stamps[camera], stamp_ns})[-_STEPS - 1 :]
        self._others[camera] = {}
        self._silent.discard(camera)
        for other, since in self._others.items():
            first_ns = since.setdefault(camera, stamp_ns) if other != camera else stamp_ns
            if stamp_ns - first_ns > self._patience_ns(other):
                self._silent.add(other)
        return before != (len(self._silent), False)

    def reset(self) -> None:
        """Forget the stamps, after time went back; silent cameras stay silent."""
        for camera in self._stamps:
            self._stamps[camera], self._others[camera] = [], {}

    def _patience_ns(self, camera: str) -> int:
        period = observed_period(self._stamps[camera]) or 0
        return max(self._silent_after_ns, _PERIODS * period)
