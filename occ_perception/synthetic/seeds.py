"""Seeds: the split of each town, and the random generators."""

from __future__ import annotations

import zlib

import numpy as np

from occ_perception.errors import OptionError

GENERATOR_VERSION = 1
"""Stored in every output; incremented whenever labels or geometry of a seed change."""

DRIVES_PER_TOWN = 1000

SPLITS: dict[str, range] = {
    "train": range(0, 10_000),
    "validation": range(10_000, 10_500),
    "test": range(20_000, 20_500),
    "demo": range(30_000, 30_001),
}
"""Town seeds by split; splits are disjoint."""

DEMO_TOWN, DEMO_DRIVE = 30_000, 4
"""Town and drive of the demonstration: sun, a turn, people and work zones."""


def split_of(town_seed: int) -> str:
    """Name of the split a town belongs to.

    Raises:
        OptionError: the seed belongs to no split; the message lists the ranges.
    """
    for name, seeds in SPLITS.items():
        if town_seed in seeds:
            return name
    ranges = ", ".join(f"{name} {seeds[0]}..{seeds[-1]}" for name, seeds in SPLITS.items())
    raise OptionError(f"town seed {town_seed} belongs to no split; splits are {ranges}")


def check_drive_index(index: int) -> None:
    """Raise OptionError unless ``index`` names one of a town's drives."""
    if not 0 <= index < DRIVES_PER_TOWN:
        raise OptionError(f"drive {index} does not exist; a town has 0..{DRIVES_PER_TOWN - 1}")


def random_for(purpose: str, *keys: int) -> np.random.Generator:
    """Random generator of one purpose; a new purpose does not change the draws of others."""
    return np.random.default_rng([zlib.crc32(purpose.encode()), *keys])
