"""Every network of the zoo once at full size, on one real key frame: seconds and peak memory.

    python benchmarks/zoo_keyframe.py KEYFRAME [MODEL ...] [--out FOLDER] [--results FOLDER]

KEYFRAME is a folder with one frame of nuScenes: six images, LIDAR_TOP.bin (float32; x, y, z,
intensity, ring in the lidar's frame) and frames.json, whose first entry has

    lidar2ego, ego2global        4x4, at the lidar's stamp timestamp_us
    cams.NAME                    file, timestamp_us, width, height, K, cam2ego, ego2global (4x4)
    lidar                        file, columns

Weights are random (seed 0): the outputs are meaningless, the costs are real. The frame is processed
twice, half a second apart, so that the second one has a history to fuse. Models for other rigs run
on random images of their native size. Each model runs in a separate process, so that peak memory is
measured per model. Its figures are stored as a file in OUT; a later run with the same OUT measures
the missing models and writes the dated page and JSON again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from occ_perception.frames import (  # noqa: E402
    CameraCalibration,
    CameraFrame,
    CameraRig,
    LidarPoints,
    OccupancyPrediction,
)
from occ_perception.geometry import transform_points  # noqa: E402
from occ_perception.models.card import ModelCard  # noqa: E402
from occ_perception.models.zoo import MODELS  # noqa: E402
from occ_perception.runtime.benchmark import (  # noqa: E402
    conditions,
    device_facts,
    distinct_networks,
    versions,
)
from occ_perception.runtime.random_frames import random_frames  # noqa: E402
from occ_perception.runtime.stream import OccupancyStream  # noqa: E402
from occ_perception.runtime.weights import load_model  # noqa: E402

STEP_NS = 500_000_000


def keyframe(folder: Path) -> CameraFrame:
    """The frame in a folder.

    Raises:
        ValueError: an image cannot be read.
        KeyError, OSError: frames.json or a file that it names is missing or incomplete.
    """
    facts = json.loads((folder / "frames.json").read_text())["frames"][0]
    cameras, images = [], {}
    for name, camera in facts["cams"].items():
        K, ego_T_cam = np.array(camera["K"]), rigid(camera["cam2ego"])
        size = (camera["width"], camera["height"])
        cameras.append(CameraCalibration(name, *size, K, ego_T_cam))
        image = cv2.imread(str(folder / camera["file"]), cv2.IMREAD_COLOR_RGB)
        if image is None:
            raise ValueError(f"{folder / camera['file']} is not an image that OpenCV can read")
        images[name] = np.asarray(image, dtype=np.uint8)
    ego_T_lidar = rigid(facts["lidar2ego"])
    lidar = facts["lidar"]
    points = np.fromfile(folder / lidar["file"], np.float32).reshape(-1, len(lidar["columns"]))
    return CameraFrame(
        rig=CameraRig(tuple(cameras), ego_T_lidar),
        images=images,
        stamps_ns={n: 1000 * c["timestamp_us"] for n, c in facts["cams"].items()},
        world_T_ego={n: rigid(c["ego2global"]) for n, c in facts["cams"].items()},
        reference_camera="CAM_FRONT",
        lidar=LidarPoints(
            1000 * facts["timestamp_us"],
            transform_points(ego_T_lidar, points[:, :3].astype(np.float64)),
            rigid(facts["ego2global"]),
        ),
    )


def rigid(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """The matrix with an exact rotation; files round to nine decimals."""
    matrix = np.array(rows, dtype=np.float64)
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    matrix[:3, :3] = u @ vt
    return matrix


def later(frame: CameraFrame, nanoseconds: int) -> CameraFrame:
    """The same frame at a later time, with the vehicle at rest."""
    lidar = frame.lidar
    return replace(
        frame,
        stamps_ns={name: stamp + nanoseconds for name, stamp in frame.stamps_ns.items()},
        lidar=None if lidar is None else replace(lidar, stamp_ns=lidar.stamp_ns + nanoseconds),
    )


def frames_for(card: ModelCard, folder: Path) -> tuple[str, list[CameraFrame]]:
    """The source of the two frames, and the frames."""
    real = keyframe(folder)
    if not set(card.cameras) <= set(real.rig.names):
        return "drawn", list(random_frames(card, 2))
    return "real", [real, later(real, STEP_NS)]


def measure(name: str, folder: Path, threads: int) -> dict[str, Any]:
    """Measure one model in this process."""
    torch.set_num_threads(threads)
    card = MODELS[name]
    source, frames = frames_for(card, folder)
    loaded = load_model(name, random_seed=0)
    load_before = os.getloadavg()[0]
    stream, steps, prediction = OccupancyStream(loaded), [], None
    for frame in frames:
        begun, cpu_begun = time.perf_counter(), time.process_time()
        prediction = stream.step(frame)
        steps.append((time.perf_counter() - begun, time.process_time() - cpu_begun))
    assert prediction is not None
    return {
        "model": name,
        "images": source,
        "depth": "lidar" if card.measures_depth else "",
        "image": "{}x{}".format(*card.preprocessing.input_size),
        "grid": "x".join(map(str, card.grid.dims)),
        "first_s": round(steps[0][0], 2),
        "second_s": round(steps[1][0], 2),
        "second_cpu_s": round(steps[1][1], 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        **output_facts(prediction),
        "load_average": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "threads": threads,
        "date": date.today().isoformat(),
        "device": device_facts(loaded.device),
        "versions": versions(loaded.device),
        "precision": "float32",
        "execution": "eager",
    }


def output_facts(prediction: OccupancyPrediction) -> dict[str, Any]:
    """Figures that show that the output is not empty."""
    occupied = prediction.labels != prediction.empty_class
    return {
        "classes": int(np.unique(prediction.labels).size),
        "occupied_share": round(float(occupied.mean()), 4),
        "history_length": prediction.history_length,
    }


def write_page(found: Sequence[dict[str, Any]], results: Path) -> Path:
    """Write the dated page and JSON of everything measured so far."""
    loads = [load for measured in found for load in measured["load_average"]]
    lines = [
        "# The zoo on one key frame, at full size\n",
        f"- {conditions({**found[0], 'model': f'{len(found)} networks,'})}",
        "- random weights: the outputs are meaningless",
        "- first: a stream's first frame; second: the same images half a second later, with "
        "history; both from decoded images to labels",
        "- GB: peak resident size of the process, loading included",
        f"- load average: {min(loads)} to {max(loads)}",
        "\n| model | images | image | grid | first, s | second, s | CPU s | GB | classes |",
        "| --- | --- | --- | --- |" + " ---: |" * 5,
    ]
    for one in found:
        images = one["images"] + (" + lidar" if one["depth"] else "")
        lines.append(
            f"| {one['model']} | {images} | {one['image']} | {one['grid']} | {one['first_s']:.2f}"
            f" | {one['second_s']:.2f} | {one['second_cpu_s']:.2f} | {one['peak_gb']:.2f}"
            f" | {one['classes']} |"
        )
    results.mkdir(parents=True, exist_ok=True)
    target = results / f"{date.today().isoformat()}-zoo-keyframe"
    target.with_suffix(".json").write_text(
        json.dumps({"measurements": list(found)}, indent=1) + "\n"
    )
    target.with_suffix(".md").write_text("\n".join(lines) + "\n")
    return target.with_suffix(".md")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run; returns 1 if a model failed, 2 if a name is wrong."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("keyframe", type=Path, metavar="KEYFRAME")
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("out/zoo-keyframe"), help="finished ones")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "benchmarks/results")
    parser.add_argument("--one", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    unknown = [name for name in options.models if name not in MODELS]
    if unknown:
        print(f"no model {', '.join(unknown)}; there are {', '.join(MODELS)}", file=sys.stderr)
        return 2
    if options.one is not None:
        result = measure(options.models[0], options.keyframe, options.threads)
        part = options.one.with_suffix(".part")
        part.write_text(json.dumps(result, indent=1) + "\n")
        part.replace(options.one)
        return 0
    keyframe(options.keyframe)  # a wrong folder is found before the first model
    options.out.mkdir(parents=True, exist_ok=True)
    found, failed = [], 0
    for card in distinct_networks(options.models):
        path = options.out / f"{card.name}.json"
        if not path.is_file():
            print(card.name, flush=True)
            command = [sys.executable, __file__, str(options.keyframe), card.name]
            settings = ["--threads", str(options.threads), "--one", str(path)]
            if subprocess.run([*command, *settings], check=False).returncode or not path.is_file():
                failed += 1
                continue
        found.append(json.loads(path.read_text()))
        print(write_page(found, options.results), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
