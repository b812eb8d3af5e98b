"""Which network the demonstration runs."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", exc_type=ImportError)

from occ_perception.demo.demonstration import choose_network
from occ_perception.models.card import ModelError

pytestmark = pytest.mark.ros


def test_the_town_model_is_shown_on_town_drives() -> None:
    assert choose_network("", on_town=True).name == "alocc_town"
    assert choose_network("", on_town=False).name == "alocc_2d_mini"
    assert choose_network("alocc_3d", on_town=True).name == "alocc_3d"
    with pytest.raises(ModelError, match="no model 'x'"):
        choose_network("x", on_town=True)
