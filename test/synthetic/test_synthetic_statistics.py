"""Statistics over many towns: classes are visible, and colour alone does not give the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.drive import Drive
from occ_perception.synthetic.kernels.columns import FREE
from occ_perception.synthetic.labels import camera_mask, voxelise
from occ_perception.synthetic.rig import synthetic_rig
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions
from occ_perception.synthetic.town import Town

pytestmark = pytest.mark.slow


def test_every_class_is_seen_in_a_quarter_of_the_frames_of_training_towns() -> None:
    counts = []
    for seed in range(100, 120):
        drive = Drive(Town(seed), seed % 7)
        for t in (1.0, 10.0, 19.0):
            scene = drive.scene(t)
            seen = camera_mask(scene, synthetic_rig())
            counts.append(np.bincount(voxelise(scene)[0][seen], minlength=FREE + 1))
    present = (np.array(counts) >= 5).mean(axis=0)
    names = LABEL_SETS["occ3d"].class_names
    assert min(present) >= 0.25, dict(zip(names, present, strict=True))
    per_town = np.array(counts).reshape(20, 3, -1).sum(axis=1)
    assert (per_town.max(axis=0) >= 200).all()


def pixels(seeds: range) -> tuple[np.ndarray, np.ndarray]:
    """Colours in 4096 bins and classes of all pixels of one frame of each town."""
    bins, classes = [], []
    for seed in seeds:
        sensors = DriveSensors(Drive(Town(seed), 0), SensorOptions(size=(176, 99), stagger=False))
        for camera in sensors.rig.names:
            image = sensors.image(camera, 6.0) // 16
            bins.append(image.astype(np.int64) @ np.array([256, 16, 1]))
            classes.append(sensors.view(camera, 6.0).classes)
    return np.concatenate(bins).ravel(), np.concatenate(classes).ravel()


def test_colour_alone_does_not_predict_the_class() -> None:
    colour, label = pixels(range(200, 216))
    votes = np.zeros((4096, FREE + 1), dtype=np.int64)
    np.add.at(votes, (colour, label), 1)
    guess = votes.argmax(axis=1)
    colour, label = pixels(range(20_100, 20_108))
    predicted = guess[colour]
    ratios = [
        ((predicted == c) & (label == c)).sum() / max(((predicted == c) | (label == c)).sum(), 1)
        for c in range(FREE + 1)
    ]
    assert (predicted == label).mean() < 0.7
    assert np.mean(ratios) < 0.2


def test_baselines_bound_the_scores_of_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Far below: predictions without images. Far above: perfect depth and class."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from town_baselines import baselines

    rows = baselines(train_towns=6, test_towns=4, frames=1)
    blind = [rows["prior"], rows["plane"]]
    seeing = [rows["oracle 352x128"], rows["oracle 704x256"]]
    assert max(row["mIoU"] for row in blind) < 8
    assert all(30 < row["geometry IoU"] < 60 for row in blind)
    assert 35 < seeing[0]["mIoU"] < seeing[1]["mIoU"] < 70
    assert seeing[0]["geometry IoU"] < seeing[1]["geometry IoU"]
