"""Images in perspective, by ray casting: classes with motion arrows, verdicts, any voxel grid.

numba (extra ``viewer``) is loaded on first use; its machine code is cached on disk.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import needed_for
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64, VoxelGrid, invert_transform, transform_points
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.viewer.comparison import VERDICT_COLOURS, Comparison
from occ_perception.viewer.drawing import draw_shapes
from occ_perception.viewer.views import colours_of_ids, motion_arrows
from occ_perception.viewer.volume_stage import build_stage

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]

_ROWS_PER_TASK = 24
# Difference to a neighbouring pixel, of 255, above which a pixel gets more rays.
_VISIBLE_STEP = 14.0

ARROW_SECONDS = 1.0
_ABOVE_THE_MOVER = 0.5
_SHAFT, _HEAD_WIDTH, _HEAD_LENGTH = 0.22, 0.7, 1.4
_NEAREST = 0.5


@dataclass(frozen=True)
class ViewPoint:
    """Position and direction of the viewer, in the ego frame.

    Attributes:
        eye: position, metres.
        target: the point in the middle of the image, metres.
        view_angle: horizontal field of view, degrees.
    """

    eye: tuple[float, float, float]
    target: tuple[float, float, float]
    view_angle: float = 58.0

    def __post_init__(self) -> None:
        sight = np.subtract(self.target, self.eye)
        if np.hypot(sight[0], sight[1]) < 1e-6 * max(1.0, abs(sight[2])):
            raise ValueError(
                f"view from {self.eye} to {self.target} is vertical, so left and right are "
                "undefined; move one of the points sideways"
            )
        if not 1.0 <= self.view_angle <= 150.0:
            raise ValueError(f"view angle is {self.view_angle} degrees, expected 1 to 150")

    def ego_T_eye(self) -> Float64:
        """(4, 4) pose of the viewer as a camera optical frame: x right, y down, z forward."""
        forward = np.subtract(self.target, self.eye)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        forward = forward / np.linalg.norm(forward)
        right /= np.linalg.norm(right)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
        pose[:3, 3] = self.eye
        return pose

    def lens(self, size: tuple[int, int]) -> tuple[float, float, float]:
        """Focal length, column and row of the principal point, pixels, of (width, height)."""
        width, height = size
        focal = width / 2 / math.tan(math.radians(self.view_angle) / 2)
        return focal, (width - 1) / 2, (height - 1) / 2

    def pixels(self, points: Float64, size: tuple[int, int]) -> tuple[Float64, Float64]:
        """Project points (n, 3) of the ego frame: (n, 2) columns and rows, (n,) depths.

        Positions of points that are not in front of the viewer (depth <= 0) are meaningless.
        """
        focal, column, row = self.lens(size)
        at = transform_points(invert_transform(self.ego_T_eye()), points)
        depth = at[:, 2]
        places = focal * at[:, :2] / np.where(depth > 0, depth, 1.0)[:, None] + (column, row)
        return places, depth


class Eye(Protocol):
    """Where a view in perspective is seen from."""

    def ego_T_eye(self) -> Float64:
        """(4, 4) pose of a camera optical frame: x right, y down, z forward."""

    def lens(self, size: tuple[int, int]) -> tuple[float, float, float]:
        """Focal length, column and row of the principal point, pixels, of (width, height)."""


def view_point_behind(grid: VoxelGrid, ego_T_grid: Float64) -> ViewPoint:
    """A view point behind and above the centre of the grid, looking ahead."""
    reach = float(max(np.subtract(grid.upper, grid.lower)[:2])) / 2
    middle = (np.array(grid.lower) + np.array(grid.upper)) / 2
    x, y, _ = (float(value) for value in ego_T_grid[:3, :3] @ middle + ego_T_grid[:3, 3])
    return ViewPoint((x - 0.80 * reach, y, 0.48 * reach), (x + 0.20 * reach, y, 0.0))


@dataclass(frozen=True, eq=False)
class RenderedVolume:
    """An image of a volume, with distance and voxel of every pixel.

    Attributes:
        rgb: (H, W, 3) uint8.
        distance: (H, W) float32 metres from the eye along each pixel's ray, inf in the sky.
        voxel: (H, W) int32 flat C-order index of the visible voxel, negative if there is none.
    """

    rgb: UInt8
    distance: Float32
    voxel: NDArray[np.int32]


def render_volume(
    labels_XYZ: UInt8,
    colours: UInt8,
    drawn: NDArray[np.bool_],
    grid: VoxelGrid,
    ego_T_grid: Float64,
    view_point: Eye,
    size: tuple[int, int] = (900, 600),
    threads: int = 2,
    with_vehicle: bool = True,
) -> RenderedVolume:
    """Cast a ray through every pixel, and four more where neighbours differ.

    Args:
        labels_XYZ: labels of the voxels.
        colours: (256, 3) RGB by label; a level, open surface in the sun has exactly this colour.
        drawn: (256,) labels that are drawn; the others are transparent. 255 is never drawn.
        grid, ego_T_grid: grid of the voxels and its pose.
        view_point: position and direction of the viewer.
        size: width and height in pixels.
        threads: number of threads; the image does not depend on it.
        with_vehicle: whether the ego vehicle is drawn.

    Raises:
        MissingPackageError: numba is not installed.
    """
    kernels = _kernels()
    stage = build_stage(labels_XYZ, colours, drawn, grid, ego_T_grid, with_vehicle)
    width, height = size
    lens = view_point.lens(size)
    eye = np.ascontiguousarray(view_point.ego_T_eye()[:3])
    rough = np.empty((height, width, 3), np.float32)
    distance = np.empty((height, width), np.float32)
    voxel = np.empty((height, width), np.int32)
    rgb = np.empty((height, width, 3), np.uint8)
    starts = range(0, height, _ROWS_PER_TASK)
    ends = [min(start + _ROWS_PER_TASK, height) for start in starts]

    def trace(first: int, last: int) -> None:
        kernels.trace_rows(stage, eye, lens, first, last, rough, distance, voxel)

    def smooth(first: int, last: int) -> None:
        kernels.smooth_rows(stage, eye, lens, first, last, rough, rgb, _VISIBLE_STEP)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(trace, starts, ends))
        list(pool.map(smooth, starts, ends))
    return RenderedVolume(rgb, distance, voxel)


def volume_image(
    prediction: OccupancyPrediction,
    size: tuple[int, int] = (900, 600),
    view_point: ViewPoint | None = None,
) -> UInt8:
    """Occupied voxels in the colours of their classes, (H, W, 3) uint8 RGB.

    Flat arrows above moving objects show the distance covered in one second. The white vehicle is
    the ego vehicle.

    Args:
        prediction: the prediction.
        size: width and height in pixels.
        view_point: by default behind and above the vehicle.

    Raises:
        MissingPackageError: numba is not installed.
    """
    view_point = view_point or view_point_behind(prediction.grid, prediction.ego_T_grid)
    rgb = render_volume(
        prediction.labels,
        colours_of_ids(prediction.class_names),
        occupied_ids(prediction),
        prediction.grid,
        prediction.ego_T_grid,
        view_point,
        size,
    ).rgb
    positions, velocities = motion_arrows(prediction)
    shapes = []
    above = np.array((0.0, 0.0, _ABOVE_THE_MOVER))
    for position, velocity in zip(positions, velocities, strict=True):
        outline = arrow_outline(position + above, ARROW_SECONDS * velocity)
        places, depth = view_point.pixels(outline, size)
        if (depth > _NEAREST).all():
            shapes.append(places)
    draw_shapes(rgb, shapes)
    return rgb


def occupied_ids(prediction: OccupancyPrediction) -> NDArray[np.bool_]:
    """(256,) whether a label stands for something that occupies a voxel."""
    drawn = np.ones(256, bool)
    drawn[[prediction.empty_class, UNKNOWN_CLASS]] = False
    return drawn


def difference_image(
    comparison: Comparison,
    size: tuple[int, int] = (900, 600),
    view_point: ViewPoint | None = None,
) -> UInt8:
    """Occupied voxels in the colours of their verdicts, (H, W, 3) uint8 RGB.

    Arguments and errors as in :func:`volume_image`; voxels with unknown truth are left out.
    """
    truth = comparison.truth
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(VERDICT_COLOURS)] = VERDICT_COLOURS
    drawn = np.arange(256) < len(VERDICT_COLOURS)
    view_point = view_point or view_point_behind(truth.grid, truth.ego_T_grid)
    return render_volume(
        comparison.verdict_XYZ, colours, drawn, truth.grid, truth.ego_T_grid, view_point, size
    ).rgb


def arrow_outline(start: Float64, way: Float64) -> Float64:
    """(7, 3) corners of a flat, level arrow from ``start`` (3,) along ``way`` (2,), metres."""
    length = float(np.hypot(*way))
    forward = np.array([*way, 0.0]) / length
    left = np.array([-forward[1], forward[0], 0.0])
    # Short arrows are scaled as a whole to keep their shape.
    scale = min(1.0, length / (1.5 * _HEAD_LENGTH))
    neck = length - scale * _HEAD_LENGTH
    shape = [
        *((0.0, _SHAFT), (neck, _SHAFT), (neck, _HEAD_WIDTH), (length, 0.0)),
        *((neck, -_HEAD_WIDTH), (neck, -_SHAFT), (0.0, -_SHAFT)),
    ]
    corners: Float64 = start + np.stack(
        [along * forward + scale * aside * left for along, aside in shape]
    )
    return corners


def _kernels() -> Any:
    with needed_for("the view in perspective"):
        from occ_perception.viewer import volume_kernels
    return volume_kernels
