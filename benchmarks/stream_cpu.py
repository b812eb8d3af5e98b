"""Seconds per frame and peak memory of full-size models in a stream, on this machine's CPU.

    python benchmarks/stream_cpu.py [--model NAME] [--frames 10] [--out benchmarks/results]

Two convolutions are timed before and after, so that results of different machines can be compared:
what a frame costs in units of them says more than seconds. What is timed is said by
``occ_perception.runtime.measuring``. Run it on a quiet machine; the load before and after is noted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from occ_perception.runtime.graphs import Execution
from occ_perception.runtime.measuring import conditions, measure_stream
from occ_perception.runtime.weights import load_model

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


def measure(name: str, count: int) -> dict[str, Any]:
    """Everything the result file holds."""
    load_before = os.getloadavg()[0]
    before = yardsticks()
    measured = measure_stream(load_model(name, random_seed=0), Execution(), count, WARM_UP, True)
    after = yardsticks()
    seconds = {
        kind: {clock: round((s + after[kind][clock]) / 2, 3) for clock, s in clocks.items()}
        for kind, clocks in before.items()
    }
    frame = {
        "wall": measured["milliseconds"]["total"]["p50"] / 1e3,
        "cpu": measured["cpu_seconds_per_frame"],
    }
    return {
        **measured,
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "convolution_seconds": seconds,
        "frame_per_convolution": {
            kind: {clock: round(frame[clock] / s, 1) for clock, s in clocks.items()}
            for kind, clocks in seconds.items()
        },
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    rows = [*result["milliseconds"].items()]
    rows += [(f"network: {part}", values) for part, values in result["stages_ms"].items()]
    memory = ", ".join(f"{k.replace('_', ' ')} {v:.0f}" for k, v in result["memory_mb"].items())
    lines = [
        "# Stream on a CPU\n",
        f"- {conditions(result)}",
        f"- timed: {result['timed']}; pictures of {result['pictures']}",
        f"- {result['frames']} frames after {result['warm_up_frames']} of warm-up",
        "- load average before and after: {}, {}".format(*result["load_average"]),
        f"- CPU seconds per frame: {result['cpu_seconds_per_frame']:.2f}",
        f"- GMAC: {result['gmac']['total']:.1f}",
        f"- memory, MB: {memory}",
        "\n| stage, ms | p50 | p90 | p99 | max |\n| --- | ---: | ---: | ---: | ---: |",
    ]
    for stage, values in rows:
        lines.append(f"| {stage} | " + " | ".join(f"{v:.0f}" for v in values.values()) + " |")
    lines.append(
        "\n| yardstick | clock | seconds | frame / yardstick |\n| --- | --- | ---: | ---: |"
    )
    for kind, clocks in result["convolution_seconds"].items():
        for clock, seconds in clocks.items():
            ratio = result["frame_per_convolution"][kind][clock]
            lines.append(f"| {kind} | {clock} | {seconds:.3f} | {ratio:.1f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="alocc_2d_mini")
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="folder for a dated JSON and Markdown file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.model, arguments.frames)
    text = markdown(result)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        target = arguments.out / f"{result['date']}-stream-cpu-{arguments.model}"
        target.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        target.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
