"""Changes files at random, from a seeded generator: bytes, members of zip files, values."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import yaml

INTERESTING_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
INTERESTING_VALUES: tuple[Any, ...] = (
    None, True, "", "x", "\u0000", "../../x", [], {}, [[]], [None], 0, -1, 0.5, 1e400, -1e308,
    float("nan"), 10**30, 2**63, [1, 2, 3], [[1.0, 0.0], [0.0, 1.0]], {"token": "x"},
)  # fmt: skip


def mutate_file(path: Path, random: Random) -> None:
    """Change a file: a member of a zip file, a value of JSON or YAML, or bytes."""
    data = path.read_bytes()
    if zipfile.is_zipfile(path) and random.random() < 0.7:
        path.write_bytes(_mutated_zip(data, random))
    elif path.suffix in (".json", ".jsonl") and random.random() < 0.8:
        path.write_bytes(_mutated_lines(data, random, by_line=path.suffix == ".jsonl"))
    elif path.suffix == ".yaml" and random.random() < 0.6:
        path.write_text(yaml.safe_dump(mutated_value(yaml.safe_load(data), random)))
    else:
        path.write_bytes(mutated_bytes(data, random))


def mutated_bytes(data: bytes, random: Random) -> bytes:
    """One to four changes; mostly near the beginning or end, where headers and tables are."""
    for _ in range(random.randint(1, 4)):
        if not data:
            return random.randbytes(random.randint(0, 64))
        size = len(data)
        at = random.choice(
            (random.randrange(size), random.randrange(min(size, 256)), size - 1 - size // 8)
        )
        length = random.choice((1, 2, 4, 8, 64, max(1, size // 4)))
        change = random.choice(("bit", "number", "cut", "remove", "repeat", "noise", "swap"))
        if change == "bit":
            data = _put(data, at, bytes([data[at] ^ (1 << random.randrange(8))]))
        elif change == "number":
            width = random.choice((1, 2, 4, 8))
            value = random.choice(INTERESTING_NUMBERS) % (1 << (8 * width))
            data = _put(data, at, value.to_bytes(width, random.choice(("little", "big"))))
        elif change == "cut":
            data = data[:at]
        elif change == "remove":
            data = data[:at] + data[at + length :]
        elif change == "repeat":
            data = data[: at + length] + data[at:]
        elif change == "noise":
            data = _put(data, at, random.randbytes(length))
        else:
            other = random.randrange(size)
            data = _put(data, other, data[at : at + length])
    return data


def mutated_value(value: Any, random: Random) -> Any:
    """Nested lists and dicts with one value replaced, removed, or there twice."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.1:
        return random.choice(INTERESTING_VALUES)
    key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
    changed = value.copy()
    if random.random() < 0.7:
        changed[key] = mutated_value(value[key], random)
    elif random.random() < 0.6:
        del changed[key]
    elif isinstance(value, list):
        changed.append(value[key])
    else:
        changed[key] = [value[key]]
    return changed


def _mutated_lines(data: bytes, random: Random, by_line: bool) -> bytes:
    lines = data.splitlines() if by_line else [data]
    at = random.randrange(len(lines))
    lines[at] = json.dumps(mutated_value(json.loads(lines[at]), random)).encode()
    return b"\n".join(lines)


def _mutated_zip(data: bytes, random: Random) -> bytes:
    """The same zip file with one member changed, and its checksum right."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(out, "w") as after:
        chosen = random.choice(before.namelist())
        for name in before.namelist():
            content = before.read(name)
            after.writestr(name, mutated_bytes(content, random) if name == chosen else content)
    return out.getvalue()


def _put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]
