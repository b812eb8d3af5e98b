"""All measurements that need a GPU, in one run that can be interrupted and continued.

    make gpu [ARGS="--reference FOLDER --minutes 9"]
    python benchmarks/gpu.py [--reference FOLDER] [--out FOLDER] [--results FOLDER] [--minutes 9]

Runs from a checkout in any Python that has torch, numpy, pillow, opencv, timm, numba and pyyaml;
ROS and bag libraries are not needed. Four kinds of pieces:

- self-check: the fastest execution that says what float32 says, and why not a faster one; it tells
  whether networks can be recorded as graphs;
- parity: every golden file in float32, without TF32 rounding, checked by the pass rule;
- agreement: labels of fp16 and bf16 against those of float32, on the same frames;
- benchmark: every network of the zoo in a stream, eager, as a graph and compiled.

Golden files are those of FOLDER, or of $OCC_SHARED/reference/golden if that is set; the repository
contains one. The order is: self-checks of the well-known networks, parity, the well-known networks,
agreement, the well-known networks compiled, and then the rest of the zoo.

Each finished piece is a line of a JSON-lines file in OUT, one file per kind. After each piece the
dated page and its JSON in RESULTS are rewritten. A later run with the same OUT does the missing and
failed pieces; pieces of another device, torch, source or golden file are ignored. A piece starts
only if it is expected to end in time. The exit code is 0 if all pieces are done and pass, 1 if a
piece is left, has raised or breaks the pass rule, and 2 if nothing can be measured.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "test" / "parity")]

import torch  # noqa: E402
from check import check_file, opened  # noqa: E402
from golden_file import GoldenFile, UnknownConfigError  # noqa: E402
from gpu_page import KINDS, page, summary  # noqa: E402
from verdict import conclusion  # noqa: E402

from occ_perception.errors import OptionError  # noqa: E402
from occ_perception.models.card import ModelCard  # noqa: E402
from occ_perception.models.network import Network  # noqa: E402
from occ_perception.models.postprocess import decode  # noqa: E402
from occ_perception.runtime.benchmark import (  # noqa: E402
    StreamBenchmark,
    device_facts,
    distinct_networks,
    versions,
)
from occ_perception.runtime.execution import Execution, matrix_units, prepared_step  # noqa: E402
from occ_perception.runtime.self_check import choose_execution  # noqa: E402
from occ_perception.runtime.weight_files import file_checksum  # noqa: E402
from occ_perception.runtime.weights import LoadedModel, checked_device, load_model  # noqa: E402

EXECUTIONS = (
    Execution("fp32"),
    Execution("tf32"),
    Execution("fp16"),
    Execution("fp32", "graph"),
    Execution("fp16", "graph"),
    Execution("bf16", "graph"),
    Execution("fp32", "compile"),
    Execution("fp16", "compile"),
)
# The best-known models: measured, and compiled, before all others.
WELL_KNOWN = ("alocc_2d_mini", "alocc_3d", "alocc_3d_gf", "alocc_flow_2d", "fbocc")
# Expected duration of a piece until the first one of its sort has been timed.
FIRST_GUESS_S = {False: 30.0, True: 240.0}  # by whether it is compiled


@dataclass(frozen=True)
class Plan:
    """Settings of the run.

    Attributes:
        device: the device.
        reference: folder of golden files.
        out: folder of the finished pieces.
        results: folder of the page.
        minutes: time after which no piece starts.
        models: names of the models to benchmark.
        executions: the executions to benchmark each model with.
        frames, warm_up: numbers of frames of one benchmark.
    """

    device: torch.device
    reference: Path
    out: Path
    results: Path
    minutes: float = 9.0
    models: tuple[str, ...] = ()
    executions: tuple[Execution, ...] = EXECUTIONS
    frames: int = 40
    warm_up: int = 8


@dataclass(frozen=True)
class Piece:
    """One piece of work.

    Attributes:
        kind: one of :data:`KINDS`.
        name: unique name within its kind.
        work: does the work and returns the result, ready for JSON.
        compiled: whether most of the time is compilation.
        file: checksum of its golden file; "" if it has none.
    """

    kind: str
    name: str
    work: Callable[[], dict[str, Any]]
    compiled: bool = False
    file: str = ""


class Ledger:
    """The results of the pieces, written to disk at once.

    Args:
        folder: folder of the files, one per kind.
        origin: device, torch and source; results of another origin are ignored.
    """

    def __init__(self, folder: Path, origin: dict[str, str]) -> None:
        self._folder, self.origin = folder, origin
        folder.mkdir(parents=True, exist_ok=True)
        self._entries: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in KINDS}
        for kind in KINDS:
            path = self._path(kind)
            for line in path.read_text().splitlines() if path.is_file() else ():
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the run was killed while it wrote this line
                if entry.get("origin") == origin:
                    self._entries[kind][entry["piece"]] = entry

    def of(self, piece: Piece) -> dict[str, Any] | None:
        """The result of a piece; None if there is none."""
        entry = self._entries[piece.kind].get(piece.name)
        return entry if entry and entry["file"] == piece.file else None

    def done(self, piece: Piece) -> bool:
        """Whether a piece is finished without an error."""
        entry = self.of(piece)
        return entry is not None and "error" not in entry

    def right(self, piece: Piece) -> bool:
        """Whether a piece is finished and passes."""
        return self.done(piece) and (self.of(piece) or {}).get("passed", True)

    def add(self, piece: Piece, result: dict[str, Any]) -> None:
        """Store a result."""
        named = {"piece": piece.name, "file": piece.file, "origin": self.origin}
        self._entries[piece.kind][piece.name] = {**named, **result}
        with self._path(piece.kind).open("a") as file:
            file.write("\n" + json.dumps({**named, **result}))

    def _path(self, kind: str) -> Path:
        return self._folder / f"{kind}.jsonl"


def origin(device: torch.device) -> dict[str, str]:
    """What results depend on, besides the golden file."""
    digest = hashlib.sha256()
    folders = (REPOSITORY / "occ_perception", REPOSITORY / "test/parity")
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    for path in sorted([*sources, Path(__file__)]):
        digest.update(path.read_bytes())
    return {
        "device": device_facts(device)["name"],
        "torch": str(torch.__version__),
        "source": digest.hexdigest()[:12],
    }


class OneModel:
    """Holds one model at a time; the previous one is freed before the next is loaded."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._name = ""
        self._benchmark: StreamBenchmark | None = None

    def measure(self, card: ModelCard, execution: Execution) -> dict[str, Any]:
        """Measure one network in a stream; also its parts, if it is run eagerly."""
        torch._dynamo.reset()
        if self._benchmark is None or self._name != card.name:
            self._benchmark, self._name = None, card.name
            self._benchmark = StreamBenchmark(
                self._load(card), self._plan.frames, self._plan.warm_up
            )
        return self._benchmark.measure(execution, stages=execution.mode == "eager")

    def self_check(self, card: ModelCard) -> dict[str, Any]:
        """Choose an execution with random weights, whose labels hang by hairs."""
        self._benchmark = None
        choice = choose_execution(self._load(card))
        return {
            "execution": str(choice.execution),
            "agreement": str(choice.agreement or "the reference itself"),
            "passed_over": list(choice.passed_over),
        }

    def _load(self, card: ModelCard) -> LoadedModel:
        free(self._plan.device)
        return load_model(card.name, random_seed=0, device=self._plan.device)


def pieces(plan: Plan) -> Iterator[Piece]:
    """All pieces, the most important ones first."""
    files = {path: file_checksum(path) for path in golden_files(plan.reference)}
    cards = list(distinct_networks(plan.models))
    known = [card for card in cards if card.name in WELL_KNOWN]
    rest = [card for card in cards if card.name not in WELL_KNOWN]
    model = OneModel(plan)

    def on_files(
        kind: str, work: Callable[[Path, torch.device], dict[str, Any]]
    ) -> Iterator[Piece]:
        for path, checksum in files.items():
            do = partial(work, path, plan.device)
            yield Piece(kind, path.stem, do, file=checksum)

    def streams(cards: Sequence[ModelCard], compiled: bool) -> Iterator[Piece]:
        for card in cards:
            for execution in plan.executions:
                if (execution.mode == "compile") == compiled:
                    do = partial(model.measure, card, execution)
                    yield Piece("benchmark", f"{card.name}, {execution}", do, compiled)

    for card in known:
        yield Piece("self-check", card.name, partial(model.self_check, card))
    yield from on_files("parity", parity)
    yield from streams(known, compiled=False)
    yield from on_files("agreement", agreement)
    yield from streams(known, compiled=True)
    yield from streams(rest, compiled=False)
    yield from streams(rest, compiled=True)


def golden_files(reference: Path) -> list[Path]:
    """The golden files of a folder."""
    return sorted(reference.glob("*.npz"))


def without_file(files: Sequence[Path]) -> list[str]:
    """Networks of the zoo that have reference code but no golden file."""
    stems = {path.stem for path in files}
    return [
        card.name
        for card in distinct_networks()
        if card.config_stem and card.config_stem not in stems
    ]


def parity(path: Path, device: torch.device) -> dict[str, Any]:
    """Check a golden file by the pass rule."""
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
        "by_rounding": sum(v.by_rounding for _, v in verdicts),
        "conclusion": conclusion(v for _, v in verdicts),
        "comparisons": len(verdicts),
        "failed": [f"f{frame} {verdict.line()}" for frame, verdict in failures],
        "worst_error": max(v.max_error for v in values),
        "worst_at": max(values, key=lambda v: v.max_error).name,
        "labels_equal": 1 - max(v.mean_error for v in labels),
    }


def agreement(path: Path, device: torch.device) -> dict[str, Any]:
    """Compare labels of half precision with float32, each with its own history; worst frame."""
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
    net: Network, golden: GoldenFile, device: torch.device, execution: Execution
) -> list[torch.Tensor]:
    step = prepared_step(net, execution)
    labels = []
    with torch.inference_mode():
        for sequence in golden.sequences(device):
            state = net.initial_state(batch_size=1)
            for inputs in sequence:
                outputs, state = step(inputs, state)
                labels.append(decode(outputs, golden.card).labels_BXYZ.cpu())
    return labels


def run(plan: Plan) -> int:
    """Do the missing pieces and write the page after each; returns how many are left or wrong."""
    begun = time.monotonic()
    ledger = Ledger(plan.out, origin(plan.device))
    every = list(pieces(plan))
    longest: dict[tuple[str, bool], float] = {}
    # Pieces that raised or ended the process in an earlier run come last.
    for piece in sorted(every, key=lambda piece: ledger.of(piece) is not None):
        now, sort = time.monotonic(), (piece.kind, piece.compiled)
        guess = longest.get(sort, FIRST_GUESS_S[piece.compiled])
        if ledger.done(piece) or now - begun + guess > 60 * plan.minutes:
            continue
        ledger.add(piece, {"error": "the run ended while this was being done"})
        try:
            result = piece.work()
        except Exception as error:  # one model out of memory must not stop the others
            result = {"error": f"{type(error).__name__}: {error}"}
        seconds = time.monotonic() - now
        if "error" not in result:  # a piece that raises may be much shorter than others
            longest[sort] = max(seconds, longest.get(sort, 0.0))
        ledger.add(piece, {**result, "seconds": round(seconds, 1)})
        print(f"{piece.kind:10s} {piece.name}: {summary(piece.kind, result)} ({seconds:.0f} s)")
        sys.stdout.flush()
        write_page(plan, ledger, every)
        if not usable(plan.device):
            print(f"{plan.device} no longer works in this process; run again", file=sys.stderr)
            break
        free(plan.device)
    bad = sum(not ledger.right(piece) for piece in every)
    print(f"{write_page(plan, ledger, every)}" + (f": {bad} pieces left or wrong" if bad else ""))
    return bad


def usable(device: torch.device) -> bool:
    """Whether the device still works; some GPU errors persist until the process ends."""
    try:
        torch.ones(1, device=device).sum().item()
    except RuntimeError:
        return False
    return True


def free(device: torch.device) -> None:
    """Free unused memory."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def write_page(plan: Plan, ledger: Ledger, every: Sequence[Piece]) -> Path:
    """Write the dated JSON and Markdown files of all results; returns the latter."""
    files = golden_files(plan.reference)
    known = {kind: [e for p in every if p.kind == kind and (e := ledger.of(p))] for kind in KINDS}
    facts: dict[str, Any] = {
        "date": date.today().isoformat(),
        "device": device_facts(plan.device),
        "versions": {**versions(plan.device), **ledger.origin},
        "golden_files": [path.name for path in files],
        "without_golden_file": without_file(files),
        "not_reached": [f"{p.kind} {p.name}" for p in every if ledger.of(p) is None],
    }
    plan.results.mkdir(parents=True, exist_ok=True)
    device = "".join(c if c.isalnum() else "-" for c in facts["device"]["name"].lower())
    target = plan.results / f"{facts['date']}-gpu-{device}"
    target.with_suffix(".json").write_text(json.dumps({**facts, **known}, indent=1) + "\n")
    target.with_suffix(".md").write_text(page(facts, known))
    return target.with_suffix(".md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; returns 1 if a piece is left or wrong, 2 if nothing can be measured."""
    shared = os.environ.get("OCC_SHARED")
    golden = Path(shared, "reference/golden") if shared else REPOSITORY / "test/parity/golden"
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--reference", type=Path, default=golden, help="folder of golden files")
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="finished pieces")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks/results")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--models", nargs="*", default=(), metavar="NAME")
    options = parser.parse_args(arguments)
    try:
        device = checked_device(options.device)
    except OptionError as problem:
        print(f"{problem}; this script needs a GPU", file=sys.stderr)
        return 2
    files = golden_files(options.reference)
    if not files:
        print(
            f"no golden file (*.npz) in {options.reference}: set OCC_SHARED to the folder with "
            "reference/golden in it, or give one with --reference FOLDER",
            file=sys.stderr,
        )
        return 2
    missing = ", ".join(without_file(files)) or "none"
    print(f"{len(files)} golden files in {options.reference}; networks without one: {missing}")
    plan = Plan(
        device=device,
        reference=options.reference,
        out=options.out,
        results=options.results,
        minutes=options.minutes,
        models=tuple(options.models),
        executions=tuple(e for e in EXECUTIONS if e.mode != "graph" or device.type == "cuda"),
    )
    return 1 if run(plan) else 0


if __name__ == "__main__":
    sys.exit(main())
