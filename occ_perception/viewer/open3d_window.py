"""Shows occupancy in an Open3D window that can be rotated and zoomed (extra ``open3d``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from occ_perception.errors import needed_for
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import transform_points
from occ_perception.viewer.drawing import PAPER
from occ_perception.viewer.views import ViewerError, colours_of_ids
from occ_perception.viewer.volume import view_point_behind
from occ_perception.viewer.voxel_boxes import boxes_of_voxels, triangles_of_boxes

_NEXT, _PREVIOUS = ord("N"), ord("P")
_SIZE = (1280, 800)
_NO_WINDOW = (
    "Open3D cannot open a window: there is no display, or no OpenGL on it; "
    "`occ view --out film.mp4` needs neither"
)


class Open3DWindow:
    """A window with predictions, starting at the first; N next, P previous, Q closes.

    Args:
        predictions: at least one.

    Raises:
        MissingPackageError: Open3D is not installed.
        ViewerError: there is no display, or no OpenGL.
    """

    def __init__(self, predictions: Sequence[OccupancyPrediction]) -> None:
        self._open3d = _open3d()
        # Without a display Open3D would render off screen and wait for keys forever.
        if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & set(os.environ):
            raise ViewerError(_NO_WINDOW)
        self._predictions = predictions
        self._shown = 0
        self._mesh: Any = None
        self.window = self._open3d.visualization.VisualizerWithKeyCallback()
        width, height = _SIZE
        if not self.window.create_window("occ_perception", width, height):
            raise ViewerError(_NO_WINDOW)
        options = self.window.get_render_option()
        options.background_color = np.array(PAPER) / 255
        self.window.register_key_callback(_NEXT, lambda _: self._go(1))
        self.window.register_key_callback(_PREVIOUS, lambda _: self._go(-1))
        self._show(first=True)

    def run(self) -> None:
        """Run until the user closes the window."""
        self.window.run()
        self.window.destroy_window()

    def _go(self, step: int) -> bool:
        shown = min(max(self._shown + step, 0), len(self._predictions) - 1)
        if shown != self._shown:
            self._shown = shown
            self._show()
        return True

    def _show(self, first: bool = False) -> None:
        prediction = self._predictions[self._shown]
        if self._mesh is not None:
            self.window.remove_geometry(self._mesh, reset_bounding_box=False)
        self._mesh = self._mesh_of(prediction)
        self.window.add_geometry(self._mesh, reset_bounding_box=first)
        if first:
            view_point = view_point_behind(prediction.grid, prediction.ego_T_grid)
            control = self.window.get_view_control()
            control.set_lookat(view_point.target)
            control.set_front(np.subtract(view_point.eye, view_point.target))
            control.set_up((0.0, 0.0, 1.0))
            control.set_zoom(0.35)

    def _mesh_of(self, prediction: OccupancyPrediction) -> Any:
        boxes = boxes_of_voxels(prediction)
        vertices, triangles, box = triangles_of_boxes(boxes)
        colours = colours_of_ids(prediction.class_names)[boxes.labels] / 255
        vector = self._open3d.utility.Vector3dVector
        mesh = self._open3d.geometry.TriangleMesh(
            vector(transform_points(prediction.ego_T_grid, vertices)),
            self._open3d.utility.Vector3iVector(triangles.astype(np.int32)),
        )
        mesh.vertex_colors = vector(colours[box])
        mesh.compute_vertex_normals()
        return mesh


def _open3d() -> Any:
    with needed_for("the window"):
        import open3d
    return open3d
