"""Prints what :func:`occ_perception.ros.live_view.watch` shows of a node, one line per frame."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from small_model_node import add_small_models

from occ_perception.ros.live_view import watch

shown = 0


def show(prediction, frame) -> None:
    global shown
    shown += 1
    line = {
        "stamp": prediction.stamp_ns,
        "occupied": int((prediction.labels != prediction.empty_class).sum()),
        "cameras": list(prediction.camera_stamps_ns),
    }
    if frame is not None:
        line["images"] = {
            name: float(frame.images[name].mean()) for name in prediction.camera_stamps_ns
        }
        line["position"] = frame.world_T_reference_ego[:3, 3].tolist()
    print(json.dumps(line), flush=True)
    print(f"{shown} frames", flush=True)


if __name__ == "__main__":
    add_small_models()  # the node runs one of them
    watch(sys.argv[1], show, lambda text: print(f"note: {text}", flush=True))
