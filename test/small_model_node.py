"""occupancy_node with additional small models, so that tests are fast.

The node is the real one. The models are models of the zoo with small images and a small grid:
ALOcc-2D-mini, one whose grid lies in the lidar frame, one with flow, one that takes lidar depth.
"""

from __future__ import annotations

from dataclasses import replace

from small_streams import small_card

from occ_perception.models.zoo import MODELS
from occ_perception.ros.node import program

SMALL_MODEL = "alocc_2d_mini_small"


def add_small_models() -> None:
    """Add them to the zoo of this process; not done on import, because tests import this module."""
    MODELS[SMALL_MODEL] = replace(small_card(), name=SMALL_MODEL)
    for name in ("alocc_2d_mini_surroundocc", "alocc_flow_2d", "alocc_3d_gf_depth"):
        MODELS[f"{name}_small"] = small_card(name, rename=f"{name}_small")


if __name__ == "__main__":
    add_small_models()
    program()
