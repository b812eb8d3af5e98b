"""``occ.load``, ``model.predict`` and what a prediction can do, on a small real model."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nuscenes_folder import VERSION, drawn_scene
from small_streams import SMALL_MODEL, frame_at, small_card, surround_rig
from typer.testing import CliRunner

import occ_perception as occ
from occ_perception.bags.recording import BagError
from occ_perception.cli import app
from occ_perception.errors import OptionError
from occ_perception.frames import CameraFrame
from occ_perception.inference.model import Model
from occ_perception.models.card import ModelError
from occ_perception.models.zoo import MODELS
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weight_files import WeightsError
from occ_perception.runtime.weights import load_model


@pytest.fixture(scope="module", autouse=True)
def small_model() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, SMALL_MODEL, small_card(rename=SMALL_MODEL))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> Model:
    with pytest.warns(UserWarning, match=r"weights are random \(seed 4\): .*meaningless"):
        return occ.load(SMALL_MODEL, random_weights=4)


@pytest.fixture(scope="module")
def frames() -> list[CameraFrame]:
    rig = surround_rig(MODELS[SMALL_MODEL].cameras)
    return [frame_at(1.0 + 0.5 * n, rig) for n in range(4)]


@pytest.fixture(scope="module")
def expected(frames: list[CameraFrame]) -> list[np.ndarray]:
    stream = OccupancyStream(load_model(SMALL_MODEL, random_seed=4))
    return [stream.step(frame).labels for frame in frames]


@pytest.fixture(scope="module")
def prediction(model: Model, frames: list[CameraFrame]) -> occ.Prediction:
    return list(model.predict(frames))[-1]


def test_frames_give_what_a_stream_gives(model, frames, expected) -> None:
    predictions = model.predict(frames)
    for got, labels, frame in zip(predictions, expected, frames, strict=True):
        np.testing.assert_array_equal(got.labels, labels)
        assert got.frame is frame
        assert got.observed is not None
        np.testing.assert_array_equal(got.unknown, ~got.observed)
    assert predictions.problems == []
    again = [p.labels for p in model.predict(iter(frames), every=3)]
    assert len(again) == 2
    np.testing.assert_array_equal(again[0], expected[0])
    (single,) = model.predict(frames[0])
    np.testing.assert_array_equal(single.labels, expected[0])
    assert len(list(model.predict(frames, limit=2))) == 2


def test_a_recording_is_closed_at_its_end(model, tmp_path) -> None:
    drawn_scene(tmp_path / "data", keyframes=2)
    bag = tmp_path / "bag"
    arguments = ["convert", "nuscenes", tmp_path / "data", "--version", VERSION, "--keyframes"]
    arguments += ["--scene", "scene-0001", "-o", bag]
    assert CliRunner().invoke(app, list(map(str, arguments))).exit_code == 0
    predictions = model.predict(bag)
    assert predictions.expected_frames == 2
    assert [p.frame.sequence for p in predictions] == ["bag", "bag"]
    with occ.open_drive(bag, model=model.card) as drive:
        assert len(list(model.predict(drive))) == len(list(model.predict(drive))) == 2
    with model.predict(bag) as half, pytest.raises(StopIteration):
        next(half)
        half.close()
        next(half), next(half)


def test_a_rig_with_fewer_cameras_loads_the_network_for_them(model) -> None:
    names = MODELS[SMALL_MODEL].cameras[:3]
    (got,) = model.predict(frame_at(1.0, surround_rig(names)))
    assert got.model == f"{SMALL_MODEL}@random:4 without CAM_BACK_LEFT, CAM_BACK, CAM_BACK_RIGHT"
    with pytest.raises(ModelError, match="needs at least one of the cameras"):
        list(model.predict(frame_at(1.0, surround_rig(("bow",)), reference_camera="bow")))


def test_mistakes(model, frames, tmp_path, monkeypatch) -> None:
    with pytest.raises(ModelError, match="did you mean alocc_3d"):
        occ.load("aloc_3d")
    monkeypatch.setenv("OCC_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="could not be fetched"):
        occ.load("alocc_2d_mini")
    with pytest.raises(OptionError, match="go with a path"):
        model.predict(frames, rate_hz=2.0)
    with pytest.raises(OptionError, match="every must be at least 1, got 0"):
        model.predict(frames, every=0)
    with pytest.raises(BagError, match="no recording at"):
        model.predict(tmp_path / "nowhere.mcap")


def test_one_line_says_what_it_is(model, prediction) -> None:
    assert repr(model) == (
        f"<Model {SMALL_MODEL}: {SMALL_MODEL}@random:4 on cpu, 6 cameras, 24x24x16>"
    )
    text = repr(prediction)
    assert "\n" not in text
    count = int(((prediction.labels != 17) & (prediction.labels != 255)).sum())
    assert text.startswith(f"<Prediction of {SMALL_MODEL}@random:4 at 2.500 s: 24x24x16, {count} ")
    assert text.endswith("% unknown, history 3>")


def test_notebooks_show_an_image(prediction) -> None:
    data = prediction._repr_png_()
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded[:, :, ::-1], prediction.to_image())


def test_saved_arrays_read_back(prediction, tmp_path) -> None:
    path = prediction.save(tmp_path / "one.npz")
    got = occ.Prediction.load(path)
    np.testing.assert_array_equal(got.labels, prediction.labels)
    np.testing.assert_array_equal(got.observed, prediction.observed)
    np.testing.assert_array_equal(got.ego_T_grid, prediction.ego_T_grid)
    for name in ("stamp_ns", "frame_id", "grid", "class_names", "empty_class", "model"):
        assert getattr(got, name) == getattr(prediction, name), name


def test_json_holds_the_grid(prediction, tmp_path) -> None:
    content = json.loads(prediction.save(tmp_path / "one.json").read_text())
    runs = np.array(content["runs"])
    X, Y, Z = content["grid"]["dims"]
    labels = np.repeat(runs[:, 0], runs[:, 1]).reshape(Z, Y, X).T
    np.testing.assert_array_equal(labels, prediction.labels)
    assert content["class_names"][content["empty_class"]] == "free"
    assert content["stamp_ns"] == prediction.stamp_ns


def test_points_are_the_occupied_voxels(prediction, tmp_path) -> None:
    columns = prediction.to_points()
    assert {len(column) for column in columns.values()} == {int(prediction.occupied.sum())}
    points = np.stack([columns["x"], columns["y"], columns["z"]], axis=1)
    grid = prediction.grid
    voxels = np.floor((points - grid.lower) / grid.voxel_size).astype(int)
    np.testing.assert_array_equal(prediction.labels[tuple(voxels.T)], columns["label"])
    header = prediction.save(tmp_path / "one.ply").read_bytes()[:600]
    assert b"element vertex %d" % len(points) in header
    with pytest.raises(OptionError, match=r"expected a name ending in .npz, .json, .ply, .png"):
        prediction.save(tmp_path / "one.txt")


def test_the_front_door_imports_neither_torch_nor_opencv() -> None:
    program = (
        "import sys, occ_perception as occ\n"
        "heavy = {'torch', 'cv2', 'numpy', 'numba', 'rosbags'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert {'load', 'list_models', 'open_recording'} <= set(dir(occ))\n"
        "occ.open_recording\n"
        "assert 'torch' not in sys.modules\n"
        "assert callable(occ.load) and 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_every_model_is_listed() -> None:
    names = [card.name for card in occ.list_models()]
    assert len(names) == len(set(names)) and {"alocc_3d", "fbocc", "alocc_town"} <= set(names)


def test_py_typed_is_there() -> None:
    assert (Path(occ.__file__).parent / "py.typed").is_file()
