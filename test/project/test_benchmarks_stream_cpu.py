"""The table of CPU figures: one process per model, resumption, conservative ratios."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import stream_cpu  # noqa: E402

SCRIPT = BENCHMARKS / "stream_cpu.py"


def measured(**changes):
    """A result file's content: 10 s per frame, both convolutions as fast as in the reference."""
    return {
        "model": "alocc_2d",
        "config": "alocc_2d_r50_256x704_bevdet_preatrain_16f",
        "image": "256x704",
        "milliseconds": {"total": {"p50": 10_000.0}},
        "gmac": {"total": 365.9},
        "memory_mb": {"process_peak": 1200.0, "state": 274.0},
        "convolution_seconds": {"conv2d": {"wall": 0.22}, "conv3d": {"wall": 0.165}},
        "load_average": [0.1, 1.5],
        "timed": "a frame",
        "frames": 2,
        **changes,
    }


REFERENCE = {
    "yardsticks": {"conv2d": 0.22, "conv3d": 0.165},
    "models": {
        "alocc_2d_r50_256x704_bevdet_preatrain_16f": {
            "seconds": 20.0, "GB": 2.4, "GMAC": 383, "quiet": True,
        }
    },
}  # fmt: skip


def test_ratios_are_those_of_the_less_favourable_convolution():
    same = stream_cpu.row(measured(), REFERENCE)
    assert (same["seconds_ratio"], same["gb_ratio"]) == (0.5, 0.5)
    slower = {"conv2d": {"wall": 0.44}, "conv3d": {"wall": 0.2}}  # a machine that is slow in 2-D
    row = stream_cpu.row(measured(convolution_seconds=slower), REFERENCE)
    assert row["scaled_seconds"] == pytest.approx(10 * 0.165 / 0.2)
    unknown = stream_cpu.row(measured(config=None), REFERENCE)
    assert unknown["seconds_ratio"] is None
    assert "| **20.0** | 50% | 1.20 | 2.4 | 50% |" in stream_cpu.page([same, unknown], FACTS)


FACTS = {
    "conditions": "on a CPU",
    "timed": "a frame",
    "frames": 2,
    "load": (0.1, 1.5),
    "sticks": {"conv2d": (0.22, 0.23), "conv3d": (0.16, 0.17)},
}


def test_a_wrong_name_is_refused(capsys):
    assert stream_cpu.main(["alocc_9d"]) == 2
    assert "no model alocc_9d; there are alocc_2d_mini" in capsys.readouterr().err


def test_every_reference_figure_belongs_to_a_configuration_of_the_reference(shared_dir):
    reference = stream_cpu.yaml.safe_load(stream_cpu.REFERENCE.read_text())["models"]
    assert all((shared_dir / f"reference/keys/{stem}.json").is_file() for stem in reference)


@pytest.mark.slow
def test_models_are_measured_apart_and_once(tmp_path):
    """The real thing: ALOcc-2D-mini at full size, and a finished result beside it."""
    out, results = tmp_path / "out", tmp_path / "results"
    out.mkdir()
    kept = measured(device={"name": "cpu"}, precision="fp32", execution="eager", date="2026-01-01")
    kept["versions"] = {"torch": "2"}
    (out / "alocc_2d.json").write_text(json.dumps(kept))
    command = [sys.executable, SCRIPT, "alocc_2d", "alocc_2d_mini", "alocc_2d_mini_nomask"]
    options = ["--frames", "1", "--threads", "1", "--out", out, "--results", results]
    done = subprocess.run(
        [str(part) for part in (*command, *options)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "/" not in line] == ["alocc_2d_mini"]
    (page,) = results.glob("*-stream-cpu.md")
    rows = [line for line in page.read_text().splitlines() if line.startswith("| alocc")]
    assert [line.split()[1] for line in rows] == ["alocc_2d", "alocc_2d_mini"]
    fresh = json.loads((out / "alocc_2d_mini.json").read_text())
    assert 500 < fresh["memory_mb"]["process_peak"] < 1400
