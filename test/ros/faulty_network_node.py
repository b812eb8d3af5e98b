"""The node with a small network whose steps fail as a device makes them fail.

    python faulty_network_node.py FAULT FAULT ... --ros-args ...

The n-th fault happens in the n-th step after the one of the warm-up: ``none``, ``memory`` (an
allocation that no machine can grant), ``overflow``, ``device``, ``pause`` (6 s), ``stall`` (8 s).
Later steps work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from small_model_node import add_small_models
from torch.nn.modules.module import register_module_forward_pre_hook

from occ_perception.models.occupancy_net import OccupancyNet
from occ_perception.ros.node import program


def fail_on_device() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered\nadvice of torch")


FAULTS: dict[str, Callable[[], object]] = {
    "none": lambda: None,
    "memory": lambda: torch.empty(1 << 58, dtype=torch.uint8),
    "overflow": lambda: float(10) ** 400,
    "device": fail_on_device,
    "pause": lambda: time.sleep(6.0),
    "stall": lambda: time.sleep(8.0),
}


if __name__ == "__main__":
    first_option = sys.argv.index("--ros-args")
    coming = ["none", *sys.argv[1:first_option]]

    def before_step(module: torch.nn.Module, _inputs: object) -> None:
        if isinstance(module, OccupancyNet) and coming:
            FAULTS[coming.pop(0)]()

    register_module_forward_pre_hook(before_step)
    add_small_models()
    sys.argv[1:first_option] = []
    program()
