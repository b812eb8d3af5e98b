"""The GPU run's script: what it may import, what it resumes, and all of it once on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# A machine with a GPU has none of these.
ABSENT = (
    *("rclpy", "occ_msgs", "launch", "rosbags", "mcap", "typer", "rich", "safetensors"),
    "huggingface_hub",
    "scipy",
)
BLOCKED = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)
sys.meta_path.insert(0, Absent())
sys.path[:0] = [{str(REPOSITORY / "benchmarks")!r}, {str(REPOSITORY / "test")!r}]
import torch
torch.set_num_threads(1)
"""
DRY_RUN = """
import json
from dataclasses import replace
from pathlib import Path
import gpu
from small_streams import small_card
from occ_perception.models.zoo import MODELS
from occ_perception.runtime.graphs import Execution
for name in ("alocc_2d_mini", "alocc_2d_mini_nomask"):
    MODELS["small_" + name] = small_card(name, rename="small_" + name)
MODELS["small_alocc_2d_mini_nomask"] = replace(
    MODELS["small_alocc_2d_mini_nomask"], recipe=MODELS["small_alocc_2d_mini"].recipe
)
options = json.loads(sys.argv[1])
plan = gpu.Plan(
    device=torch.device("cpu"),
    reference=Path(gpu.REPOSITORY, "test/parity/golden"),
    out=Path(options["out"]),
    results=Path(options["out"]) / "results",
    minutes=options["minutes"],
    models=("small_alocc_2d_mini", "small_alocc_2d_mini_nomask"),
    executions=(Execution("fp32"), Execution("bf16"), Execution("fp32", compiled=True)),
    frames=3,
    warm_up=2,
)
print("left", gpu.run(plan))
"""


def python(code: str, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_it_needs_no_ros_no_bags_and_no_command_line() -> None:
    result = python(BLOCKED + "import gpu\nprint(len(list(gpu.distinct_networks(()))))")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 2


def test_without_a_gpu_it_measures_nothing(tmp_path: Path) -> None:
    code = "import gpu\nsys.exit(gpu.main(['--device', 'cuda:7', '--out', sys.argv[1]]))"
    result = python(BLOCKED + code, str(tmp_path / "o"))
    assert result.returncode == 2
    assert "figures of a GPU need one" in result.stderr
    assert not (tmp_path / "o").exists()


def test_out_of_time_it_begins_nothing_and_says_what_is_left(tmp_path: Path) -> None:
    result = python(BLOCKED + DRY_RUN, json.dumps({"out": str(tmp_path), "minutes": 0}))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "left 5"  # parity, agreement, three of one network
    assert not list(tmp_path.glob("*.jsonl"))


@pytest.mark.slow
def test_a_dry_run_on_a_cpu_is_complete_and_resumes(tmp_path: Path) -> None:
    options = json.dumps({"out": str(tmp_path), "minutes": 30})
    first = python(BLOCKED + DRY_RUN, options, timeout=1500)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "left 0", first.stdout

    (page,) = (tmp_path / "results").glob("*-gpu-cpu.md")
    found = json.loads(page.with_suffix(".json").read_text())
    (parity,), (agreement,) = found["parity"], found["agreement"]
    assert parity["passed"] and parity["comparisons"] > 50 and parity["worst_error"] < 1e-4
    for precision in ("fp16", "bf16"):
        assert 0.9 < agreement[precision]["equal"] <= 1.0
        assert agreement[precision]["occupied_equal"] <= agreement[precision]["equal"]
    assert [b["piece"] for b in found["benchmark"]] == [
        f"small_alocc_2d_mini, {how}" for how in ("fp32, eager", "bf16, eager", "fp32, compiled")
    ]
    for entry in found["benchmark"]:
        assert "error" not in entry and entry["milliseconds"]["total"]["p50"] > 0
        assert bool(entry["stages_ms"]) == (not entry["compiled"])
    text = page.read_text()
    assert "| small_alocc_2d_mini, fp32, compiled |" in text and "## Not done" not in text

    # A line that a killed run left half written, and a piece that failed: both are done again.
    lines = (tmp_path / "benchmark.jsonl").read_text().splitlines()
    failed = json.dumps({"piece": json.loads(lines[0])["piece"], "error": "out of memory"})
    (tmp_path / "benchmark.jsonl").write_text("\n".join([failed, lines[2], lines[1][:40]]) + "\n")
    parity_before = (tmp_path / "parity.jsonl").read_bytes()
    second = python(BLOCKED + DRY_RUN, options, timeout=600)
    assert second.stdout.splitlines()[-1] == "left 0", second.stderr
    done_again = [line for line in second.stdout.splitlines() if line.startswith("benchmark")]
    assert len(done_again) == 2
    assert (tmp_path / "parity.jsonl").read_bytes() == parity_before
    assert len([f for f in tmp_path.rglob("*") if f.is_file()]) <= 8
