"""The numbers of the reference evaluations, reproduced by the script for golden folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]


def check_metrics(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "test/parity/check_metrics.py", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, text=True, capture_output=True, timeout=300
    )


def test_golden_folder_is_reproduced(shared_dir):
    done = check_metrics(shared_dir / "reference/golden_metrics")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "91 comparisons, 0 beyond tolerance" in done.stdout


def test_a_changed_number_makes_the_script_fail(shared_dir, tmp_path):
    for file in (shared_dir / "reference/golden_metrics").glob("*.npz"):
        (tmp_path / file.name).symlink_to(file)
    original = shared_dir / "reference/golden_metrics"
    (tmp_path / "ego_poses.json").symlink_to(original / "ego_poses.json")
    expected = json.loads((original / "expected.json").read_text())
    expected["waymo_style"]["masked"]["mIoU"] += 1e-8
    expected["occ3d_RayIoU"]["per_class"]["2"][4] = None
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    done = check_metrics(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    beyond = [line for line in done.stdout.splitlines() if "BEYOND" in line]
    assert len(beyond) == 2
    assert "RayIoU@2 per class" in beyond[0] and "waymo_style masked: mIoU" in beyond[1]
