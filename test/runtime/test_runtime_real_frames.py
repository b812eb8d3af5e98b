"""Four real keyframes through the full-size network; weights are random, so only the way counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nuscenes_folder import VERSION, real_scene

from occ_perception.bags.drive import open_recording
from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel, load_model


@pytest.fixture(scope="module")
def frames(shared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[CameraFrame]:
    folder = tmp_path_factory.mktemp("real")
    real_scene(folder / "data", shared_dir)
    convert_nuscenes(folder / "data", VERSION, "scene-0103", folder / "bag")
    with open_recording(folder / "bag") as bag:
        return list(bag)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model("alocc_2d_mini", random_seed=0)


@pytest.fixture(scope="module")
def predictions(frames: list[CameraFrame], model: LoadedModel) -> list[OccupancyPrediction]:
    stream = OccupancyStream(model)
    return [stream.step(frame) for frame in frames]


def test_four_keyframes_make_one_history(frames, predictions) -> None:
    assert len(frames) == 4
    assert [p.history_length for p in predictions] == [0, 1, 2, 3]
    assert all(p.committed and not p.history_break for p in predictions)
    assert [p.stamp_ns for p in predictions] == [f.stamps_ns["CAM_FRONT"] for f in frames]
    for prediction in predictions:
        assert prediction.labels.shape == (200, 200, 16)
        assert prediction.grid.lower == (-40.0, -40.0, -1.0)
        assert np.allclose(prediction.grid.upper, (40.0, 40.0, 5.4))
        assert prediction.labels.max() <= 17


def test_a_frame_in_the_middle_depends_on_its_history(frames, predictions, model) -> None:
    alone = OccupancyStream(model).step(frames[2])
    assert alone.history_length == 0
    assert not np.array_equal(alone.labels, predictions[2].labels)
