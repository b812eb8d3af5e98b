"""Pictures of predictions, made without a display."""

from occ_perception.viewer.pictures import prediction_picture, sheet_picture, write_png

__all__ = ["prediction_picture", "sheet_picture", "write_png"]
