"""Seconds per frame and peak memory of a full-size model in a stream, on this machine's CPU.

    python benchmarks/stream_cpu.py [--model NAME] [--frames 10] [--out benchmarks/results]

Two convolutions are timed before and after it, so that results of different machines can be
compared: what a frame costs in units of them says more than seconds. Timed per frame: everything
that ``OccupancyStream.step`` does (pictures to labels); pictures are noise of the native size,
weights are random; the first frame is warm-up and left out. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from occ_perception.frames import CameraCalibration, CameraFrame, CameraRig
from occ_perception.models.zoo import ModelCard
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import load_model

WARM_UP = 1


def seconds_of_convolution(kind: str, repeats: int = 5) -> float:
    """Median time of one of the two yardsticks."""
    layer: nn.Module
    if kind == "conv2d":
        layer, shape = nn.Conv2d(256, 256, 3, padding=1), (6, 256, 64, 176)
    else:
        layer, shape = nn.Conv3d(32, 32, 3, padding=1), (1, 32, 16, 200, 200)
    tensor = torch.randn(shape)
    times = []
    with torch.inference_mode():
        layer(tensor)
        for _ in range(repeats):
            begun = time.perf_counter()
            layer(tensor)
            times.append(time.perf_counter() - begun)
    return statistics.median(times)


def ring_of_cameras(card: ModelCard) -> CameraRig:
    """Cameras that look around, with the focal length of nuScenes at the card's native size."""
    height, width = card.preprocessing.native_size
    K = np.array([[0.79 * width, 0, width / 2], [0, 0.79 * width, height / 2], [0, 0, 1]])
    optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    cameras = []
    for number, name in enumerate(card.cameras):
        yaw = 2 * np.pi * number / len(card.cameras)
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        ego_T_cam = np.eye(4)
        ego_T_cam[:3, :3] = turn @ optical
        ego_T_cam[:3, 3] = (1.0, 0.0, 1.5)
        cameras.append(CameraCalibration(name, width, height, K, ego_T_cam))
    return CameraRig(tuple(cameras), ego_T_lidar=np.eye(4))


def frames_of_noise(card: ModelCard, count: int) -> list[CameraFrame]:
    """A drive straight ahead at 8 m/s, two frames per second."""
    rig = ring_of_cameras(card)
    rng = np.random.default_rng(0)
    frames = []
    for number in range(count):
        pose = np.eye(4)
        pose[0, 3] = 4.0 * number
        frames.append(
            CameraFrame(
                rig=rig,
                images={
                    c.name: rng.integers(0, 256, (c.height, c.width, 3), dtype=np.uint8)
                    for c in rig.cameras
                },
                stamps_ns=dict.fromkeys(rig.names, number * 500_000_000),
                world_T_ego=dict.fromkeys(rig.names, pose),
                reference_camera=card.reference_camera,
            )
        )
    return frames


def percentiles(values: list[float]) -> dict[str, float]:
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {
        k: round(float(v), 3)
        for k, v in zip(("p50", "p90", "p99", "max"), (p50, p90, p99, max(values)), strict=True)
    }


def measure(name: str, count: int) -> dict[str, Any]:
    """Everything the result file holds."""
    before = {kind: seconds_of_convolution(kind) for kind in ("conv2d", "conv3d")}
    model = load_model(name, random_seed=0)
    stream = OccupancyStream(model)
    timings: list[dict[str, float]] = []
    cpu_seconds = []
    for frame in frames_of_noise(model.card, WARM_UP + count):
        begun = time.process_time()
        prediction = stream.step(frame)
        cpu_seconds.append(time.process_time() - begun)
        timings.append(dict(prediction.timings_ms))
    measured = timings[WARM_UP:]
    yardsticks = {kind: (s + seconds_of_convolution(kind)) / 2 for kind, s in before.items()}
    total_s = statistics.median(t["total"] for t in measured) / 1e3
    return {
        "date": date.today().isoformat(),
        "model": name,
        "frames": count,
        "warm_up_frames": WARM_UP,
        "device": f"cpu, {torch.get_num_threads()} threads, {platform.machine()}",
        "torch": torch.__version__,
        "precision": "float32",
        "timed": "OccupancyStream.step: decoded pictures to labels",
        "milliseconds": {s: percentiles([t[s] for t in measured]) for s in measured[0]},
        "cpu_seconds_per_frame": round(statistics.median(cpu_seconds[WARM_UP:]), 2),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        "convolution_seconds": {kind: round(s, 3) for kind, s in yardsticks.items()},
        "frame_per_convolution": {kind: round(total_s / s, 1) for kind, s in yardsticks.items()},
    }


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    conditions = [
        f"- {key.replace('_', ' ')}: {value}"
        for key, value in result.items()
        if not isinstance(value, dict)
    ]
    rows = [
        f"| {stage} | " + " | ".join(f"{value:.0f}" for value in values.values()) + " |"
        for stage, values in result["milliseconds"].items()
    ]
    yardsticks = [
        f"| {kind} | {seconds:.3f} | {result['frame_per_convolution'][kind]:.1f} |"
        for kind, seconds in result["convolution_seconds"].items()
    ]
    return "\n".join(
        [
            "# Stream on a CPU\n",
            *conditions,
            "\n| stage, ms | p50 | p90 | p99 | max |\n| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "\n| yardstick | seconds | frame / yardstick |\n| --- | ---: | ---: |",
            *yardsticks,
            "",
        ]
    )


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
