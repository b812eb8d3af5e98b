"""The script of the GPU run: its imports, its resumption, and a complete run on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
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
from occ_perception.runtime.execution import Execution
for name in ("alocc_2d_mini", "alocc_2d_mini_nomask"):
    MODELS["small_" + name] = small_card(name, rename="small_" + name)
MODELS["small_alocc_2d_mini_nomask"] = replace(
    MODELS["small_alocc_2d_mini_nomask"], config=MODELS["small_alocc_2d_mini"].config
)
gpu.origin = lambda device: {"source": "whatever is edited meanwhile"}
options = json.loads(sys.argv[1])
plan = gpu.Plan(
    device=torch.device("cpu"),
    reference=Path(gpu.REPOSITORY, "test/parity/golden"),
    out=Path(options["out"]),
    results=Path(options["out"]) / "results",
    minutes=options["minutes"],
    models=("small_alocc_2d_mini", "small_alocc_2d_mini_nomask"),
    executions=(Execution("fp32"), Execution("bf16"), Execution("fp32", "compile")),
    frames=3,
    warm_up=2,
)
print("bad", gpu.run(plan))
"""


def python(
    code: str, *arguments: str, timeout: float = 60, env: Mapping[str, str] = os.environ
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**env, "OMP_NUM_THREADS": "1"},
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
    assert "this script needs a GPU" in result.stderr
    assert not (tmp_path / "o").exists()


PLAN = """
import gpu
from pathlib import Path
from occ_perception.runtime.execution import Execution
plan = gpu.Plan(torch.device("cpu"), Path("golden"), Path(sys.argv[1]), Path(sys.argv[1]) / "r")
STREAM = {"milliseconds": {"total": dict(p50=1.0, p90=1.0, p99=1.0, max=1.0),
          "network": {"p50": 1.0}}, "gmac": {"total": 1}, "network_tflops": 1.0,
          "memory_mb": {"process_peak": 1}}
PARITY = {"passed": True, "by_rounding": 0, "conclusion": "passed", "comparisons": 9, "failed": [],
          "worst_error": 0.0, "worst_at": "lift", "labels_equal": 1.0}
calls = []
def does(name, result=STREAM):
    def work():
        calls.append(name)
        if isinstance(result, BaseException):
            raise result
        return result
    return work
def run(*pieces):
    calls.clear()
    gpu.pieces = lambda plan: iter(pieces)
    bad = gpu.run(plan)
    page = max(plan.results.glob("*.md"), key=lambda path: path.stat().st_mtime_ns)
    return bad, list(calls), page.read_text()
"""


def planned(tmp_path: Path, code: str) -> None:
    """Run code with made-up pieces in the process of the script, asserts included."""
    result = python(BLOCKED + PLAN + code, str(tmp_path / "out"))
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_empty_folder_of_golden_files_is_an_error(tmp_path: Path) -> None:
    code = "import gpu\nsys.exit(gpu.main(['--device', 'cpu', '--reference', sys.argv[1]]))"
    for folder in (tmp_path, tmp_path / "missing"):
        result = python(BLOCKED + code, str(folder))
        assert result.returncode == 2
        assert f"no golden file (*.npz) in {folder}: set OCC_SHARED" in result.stderr


def test_it_prints_the_number_of_golden_files_and_the_networks_without_one(tmp_path) -> None:
    code = (
        "import gpu\ngpu.run = lambda plan: 3\n"
        "print(gpu.main(['--device', 'cpu', '--out', sys.argv[1]]))"
    )
    env = {k: v for k, v in os.environ.items() if k != "OCC_SHARED"}
    result = python(BLOCKED + code, str(tmp_path), env=env)
    line, status = result.stdout.splitlines()
    assert line.startswith("1 golden files in ") and "without one: alocc_2d_mini_surround" in line
    assert "sparseocc" in line and "causal" not in line and status == "1"


def test_failed_parity_and_what_raises_are_on_the_page_and_in_the_status(tmp_path) -> None:
    planned(
        tmp_path,
        """
failed = {**PARITY, "passed": False, "failed": ["f2 FAIL cost_volume max 1.6e-4", "f3"]}
bad, done, text = run(
    gpu.Piece("parity", "stereo", does("parity", failed)),
    gpu.Piece("agreement", "sparse", does("agreement", KeyError("n_cams"))),
    gpu.Piece("benchmark", "a, fp32, eager", does("a")),
)
assert bad == 2, bad
assert "- parity stereo: 2 comparisons failed, the first: f2 FAIL cost_volume max 1.6e-4" in text
assert "- agreement sparse: KeyError: 'n_cams'" in text
""",
    )


def test_a_compiled_piece_is_not_begun_on_the_time_of_eager_ones(tmp_path) -> None:
    planned(
        tmp_path,
        """
from dataclasses import replace
plan = replace(plan, minutes=3.9)  # less than the first guess of a compiled one
eager = [gpu.Piece("benchmark", f"{n}, fp32, eager", does(n)) for n in "ab"]
compiled = gpu.Piece("benchmark", "a, fp32, compiled", does("compiled"), compiled=True)
bad, done, text = run(eager[0], compiled, eager[1])
assert (bad, done) == (1, ["a", "b"])
assert "- not reached: 1 (benchmark a, fp32, compiled)" in text
""",
    )


def test_a_piece_that_raises_does_not_count_in_time_estimates(tmp_path) -> None:
    planned(
        tmp_path,
        """
import time
from dataclasses import replace
plan = replace(plan, minutes=0.06)
gpu.FIRST_GUESS_S = {False: 3.0, True: 3.0}
def slow():
    time.sleep(1)
    raise RuntimeError("no compiler")
fails = gpu.Piece("benchmark", "fails", slow)
bad, done, text = run(fails, gpu.Piece("benchmark", "next", does("next")))
assert (bad, done) == (2, []) and "- benchmark fails: RuntimeError: no compiler" in text
""",
    )


def test_a_killed_run_has_its_page_and_tries_what_killed_it_last(tmp_path) -> None:
    planned(
        tmp_path,
        """
killer = gpu.Piece("benchmark", "killer", does("killer", KeyboardInterrupt()))
others = [gpu.Piece("benchmark", n, does(n)) for n in ("first", "last")]
try:
    run(others[0], killer, others[1])
except KeyboardInterrupt:
    pass
(page,) = plan.results.glob("*.md")
assert "| first | 1.00" in page.read_text()
killer = gpu.Piece("benchmark", "killer", does("killer"))
bad, done, text = run(others[0], killer, others[1])
assert (bad, done) == (0, ["last", "killer"]), done
assert run(others[0], killer, others[1])[:2] == (0, [])
""",
    )


def test_results_of_another_machine_source_or_file_do_not_count(tmp_path) -> None:
    planned(
        tmp_path,
        """
piece = gpu.Piece("parity", "mini", does("mini", PARITY), file="aa")
assert run(piece)[:2] == (0, ["mini"])
assert run(piece)[:2] == (0, [])
other = gpu.Piece("parity", "mini", does("mini", PARITY), file="bb")
assert run(other)[:2] == (0, ["mini"])
facts = gpu.device_facts
gpu.device_facts = lambda device: {**facts(device), "name": "H200"}
assert run(other)[:2] == (0, ["mini"])
""",
    )


def test_the_most_important_pieces_come_first_and_each_model_in_one_go(tmp_path) -> None:
    planned(
        tmp_path,
        """
plan = gpu.Plan(plan.device, gpu.REPOSITORY / "test/parity/golden", plan.out, plan.results)
every = list(gpu.pieces(plan))
sorts = [(p.kind, p.name.split(",")[0], p.compiled) for p in every if p.kind == "benchmark"]
models = [name for _, name, compiled in sorts if not compiled]
assert models == [name for name in dict.fromkeys(models) for _ in range(6)]
assert set(models[:30]) == set(gpu.WELL_KNOWN)
assert set(name for _, name, compiled in sorts[30:40] if compiled) == set(gpu.WELL_KNOWN)
kinds = ["self-check", "parity", "benchmark", "agreement", "benchmark"]
assert [every[n].kind for n in (0, 5, 6, 36, 37)] == kinds
""",
    )


def test_a_model_is_loaded_once_for_all_its_executions(tmp_path) -> None:
    planned(
        tmp_path,
        """
loaded = []
gpu.load_model = lambda name, **_: loaded.append(name) or name
class Benchmark:
    def __init__(self, model, frames, warm_up): self.model = model
    def measure(self, execution, stages): return {"model": self.model, "stages": stages}
gpu.StreamBenchmark = Benchmark
cards = list(gpu.distinct_networks(("alocc_2d", "fbocc")))
model = gpu.OneModel(plan)
got = [model.measure(card, how) for card in cards for how in gpu.EXECUTIONS]
assert loaded == ["alocc_2d", "fbocc"]
assert [g["stages"] for g in got[:5]] == [True, True, True, False, False]
""",
    )


def test_a_self_check_says_what_runs_and_what_does_not(tmp_path) -> None:
    planned(
        tmp_path,
        """
from small_streams import small_card
from occ_perception.models.zoo import MODELS
torch.ops.mkldnn._is_mkldnn_bf16_supported = lambda: False
card = MODELS["small"] = small_card("alocc_2d_mini", rename="small")
check = gpu.OneModel(plan).self_check(card)
assert check["execution"] == "fp32, eager" and check["passed_over"] == [], check
piece = gpu.Piece("self-check", "small", lambda: {**check, "passed_over": ["bf16, graph: no"]})
bad, done, text = run(piece)
assert bad == 0 and "| small | fp32, eager | the reference itself | bf16, graph: no |" in text
""",
    )


@pytest.mark.slow
def test_labels_of_the_sparse_file_are_compared(shared_dir: Path) -> None:
    file = shared_dir / "reference/golden/r50_nuimg_704x256_8f.npz"
    code = "import gpu, json\nfrom pathlib import Path\n" + (
        "print(json.dumps(gpu.agreement(Path(sys.argv[1]), torch.device('cpu'))))"
    )
    result = python(BLOCKED + code, str(file), timeout=1500)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["model"], found["frames"]) == ("sparseocc", 6)
    assert 0.9 < found["bf16"]["equal"] <= 1.0


def test_out_of_time_it_starts_nothing_and_lists_what_is_left(tmp_path: Path) -> None:
    result = python(BLOCKED + DRY_RUN, json.dumps({"out": str(tmp_path), "minutes": 0}))
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "bad 5"  # parity, agreement, three of one network
    assert not list(tmp_path.glob("*.jsonl"))
    (page,) = (tmp_path / "results").glob("*.md")
    assert "not reached: 5 (parity alocc_2d_mini_r50" in page.read_text()


@pytest.mark.slow
def test_a_dry_run_on_a_cpu_is_complete_and_resumes(tmp_path: Path) -> None:
    options = json.dumps({"out": str(tmp_path), "minutes": 30})
    first = python(BLOCKED + DRY_RUN, options, timeout=1500)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1] == "bad 0", first.stdout

    (page,) = (tmp_path / "results").glob("*-gpu-cpu.md")
    found = json.loads(page.with_suffix(".json").read_text())
    (parity,), (agreement,) = found["parity"], found["agreement"]
    assert parity["passed"] and parity["comparisons"] > 50 and parity["worst_error"] < 1e-4
    for precision in ("fp16", "bf16"):
        assert 0.9 < agreement[precision]["equal"] <= 1.0
        assert agreement[precision]["occupied_equal"] <= agreement[precision]["equal"]
    assert [b["piece"] for b in found["benchmark"]] == [
        f"small_alocc_2d_mini, {how}" for how in ("fp32, eager", "bf16, eager", "fp32, compile")
    ]
    for entry in found["benchmark"]:
        assert "error" not in entry and entry["milliseconds"]["total"]["p50"] > 0
        assert bool(entry["stages_ms"]) == (entry["execution"] == "eager")
    text = page.read_text()
    assert "| small_alocc_2d_mini, fp32, compile |" in text and "## Wrong" not in text

    # A line that a killed run left half written, and a piece that failed: both are done again.
    lines = (tmp_path / "benchmark.jsonl").read_text().splitlines()
    results = [line for line in lines if '"milliseconds"' in line]
    assert len(results) == 3
    failed = json.dumps({**json.loads(results[0]), "error": "out of memory"})
    (tmp_path / "benchmark.jsonl").write_text("\n".join([failed, results[2], results[1][:40]]))
    parity_before = (tmp_path / "parity.jsonl").read_bytes()
    second = python(BLOCKED + DRY_RUN, options, timeout=600)
    assert second.stdout.splitlines()[-1] == "bad 0", second.stderr
    done_again = [line for line in second.stdout.splitlines() if line.startswith("benchmark")]
    assert len(done_again) == 2
    assert (tmp_path / "parity.jsonl").read_bytes() == parity_before
    assert len([f for f in tmp_path.rglob("*") if f.is_file()]) <= 8
