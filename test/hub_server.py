"""A model hub on loopback, with the headers that its clients read; it can stall within a file."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Hub(ThreadingHTTPServer):
    """Serves one content under every path that ends in ``name``.

    Attributes:
        content: the file.
        checksum: what the server claims its sha256 to be.
        stall_after: bytes after which a download stalls; None = never.
        ranges: ``Range`` header of every download so far; "" if there was none.
    """

    daemon_threads = True

    def __init__(self, name: str, content: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name = name
        self.content = content
        self.checksum = hashlib.sha256(content).hexdigest()
        self.stall_after: int | None = None
        self.ranges: list[str] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._head(0)

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.ranges.append(wanted)
        first = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if not self._head(first):
            return
        last = self.server.stall_after
        self.wfile.write(self.server.content[first:last])
        if last is not None:
            self.wfile.flush()
            self.server.closing.wait(60)

    def _head(self, first: int) -> bool:
        if not self.path.endswith("/" + self.server.name):
            self.send_error(404)
            return False
        size = len(self.server.content)
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{self.server.checksum}"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(size - first))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.end_headers()
        return True

    def log_message(self, *_arguments: object) -> None:
        pass


@contextmanager
def hub_on_loopback(name: str, content: bytes) -> Iterator[Hub]:
    """A running hub, stopped at the end."""
    with Hub(name, content) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            hub.closing.set()
            hub.shutdown()
            thread.join()
