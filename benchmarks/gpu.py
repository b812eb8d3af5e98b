"""Everything that needs a GPU, in one run that can be interrupted and continued.

    python benchmarks/gpu.py [--reference FOLDER] [--out FOLDER] [--results FOLDER] [--minutes 9.5]

Runs from a checkout on any Python that has torch, numpy, pillow, opencv, timm, numba and pyyaml;
neither ROS nor bag libraries are touched. Three kinds of pieces, in this order:

- parity: every golden file in float32 with the matrix units' rounding off, by the pass rule;
- agreement: labels of fp16 and bf16 against those of float32, on the same frames;
- benchmark: every network of the zoo in a stream, eager and compiled.

Each finished piece is a line of a JSON-lines file in OUT, one file per kind. A later run with the
same OUT does what is missing; no piece is begun that would not end in time. At the end a dated
page and its JSON are written to RESULTS.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "test" / "parity")]

import torch  # noqa: E402
from check import check_file, opened  # noqa: E402
from golden_file import GoldenFile, UnknownConfigError  # noqa: E402

from occ_perception.models.labels_from_logits import labels_of  # noqa: E402
from occ_perception.models.zoo import ModelCard  # noqa: E402
from occ_perception.runtime.graphs import Execution, matrix_units, prepared_step  # noqa: E402
from occ_perception.runtime.measuring import (  # noqa: E402
    device_facts,
    distinct_networks,
    measure_stream,
    versions,
)
from occ_perception.runtime.weights import LoadedModel, checked_device, load_model  # noqa: E402

KINDS = ("parity", "agreement", "benchmark")
EXECUTIONS = (
    Execution("fp32"),
    Execution("tf32"),
    Execution("fp16"),
    Execution("fp32", compiled=True),
    Execution("fp16", compiled=True),
)
# Before a kind's first piece has been timed, so long is allowed for.
FIRST_GUESS_S = 30.0
PIECE = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        device: where.
        reference: folder of golden files.
        out: folder of the finished pieces.
        results: folder of the page.
        minutes: after which no piece is begun.
        models: names of the zoo to benchmark.
        executions: how each of them is run.
        frames, warm_up: of one benchmark.
    """

    device: torch.device
    reference: Path
    out: Path
    results: Path
    minutes: float = 9.5
    models: tuple[str, ...] = ()
    executions: tuple[Execution, ...] = EXECUTIONS
    frames: int = 40
    warm_up: int = 8


class Ledger:
    """Finished pieces, on disk as soon as they are finished."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.results: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        for kind in KINDS:
            path = self._path(kind)
            for line in path.read_text().splitlines() if path.is_file() else ():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the run was killed while it wrote this line
                self.results[kind][entry["piece"]] = entry

    def has(self, kind: str, piece: str) -> bool:
        """Whether a piece is finished; one that failed is not."""
        return "error" not in self.results[kind].get(piece, {"error": "missing"})

    def add(self, kind: str, piece: str, result: dict[str, Any]) -> None:
        """Keep a result."""
        entry = {"piece": piece, **result}
        self.results[kind][piece] = entry
        with self._path(kind).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def _path(self, kind: str) -> Path:
        return self._folder / f"{kind}.jsonl"


def pieces(plan: Plan) -> Iterator[tuple[str, str, PIECE]]:
    """Everything there is to do: (kind, name, what does it)."""
    files = sorted(plan.reference.glob("*.npz"))
    for path in files:
        yield "parity", path.stem, lambda path=path: parity(path, plan.device)
    for path in files:
        yield "agreement", path.stem, lambda path=path: agreement(path, plan.device)
    for execution in plan.executions:
        for card in distinct_networks(plan.models):
            yield (
                "benchmark",
                f"{card.name}, {execution}",
                lambda card=card, execution=execution: benchmark(card, execution, plan),
            )


def parity(path: Path, device: torch.device) -> dict[str, Any]:
    """A golden file by the pass rule."""
    try:
        golden = opened(path)
    except UnknownConfigError as problem:
        return {"skipped": str(problem).split(";")[0]}
    with matrix_units(tf32=False):
        verdicts = list(check_file(golden, device))
    failures = [(frame, v) for frame, v in verdicts if not v.passed]
    values = [v for _, v in verdicts if v.name != "labels"]
    labels = [v for _, v in verdicts if v.name == "labels"]
    return {
        "model": golden.card.name,
        "passed": not failures,
        "comparisons": len(verdicts),
        "failed": [f"f{frame} {verdict.line()}" for frame, verdict in failures],
        "worst_error": max(v.max_error for v in values),
        "worst_at": max(values, key=lambda v: v.max_error).name,
        "labels_equal": 1 - max(v.mean_error for v in labels),
    }


def agreement(path: Path, device: torch.device) -> dict[str, Any]:
    """Labels of half precision against float32, each with its own history; worst frame."""
    try:
        golden = opened(path)
    except UnknownConfigError as problem:
        return {"skipped": str(problem).split(";")[0]}
    net = golden.build().to(device).requires_grad_(False)
    labels = {
        precision: _labels(net, golden, device, Execution(precision))
        for precision in ("fp32", "fp16", "bf16")
    }
    empty = golden.card.labels.empty_class
    result: dict[str, Any] = {"model": golden.card.name, "frames": len(labels["fp32"])}
    for precision in ("fp16", "bf16"):
        equal, occupied_equal = [], []
        for exact, rounded in zip(labels["fp32"], labels[precision], strict=True):
            same = exact == rounded
            occupied = (exact != empty) | (rounded != empty)
            equal.append(same.float().mean().item())
            occupied_equal.append(same[occupied].float().mean().item() if occupied.any() else 1.0)
        result[precision] = {"equal": min(equal), "occupied_equal": min(occupied_equal)}
    return result


def _labels(
    net: torch.nn.Module, golden: GoldenFile, device: torch.device, execution: Execution
) -> list[torch.Tensor]:
    step = prepared_step(net, device, execution)
    state = net.initial_state(batch_size=1)
    labels = []
    with torch.inference_mode():
        for frame in golden.frames:
            outputs, state = step(golden.inputs(frame, device), state)
            labels.append(labels_of(outputs, golden.card).cpu())
    return labels


def benchmark(card: ModelCard, execution: Execution, plan: Plan) -> dict[str, Any]:
    """One network in a stream; its parts too where it has any."""
    torch._dynamo.reset()
    model: LoadedModel = load_model(card.name, random_seed=0, device=plan.device)
    stages = not execution.compiled
    return measure_stream(model, execution, plan.frames, plan.warm_up, stages)


def run(plan: Plan) -> int:
    """Do what is missing and write the page; returns how many pieces are left."""
    begun = time.monotonic()
    ledger = Ledger(plan.out)
    longest: dict[str, float] = {}
    left = 0
    for kind, name, work in pieces(plan):
        if ledger.has(kind, name):
            continue
        now = time.monotonic()
        if now - begun + longest.get(kind, FIRST_GUESS_S) > 60 * plan.minutes:
            left += 1
            continue
        try:
            result = work()
        except Exception as error:  # one model out of memory must not cost the others
            result = {"error": f"{type(error).__name__}: {error}"}
        seconds = time.monotonic() - now
        longest[kind] = max(seconds, longest.get(kind, 0.0))
        ledger.add(kind, name, {**result, "seconds": round(seconds, 1)})
        print(f"{kind:10s} {name}: {summary(kind, result)} ({seconds:.0f} s)", flush=True)
        gc.collect()
        if plan.device.type == "cuda":
            torch.cuda.empty_cache()
    write_page(plan, ledger, left)
    return left


def summary(kind: str, result: dict[str, Any]) -> str:
    """One piece in a few words."""
    for reason in ("error", "skipped"):
        if reason in result:
            return f"{reason}: {result[reason]}"
    if kind == "parity":
        verdict = "passed" if result["passed"] else f"FAILED {len(result['failed'])}"
        return f"{verdict} of {result['comparisons']}, worst {result['worst_error']:.1e}"
    if kind == "agreement":
        return ", ".join(f"{p} {result[p]['equal']:.2%} equal" for p in ("fp16", "bf16"))
    total = result["milliseconds"]["total"]
    return f"p50 {total['p50']:.1f} ms, p99 {total['p99']:.1f} ms"


def write_page(plan: Plan, ledger: Ledger, left: int) -> None:
    """The dated JSON and Markdown files of everything in the ledger."""
    facts = {
        "date": date.today().isoformat(),
        "device": device_facts(plan.device),
        "versions": versions(plan.device),
        "unfinished": left,
    }
    plan.results.mkdir(parents=True, exist_ok=True)
    device = "".join(c if c.isalnum() else "-" for c in facts["device"]["name"].lower())
    target = plan.results / f"{facts['date']}-gpu-{device}"
    every = {kind: list(ledger.results[kind].values()) for kind in KINDS}
    target.with_suffix(".json").write_text(json.dumps({**facts, **every}, indent=1) + "\n")
    target.with_suffix(".md").write_text(page(facts, every))
    print(f"{target}.md" + (f", {left} pieces left: run again" if left else ""))


def page(facts: dict[str, Any], every: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown."""
    lines = [f"# On {facts['device']['name']}, {facts['date']}\n"]
    lines += [f"- {name}: {value}" for name, value in facts["versions"].items()]
    if facts["unfinished"]:
        lines.append(f"- {facts['unfinished']} pieces were not reached")
    lines += _table(
        "Parity in float32, matrix units' rounding off",
        ("file", "passed", "comparisons", "worst error / rms", "at", "labels equal"),
        [
            (
                *(r["piece"], "yes" if r["passed"] else f"no: {len(r['failed'])}"),
                *(r["comparisons"], f"{r['worst_error']:.1e}", r["worst_at"]),
                f"{r['labels_equal']:.4%}",
            )
            for r in _finished(every["parity"])
        ],
    )
    lines += _table(
        "Labels of half precision against float32, worst frame",
        ("file", "fp16", "fp16, occupied", "bf16", "bf16, occupied"),
        [
            (
                r["piece"],
                *(f"{r[p][k]:.3%}" for p in ("fp16", "bf16") for k in ("equal", "occupied_equal")),
            )
            for r in _finished(every["agreement"])
        ],
    )
    lines += _table(
        "Stream: decoded pictures on the host to labels on the host, ms",
        ("model and execution", "p50", "p90", "p99", "max", "network p50", "GMAC", "TFLOP/s", "MB"),
        [
            (
                r["piece"],
                *(f"{value:.2f}" for value in r["milliseconds"]["total"].values()),
                f"{r['milliseconds']['network']['p50']:.2f}",
                f"{r['gmac']['total']:.0f}",
                f"{r['network_tflops']:.2f}",
                f"{r['memory_mb'].get('allocator_peak', r['memory_mb']['process_peak']):.0f}",
            )
            for r in _finished(every["benchmark"])
        ],
    )
    rest = [r for kind in KINDS for r in every[kind] if "error" in r or "skipped" in r]
    if rest:
        lines += ["\n## Not done\n"]
        lines += [f"- {r['piece']}: {r.get('error') or r.get('skipped')}" for r in rest]
    return "\n".join(lines) + "\n"


def _finished(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if "error" not in entry and "skipped" not in entry]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    if not rows:
        return [f"\n## {title}\n", "Nothing was measured."]
    return [
        f"\n## {title}\n",
        "| " + " | ".join(head) + " |",
        "| --- |" + " ---: |" * (len(head) - 1),
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run; 1 where something is left to do, 2 where nothing can be done."""
    shared = os.environ.get("OCC_SHARED")
    golden = Path(shared, "reference/golden") if shared else REPOSITORY / "test/parity/golden"
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--reference", type=Path, default=golden, help="folder of golden files")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="finished pieces")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks/results")
    parser.add_argument("--minutes", type=float, default=9.5)
    parser.add_argument("--models", nargs="*", default=(), metavar="NAME")
    options = parser.parse_args(arguments)
    try:
        device = checked_device(options.device)
    except ValueError as problem:
        print(f"{problem}; figures of a GPU need one", file=sys.stderr)
        return 2
    plan = Plan(
        device=device,
        reference=options.reference,
        out=options.out,
        results=options.results,
        minutes=options.minutes,
        models=tuple(options.models),
    )
    return 1 if run(plan) else 0


if __name__ == "__main__":
    sys.exit(main())
