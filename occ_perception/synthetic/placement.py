"""A coarse map of occupied ground, so that placed objects do not overlap."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from occ_perception.synthetic.ground import Ground
from occ_perception.synthetic.kernels.columns import HALF_TOWN

_CELL = 0.5
_CELLS = round(2 * HALF_TOWN / _CELL)


class TakenMap:
    """The ground claimed so far, on half-metre cells over the town."""

    def __init__(self, taken: NDArray[np.bool_] | None = None) -> None:
        self._taken = np.zeros((_CELLS, _CELLS), dtype=bool) if taken is None else taken

    def copy(self) -> TakenMap:
        """An independent copy."""
        return TakenMap(self._taken.copy())

    def claim(
        self,
        ground: Ground,
        position: NDArray[np.float64],
        yaw: float,
        half: tuple[float, float],
        surfaces: tuple[int, ...] | None = None,
    ) -> bool:
        """Claim a rectangle if it is free, inside the town and on allowed surfaces only.

        Returns whether it was claimed.

        Args:
            ground: the ground.
            position: (2,) its centre in the world, metres.
            yaw: its direction, radians.
            half: half length and half width, metres.
            surfaces: allowed surface codes; None allows all.
        """
        points = rectangle_points(position, yaw, half)
        index = np.floor((points + HALF_TOWN) / _CELL).astype(np.int64)
        if index.min() < 0 or index.max() >= _CELLS:
            return False
        rows, columns = index[:, 0], index[:, 1]
        if self._taken[rows, columns].any():
            return False
        if surfaces is not None:
            codes = ground.surface_code(points[:, 0], points[:, 1])
            if not np.isin(codes, surfaces).all():
                return False
        self._taken[rows, columns] = True
        return True

    def take_path(self, points: NDArray[np.float64], width: float) -> None:
        """Claim a strip along a polyline (n, 2) whose points are less than a cell apart."""
        reach = np.arange(-width / 2, width / 2 + 0.1, 0.4)
        offsets = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
        index = np.floor((points[:, None] + offsets + HALF_TOWN) / _CELL).astype(np.int64)
        index = np.clip(index.reshape(-1, 2), 0, _CELLS - 1)
        self._taken[index[:, 0], index[:, 1]] = True


def rectangle_points(
    position: NDArray[np.float64], yaw: float, half: tuple[float, float]
) -> NDArray[np.float64]:
    """(n, 2) points that cover a rectangle at most 0.45 m apart, its border included."""
    x = np.linspace(-half[0], half[0], int(half[0] / 0.225) + 2)
    y = np.linspace(-half[1], half[1], int(half[1] / 0.225) + 2)
    grid_x, grid_y = np.meshgrid(x, y)
    c, s = np.cos(yaw), np.sin(yaw)
    return np.stack(
        [
            position[0] + c * grid_x.ravel() - s * grid_y.ravel(),
            position[1] + s * grid_x.ravel() + c * grid_y.ravel(),
        ],
        axis=-1,
    )
