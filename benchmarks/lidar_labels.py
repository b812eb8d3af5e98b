"""Labels generated from lidar against the exact labels of a town bag: geometry, classes, errors.

    occ town drive --town 30000 --drive 4 --bag mcap --size 160x90 --lidar 10 --out /tmp/drive
    python benchmarks/lidar_labels.py /tmp/drive

Regions: ``seen by cameras`` is the town's exact camera mask, ``labelled`` the camera mask of the
generated labels, which training uses. Sources of error are counted in voxels.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from occ_training.lidar_labels.boxes import BoxTracks, box_topic, read_box_topic
from occ_training.lidar_labels.labelling import LabelledFrame, LidarLabeller, LidarLabels
from occ_training.lidar_labels.sweeps import WorldSweeps
from occ_training.lidar_labels.window import LabelRule
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from occ_perception.bags.discovery import topic_of_points
from occ_perception.bags.drive import open_recording
from occ_perception.bags.occ3d import OCC3D_GRID
from occ_perception.bags.predictions import BagPredictions
from occ_perception.bags.stamp_join import StampJoin
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import invert_transform
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS

CLASSES = LABEL_SETS["occ3d"]
FREE = CLASSES.empty_class
DISTANCES = ((0, 10), (10, 20), (20, 30), (30, 60))


def made(
    bag: Path, with_boxes: bool, rule: LabelRule
) -> Iterator[tuple[LidarLabels, OccupancyPrediction, np.ndarray]]:
    """Labels, truth and exact camera mask of each frame of a town bag."""
    with open_recording(bag) as frames:
        wanted = []
        for frame in frames:
            ego_T_world = invert_transform(frame.world_T_reference_ego)
            poses = {
                camera.name: ego_T_world @ frame.world_T_ego[camera.name] @ camera.ego_T_cam
                for camera in frame.rig.cameras
            }
            wanted.append(
                LabelledFrame(0, frame.stamp_ns, frame.rig, frame.world_T_reference_ego, poses)
            )
        recording, layout = frames.recording, frames.layout
        boxes: BoxTracks | None = None
        topic = box_topic(recording, None)
        if with_boxes and topic is not None:
            boxes = read_box_topic(recording, topic, layout.pose.world_frame)
        sweeps = WorldSweeps(frames, topic_of_points(recording), None, FREE, round(0.09e9))
        truths = StampJoin(BagPredictions(bag, "/ground_truth/occupancy"))
        visible = StampJoin(BagPredictions(bag, "/ground_truth_in_view/occupancy"))
        labeller = LidarLabeller(OCC3D_GRID, CLASSES, boxes, rule)
        for labelled, labels in labeller.label(wanted, sweeps):
            truth, seen = truths.at(labelled.stamp_ns), visible.at(labelled.stamp_ns)
            if labels is not None and truth is not None and seen is not None:
                yield labels, truth, seen.labels != UNKNOWN_CLASS


class Counts:
    """Voxels hit, invented and missed, by region."""

    def __init__(self) -> None:
        self.regions: dict[str, np.ndarray] = {}
        self.errors: dict[str, int] = {}
        self.classes = np.zeros((FREE + 1, FREE + 1), np.int64)
        centres = OCC3D_GRID.centers(np.moveaxis(np.indices(OCC3D_GRID.dims), 0, -1))
        self._distance = np.hypot(centres[..., 0], centres[..., 1])

    def add(self, labels: LidarLabels, truth: OccupancyPrediction, seen: np.ndarray) -> None:
        ours, real = labels.semantics != FREE, truth.labels != FREE
        labelled = labels.mask_camera
        self._region("seen by cameras", ours, real, seen)
        self._region("labelled", ours, real, labelled)
        self._region("both", ours, real, seen & labels.mask_lidar)
        for low, high in DISTANCES:
            near = (self._distance >= low) & (self._distance < high)
            self._region(f"seen by cameras, {low}-{high} m", ours, real, seen & near)
        missed, invented = seen & real & ~ours, seen & ours & ~real
        plant = truth.labels == CLASSES.class_names.index("vegetation")
        beside = ndimage.binary_dilation(ours)
        for name, voxels in (
            ("missed: no ray or point reached it", missed & ~labels.mask_lidar),
            ("missed: observed, next to an occupied voxel", missed & labels.mask_lidar & beside),
            ("missed: observed, elsewhere", missed & labels.mask_lidar & ~beside),
            ("  of all missed: vegetation", missed & plant),
            ("invented: next to a real one", invented & ndimage.binary_dilation(real)),
            ("invented: elsewhere", invented & ~ndimage.binary_dilation(real)),
        ):
            self.errors[name] = self.errors.get(name, 0) + int(voxels.sum())
        region = seen & labels.mask_lidar
        pairs = truth.labels[region].astype(np.int64) * (FREE + 1) + labels.semantics[region]
        self.classes += np.bincount(pairs, minlength=self.classes.size).reshape(self.classes.shape)

    def _region(self, name: str, ours: np.ndarray, real: np.ndarray, where: np.ndarray) -> None:
        voxels = [ours & real & where, ours & ~real & where, ~ours & real & where]
        total = self.regions.setdefault(name, np.zeros(3, np.int64))
        total += [int(one.sum()) for one in voxels]

    def summary(self) -> dict[str, object]:
        regions = {
            name: {
                "iou": float(hit / (hit + invented + missed)),
                "precision": float(hit / (hit + invented)),
                "recall": float(hit / (hit + missed)),
            }
            for name, (hit, invented, missed) in self.regions.items()
        }
        right = np.diag(self.classes)
        union = self.classes.sum(0) + self.classes.sum(1) - right
        present = union[:FREE] > 0
        return {
            "regions": regions,
            "errors": self.errors,
            "miou_in_both": float((right[:FREE][present] / union[:FREE][present]).mean()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bags", nargs="+", type=Path)
    parser.add_argument("--ground-gap", type=float, help="metres of ground that are bridged")
    parser.add_argument("--window", type=float, help="seconds of sweeps before and after a frame")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    rule = LabelRule()
    if arguments.ground_gap is not None:
        rule = replace(rule, ground_gap_m=arguments.ground_gap)
    if arguments.window is not None:
        rule = replace(rule, window_s=arguments.window)
    results = []
    for bag in arguments.bags:
        for with_boxes in (False, True):
            counts, frames, start = Counts(), 0, time.process_time()
            for labels, truth, seen in made(bag, with_boxes, rule):
                counts.add(labels, truth, seen)
                frames += 1
            cpu = (time.process_time() - start) / max(frames, 1)
            result = {"bag": bag.name, "boxes": with_boxes, "frames": frames,
                      "cpu_s_per_frame": cpu, **counts.summary()}  # fmt: skip
            results.append(result)
            show(result)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


def show(result: dict[str, Any]) -> None:
    console = Console(width=110)
    table = Table(title=f"{result['bag']}, {'with' if result['boxes'] else 'without'} boxes")
    for heading in ("region", "IoU %", "precision %", "recall %"):
        table.add_column(heading, justify="left" if heading == "region" else "right")
    for name, values in result["regions"].items():
        table.add_row(name, *(f"{100 * values[key]:.1f}" for key in ("iou", "precision", "recall")))
    console.print(table)
    for name, voxels in result["errors"].items():
        console.print(f"{voxels:9d}  {name}")
    console.print(
        f"mIoU of classes where both look: {100 * result['miou_in_both']:.1f} %; "
        f"{result['frames']} frames, {result['cpu_s_per_frame']:.2f} CPU s each, reading and "
        "comparing included\n"
    )


if __name__ == "__main__":
    main()
