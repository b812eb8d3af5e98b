"""The demonstration with an additional small model.

It is the town model with small images, so it has the grid of the ground truth, and flow.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from small_model_node import add_small_models

from occ_perception.cli import main
from occ_perception.demo import over_dds
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.ros.node import program as run_node

SMALL_TOWN_MODEL = "alocc_town_small"
INPUT_SIZE = (64, 176)


def small_town_card():
    card = get_card("alocc_town").resized(INPUT_SIZE)
    return replace(card, name=SMALL_TOWN_MODEL, packaged=None)


if __name__ == "__main__":
    add_small_models()
    MODELS[SMALL_TOWN_MODEL] = small_town_card()
    if "--ros-args" in sys.argv:
        run_node()
    over_dds._LINGER_S = 15.0  # its outputs take no seconds, those of full networks do
    over_dds.NODE_COMMAND = (sys.executable, str(Path(__file__).resolve()))
    main()
