"""Images, films and interactive views of predictions; images need no display."""

from occ_perception.viewer.comparison import compare
from occ_perception.viewer.images import (
    film_image,
    prediction_image,
    sheet_image,
    write_png,
)
from occ_perception.viewer.volume import difference_image, volume_image

__all__ = [
    "compare",
    "difference_image",
    "film_image",
    "prediction_image",
    "sheet_image",
    "volume_image",
    "write_png",
]
