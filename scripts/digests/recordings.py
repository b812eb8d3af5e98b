"""Recordings: the ones that we write, and the frames read from other tools' recordings."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from towns import command, frame_values, town_bag
from values import Named, files_in, messages_in

_FAMILIES = {
    "clynamen": ("clynamen", {}),
    "clynamen_ros2": ("clynamen_ros2", {}),
    "foxglove_mcap": ("foxglove", {}),
    "foxglove_sqlite3": ("foxglove", {"storage": "sqlite3"}),
    "foxglove_file_compressed": ("foxglove", {"storage": "sqlite3", "mode": "file"}),
    "foxglove_message_compressed": ("foxglove", {"mode": "message"}),
    "autoware": ("autoware", {}),
}


def jobs() -> dict[str, Any]:
    """Reading by family, writing by command, and the cases of ``OCC_SHARED`` if it is set."""
    reading = {f"reading/{name}": partial(_family, name) for name in _FAMILIES}
    cases = {f"cases/{path.parent.name}": partial(_case, path) for path in _cases()}
    return {
        **reading,
        "reading/town": _town,
        "writing/nuscenes_mcap": partial(_nuscenes, "mcap"),
        "writing/nuscenes_sqlite3": partial(_nuscenes, "sqlite3"),
        "writing/run": _run,
        **cases,
    }


def frames_in(where: str, bag: Path, **options: Any) -> Named:
    """The frames of a recording, and what was skipped."""
    from occ_perception import open_recording

    with open_recording(bag, **options) as frames:
        count = 0
        for count, frame in enumerate(frames, start=1):
            yield from frame_values(f"{where}/frame{count - 1}", frame)
        yield f"{where}/count", count
        yield f"{where}/layout", frames.layout.name
        yield f"{where}/notes", [note.replace(str(bag.parent), "") for note in frames.notes]
        yield f"{where}/problems", [str(p).replace(str(bag.parent), "") for p in frames.problems]


def _info(bag: Path) -> Named:
    yield "info", command("info", bag).replace(str(bag.parent), "")


def _family(name: str, scratch: Path) -> Named:
    import bag_families
    from nuscenes_folder import drawn_images

    function, options = _FAMILIES[name]
    images = drawn_images(keyframes=3)
    path = scratch / ("scene.bag" if name == "clynamen" else "scene")
    bag = getattr(bag_families, function)(path, images, **options)
    yield from _info(bag)
    layout = _layout_with_rig(name, images, scratch) if name.startswith("clynamen") else None
    yield from frames_in("frames", bag, layout=layout)


def _layout_with_rig(name: str, images: list[Any], scratch: Path) -> Any:
    """The layout of a family without intrinsics, with a rig for these images."""
    from occ_perception.frames import CameraRig
    from occ_perception.sensing.calibration import load_rig, save_rig
    from occ_perception.sensing.layouts import load_layout

    K = {image.channel: image.K for image in images}
    width, height = images[0].size
    cameras = tuple(
        replace(camera, K=K[camera.name], width=width, height=height)
        for camera in load_rig("nuscenes").cameras
    )
    save_rig(scratch / "rig.yaml", CameraRig(cameras))
    return replace(load_layout(name), rig=str(scratch / "rig.yaml"))


def _town(scratch: Path) -> Named:
    """Every frame; also for a model with lidar depth, and for one with a grid at the lidar."""
    from occ_perception.models.zoo import get_card

    bag = town_bag(scratch / "bag")
    yield from _info(bag)
    yield from frames_in("frames", bag)
    yield from frames_in("with_depth", bag, model=get_card("alocc_3d_depth"))
    yield from frames_in("lidar_grid", bag, model=get_card("alocc_3d_surroundocc"))


def _nuscenes(storage: str, scratch: Path) -> Named:
    from nuscenes_folder import VERSION, drawn_scene

    drawn_scene(scratch / "data", lidar=True)
    bag = scratch / "bag"
    options = f"--version {VERSION} --scene scene-0001 --storage {storage} --lidar"
    command(f"convert nuscenes {options} --out", bag, scratch / "data")
    yield from messages_in(bag)
    yield from frames_in("frames", bag)
    yield from _info(bag)


def _run(scratch: Path) -> Named:
    """A seeded network at full size on a drive through the town: recording, images, arrays."""
    bag, out = town_bag(scratch / "bag", "--bag mcap"), scratch / "out"
    how = "--model alocc_town --random-weights 1 --device cpu --npz --limit 2"
    command(f"run {how} --out", out, bag)
    yield from messages_in(out / "predictions")
    for folder in ("images", "npz"):
        for name, content in files_in(out / folder):
            yield f"{folder}/{name}", content
    summary = json.loads((out / "summary.json").read_text())
    for key in ("layout", "model", "frames", "committed", "skipped", "history_breaks"):
        yield f"summary/{key}", json.dumps(summary[key])


def _cases() -> list[Path]:
    """Unusual recordings of the folder ``OCC_SHARED``."""
    folder = Path(os.environ.get("OCC_SHARED", "/nonexistent")) / "cases"
    found = [*folder.glob("*/bag"), *folder.glob("*/x.mcap"), *folder.glob("*/drive*")]
    return sorted(path for path in found if path.is_dir() or path.suffix == ".mcap")


def _case(path: Path, _scratch: Path) -> Named:
    """The output of `occ info`, and the frames or the error message."""
    from typer.testing import CliRunner

    from occ_perception.cli import app
    from occ_perception.errors import OccError

    done = CliRunner().invoke(app, ["info", str(path)])
    yield "info", f"{done.exit_code} {done.output}".replace(str(path.parent), "")
    try:
        yield from frames_in("frames", path)
    except OccError as refusal:
        yield "refusal", str(refusal).replace(str(path.parent), "")
