"""Scores by distance and the predictions beside them, on frames of one small town."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from occ_training.data.index import DatasetIndex
from occ_training.town import TownData, town_dataset
from occ_training.town_scores import (
    as_table,
    labels_of_frame,
    oracle,
    plane,
    prior,
    score_by_distance,
)

from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic import OCC3D_GRID

DATA = TownData(towns=1, drives=1, clip_frames=2, size=(352, 198))
ROAD = LABEL_SETS["occ3d"].class_names.index("driveable_surface")
FREE = LABEL_SETS["occ3d"].empty_class


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    folder = tmp_path_factory.mktemp("town")
    return town_dataset(folder, "train", DATA.clips("train"), DATA, jobs=1, log=lambda _: None)


def seen_truth(index: DatasetIndex, number: int) -> tuple[np.ndarray, np.ndarray]:
    truth = labels_of_frame(index, index.frames[number])
    return truth.semantics_XYZ, truth.camera_mask_XYZ


def save(folder: Path, index: DatasetIndex, labels_of) -> Path:
    for number, frame in enumerate(index.frames):
        path = folder / frame.sequence / f"{frame.token}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, semantics=labels_of(number))
    return folder


def test_truth_scores_one_at_every_distance_and_a_far_error_only_far(
    frames: DatasetIndex, tmp_path: Path
) -> None:
    x = OCC3D_GRID.lower[0] + (np.arange(OCC3D_GRID.dims[0]) + 0.5) * OCC3D_GRID.voxel_size[0]

    def forgets_what_is_far_ahead(number: int) -> np.ndarray:
        labels = seen_truth(frames, number)[0].copy()
        labels[x > 20.5] = FREE
        return labels

    scores = score_by_distance(
        frames,
        frames,
        {
            "truth": save(tmp_path / "a", frames, lambda n: seen_truth(frames, n)[0]),
            "near": save(tmp_path / "b", frames, forgets_what_is_far_ahead),
        },
    )
    assert scores["truth"].miou == scores["truth"].iou == (1.0, 1.0, 1.0, 1.0)
    assert scores["near"].iou[1:3] == (1.0, 1.0)
    assert scores["near"].iou[0] < 1.0 and scores["near"].iou[3] < 0.8
    assert list(scores) == ["truth", "near", "prior", "plane", "oracle"]
    lines = list(as_table(scores))
    assert lines[2] == "| truth | 100.0 / 100.0 | 100.0 / 100.0 | 100.0 / 100.0 | 100.0 / 100.0 |"
    # What a perfect depth shows is right; what the plane shows is a guess.
    assert scores["oracle"].miou[1] > 1.3 * scores["plane"].miou[1]


def test_the_oracle_fills_voxels_that_are_occupied(frames: DatasetIndex) -> None:
    truth, seen = seen_truth(frames, 1)
    guess = oracle(frames, frames.frames[1])
    filled = (guess != FREE) & seen
    assert filled.sum() > 1000
    assert np.mean(truth[filled] != FREE) > 0.8
    assert np.mean(truth[filled] == guess[filled]) > 0.75


def test_the_prior_is_the_most_frequent_class_of_a_voxel(frames: DatasetIndex) -> None:
    (first, seen_first), (second, seen_second) = (seen_truth(frames, n) for n in (0, 1))
    guess = prior(frames)
    agree = seen_first & seen_second & (first == second)
    np.testing.assert_array_equal(guess[agree], first[agree])
    alone = seen_first & ~seen_second
    np.testing.assert_array_equal(guess[alone], first[alone])
    assert (guess[~seen_first & ~seen_second] == FREE).all()


def test_the_plane_is_one_layer_of_road() -> None:
    guess = plane()
    assert np.count_nonzero(guess == ROAD) == OCC3D_GRID.dims[0] * OCC3D_GRID.dims[1]
    assert set(np.unique(guess)) == {ROAD, FREE}
