"""``occ run``: from a converted bag to predictions, images and a summary."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nuscenes_folder import VERSION, drawn_scene
from PIL import Image
from safetensors.torch import save_file
from small_streams import SMALL_MODEL, small_card
from typer.testing import CliRunner

from occ_perception.bags.drive import open_recording
from occ_perception.bags.recording import Recording
from occ_perception.bags.writing import OCCUPANCY_TOPIC
from occ_perception.cli import app
from occ_perception.codec import EncodedOccupancy, decode_occupancy
from occ_perception.frames import CameraRig
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import MODELS
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import load_model
from occ_perception.sensing import layouts
from occ_perception.sensing.calibration import save_rig

TESTS = Path(__file__).resolve().parents[1]


def occ(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", autouse=True)
def small_model() -> Iterator[None]:
    """Register the small model for these tests, and run it on one thread, which is fastest for it
    on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, SMALL_MODEL, small_card(rename=SMALL_MODEL))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drive")
    drawn_scene(folder / "data", keyframes=3)
    result = occ(
        *("convert", "nuscenes", folder / "data", "--version", VERSION),
        *("--scene", "scene-0001", "--out", folder / "scene-0001"),
    )
    assert result.exit_code == 0, result.output
    return folder / "scene-0001"


@pytest.fixture(scope="module")
def finished(bag: Path, tmp_path_factory: pytest.TempPathFactory):
    out = tmp_path_factory.mktemp("out") / "results"
    result = occ("run", bag, "-m", SMALL_MODEL, "-o", out, "--random-weights", 4, "--npz")
    assert result.exit_code == 0, result.output
    return out, result


@pytest.fixture(scope="module")
def expected(bag: Path):
    stream = OccupancyStream(load_model(SMALL_MODEL, random_seed=4))
    with open_recording(bag) as frames:
        return [stream.step(frame) for frame in frames]


def decoded(folder: Path) -> list[tuple[object, np.ndarray]]:
    """Messages of the written bag, and their label grids."""
    with_labels = []
    with Recording(folder) as recording:
        for raw in recording.messages([OCCUPANCY_TOPIC]):
            message = recording.decode(raw)
            encoded = EncodedOccupancy(
                message.encoding,
                message.labels,
                message.indices,
                message.run_lengths,
            )
            dims = tuple(int(count) for count in message.grid.dims)
            labels = decode_occupancy(encoded, dims, message.empty_class, len(message.class_names))
            with_labels.append((message, labels))
    return with_labels


def test_the_bag_holds_what_the_stream_predicts(finished, expected) -> None:
    out, _ = finished
    messages = decoded(out / "predictions")
    assert len(messages) == len(expected) > 10
    for (message, labels), prediction in zip(messages, expected, strict=True):
        assert np.array_equal(labels, prediction.labels)
        stamp = message.header.stamp
        assert stamp.sec * 10**9 + stamp.nanosec == prediction.stamp_ns
        assert message.header.frame_id == "base_link"
        assert message.model == f"{SMALL_MODEL}@random:4"
        assert message.committed == prediction.committed
        assert message.history_length == prediction.history_length


def test_every_frame_has_an_image_and_arrays(finished, expected) -> None:
    out, _ = finished
    images, arrays = sorted((out / "images").iterdir()), sorted((out / "npz").iterdir())
    assert len(images) == len(arrays) == len(expected)
    for number, (image, file, prediction) in enumerate(zip(images, arrays, expected, strict=True)):
        assert image.stem == file.stem == f"{number:06d}_{prediction.stamp_ns}"
        with np.load(file) as stored:
            assert np.array_equal(stored["labels_XYZ"], prediction.labels)
            assert int(stored["stamp_ns"]) == prediction.stamp_ns
            assert list(stored["class_names"]) == list(prediction.class_names)
    rgb = np.asarray(Image.open(images[0]))
    assert rgb.std() > 20 and min(rgb.shape[:2]) > 300


def test_the_summary_describes_the_run(finished, expected, bag: Path) -> None:
    out, result = finished
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finished"] is True and summary["error"] == ""
    assert summary["frames"] == len(expected)
    assert summary["committed"] == sum(p.committed for p in expected)
    assert summary["model"] == f"{SMALL_MODEL}@random:4" and summary["bag"] == str(bag)
    total = summary["latency_ms"]["total"]
    assert 0 < total["p50"] <= total["p90"] <= total["p99"] <= total["max"]
    assert summary["history_breaks"] == []
    assert "meaningless" in result.output
    assert f"{len(expected)} frames" in result.output


def test_nothing_is_overwritten(finished, bag: Path) -> None:
    out, _ = finished
    before = (out / "summary.json").read_bytes()
    result = occ("run", bag, "-m", SMALL_MODEL, "-o", out, "--random-weights", 5)
    assert result.exit_code == 2
    assert "exists already, and nothing is overwritten" in result.output
    assert (out / "summary.json").read_bytes() == before


def test_every_and_limit_choose_frames(bag: Path, expected, tmp_path: Path) -> None:
    out = tmp_path / "few"
    result = occ(
        *("run", bag, "-m", SMALL_MODEL, "-o", out, "--random-weights", 4),
        *("--every", 3, "--limit", 2, "--commit-spacing", 0),
    )
    assert result.exit_code == 0, result.output
    messages = decoded(out / "predictions")
    stamps = [m.header.stamp.sec * 10**9 + m.header.stamp.nanosec for m, _ in messages]
    assert stamps == [expected[0].stamp_ns, expected[3].stamp_ns]
    assert all(message.committed for message, _ in messages)
    assert not (out / "npz").exists()


def test_frames_whose_output_is_not_a_number_are_listed_and_left_out(
    bag: Path, tmp_path: Path
) -> None:
    card = MODELS[SMALL_MODEL]
    net = card.build()
    fill_random_weights(net, card)
    weights = {checkpoint_key(key, card.names): value for key, value in net.state_dict().items()}
    weights["final_conv.weight"].fill_(3e38)  # finite, but sums of its products are not
    save_file(weights, tmp_path / "huge.safetensors")
    arguments = ("run", bag, "-m", SMALL_MODEL, "--weights", tmp_path / "huge.safetensors")
    result = occ(*arguments, "--limit", 2, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert "class scores are not numbers (NaN)" in result.output
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["frames"], summary["skipped"]) == (0, {"not_finite": 2})
    assert not list((tmp_path / "out" / "images").iterdir())


def test_missing_weights_are_one_line(
    bag: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCC_WEIGHTS", str(tmp_path / "no-weights"))
    result = occ("run", bag, "-m", "alocc_2d_mini", "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert len(result.output.splitlines()) == 1
    assert "no pretrained weights" in result.output and "meaningless" in result.output
    assert "--random-weights SEED" in result.output and "huggingface.co" in result.output
    assert not (tmp_path / "out").exists()


def test_a_missing_bag_or_an_unfit_rig_is_one_line(bag: Path, tmp_path: Path) -> None:
    options = ("-m", SMALL_MODEL, "--random-weights", 1, "-o", tmp_path / "out")
    result = occ("run", tmp_path / "nowhere", *options)
    assert result.exit_code == 2 and "nowhere" in result.output
    result = occ("run", bag, *options, "--device", "warp")
    assert result.exit_code == 2 and "'warp' cannot be used" in result.output
    result = occ("run", bag, *options, "--rig", tmp_path / "no_rig.yaml")
    assert result.exit_code == 2 and "no_rig.yaml" in result.output


def test_a_model_that_does_not_fit_the_rig_is_refused_with_its_reason(bag: Path, tmp_path: Path):
    out = tmp_path / "out"
    result = occ(
        *("run", bag, "-m", "alocc_2d_mini_surroundocc", "--random-weights", 1, "-o", out),
    )
    assert result.exit_code == 2
    assert "the model needs the mount of the lidar: no mount of lidar_top in tf" in result.output
    assert not out.exists()


def test_a_rig_with_fewer_cameras_runs_with_a_warning(bag: Path, tmp_path: Path) -> None:
    with open_recording(bag) as frames:
        cameras = tuple(c for c in frames.rig.cameras if c.name != "CAM_BACK")
        save_rig(tmp_path / "five.yaml", CameraRig(cameras))
    out = tmp_path / "out"
    options = ("-m", SMALL_MODEL, "--random-weights", 4, "--limit", 1, "-o", out)
    result = occ("run", bag, *options, "--rig", tmp_path / "five.yaml")
    assert result.exit_code == 0, result.output
    assert "the rig has no CAM_BACK" in result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["absent_cameras"] == ["CAM_BACK"]
    assert summary["model"].endswith(" without CAM_BACK")
    ((message, _),) = decoded(out / "predictions")
    assert set(message.camera_names) == {camera.name for camera in cameras}


def test_a_model_runs_on_cameras_with_other_names(bag: Path, tmp_path: Path, expected) -> None:
    """The bag's layout with every camera renamed, and a mapping to the names of the model."""
    shipped = Path(layouts.__file__).with_name("occ_perception.yaml")
    content = yaml.safe_load(shipped.read_text())
    own = {name: name.removeprefix("CAM_").lower() for name in content["cameras"]}
    content["cameras"] = {own[name]: topics for name, topics in content["cameras"].items()}
    content["reference_camera"] = own[content["reference_camera"]]
    content["model_cameras"] = own
    (tmp_path / "renamed.yaml").write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    options = ("-m", SMALL_MODEL, "--random-weights", 4, "--limit", 1, "--npz", "-o", out)
    result = occ("run", bag, *options, "--layout", tmp_path / "renamed.yaml")
    assert result.exit_code == 0, result.output
    (arrays,) = (out / "npz").glob("*.npz")
    assert np.array_equal(np.load(arrays)["labels_XYZ"], expected[0].labels)


def test_an_interrupted_run_keeps_a_readable_bag(tmp_path: Path) -> None:
    data, bag, out = tmp_path / "data", tmp_path / "bag", tmp_path / "out"
    drawn_scene(data, keyframes=25)
    converted = occ(
        *("convert", "nuscenes", data, "--version", VERSION, "--scene", "scene-0001", "-o", bag)
    )
    assert converted.exit_code == 0, converted.output
    command = [sys.executable, str(TESTS / "small_model_occ.py"), "run", str(bag)]
    command += ["-m", SMALL_MODEL, "-o", str(out), "--random-weights", "4"]
    repository = str(TESTS.parent)
    process = subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": repository, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(out.glob("images/*.png"))) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            assert not (out / "predictions").exists()  # appears only when it is complete
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130, output
    assert "interrupted" in output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["finished"] is False
    messages = decoded(out / "predictions")
    assert 3 <= len(messages) < 140
    assert summary["frames"] in (len(messages), len(messages) - 1)
