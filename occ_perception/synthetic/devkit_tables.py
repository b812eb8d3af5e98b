"""The devkit's tables: fixed tables, and the merge of the records of all drives of a folder."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from occ_perception.geometry import pose_from_matrix
from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.rig import CAMERAS
from occ_perception.synthetic.seeds import GENERATOR_VERSION

if TYPE_CHECKING:
    from occ_perception.synthetic.sensors import DriveSensors

Rows = list[dict[str, Any]]
Token = Callable[..., str]

_CATEGORIES = (
    "noise",
    "animal",
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.construction_worker",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.stroller",
    "human.pedestrian.wheelchair",
    "movable_object.barrier",
    "movable_object.debris",
    "movable_object.pushable_pullable",
    "movable_object.trafficcone",
    "static_object.bicycle_rack",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.car",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.motorcycle",
    "vehicle.trailer",
    "vehicle.truck",
    "flat.driveable_surface",
    "flat.other",
    "flat.sidewalk",
    "flat.terrain",
    "static.manmade",
    "static.other",
    "static.vegetation",
    "vehicle.ego",
)
"""General classes of nuScenes lidarseg; position = id."""

_CATEGORY_OF = {
    "others": "movable_object.debris",
    "barrier": "movable_object.barrier",
    "bicycle": "vehicle.bicycle",
    "bus": "vehicle.bus.rigid",
    "car": "vehicle.car",
    "construction_vehicle": "vehicle.construction",
    "motorcycle": "vehicle.motorcycle",
    "pedestrian": "human.pedestrian.adult",
    "traffic_cone": "movable_object.trafficcone",
    "trailer": "vehicle.trailer",
    "truck": "vehicle.truck",
    "driveable_surface": "flat.driveable_surface",
    "other_flat": "flat.other",
    "sidewalk": "flat.sidewalk",
    "terrain": "flat.terrain",
    "manmade": "static.manmade",
    "vegetation": "static.vegetation",
    "free": "noise",
}
GENERAL_ID = np.array(
    [_CATEGORIES.index(_CATEGORY_OF[name]) for name in LABEL_SETS["occ3d"].class_names],
    dtype=np.uint8,
)
"""Lidarseg general class id of each Occ3D class."""

_ATTRIBUTES = (
    "vehicle.moving",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.moving",
    "pedestrian.standing",
)
_VISIBILITIES = ("v0-40", "v40-60", "v60-80", "v80-100")


def static_records(sensors: DriveSensors, token: Token) -> dict[str, Any]:
    """The records of a whole drive: mounts, town, start time."""
    drive = sensors.drive
    mounts = [
        _mount(drive.name, camera.name, camera.ego_T_cam, camera.K.tolist(), token)
        for camera in sensors.rig.cameras
    ]
    mounts.append(_mount(drive.name, "LIDAR_TOP", sensors.ego_T_lidar, [], token))
    return {
        "generator": GENERATOR_VERSION,
        "name": drive.name,
        "town": f"town-{drive.town.seed:05d}",
        "calibrated_sensor": mounts,
        "description": _description(sensors),
    }


def _description(sensors: DriveSensors) -> str:
    weather, route = sensors.drive.weather, sensors.drive.route
    light = "dusk" if weather.dusk else ("overcast" if weather.overcast > 0.6 else "sun")
    words = ["synthetic town", light]
    words += ["wet road"] if weather.wet else []
    words += ["fog"] if weather.visibility < 250 else []
    words += ["turn"] if route.turns else []
    return ", ".join(words)


def _mount(drive: str, channel: str, matrix: Any, K: Any, token: Token) -> dict[str, Any]:
    translation, (x, y, z, w) = pose_from_matrix(matrix)
    return {
        "token": token(drive, "mount", channel),
        "sensor_token": token("sensor", channel),
        "translation": [float(value) for value in translation],
        "rotation": [float(w), float(x), float(y), float(z)],
        "camera_intrinsic": K,
    }


def merge_tables(root: Path, token: Token) -> dict[str, Rows]:
    """Rows of every table from the records of all complete drives below ``root``."""
    tables: dict[str, Rows] = defaultdict(list)
    towns: dict[str, list[str]] = defaultdict(list)
    for path in sorted((root / "town").glob("*/drive.json")):
        drive = json.loads(path.read_text())
        records = [
            json.loads((path.parent / f"frame-{n:03d}.json").read_text())
            for n in range(drive["frames"])
        ]
        _add_drive(tables, drive, records, token)
        towns[drive["town"]].append(token(drive["name"], "log"))
    tables["map"] = [
        {
            "token": token(town, "map"),
            "log_tokens": logs,
            "category": "semantic_prior",
            "filename": f"maps/{town}.png",
        }
        for town, logs in towns.items()
    ]
    tables.update(_fixed_tables(token))
    return dict(tables)


def _fixed_tables(token: Token) -> dict[str, Rows]:
    return {
        "sensor": [
            {
                "token": token("sensor", channel),
                "channel": channel,
                "modality": "lidar" if channel == "LIDAR_TOP" else "camera",
            }
            for channel in [*CAMERAS, "LIDAR_TOP"]
        ],
        "category": [
            {"token": token("category", name), "name": name, "description": "", "index": index}
            for index, name in enumerate(_CATEGORIES)
        ],
        "attribute": [
            {"token": token("attribute", name), "name": name, "description": ""}
            for name in _ATTRIBUTES
        ],
        "visibility": [
            {"token": str(n + 1), "level": level, "description": ""}
            for n, level in enumerate(_VISIBILITIES)
        ],
    }


def _add_drive(tables: dict[str, Rows], drive: dict[str, Any], records: Rows, token: Token) -> None:
    name = drive["name"]
    scene = token(name, "scene")
    samples = [record["sample"]["token"] for record in records]
    tables["log"].append(
        {
            "token": token(name, "log"),
            "logfile": name,
            "vehicle": "town",
            "date_captured": "2020-09-13",
            "location": drive["town"],
        }
    )
    tables["scene"].append(
        {
            "token": scene,
            "log_token": token(name, "log"),
            "nbr_samples": len(samples),
            "first_sample_token": samples[0],
            "last_sample_token": samples[-1],
            "name": name,
            "description": f"{drive['description']}; generator {drive['generator']}",
        }
    )
    tables["calibrated_sensor"] += drive["calibrated_sensor"]
    for n, record in enumerate(records):
        before, after = _neighbours(samples, n)
        tables["sample"].append(
            {**record["sample"], "prev": before, "next": after, "scene_token": scene}
        )
        tables["ego_pose"] += record["ego_pose"]
        tables["lidarseg"].append(record["lidarseg"])
        for k, data in enumerate(record["sample_data"]):
            chain = [other["sample_data"][k]["token"] for other in records]
            before, after = _neighbours(chain, n)
            tables["sample_data"].append({**data, "prev": before, "next": after})
    _add_boxes(tables, name, records, samples, token)


def _neighbours(chain: list[str], n: int) -> tuple[str, str]:
    return (chain[n - 1] if n else "", chain[n + 1] if n + 1 < len(chain) else "")


def _add_boxes(
    tables: dict[str, Rows], drive: str, records: Rows, samples: list[str], token: Token
) -> None:
    tracks: dict[int, Rows] = defaultdict(list)
    for record, sample in zip(records, samples, strict=True):
        for box in record["sample_annotation"]:
            tracks[box["instance"]].append({**box, "sample_token": sample})
    names = LABEL_SETS["occ3d"].class_names
    for instance, boxes in tracks.items():
        category = _CATEGORY_OF[names[boxes[0]["class"]]]
        own = token(drive, "instance", instance)
        chain = [box["token"] for box in boxes]
        tables["instance"].append(
            {
                "token": own,
                "category_token": token("category", category),
                "nbr_annotations": len(boxes),
                "first_annotation_token": chain[0],
                "last_annotation_token": chain[-1],
            }
        )
        for n, box in enumerate(boxes):
            before, after = _neighbours(chain, n)
            attribute = _attribute(category, box["moving"])
            kept = {k: v for k, v in box.items() if k not in ("instance", "class", "moving")}
            tables["sample_annotation"].append(
                {
                    **kept,
                    "instance_token": own,
                    "attribute_tokens": [token("attribute", attribute)] if attribute else [],
                    "prev": before,
                    "next": after,
                }
            )


def _attribute(category: str, moving: bool) -> str:
    if category.startswith("human"):
        return "pedestrian.moving" if moving else "pedestrian.standing"
    if category in ("vehicle.bicycle", "vehicle.motorcycle"):
        return "cycle.with_rider" if moving else "cycle.without_rider"
    if category.startswith("vehicle"):
        return "vehicle.moving" if moving else "vehicle.parked"
    return ""
