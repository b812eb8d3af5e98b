"""Parts without a network: codec, history schedule, labels, metrics, images of volumes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from values import Named, files_in, flat


def jobs() -> dict[str, Any]:
    """One job for each part."""
    return {
        "codec": _codec,
        "labels": _labels,
        "metrics": _metrics,
        "preprocessing": _preprocessing,
        "schedule": _schedule,
        "viewer": _viewer,
    }


def _codec(_scratch: Path) -> Named:
    from small_footage import FREE, truth_at

    from occ_perception.codec import (
        encode_flow,
        encode_observed,
        encode_occupancy,
        encoding_from_name,
    )

    truth = truth_at(2_000_000_000)
    for name in ("dense", "sparse", "rle"):
        yield from flat(encode_occupancy(truth.labels, FREE, encoding_from_name(name)), name)
    yield from flat(encode_observed(np.random.default_rng(0).random((9, 8, 7)) < 0.5), "observed")
    yield from flat(encode_flow(truth.flow, truth.labels != FREE, 0.1), "flow")


def _labels(_scratch: Path) -> Named:
    from occ_perception.labels import LABEL_SETS, MOVING_CLASSES, PALETTE

    yield from flat(LABEL_SETS, "set")
    yield "moving", sorted(MOVING_CLASSES)
    yield "palette", [f"{name} {tuple(colour)}" for name, colour in PALETTE.items()]


def _metrics(_scratch: Path) -> Named:
    from occ_perception.geometry import VoxelGrid
    from occ_perception.metrics import PROTOCOLS, Evaluation

    grid = VoxelGrid.from_ranges((-3.2, 3.2, 0.8), (-3.2, 3.2, 0.8), (-1.0, 2.2, 0.8))
    for protocol in PROTOCOLS:
        evaluation = Evaluation(protocol, list(PROTOCOLS[protocol].parts), grid)
        for seed in range(3):
            evaluation.update(*_drawn_scores(protocol, grid, seed))
        report = evaluation.report()
        yield from flat(json.loads(report.to_json()), f"{protocol}/report")
        yield f"{protocol}/csv", report.to_csv()


def _drawn_scores(protocol: str, grid: Any, seed: int) -> tuple[Any, Any, Any]:
    """Predicted labels, ground truth with all inputs that protocols use, predicted flow."""
    from occ_perception.labels import LABEL_SETS
    from occ_perception.metrics import FrameTruth

    rng = np.random.default_rng(seed)
    free = LABEL_SETS[protocol].empty_class
    truth = np.where(rng.random(grid.dims) < 0.3, rng.integers(1, free, grid.dims), free)
    labels = np.where(rng.random(grid.dims) < 0.7, truth, rng.integers(1, free + 1, grid.dims))
    flow = rng.normal(size=(2, *grid.dims, 2)).astype(np.float32)
    known = FrameTruth(
        labels=truth.astype(np.uint8),
        camera_mask=rng.random(grid.dims) < 0.5,
        lidar_mask=rng.random(grid.dims) < 0.3,
        flow=flow[0],
        lidar_origins=rng.uniform((-2, -2, 0), (2, 2, 1.5), (2, 3)),
        name=f"frame-{seed}",
    )
    return labels.astype(np.uint8), known, flow[1]


def _preprocessing(_scratch: Path) -> Named:
    """Drawn images of three sizes as inputs of a model of each kind."""
    import torch

    from occ_perception.models.zoo import get_card
    from occ_perception.runtime.preprocess import CropPlan, Preprocessor

    rng = np.random.default_rng(0)
    for name in ("alocc_3d", "alocc_3d_waymo", "sparseocc", "alocc_town"):
        preprocessing = get_card(name).preprocessing
        process = Preprocessor(preprocessing, torch.device("cpu"))
        for width, height in ((1600, 900), (800, 450), (640, 480)):
            image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            plan = CropPlan.fit((width, height), preprocessing.input_size)
            yield f"{name}/{width}x{height}", process([image], [plan])


def _schedule(_scratch: Path) -> Named:
    """Decisions over frame sets at 2, 10 and 12 Hz with jitter, gaps, jumps and new sequences."""
    from occ_perception.runtime.schedule import FrameInfo, HistorySchedule

    for rate in (2.0, 10.0, 12.0):
        for spacing in (0.0, 0.1, 0.5):
            rng = np.random.default_rng(int(rate))
            schedule, history, lines = HistorySchedule(spacing), None, []
            time_s = 100.0
            for number in range(200):
                time_s += (1.0 / rate + rng.normal(0.0, 0.01)) * (30 if number % 61 == 60 else 1)
                time_s -= 40.0 if number == 150 else 0.0
                pose = np.eye(4)
                pose[0, 3] = 8.0 * time_s + (200.0 if number > 100 else 0.0)
                frame = FrameInfo(round(time_s * 1e9), pose, "ab"[number > 170], "rig")
                decision = schedule.decide(history, frame)
                history = decision.history
                lines.append(
                    f"{decision.start} {decision.commit} {decision.break_reason} {history.length} "
                    f"{history.committed.stamp_ns} {history.intervals_ns}"
                )
            yield f"{rate:g}Hz/every_{spacing:g}s", lines


def _viewer(scratch: Path) -> Named:
    """Single images, and the files of `occ view` for a recording with cameras and ground truth."""
    from small_footage import guess_at, truth_at, write_footage
    from towns import command

    from occ_perception import viewer
    from occ_perception.viewer.point_files import voxel_columns, write_ply

    stamp = 2_000_000_000
    guess, comparison = guess_at(stamp), viewer.compare(guess_at(stamp), truth_at(stamp))
    yield "prediction", viewer.prediction_image(guess)
    yield "film", viewer.film_image(guess, None, comparison)
    yield "sheet", viewer.sheet_image([guess, truth_at(stamp)])
    yield "volume", viewer.volume_image(truth_at(stamp))
    yield "difference", viewer.difference_image(comparison)
    write_ply(scratch / "voxels.ply", voxel_columns(guess))
    yield "ply", (scratch / "voxels.ply").read_bytes()
    footage = write_footage(scratch, count=2)
    paths = (footage.cameras, "--ground-truth", footage.cameras, "--out", scratch / "film")
    command("view --cameras", *paths, footage.predictions)
    for name, content in files_in(scratch / "film"):
        yield f"occ_view/{name}", content
