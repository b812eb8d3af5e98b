"""Time and size of occupancy and flow encoding on town-like grids.

    python benchmarks/codec.py [--repeats 300] [--out benchmarks/results]

Timed: the call of encode_occupancy, decode_occupancy, encode_flow or decode_flow alone, arrays in
memory, one thread. Not timed: creating the grid, copying fields to a message, serialization.
With OCC_SHARED set, the real label files there are measured too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.codec import (
    DENSE,
    RLE,
    SPARSE,
    decode_flow,
    decode_occupancy,
    encode_flow,
    encode_occupancy,
)
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, LabelSet

ENCODING_NAMES = {DENSE: "dense", SPARSE: "sparse", RLE: "rle"}
WARM_UP = 20

OCC3D_GRID = VoxelGrid.from_ranges((-40, 40, 0.4), (-40, 40, 0.4), (-1, 5.4, 0.4))
FINE_GRID = VoxelGrid.from_ranges((-51.2, 51.2, 0.2), (-51.2, 51.2, 0.2), (-5, 3, 0.2))


def town(grid: VoxelGrid, labels: LabelSet, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels (X, Y, Z) and flow (X, Y, Z, 2) of a crossing with houses, trees and traffic.

    Surfaces are as ragged as those of real label files: the ground has steps of one voxel, walls
    are one voxel thick and have holes, tree crowns are noise.
    """
    random = np.random.default_rng(seed)
    ids = {name: index for index, name in enumerate(labels.class_names)}
    volume = np.full(grid.dims, labels.empty_class, np.uint8)
    flow = np.zeros((*grid.dims, 2), np.float32)
    x, y, z = (
        low + (np.arange(count) + 0.5) * size
        for low, count, size in zip(grid.lower, grid.dims, grid.voxel_size, strict=True)
    )
    z = z - (0.0 if grid.lower[2] > -2 else -1.8)  # height over the ground, lidar 1.8 m above it

    def around(
        cx: float, cy: float, reach: float
    ) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
        """Views of volume and flow near a point, and open coordinates of their voxels."""
        i = np.searchsorted(x, [cx - reach, cx + reach])
        j = np.searchsorted(y, [cy - reach, cy + reach])
        window = np.s_[i[0] : i[1], j[0] : j[1]]
        return volume[window], flow[window], np.ix_(x[window[0]], y[window[1]], z)

    from_road = np.minimum(np.abs(x - 12)[:, None, None], np.abs(y)[:, None])
    jump = random.integers(0, 40, grid.dims[:2])[..., None] == 0
    ground = np.abs(z + jump * grid.voxel_size[2]) <= grid.voxel_size[2] / 2
    volume[ground] = ids["terrain"]
    volume[ground & (from_road < 10)] = ids["sidewalk"]
    volume[ground & (from_road < 7)] = ids["driveable_surface"]

    for _ in range(14):
        cx, cy = random.choice([-1, 1]) * random.uniform(22, 40), random.choice([-30, 30])
        half = random.uniform(4, 9)
        voxels, _, (wx, wy, wz) = around(cx, cy, half)
        edge = np.maximum(np.abs(wx - cx), np.abs(wy - cy)) > half - 1.5 * grid.voxel_size[0]
        voxels[edge & (wz > 0) & (random.random(voxels.shape) < 0.75)] = ids["manmade"]
    for _ in range(40):
        cx, cy, cz = *random.uniform(-48, 48, 2), random.uniform(2, 4)
        radius = random.uniform(1, 2.5)
        voxels, _, (wx, wy, wz) = around(cx, cy, radius)
        crown = (wx - cx) ** 2 + (wy - cy) ** 2 + (wz - cz) ** 2 < radius**2
        voxels[crown & (random.random(voxels.shape) < 0.4)] = ids["vegetation"]
    for _ in range(20):
        cx, cy = random.uniform(-48, 48), random.choice([-4.5, -1.7, 1.7, 4.5])
        voxels, velocity, (wx, wy, wz) = around(cx, cy, 2.3)
        car = (np.abs(wy - cy) < 1) & (wz > 0) & (wz < 1.7) & np.ones_like(wx, bool)
        voxels[car] = ids["car"]
        velocity[car] = (-8.0 if cy > 0 else 8.0, 0.1)
    return volume, flow


def subjects() -> dict[str, tuple[np.ndarray, np.ndarray | None, LabelSet]]:
    """Name -> labels, flow or None, label set."""
    occ3d, openocc = LABEL_SETS["occ3d"], LABEL_SETS["openocc"]
    found: dict[str, tuple[np.ndarray, np.ndarray | None, LabelSet]] = {
        "town 200x200x16": (*town(OCC3D_GRID, occ3d), occ3d),
        "town 512x512x40": (*town(FINE_GRID, occ3d), occ3d),
    }
    if folder := os.environ.get("OCC_SHARED"):
        real = Path(folder) / "data" / "occ3d-openocc-labels"
        with np.load(real / "occ3d_labels.npz") as file:
            found["real Occ3D label"] = (file["semantics"], None, occ3d)
        with np.load(real / "openocc_flow_labels.npz") as file:
            labels = file["semantics"].astype(np.uint8)
            found["real OpenOcc label"] = (labels, file["flow"], openocc)
    return found


def percentiles(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """p50, p90, p99 and max of a call's wall time, milliseconds."""
    for _ in range(WARM_UP):
        call()
    times = np.empty(repeats)
    for i in range(repeats):
        start = time.perf_counter_ns()
        call()
        times[i] = (time.perf_counter_ns() - start) * 1e-6
    figures = dict(zip(("p50", "p90", "p99"), np.percentile(times, [50, 90, 99]), strict=True))
    return {name: round(float(value), 3) for name, value in {**figures, "max": times.max()}.items()}


def measure(
    name: str,
    repeats: int,
    labels: np.ndarray,
    flow: np.ndarray | None,
    vocabulary: LabelSet,
) -> list[dict[str, Any]]:
    rows = []
    count = vocabulary.num_classes
    for encoding, title in ENCODING_NAMES.items():
        message = encode_occupancy(labels, vocabulary.empty_class, encoding)
        decoded = decode_occupancy(message, labels.shape, vocabulary.empty_class, count)
        assert np.array_equal(decoded, labels)
        rows.append(
            {
                "grid": name,
                "what": title,
                "bytes": message.num_bytes,
                "entries": len(message.labels),
                "encode_ms": percentiles(
                    partial(encode_occupancy, labels, vocabulary.empty_class, encoding), repeats
                ),
                "decode_ms": percentiles(
                    partial(decode_occupancy, message, labels.shape, vocabulary.empty_class, count),
                    repeats,
                ),
            }
        )
    if flow is not None:
        moving = np.isin(labels, vocabulary.moving_ids())
        listed = encode_flow(flow, moving)
        rows.append(
            {
                "grid": name,
                "what": "flow",
                "bytes": listed.num_bytes,
                "entries": len(listed.indices),
                "encode_ms": percentiles(lambda: encode_flow(flow, moving), repeats),
                "decode_ms": percentiles(lambda: decode_flow(listed, moving.shape), repeats),
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| grid | what | entries | kB | encode p50 / p90 / p99 / max ms "
        "| decode p50 / p90 / p99 / max ms |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        times = [
            " / ".join(f"{value:.2f}" for value in row[key].values())
            for key in ("encode_ms", "decode_ms")
        ]
        lines.append(
            f"| {row['grid']} | {row['what']} | {row['entries']} | {row['bytes'] / 1000:.1f} "
            f"| {times[0]} | {times[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--out", type=Path, help="folder for a dated JSON and Markdown file")
    arguments = parser.parse_args()
    rows = []
    for name, (labels, flow, vocabulary) in subjects().items():
        rows += measure(name, arguments.repeats, labels, flow, vocabulary)
    text = table(rows)
    print(text)
    if arguments.out is None:
        return
    today = datetime.date.today().isoformat()
    conditions = {
        "date": today,
        "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "warm_up": WARM_UP,
        "repeats": arguments.repeats,
        "timed": "the codec call alone, arrays in memory, one thread",
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    target = arguments.out / f"{today}-codec"
    target.with_suffix(".json").write_text(
        json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n"
    )
    listed = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in conditions.items())
    target.with_suffix(".md").write_text(f"# Codec\n\n{listed}\n\n{text}\n")


if __name__ == "__main__":
    main()
