"""Pictures of predictions, made without a display."""

from occ_perception.viewer.comparison import compare
from occ_perception.viewer.pictures import (
    film_picture,
    prediction_picture,
    sheet_picture,
    write_png,
)
from occ_perception.viewer.volume_pictures import difference_picture, volume_picture

__all__ = [
    "compare",
    "difference_picture",
    "film_picture",
    "prediction_picture",
    "sheet_picture",
    "volume_picture",
    "write_png",
]
