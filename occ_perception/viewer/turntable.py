"""Volumes that can be turned in a web page, as HTML that needs nothing from elsewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from occ_perception.frames import OccupancyPrediction
from occ_perception.viewer.views import ViewerError, colours_of_ids
from occ_perception.viewer.volume import occupied_ids

_SCRIPT = Path(__file__).with_name("turntable.js")
STYLE = """
.turntable canvas { width: 100%; height: 480px; touch-action: none; cursor: grab; display: block;
                    border: 1px solid #d6dae0; }
"""
"""Style sheet of :func:`turntable`."""


def turntable(volumes: Mapping[str, OccupancyPrediction]) -> str:
    """HTML with one volume to be turned by dragging, and a button per volume.

    Args:
        volumes: caption -> volume; all have the grid and the class names of the first.

    Raises:
        ViewerError: there is no volume, or grids or class names differ.
    """
    listed = list(volumes.values())
    if not listed or any(
        a.grid != b.grid or a.class_names != b.class_names for a, b in pairwise(listed)
    ):
        raise ViewerError("expected volumes with one grid and the same class names")
    first = listed[0]
    data = {
        "dims": first.grid.dims,
        "size": first.grid.voxel_size,
        "lower": first.grid.lower,
        "colours": colours_of_ids(first.class_names)[: len(first.class_names)].tolist(),
        "volumes": [{"name": name, "voxels": _voxels(volume)} for name, volume in volumes.items()],
    }
    return (
        '<div class="turntable"><div></div><canvas></canvas></div>\n'
        f"<script>{_SCRIPT.read_text(encoding='utf-8')}\n"
        'turntable(document.querySelector(".turntable"), '
        f"{json.dumps(data)});</script>"
    )


def _voxels(prediction: OccupancyPrediction) -> str:
    """Base64 of uint16 (n, 4): x, y, z and class of the occupied voxels."""
    places = np.argwhere(occupied_ids(prediction)[prediction.labels])
    classes = prediction.labels[tuple(places.T)]
    rows = np.column_stack([places, classes]).astype("<u2")
    return base64.b64encode(rows.tobytes()).decode()
