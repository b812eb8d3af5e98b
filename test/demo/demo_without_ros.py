"""``occ demo`` with a small network, on a machine without ROS: rclpy cannot be imported."""

from __future__ import annotations

import sys
from dataclasses import replace

sys.modules["rclpy"] = None  # type: ignore[assignment]

from occ_perception.cli import main  # noqa: E402
from occ_perception.models.zoo import MODELS, get_card  # noqa: E402

if __name__ == "__main__":
    card = get_card("alocc_town").resized((64, 176))
    MODELS["alocc_town_small"] = replace(card, name="alocc_town_small", packaged=None)
    sys.argv = ["occ", "demo", "--model", "alocc_town_small", *sys.argv[1:]]
    main()
