"""Scores of predictions without a network on held-out towns: bounds for trained networks.

    python benchmarks/town_baselines.py [--train-towns 20] [--test-towns 10] [--frames 2]

    prior    every voxel's most frequent class in training towns, independent of the images
    plane    a level road at the height of the ego origin
    oracle   every pixel lifted with perfect depth and class: the voxels that hold a visible surface

Scores are those of Occ3D under the camera mask: mIoU over 17 classes, and the IoU of occupied
against free. Results go to benchmarks/results/ as dated JSON and Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from occ_training.town_scores import most_frequent, plane
from town import write_results

from occ_perception.geometry import transform_points
from occ_perception.labels import LABEL_SETS
from occ_perception.metrics import VoxelIoU
from occ_perception.synthetic.drive import Drive, Scene
from occ_perception.synthetic.labels import OCC3D_GRID, camera_mask, voxelise
from occ_perception.synthetic.render import render_view
from occ_perception.synthetic.rig import synthetic_rig
from occ_perception.synthetic.town import Town

CLASSES = LABEL_SETS["occ3d"]
FREE = CLASSES.empty_class
ORACLE_SIZES = ((704, 256), (352, 128))
FIRST_TRAIN_TOWN, FIRST_TEST_TOWN = 0, 20_000

Labels = NDArray[np.uint8]
Sample = tuple[Drive, Scene, Labels, NDArray[np.bool_]]


def samples(first_town: int, towns: int, frames: int) -> Iterator[Sample]:
    """Drive, scene, labels and camera mask of some samples of one drive per town."""
    for seed in range(first_town, first_town + towns):
        drive = Drive(Town(seed), 0)
        for t in np.linspace(2.0, 18.0, frames):
            scene = drive.scene(float(t))
            yield drive, scene, voxelise(scene)[0], camera_mask(scene, synthetic_rig(), threads=1)


def oracle(drive: Drive, scene: Scene, size: tuple[int, int]) -> Labels:
    """Every voxel's most frequent class among the pixels whose surface lies in it, else free."""
    votes = np.zeros((*OCC3D_GRID.dims, CLASSES.num_classes), np.int32)
    for camera in synthetic_rig(size).cameras:
        view = render_view(scene, drive.weather, camera, threads=1)
        depth = view.depth(camera.K).astype(np.float64)
        v, u = np.nonzero(depth > 0)
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.K).T
        index = OCC3D_GRID.indices(transform_points(camera.ego_T_cam, rays * depth[v, u, None]))
        inside = OCC3D_GRID.contains(index)
        np.add.at(votes, (*index[inside].T, view.classes[v, u][inside]), 1)
    labels: Labels = votes.argmax(axis=-1).astype(np.uint8)
    labels[votes.sum(axis=-1) == 0] = FREE
    return labels


def baselines(train_towns: int, test_towns: int, frames: int) -> dict[str, dict[str, float]]:
    """mIoU and geometry IoU in per cent by baseline."""
    training = (
        (labels, seen) for _, _, labels, seen in samples(FIRST_TRAIN_TOWN, train_towns, frames)
    )
    fixed = {"prior": most_frequent(training), "plane": plane()}
    oracles = {f"oracle {width}x{height}": (width, height) for width, height in ORACLE_SIZES}
    scores = {name: VoxelIoU(CLASSES) for name in (*fixed, *oracles)}
    for drive, scene, labels, seen in samples(FIRST_TEST_TOWN, test_towns, frames):
        predictions = dict(fixed)
        predictions |= {name: oracle(drive, scene, size) for name, size in oracles.items()}
        for name, predicted in predictions.items():
            scores[name].update(predicted[None], labels[None], seen[None])
    results = {name: score.compute() for name, score in scores.items()}
    return {
        name: {"mIoU": 100 * float(result["mIoU"]), "geometry IoU": 100 * float(result["IoU"])}
        for name, result in results.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train-towns", type=int, default=20)
    parser.add_argument("--test-towns", type=int, default=10)
    parser.add_argument("--frames", type=int, default=2, help="per town")
    chosen = parser.parse_args()
    rows = baselines(chosen.train_towns, chosen.test_towns, chosen.frames)
    write_results("town-baselines", rows)


if __name__ == "__main__":
    main()
