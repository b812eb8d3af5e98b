"""The console script with an additional small model."""

from __future__ import annotations

from small_streams import SMALL_MODEL, small_card

from occ_perception.cli import main
from occ_perception.models.zoo import MODELS

if __name__ == "__main__":
    MODELS[SMALL_MODEL] = small_card(rename=SMALL_MODEL)
    main()
