"""CPU seconds of the synthetic town per frame set, and how often each class is seen.

    python benchmarks/town.py speed [--repeat 5]
    python benchmarks/town.py classes [--towns 20] [--frames 3]

Results go to benchmarks/results/ as dated JSON and Markdown. CPU seconds are process time, one
thread, after compilation; on a loaded machine they are more reliable than wall seconds.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from occ_perception.frames import CameraRig
from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.drive import Drive
from occ_perception.synthetic.labels import camera_mask, voxelise
from occ_perception.synthetic.lidar import ray_sweep
from occ_perception.synthetic.render import develop_image, draw_sensor, render_view
from occ_perception.synthetic.rig import synthetic_rig
from occ_perception.synthetic.town import Town

RESULTS = Path(__file__).parent / "results"
SEEN = 5
"""Voxels under the camera mask from which a class counts as present in a frame."""


def cpu_seconds(work: Callable[[], object], repeat: int) -> dict[str, float]:
    work()
    times = []
    for _ in range(repeat):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    p50, p90 = np.percentile(times, [50, 90])
    return {"min": min(times), "p50": float(p50), "p90": float(p90), "max": max(times)}


def speed(repeat: int) -> dict[str, dict[str, float]]:
    drive = Drive(Town(20_000), 0)
    scene = drive.scene(4.0)
    native = synthetic_rig()
    assert native.ego_T_lidar is not None
    sweep = partial(ray_sweep, scene, native.ego_T_lidar)
    rows: dict[str, dict[str, float]] = {}
    for width, height in ((352, 128), (704, 256), (800, 450)):
        rig = synthetic_rig((width, height))

        def images(rig: CameraRig = rig) -> None:
            for n, camera in enumerate(rig.cameras):
                view = render_view(scene, drive.weather, camera, threads=1)
                develop_image(view, draw_sensor(np.random.default_rng(n), n))

        rows[f"6 images {width}x{height}"] = cpu_seconds(images, repeat)
    rows["voxels and flow"] = cpu_seconds(lambda: voxelise(scene), repeat)
    rows["camera mask, stride 4"] = cpu_seconds(
        lambda: camera_mask(scene, native, threads=1), repeat
    )
    rows["lidar sweep"] = cpu_seconds(sweep, repeat)
    rows["scene and cell grid"] = cpu_seconds(lambda: drive.scene(4.0), repeat)
    rows["new town"] = cpu_seconds(lambda: Town(20_001).static, min(repeat, 3))
    fresh = Town(20_001)
    _ = fresh.static
    rows["new drive"] = cpu_seconds(lambda: Drive(fresh, 0).scene(0.0), min(repeat, 3))
    return rows


def classes(towns: int, frames: int) -> dict[str, dict[str, float]]:
    names = LABEL_SETS["occ3d"].class_names
    counts = []
    for seed in range(towns):
        drive = Drive(Town(seed), 0)
        rig = synthetic_rig()
        for n in range(frames):
            scene = drive.scene(1.0 + 18.0 * n / max(frames - 1, 1))
            labels = voxelise(scene)[0]
            seen = camera_mask(scene, rig, threads=1)
            counts.append(np.bincount(labels[seen], minlength=len(names)))
    table = np.array(counts)
    return {
        name: {
            "frames_with_class": float((table[:, n] >= SEEN).mean()),
            "voxels_per_frame": float(table[:, n].mean()),
            "most_in_a_frame": float(table[:, n].max()),
        }
        for n, name in enumerate(names)
    }


def write_results(name: str, rows: dict[str, dict[str, float]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    day = datetime.date.today().isoformat()
    machine = {
        "cpu": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    report = {"date": day, "machine": machine, "rows": rows}
    (RESULTS / f"{day}-{name}.json").write_text(json.dumps(report, indent=1) + "\n")
    columns = list(next(iter(rows.values())))
    lines = [
        f"# {name}, {day}",
        "",
        f"{machine['cpus']} CPUs ({machine['cpu']}), load {machine['load']:.1f} at the end.",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for key, row in rows.items():
        lines.append(f"| {key} | " + " | ".join(f"{row[c]:.3g}" for c in columns) + " |")
    text = "\n".join(lines) + "\n"
    (RESULTS / f"{day}-{name}.md").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "classes"))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--towns", type=int, default=20)
    parser.add_argument("--frames", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.what == "speed":
        write_results("town-speed", speed(arguments.repeat))
    else:
        write_results("town-classes", classes(arguments.towns, arguments.frames))


if __name__ == "__main__":
    main()
