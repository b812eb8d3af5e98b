"""A rosbag2 recording that appears whole or not at all, written without ROS."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from typing_extensions import Self

from occ_perception.bags.message_types import ros2_types

Storage = Literal["mcap", "sqlite3"]

# Iron and older read the quality of service of metadata version 8 only.
_METADATA_VERSION: Literal[8] = 8

_STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}

_FOREVER = QosTime(9223372036, 854775807)


def _qos(depth: int, durability: QosDurability = QosDurability.VOLATILE) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE,
        durability=durability,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


# Played back with these: a late subscriber must still get the mounts.
_STREAM = _qos(10)
_STATIC = _qos(1, QosDurability.TRANSIENT_LOCAL)


class NewRecording:
    """Writes one recording; a context manager.

    Everything goes to a temporary folder beside ``path``, which takes its name when the context
    ends well and is deleted when it ends with an exception: a folder called ``path`` is complete.
    What a killed process left there is removed by the next one that writes ``path``.

    Args:
        path: the rosbag2 folder to make.
        storage: container format.

    Raises:
        FileExistsError: there is something at ``path`` already, or another process writes it now.
        ValueError: unknown storage.
        OSError: it could not be written (a full disk); raised by every method, names ``path``.
    """

    def __init__(self, path: str | Path, storage: Storage = "mcap") -> None:
        self.path = Path(path)
        if storage not in _STORAGES:
            raise ValueError(f"unknown storage {storage!r}, expected {' or '.join(_STORAGES)}")
        if self.path.exists():
            raise FileExistsError(f"{self.path} exists already; nothing is overwritten")
        self._storage = _STORAGES[storage]
        self._types = ros2_types()
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        self._lock = self._claim()
        # The files inside carry the folder's name, so that is final from the start.
        within = self._unfinished / self.path.name
        shutil.rmtree(within, ignore_errors=True)
        self._writer = Writer(within, version=_METADATA_VERSION, storage_plugin=self._storage)
        with self._failures_named():
            self._writer.open()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            if failure is None:
                with self._failures_named():
                    self._writer.close()
                    (self._unfinished / self.path.name).rename(self.path)
        finally:
            # On a full disk this cannot write the rest either; what failed first is raised.
            with suppress(OSError, sqlite3.Error):
                self._writer.abort()
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._lock.close()

    def _claim(self) -> IO[str]:
        """The temporary folder, this process's alone until the returned lock is closed."""
        import fcntl

        self._unfinished.mkdir(parents=True, exist_ok=True)
        lock = (self._unfinished / ".lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise FileExistsError(
                f"{self.path} is being written by another process; wait for it or choose another "
                "name"
            ) from error
        return lock

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            why = getattr(error, "strerror", None) or error
            raise OSError(
                f"{self.path} could not be written: {why}; nothing of it is kept. Make room, then "
                "run the same command again"
            ) from error

    def note(self, key: str, text: str) -> None:
        """A text for the recording's metadata, among the custom data of rosbag2."""
        self._writer.set_custom_data(key, text)

    def write(self, topic: str, received_ns: int, message: Any, static: bool = False) -> None:
        """A message made by :meth:`new`; of a static topic late subscribers get the last one."""
        kind = message.__msgtype__
        raw = self._types.serialize_cdr(message, kind)
        with self._failures_named():
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(
                    topic,
                    kind,
                    typestore=self._types,
                    offered_qos_profiles=[_STATIC if static else _STREAM],
                )
            self._writer.write(self._connections[topic], received_ns, raw)

    def new(self, kind: str, **fields: Any) -> Any:
        """A message of a ROS 2 type; every field must be given."""
        return self._types.types[kind](**fields)
