"""Time to collision: when the vehicle on its present course meets what moves as it moves now."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import OptionError
from occ_perception.geometry import Float64, relative_motion

_STEP_S = 0.05
_COARSE_STEP_S = 0.5
_STRAIGHT = 1e-6


@dataclass(frozen=True)
class Footprint:
    """The outline of the vehicle in the ego frame, metres from its origin.

    Attributes:
        front, rear, left, right: all positive.

    Raises:
        OptionError: a length is not positive.
    """

    front: float = 3.7
    rear: float = 1.0
    left: float = 1.0
    right: float = 1.0

    def __post_init__(self) -> None:
        lengths = (self.front, self.rear, self.left, self.right)
        if not all(math.isfinite(length) and length > 0.0 for length in lengths):
            raise OptionError(
                f"footprint front, rear, left, right is {lengths} m, expected four positive lengths"
            )


@dataclass(frozen=True)
class EgoMotion:
    """Constant speed and turn rate.

    Attributes:
        speed: along x of the ego frame, m/s; negative in reverse.
        turn_rate: about z, rad/s, to the left positive.
    """

    speed: float
    turn_rate: float

    @classmethod
    def between(cls, world_T_before: Float64, world_T_now: Float64, seconds: float) -> EgoMotion:
        """The motion from one ego pose (4, 4) to the next; ``seconds`` > 0 lie between them.

        Raises:
            ValueError: ``seconds`` is not positive.
        """
        if seconds <= 0.0:
            raise ValueError(f"poses are {seconds} s apart, expected more than 0")
        before_T_now = relative_motion(world_T_before, world_T_now)
        turn = math.atan2(before_T_now[1, 0], before_T_now[0, 0])
        x, y = before_T_now[:2, 3]
        # The chord of an arc points along the mean heading, and is shorter than the arc.
        along = x * math.cos(turn / 2) + y * math.sin(turn / 2)
        arc = along / math.sin(turn / 2) * turn / 2 if abs(turn) > _STRAIGHT else along
        return cls(arc / seconds, turn / seconds)

    def poses(self, times: Float64) -> tuple[Float64, Float64, Float64]:
        """x, y (metres) and heading (radians), each (t,), in the present ego frame."""
        heading = self.turn_rate * times
        if abs(self.turn_rate) < _STRAIGHT:
            return self.speed * times, np.zeros_like(times), heading
        radius = self.speed / self.turn_rate
        return radius * np.sin(heading), radius * (1.0 - np.cos(heading)), heading


def times_to_collision(
    places: Float64,
    velocities: Float64,
    motion: EgoMotion,
    footprint: Footprint,
    *,
    reach: float = 0.0,
    horizon_s: float = 8.0,
) -> NDArray[np.float32]:
    """When each point enters the footprint, if vehicle and points keep their motion.

    The vehicle follows an arc at constant speed, a point a straight line. Times are found in steps
    of 0.05 s and refined by halving.

    Args:
        places: (n, 2) x, y in the ego frame, metres.
        velocities: (n, 2) over ground along the axes of the ego frame, m/s.
        motion: of the vehicle.
        footprint: of the vehicle.
        reach: half the size of what a point stands for, e.g. half the edge of a voxel, metres.
        horizon_s: how far to look ahead, seconds.

    Returns:
        (n,) float32 seconds; 0 for points inside of the footprint now, inf if there is no collision
        within the horizon.
    """
    result = np.full(len(places), np.inf, np.float32)
    times = np.arange(0.0, horizon_s + _STEP_S / 2, _STEP_S)
    waiting = _passing_near(places, velocities, motion, footprint, reach, horizon_s)
    for time in times:
        met = _is_inside(places[waiting], velocities[waiting], time, motion, footprint, reach)
        hit = waiting[met]
        if len(hit):
            late = np.full(len(hit), time)
            early = np.maximum(late - _STEP_S, 0.0)
            for _ in range(5):
                middle = 0.5 * (early + late)
                inside = _is_inside(places[hit], velocities[hit], middle, motion, footprint, reach)
                late, early = np.where(inside, middle, late), np.where(inside, early, middle)
            result[hit] = late if time > 0.0 else 0.0
            waiting = waiting[~met]
    return result


def _passing_near(
    places: Float64,
    velocities: Float64,
    motion: EgoMotion,
    footprint: Footprint,
    reach: float,
    horizon_s: float,
) -> NDArray[np.int64]:
    """Numbers of the points that may enter the footprint, from few times: most never do."""
    longest = max(footprint.front, footprint.rear) + reach
    radius = math.hypot(longest, max(footprint.left, footprint.right) + reach)
    # Between two of the times a point comes nearer by half of a step's way at most.
    slack = (np.hypot(*velocities.T) + abs(motion.speed)) * _COARSE_STEP_S / 2
    times = np.arange(0.0, horizon_s + _COARSE_STEP_S, _COARSE_STEP_S)
    x, y, _ = motion.poses(times)
    dx = places[:, :1] + velocities[:, :1] * times - x
    dy = places[:, 1:] + velocities[:, 1:] * times - y
    nearest = np.sqrt((dx * dx + dy * dy).min(axis=1, initial=np.inf))
    near: NDArray[np.int64] = np.flatnonzero(nearest <= radius + slack)
    return near


def _is_inside(
    places: Float64,
    velocities: Float64,
    times: Float64 | float,
    motion: EgoMotion,
    footprint: Footprint,
    reach: float,
) -> NDArray[np.bool_]:
    """(n,) whether points are inside of the footprint at a time, or each at its own."""
    each = np.broadcast_to(np.asarray(times, np.float64), len(places))
    x, y, heading = motion.poses(each)
    dx = places[:, 0] + velocities[:, 0] * each - x
    dy = places[:, 1] + velocities[:, 1] * each - y
    along = np.cos(heading) * dx + np.sin(heading) * dy
    across = np.cos(heading) * dy - np.sin(heading) * dx
    inside: NDArray[np.bool_] = (
        (along <= footprint.front + reach)
        & (along >= -footprint.rear - reach)
        & (across <= footprint.left + reach)
        & (across >= -footprint.right - reach)
    )
    return inside
