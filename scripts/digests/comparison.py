"""Comparison of two files of digests."""

from __future__ import annotations

import json
from pathlib import Path

_NAMES_A_MACHINE = ("cpu", "numpy", "torch")


def compare(before: Path, after: Path) -> int:
    """Print every name that differs or is in one file only; returns 1 if there is any."""
    first, second = (json.loads(path.read_text()) for path in (before, after))
    for key in _NAMES_A_MACHINE:
        if first["header"][key] != second["header"][key]:
            print(f"made with different {key}: {first['header'][key]}, {second['header'][key]}")
    found = differences(first["digests"], second["digests"])
    for what, names in found.items():
        for name in names:
            print(f"{what}: {name}")
    summary = ", ".join(f"{len(names)} {what}" for what, names in found.items())
    print(f"{len(first['digests'])} and {len(second['digests'])} digests: {summary}")
    return 1 if any(found.values()) else 0


def differences(before: dict[str, str], after: dict[str, str]) -> dict[str, list[str]]:
    """Names by kind of difference: ``different``, ``only before`` or ``only after``."""
    return {
        "different": sorted(n for n in before.keys() & after.keys() if before[n] != after[n]),
        "only before": sorted(before.keys() - after.keys()),
        "only after": sorted(after.keys() - before.keys()),
    }
