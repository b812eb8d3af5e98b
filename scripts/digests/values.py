"""Digests of values: arrays, nested containers, folders of files and recordings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Named = Iterator[tuple[str, Any]]


def digest(value: Any) -> str:
    """The sha256 of one value: of type, shape and contents of an array, not its memory layout."""
    sha = hashlib.sha256()
    for part in _bytes_of(value):
        sha.update(part)
        sha.update(b"|")
    return sha.hexdigest()


def _bytes_of(value: Any) -> Iterator[bytes]:
    import torch

    if isinstance(value, torch.Tensor):
        plain = value.detach().cpu().contiguous()
        yield f"{plain.dtype} {tuple(plain.shape)}".encode()
        yield plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        yield f"{array.dtype} {array.shape}".encode()
        yield repr(array.tolist()).encode() if array.dtype == object else array.tobytes()
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield digest(item).encode()
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            yield f"{key}: {digest(value[key])}".encode()
    elif value is None or isinstance(value, (str, int, float)):
        yield repr(value).encode()
    else:
        raise TypeError(f"no digest of a {type(value).__name__}")


def flat(value: Any, name: str = "") -> Named:
    """The leaves of nested dataclasses, mappings, tuples and lists, each under its own name.

    Functions and classes are represented by their names, lists of plain values are one leaf.
    """
    if isinstance(value, partial):
        value = {"function": value.func, "arguments": value.args, "options": value.keywords}
    if is_dataclass(value) and not isinstance(value, type):
        parts = [(f.name, getattr(value, f.name)) for f in fields(value)]
    elif isinstance(value, Mapping):
        parts = [(str(key), item) for key, item in value.items()]
    elif hasattr(value, "_fields"):
        parts = [(field, getattr(value, field)) for field in value._fields]
    elif isinstance(value, (list, tuple)) and not all(_is_plain(item) for item in value):
        parts = [(str(n), item) for n, item in enumerate(value)]
    else:
        yield name, value.__qualname__ if callable(value) else _plain(value)
        return
    for part, item in parts:
        yield from flat(item, f"{name}.{part}" if name else part)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (str, bytes, int, float))


def _plain(value: Any) -> Any:
    return value.name if isinstance(value, Path) else value


def files_in(folder: Path, without: tuple[str, ...] = ()) -> Named:
    """Every file's content by its path in ``folder``; the location of the folder has no effect.

    Args:
        folder: read recursively.
        without: suffixes of files that are skipped.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(without):
            content = path.read_bytes().replace(bytes(folder.parent), b"SCRATCH")
            yield path.relative_to(folder).as_posix(), content


def messages_in(bag: Path) -> Named:
    """The content of a rosbag2 folder: raw messages of every topic, their order, the metadata."""
    from rosbags.highlevel import AnyReader

    from occ_perception.bags.message_types import ros2_types

    topics: dict[str, Any] = {}
    order = hashlib.sha256()
    with AnyReader([bag], default_typestore=ros2_types()) as reader:
        for connection, time_ns, raw in reader.messages():
            sha = topics.setdefault(f"{connection.topic} {connection.msgtype}", hashlib.sha256())
            for part in (time_ns.to_bytes(8, "little"), len(raw).to_bytes(8, "little"), raw):
                sha.update(part)
            order.update(f"{time_ns} {connection.topic}\n".encode())
    for topic, sha in topics.items():
        yield f"messages{topic}", sha.hexdigest()
    yield "order", order.hexdigest()
    yield "metadata.yaml", (bag / "metadata.yaml").read_bytes()
