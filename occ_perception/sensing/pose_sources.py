"""One publisher per stream of poses: two at once would mix, and time would seem to go back."""

from __future__ import annotations

_SILENT_S = 1.0
"""After so long without a message another publisher takes over, such as one that was restarted."""


class PoseSources:
    """Remembers which publisher each stream of poses is taken from: the first one that sends.

    A stream is a topic of odometry, or the transforms to one frame.
    """

    def __init__(self) -> None:
        self._taken: dict[str, tuple[bytes, float]] = {}
        """Stream -> its publisher, and the time of its last message."""

    def accepts(self, stream: str, publisher: bytes, now_s: float) -> bool:
        """Whether a message counts; it does not while another publisher sends the stream.

        Args:
            stream: name.
            publisher: identity of the sender.
            now_s: time of arrival.
        """
        owner, last_s = self._taken.get(stream, (publisher, now_s))
        if owner != publisher and now_s - last_s < _SILENT_S:
            return False
        self._taken[stream] = (publisher, now_s)
        return True

    def publisher(self, stream: str) -> bytes:
        """The publisher whose messages count; b"" before the first message."""
        return self._taken.get(stream, (b"", 0.0))[0]
