"""Recompute a folder of golden metric data and compare: exit 0 within tolerance, 1 beyond.

    python test/parity/check_metrics.py DIR

Prints one line per compared quantity with its largest difference and the tolerance.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from occ_perception.geometry import matrix_from_pose
from occ_perception.labels import LABEL_SETS
from occ_perception.metrics import (
    OCC3D_GRID,
    CountingMetric,
    FlowScore,
    RayIoU,
    SurroundOccIoU,
    VoxelIoU,
    first_hits,
    lidar_directions,
    lidar_origins,
)

COUNTS = 1e-9  # scores that are ratios of counts
FLOAT32_COUNTS = 1e-6  # the SurroundOcc ratios were computed in float32
DISTANCES_M = 1e-5
VELOCITIES = 1e-5
FLOAT16_VOXEL_SUMS = 1e-3  # the reference rounds each frame's sum of errors to float16

Array = NDArray[Any]
Scores = Mapping[str, torch.Tensor]
Line = tuple[str, float, float]


class GoldenFolder:
    """Lazy access to the files of a golden folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.expected = json.loads((folder / "expected.json").read_text())
        self.origins = self.load("ray_origins")

    def load(self, name: str) -> dict[str, Array]:
        with np.load(self.folder / f"{name}.npz") as archive:
            return dict(archive)

    def origins_of(self, pose_index: Array) -> list[Array]:
        return [self.origins[f"{index:02d}"] for index in pose_index]


def difference(got: Any, expected: Any) -> float:
    """Largest absolute difference; inf where exactly one of the two has no value."""
    got = np.atleast_1d(np.asarray(got, dtype=np.float64))
    expected = np.atleast_1d(np.array(expected, dtype=np.float64))  # None -> NaN
    if got.shape != expected.shape or (np.isnan(got) != np.isnan(expected)).any():
        return float("inf")
    apart = np.abs(got - expected)
    return float(np.nanmax(apart)) if np.isfinite(apart).any() else 0.0


def per_class(scores: Scores, score: str) -> list[float]:
    """Values of ``score[...]`` in class order."""
    return [float(value) for name, value in scores.items() if name.startswith(f"{score}[")]


def check_ray_setup(golden: GoldenFolder) -> Iterator[Line]:
    """Directions, origins and single casts."""
    yield "ray directions", difference(lidar_directions(), golden.load("lidar_rays")["rays"]), 0.0
    frames = json.loads((golden.folder / "ego_poses.json").read_text())
    apart = []
    for scene in dict.fromkeys(frame["scene_token"] for frame in frames):
        rows = [i for i, frame in enumerate(frames) if frame["scene_token"] == scene]
        world_T_ego = np.stack([pose(frames[i], "ego2global") for i in rows])
        ego_T_lidar = np.stack([pose(frames[i], "lidar2ego") for i in rows])
        for index, row in enumerate(rows):
            origins = lidar_origins(world_T_ego, ego_T_lidar, index)
            apart.append(difference(origins, golden.origins[f"{row:02d}"]))
    yield f"ray origins of {len(frames)} keyframes (m)", max(apart), COUNTS

    occ3d = golden.load("occ3d")
    near = golden.load("raycast_sample0_origin0")
    origin = golden.origins_of(occ3d["pose_index"])[0][:1]
    for volume in ("gt", "pred"):
        yield from check_cast(f"cast, {volume}", occ3d[volume][0], origin, near[volume])
    odd = golden.load("raycast_sample1_odd_origins")
    yield from check_cast("cast, odd origins", occ3d["gt"][1], odd["origins"][0], odd["gt"])


def pose(frame: Mapping[str, Any], name: str) -> Array:
    w, x, y, z = frame[f"{name}_rotation"]
    return matrix_from_pose(frame[f"{name}_translation"], (x, y, z, w))


def check_cast(what: str, labels: Array, origins: Array, expected: Array) -> Iterator[Line]:
    volume = torch.from_numpy(labels)[None]
    free = LABEL_SETS["occ3d"].empty_class
    directions = torch.from_numpy(lidar_directions())
    hits = first_hits(volume != free, torch.from_numpy(origins), directions, OCC3D_GRID)
    yield f"{what}: labels", difference(hits.values(volume)[0], expected[:, 0]), 0.0
    yield f"{what}: distance (m)", difference(hits.distances[0], expected[:, 1]), DISTANCES_M


def check_voxel_scores(
    what: str, metric: VoxelIoU, expected: Mapping[str, Any], tolerance: float
) -> Iterator[Line]:
    scores = metric.compute()
    classes = difference(per_class(scores, "IoU"), expected["per_class_iou"])
    yield f"{what}: per class", classes, tolerance
    for ours, theirs in (("mIoU", "mIoU"), ("mIoU_D", "mIoU_D"), ("IoU", "IoU_occupied")):
        yield f"{what}: {ours}", difference(scores[ours], expected[theirs]), tolerance


def check_occ3d(golden: GoldenFolder) -> Iterator[Line]:
    """mIoU with and without camera mask, RayIoU, of all samples and of single ones."""
    data, expected = golden.load("occ3d"), golden.expected
    label_set = LABEL_SETS["occ3d"]
    subsets = {
        "": slice(None),
        "_first_sample_only": slice(0, 1),
        "_second_sample_only": slice(1, 2),
    }
    for suffix, rows in subsets.items():
        for masked in ("camera_mask", "no_mask"):
            key = f"occ3d_mIoU_{masked}{suffix}"
            if key not in expected:
                continue
            metric = VoxelIoU(label_set)
            mask = data["mask_camera"][rows] if masked == "camera_mask" else None
            metric.update(data["pred"][rows], data["gt"][rows], mask)
            yield from check_voxel_scores(key, metric, expected[key], COUNTS)
            binary = metric.occupancy.double()
            empty = binary[1, 1] / (binary.sum() - binary[0, 0])
            yield f"{key}: empty", difference(empty, expected[key]["IoU_empty"]), COUNTS
            total = difference(metric.confusion.sum(), expected[key]["hist_total"])
            yield f"{key}: voxels", total, 0.0
    parts = []
    for row, origins in enumerate(golden.origins_of(data["pose_index"])):
        part = RayIoU(label_set)
        part.update(data["pred"][row : row + 1], data["gt"][row : row + 1], [origins])
        parts.append(part)
    for suffix, rows in subsets.items():
        total = RayIoU(label_set)
        for part in parts[rows]:
            total.merge(part)
        key = f"occ3d_RayIoU{suffix}"
        counted = [int(part.rays) for part in parts[rows]]
        yield f"{key}: rays", difference(counted, expected[key]["n_valid_rays"]), 0.0
        yield from check_ray_scores(key, total, expected[key], "")


def check_ray_scores(
    what: str, metric: CountingMetric, expected: Mapping[str, Any], prefix: str
) -> Iterator[Line]:
    scores = metric.compute()
    yield f"{what}: RayIoU", difference(scores["RayIoU"], expected["RayIoU"]), COUNTS
    for tolerance in ("1", "2", "4"):
        name = f"RayIoU@{tolerance}"
        if name in expected:
            yield f"{what}: {name}", difference(scores[name], expected[name]), COUNTS
        classes = expected["per_class"][f"{prefix}{tolerance}"]
        yield f"{what}: {name} per class", difference(per_class(scores, name), classes), COUNTS


def check_openocc(golden: GoldenFolder) -> Iterator[Line]:
    """RayIoU, velocity errors and Occ Score, with float16 and float32 truth."""
    for key in ("openocc_f16", "openocc_f32"):
        data, expected = golden.load(key), golden.expected[key]
        metric = FlowScore(LABEL_SETS["openocc"])
        origins = golden.origins_of(data["pose_index"])
        metric.update(data["pred"], data["gt"], origins, data["flow_pred"], data["flow_gt"])
        scores = metric.compute()
        yield from check_ray_scores(key, metric, expected, "IoU@")
        for name in ("AVE_TP", "AVE_GT_RAY", "AVE_VOXEL"):
            rounded = key == "openocc_f16" and name == "AVE_VOXEL"
            tolerance = FLOAT16_VOXEL_SUMS if rounded else VELOCITIES
            classes = expected["per_class"][name]
            got = per_class(scores, name)
            got += [float("nan")] * (len(classes) - len(got))  # static classes have no velocity
            yield f"{key}: {name} per class (m/s)", difference(got, classes), tolerance
            mean = difference(scores[f"m{name}"], expected["mean"][name])
            yield f"{key}: m{name} (m/s)", mean, tolerance
        yield f"{key}: OccScore", difference(scores["OccScore"], expected["occ_score"]), VELOCITIES


def check_surroundocc(golden: GoldenFolder) -> Iterator[Line]:
    """Counts per sample and scores in the SurroundOcc convention."""
    data, expected = golden.load("surroundocc_style"), golden.expected["surroundocc_style"]
    total = SurroundOccIoU(LABEL_SETS["surroundocc"])
    apart = []
    for row in range(len(data["gt"])):
        part = SurroundOccIoU(total.label_set)
        part.update(data["pred"][row : row + 1], data["gt"][row : row + 1])
        H = part.confusion
        counts = torch.stack([H.diagonal(), H.sum(1), H.sum(0)], dim=1)
        apart.append(difference(counts, data["counts_class"][row]))
        total.merge(part)
    yield "surroundocc_style: counts per class", max(apart), 0.0
    yield from check_voxel_scores("surroundocc_style", total, expected, FLOAT32_COUNTS)


def check_waymo(golden: GoldenFolder) -> Iterator[Line]:
    """Waymo labels, free space 23 renumbered, with and without the visibility mask."""
    data, expected = golden.load("waymo_style"), golden.expected["waymo_style"]
    label_set = LABEL_SETS["waymo"]
    truth = np.where(data["voxel_label"] == 23, label_set.empty_class, data["voxel_label"])[None]
    visible = (data["infov"] != 0) & (data["final_voxel_state"] != 0)
    for key, mask in (("masked", visible[None]), ("unmasked", None)):
        metric = VoxelIoU(label_set)
        metric.update(data["pred"][None], truth, mask)
        yield from check_voxel_scores(f"waymo_style {key}", metric, expected[key], COUNTS)


def main() -> int:
    """Run all checks on the folder given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder with expected.json and the .npz files")
    golden = GoldenFolder(parser.parse_args().folder)
    table = Table()
    for column in ("compared", "max difference", "tolerance", ""):
        table.add_column(column, justify="left" if column == "compared" else "right")
    start, failures = time.perf_counter(), 0
    checks = (check_ray_setup, check_occ3d, check_openocc, check_surroundocc, check_waymo)
    for check in checks:
        for what, apart, tolerance in check(golden):
            good = apart <= tolerance
            failures += not good
            table.add_row(what, f"{apart:.1e}", f"{tolerance:g}", "ok" if good else "BEYOND")
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    seconds = time.perf_counter() - start
    console.print(f"{table.row_count} comparisons, {failures} beyond tolerance, {seconds:.1f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
