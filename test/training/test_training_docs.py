"""The step-by-step commands of docs/training.md convert, train, evaluate and predict."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from occ_perception.bags.predictions import BagPredictions
from occ_perception.runtime.weight_files import file_checksum

pytestmark = pytest.mark.slow(ci=True)

ROOT = Path(__file__).parents[2]


def test_the_steps_of_the_page_lead_from_a_bag_to_predictions(tmp_path: Path) -> None:
    page = (ROOT / "docs/training.md").read_text()
    steps = re.search(r"^### Step by step\n.*?^```bash\n(.*?)^```", page, re.S | re.M)
    assert steps is not None
    printed = []
    commands = steps[1].replace("\\\n", "").replace("/tmp/own", str(tmp_path)).splitlines()
    assert len(commands) == 7
    for command in commands:
        done = subprocess.run(
            ["bash", "-ec", command],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        printed.append(done.stdout)
    assert any("trained without ImageMasks" in text for text in printed)
    (weights,) = (tmp_path / "run").glob("checkpoints/step_*/weights.safetensors")
    predictions = list(BagPredictions(tmp_path / "predictions/predictions"))
    assert [prediction.model for prediction in predictions] == [
        f"alocc_2d_mini@{file_checksum(weights)[:12]}"
    ] * 4
