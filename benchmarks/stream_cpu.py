"""Seconds per frame and peak memory of full-size models in a stream, on this machine's CPU.

    python benchmarks/stream_cpu.py [MODEL ...] [--frames 2] [--out FOLDER] [--results FOLDER]

Without names the whole zoo is measured, every network once. Each model runs in a separate process,
so that peak memory is measured per model. Its figures are stored as a file in OUT; a later run with
the same OUT measures the missing models and writes the dated page and JSON again.

Two convolutions are timed before and after each model, so that results of different machines can
be compared. The page compares each model with the reference code (reference_code_cpu.yaml), with
seconds scaled by the convolution that gives us the worse result.
``occ_perception.runtime.benchmark`` defines what is timed. Run it on a quiet machine; the load is
recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import torch  # noqa: E402
import yaml  # noqa: E402
from torch import nn  # noqa: E402

from occ_perception.models.card import ModelCard  # noqa: E402
from occ_perception.models.zoo import MODELS  # noqa: E402
from occ_perception.runtime.benchmark import (  # noqa: E402
    conditions,
    distinct_networks,
    measure_stream,
)
from occ_perception.runtime.execution import Execution  # noqa: E402
from occ_perception.runtime.weights import load_model  # noqa: E402

REFERENCE = Path(__file__).with_name("reference_code_cpu.yaml")
# The first frame has no history; the second one is the first in the steady state.
WARM_UP = 2


def yardsticks() -> dict[str, dict[str, float]]:
    """Median wall-clock and CPU seconds of the two convolutions."""
    return {
        "conv2d": _seconds(nn.Conv2d(256, 256, 3, padding=1), (6, 256, 64, 176)),
        "conv3d": _seconds(nn.Conv3d(32, 32, 3, padding=1), (1, 32, 16, 200, 200)),
    }


def _seconds(layer: nn.Module, shape: tuple[int, ...], repeats: int = 5) -> dict[str, float]:
    tensor = torch.randn(shape)
    with torch.inference_mode():
        layer(tensor)
        return {
            name: _median(clock, lambda: layer(tensor), repeats)
            for name, clock in (("wall", time.perf_counter), ("cpu", time.process_time))
        }


def _median(clock: Callable[[], float], work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begun = clock()
        work()
        times.append(clock() - begun)
    return statistics.median(times)


def measure(name: str, frames: int) -> dict[str, Any]:
    """Measure one model in this process."""
    load_before = os.getloadavg()[0]
    before = yardsticks()
    measured = measure_stream(load_model(name, random_seed=0), Execution(), frames, WARM_UP, True)
    after = yardsticks()
    return {
        **measured,
        "config": MODELS[name].config_stem,
        "image": "{}x{}".format(*MODELS[name].preprocessing.input_size),
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "convolution_seconds": {
            kind: {clock: round((s + after[kind][clock]) / 2, 4) for clock, s in clocks.items()}
            for kind, clocks in before.items()
        },
    }


def measure_apart(name: str, frames: int, threads: int, out: Path) -> bool:
    """Measure one model in a separate process; returns whether there is a result."""
    command = [sys.executable, __file__, name, "--frames", str(frames), "--threads", str(threads)]
    result = subprocess.run([*command, "--one", str(out)], check=False)
    return result.returncode == 0 and out.is_file()


def row(measured: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    """The row that compares a model with the reference code.

    Seconds are scaled to the machine that the reference code was measured on, by the wall-clock
    time of the convolution that gives more.
    """
    seconds = measured["milliseconds"]["total"]["p50"] / 1e3
    stick = reference["yardsticks"]
    ours = measured["convolution_seconds"]
    scaled = max(seconds * stick[kind] / ours[kind]["wall"] for kind in stick)
    theirs = reference["models"].get(measured["config"])
    gb = measured["memory_mb"]["process_peak"] / 1e3
    return {
        "model": measured["model"],
        "image": measured["image"],
        "gmac": measured["gmac"]["total"],
        "seconds": seconds,
        "scaled_seconds": scaled,
        "gb": gb,
        "state_mb": measured["memory_mb"]["state"],
        "published": theirs,
        "seconds_ratio": scaled / theirs["seconds"] if theirs else None,
        "gb_ratio": gb / theirs["GB"] if theirs else None,
    }


def page(rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Streams on a CPU, the whole zoo at full size\n",
        f"- {facts['conditions']}",
        f"- timed: {facts['timed']}; p50 of {facts['frames']} frames after {WARM_UP} of warm-up",
        f"- load average: {facts['load'][0]} to {facts['load'][1]}",
        "- seconds of the convolutions here: "
        + ", ".join(f"{k} {low:.3f} to {high:.3f}" for k, (low, high) in facts["sticks"].items()),
        "- scaled: to the machine that the reference code was measured on, by the convolution that "
        "gives more. In bold: measured there with nothing else running; the other figures of the "
        "reference code are upper bounds",
        "- GB: peak resident size of the process, for the stream with its images in memory",
        "\n| model | image | GMAC | reference | s | scaled | reference | ratio | GB | reference "
        "| ratio |",
        "| --- | --- |" + " ---: |" * 9,
    ]
    for r in rows:
        theirs = r["published"]
        bold = "**" if theirs and theirs["quiet"] else ""
        lines.append(
            f"| {r['model']} | {r['image']} | {r['gmac']:.0f} | {theirs['GMAC'] if theirs else '-'}"
            f" | {r['seconds']:.2f} | {r['scaled_seconds']:.2f}"
            f" | {bold}{theirs['seconds'] if theirs else '-'}{bold} | {_percent(r, 'seconds')}"
            f" | {r['gb']:.2f} | {theirs['GB'] if theirs else '-'} | {_percent(r, 'gb')} |"
        )
    return "\n".join(lines) + "\n"


def _percent(values: dict[str, Any], of: str) -> str:
    ratio = values[f"{of}_ratio"]
    return "-" if ratio is None else f"{ratio:.0%}"


def write_page(found: Sequence[dict[str, Any]], results: Path) -> Path:
    """Write the dated page and JSON of everything measured so far."""
    reference = yaml.safe_load(REFERENCE.read_text())
    rows = [row(measured, reference) for measured in found]
    loads = [load for measured in found for load in measured["load_average"]]
    sticks = {
        kind: [m["convolution_seconds"][kind]["wall"] for m in found]
        for kind in reference["yardsticks"]
    }
    facts = {
        "conditions": conditions({**found[0], "model": f"{len(found)} networks,"}),
        "timed": found[0]["timed"],
        "frames": found[0]["frames"],
        "load": (min(loads), max(loads)),
        "sticks": {kind: (min(values), max(values)) for kind, values in sticks.items()},
    }
    results.mkdir(parents=True, exist_ok=True)
    target = results / f"{date.today().isoformat()}-stream-cpu"
    target.with_suffix(".json").write_text(
        json.dumps({**facts, "rows": rows, "measurements": list(found)}, indent=1) + "\n"
    )
    target.with_suffix(".md").write_text(page(rows, facts))
    return target.with_suffix(".md")


def run(cards: Sequence[ModelCard], frames: int, threads: int, out: Path, results: Path) -> int:
    """Measure the missing models and write the page; returns how many failed."""
    out.mkdir(parents=True, exist_ok=True)
    found, failed = [], 0
    for card in cards:
        path = out / f"{card.name}.json"
        if not path.is_file():
            print(card.name, flush=True)
            if not measure_apart(card.name, frames, threads, path):
                failed += 1
                continue
        found.append(json.loads(path.read_text()))
        print(write_page(found, results), flush=True)
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; returns 1 if a model failed, 2 if a name is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--frames", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/stream-cpu"), help="finished models")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks/results")
    parser.add_argument("--one", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.models if name not in MODELS]
    if unknown:
        print(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}", file=sys.stderr)
        return 2
    if options.one is not None:
        torch.set_num_threads(options.threads)
        result = measure(options.models[0], options.frames)
        part = options.one.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n")
        part.replace(options.one)
        return 0
    cards = list(distinct_networks(options.models))
    return 1 if run(cards, options.frames, options.threads, options.out, options.results) else 0


if __name__ == "__main__":
    sys.exit(main())
