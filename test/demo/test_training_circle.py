"""Bag -> data set -> training -> checkpoint -> demonstration, by the commands of the docs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", exc_type=ImportError)
pytest.importorskip("occ_training.fit", exc_type=ImportError)

from processes import OCC
from ros_fixtures import Launch

from occ_perception.bags.predictions import BagPredictions
from occ_perception.runtime.weight_files import file_checksum

pytestmark = [pytest.mark.ros, pytest.mark.slow]

OCC_TRAIN = [sys.executable, "-c", "from occ_training.cli import main; main()"]


def test_a_bag_becomes_a_checkpoint_that_the_node_runs(
    tmp_path: Path, launch: Launch, environment_without_tf: dict[str, str]
) -> None:
    """At the real model's size; after two steps it is untrained, but the node runs it."""

    def done(command: list[str | Path], seconds: float = 300.0) -> str:
        run = launch(command, environment=environment_without_tf)
        assert run.wait(seconds) == 0, run.output()
        return run.output()

    drive, data, out = tmp_path / "drive", tmp_path / "data", tmp_path / "run"
    done(
        [*OCC, "town", "drive", "--town", "3", "--drive", "1", "--frames", "2", "--bag", "mcap",
         "--size", "704x396", "--lidar", "10", "--out", drive]
    )  # fmt: skip
    done([*OCC_TRAIN, "convert", drive, "--labels", "ground-truth", "--out", data])
    done(
        [*OCC_TRAIN, "fit", "alocc_town", "--data", data, "--out", out, "--accelerator", "cpu",
         "--devices", "1", "--set", "steps=2", "--set", "batch=1", "--set", "workers=0",
         "--set", "checkpoint_every=2", "--set", "splits=1"],
        560.0,
    )  # fmt: skip
    (weights,) = out.glob("checkpoints/step_*/weights.safetensors")
    shown = tmp_path / "shown"
    report = done(
        [*OCC, "demo", drive, "--model", "alocc_town", "--weights",
         weights, "--device", "cpu", "--out", shown]
    )  # fmt: skip
    assert re.search(r"^frames out      2$", report, re.M)
    assert re.search(r"^mIoU \d+\.\d %$", report, re.M)
    assert "untrained" not in (shown / "report.html").read_text()
    outputs = list(BagPredictions(shown / "recorded"))
    assert {output.model for output in outputs} == {f"alocc_town@{file_checksum(weights)[:12]}"}
