"""A map over a drive: Bayesian accumulation of occupancy and classes in world coordinates.

Occupancy follows Hornung et al., OctoMap (Autonomous Robots 34, 2013), section 3.2: every
observation adds the log-odds of the inverse sensor model to a voxel (eq. 2 and 3), and the sum is
clamped (eq. 4), so that the map can follow changes. The values are those of that section: 0.85 for
occupied (probability 0.7), -0.4 for free (0.4), clamped to -2 and 3.5 (0.12 and 0.97). All are
multiples of 0.05 and stored as such in one byte, so sums are exact.

Classes are counted: one byte per class for every voxel that was ever hit. Counting does not depend
on the order of the frames. The cheaper majority vote of Boyer and Moore (one class, one counter)
does wherever no class has more than half of the hits, as at borders of classes; with votes shared
out only where there are hits, counts take about as little memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64, require_rigid
from occ_perception.labels import MOVING_CLASSES, UNKNOWN_CLASS
from occ_perception.mapping.coverage import Coverage, Lookup
from occ_perception.mapping.voxel_blocks import (
    BLOCK,
    BLOCK_VOXELS,
    POSITIONS,
    UNSEEN,
    MapError,
    VoxelBlocks,
)

LOG_ODDS_STEP = 0.05
HIT = 17
"""Log-odds of an occupied voxel of a class that does not move, in steps."""
MISS = -8
"""Log-odds of a free voxel, in steps."""
MOVABLE_HIT = -MISS
"""Log-odds of a standing vehicle or person: it disappears in as many frames as it stood."""
STANDING_FRAMES = 3
"""From this frame on a standing vehicle or person counts as occupied."""
LOWEST, HIGHEST = -40, 70
"""Clamping limits, in steps."""


@dataclass(frozen=True)
class MapOptions:
    """Options of a map.

    Attributes:
        voxel_size: edge of the voxels, metres; None = the shortest edge of the first prediction's
            voxels.
        origin: world position of the lower corner of voxel (0, 0, 0), metres.
        moving_speed: objects of ``MOVING_CLASSES`` that are faster move, m/s.
        keep_movable: whether these classes enter the map if there is no flow. They then leave
            traces where they drove and are not seen again.
    """

    voxel_size: float | None = None
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    moving_speed: float = 0.5
    keep_movable: bool = False

    def __post_init__(self) -> None:
        if self.voxel_size is not None and not 0 < self.voxel_size < np.inf:
            raise ValueError(f"the voxel size must be positive, got {self.voxel_size} m")
        if not np.isfinite(self.origin).all() or len(self.origin) != 3:
            raise ValueError(f"the origin must be three finite numbers, got {self.origin} m")


@dataclass(frozen=True, eq=False)
class MapVoxels:
    """The voxels of a map that are known: more likely occupied than free, or the opposite.

    Attributes:
        voxel_size: edge, metres.
        origin: world position of the lower corner of voxel (0, 0, 0), metres.
        class_names, empty_class: as in the predictions.
        indices: (n, 3) int32 along world x, y, z; may be negative.
        log_odds: (n,) float32 of being occupied, -2 to 3.5, never 0.
        classes: (n,) uint8; the empty class where the log-odds are below 0.
    """

    voxel_size: float
    origin: tuple[float, float, float]
    class_names: tuple[str, ...]
    empty_class: int
    indices: NDArray[np.int32]
    log_odds: NDArray[np.float32]
    classes: NDArray[np.uint8]

    @property
    def occupied(self) -> NDArray[np.bool_]:
        """(n,) whether a voxel is more likely occupied than free."""
        is_occupied: NDArray[np.bool_] = self.log_odds > 0
        return is_occupied

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(n,) of being occupied."""
        return (1 / (1 + np.exp(-self.log_odds))).astype(np.float32)

    def centres(self) -> Float64:
        """(n, 3) centres relative to :attr:`origin`, metres."""
        centres: Float64 = (self.indices.astype(np.float64) + 0.5) * self.voxel_size
        return centres


class DriveMap:
    """Accumulates predictions of one drive, or of several in the same world.

    Memory depends on the observed space only, not on the number of frames. Every observed voxel
    takes 2 bytes, every voxel that was hit about one byte per class more.

    What a voxel of a prediction says:

    - free: the map's voxel becomes less likely to be occupied;
    - a class that does not move: more likely, with a vote for the class;
    - a class of ``MOVING_CLASSES`` that stands still: a vote, and a little more likely from the
      third vote on;
    - a class of ``MOVING_CLASSES`` that moves, or whose flow is unknown: nothing. It does not enter
      the map as occupied. The space below it is not seen, so it is not free either. Where it stood
      before, the free voxels behind it erase it.
    - unknown, not observed, or without a name: nothing.

    Args:
        options: options of the map.
    """

    def __init__(self, options: MapOptions = MapOptions()) -> None:
        self.options = options
        self.frames = 0
        self._voxel_size = options.voxel_size
        self._class_names: tuple[str, ...] = ()
        self._empty_class = 0
        self._steps: NDArray[np.int8] = np.zeros(256, np.int8)
        self._movable: NDArray[np.bool_] = np.zeros(256, np.bool_)
        self._named: NDArray[np.uint8] = np.full(256, UNKNOWN_CLASS, np.uint8)
        self._blocks = VoxelBlocks(0)

    def add(self, prediction: OccupancyPrediction, world_T_ego: Float64) -> None:
        """Take one prediction into the map.

        Args:
            prediction: its flow, if any, tells movers from standing objects, and voxels that were
                not observed, if that is known, do not count. Unknown voxels never do.
            world_T_ego: (4, 4) pose of the prediction's ``frame_id`` at its stamp.

        Raises:
            MapError: the classes are not those of the first prediction, or the pose lies too far
                from the map's origin.
            ValueError: the pose is not rigid.
        """
        require_rigid(world_T_ego, "world_T_ego")
        if not self.frames:
            self._begin(prediction)
        names, empty = prediction.class_names, prediction.empty_class
        if (names, empty) != (self._class_names, self._empty_class):
            raise MapError(
                f"the prediction at {prediction.stamp_ns} ns has the classes {', '.join(names)} "
                f"with {names[empty]} for free space, the map has {', '.join(self._class_names)}; "
                "one map takes predictions with the same classes"
            )
        map_T_grid = world_T_ego @ prediction.ego_T_grid
        map_T_grid[:3, 3] -= self.options.origin
        covered = Coverage(prediction.grid, map_T_grid, self.voxel_size)
        says = self._statements(prediction)
        first_block = covered.lower // BLOCK
        last_block = (covered.lower + covered.shape - 1) // BLOCK
        x, y, z = (last_block - first_block + 1).tolist()
        numbers = self._blocks.numbers(first_block, (x, y, z))
        for lookup in covered.lookups():
            labels = says.take(lookup.grid_voxels)
            counts = np.flatnonzero(labels != UNKNOWN_CLASS)
            addresses = self._addresses(lookup, counts, covered.lower, first_block, numbers)
            self._observe(addresses, labels.take(counts))
        self.frames += 1

    @property
    def voxel_size(self) -> float:
        """Edge of the voxels, metres; before the first prediction only if the options state it."""
        if self._voxel_size is None:
            raise ValueError("the map has no voxel size before the first prediction")
        return self._voxel_size

    @property
    def nbytes(self) -> int:
        """Bytes of the map's arrays, spare room included."""
        return self._blocks.nbytes

    @property
    def area(self) -> float:
        """Ground area above or below which a voxel was observed, square metres."""
        if not self.frames:
            return 0.0
        columns = self._blocks.indices(self._blocks.observed())[:, :2]
        return len(np.unique(columns, axis=0)) * self.voxel_size**2

    def voxels(self) -> MapVoxels:
        """The map so far.

        Raises:
            MapError: nothing was added yet.
        """
        if not self.frames:
            raise MapError("the map is empty: no frame was added")
        addresses = self._blocks.observed()
        steps = self._blocks.log_odds[addresses]
        addresses, steps = addresses[steps != 0], steps[steps != 0]
        classes = np.full(len(addresses), self._empty_class, np.uint8)
        classes[steps > 0] = self._blocks.most_voted(addresses[steps > 0])
        return MapVoxels(
            self.voxel_size,
            self.options.origin,
            self._class_names,
            self._empty_class,
            self._blocks.indices(addresses).astype(np.int32),
            (steps * LOG_ODDS_STEP).astype(np.float32),
            classes,
        )

    def _begin(self, prediction: OccupancyPrediction) -> None:
        """Take over what all predictions of the map have in common."""
        names = prediction.class_names
        self._class_names, self._empty_class = names, prediction.empty_class
        if self._voxel_size is None:
            self._voxel_size = min(prediction.grid.voxel_size)
        self._named[: len(names)] = np.arange(len(names))
        self._movable[: len(names)] = [name in MOVING_CLASSES for name in names]
        self._steps[: len(names)] = np.where(self._movable[: len(names)], MOVABLE_HIT, HIT)
        self._steps[prediction.empty_class] = MISS
        self._blocks = VoxelBlocks(len(names))

    def _statements(self, prediction: OccupancyPrediction) -> NDArray[np.uint8]:
        """(X * Y * Z,) labels, UNKNOWN_CLASS where a voxel says nothing."""
        says: NDArray[np.uint8] = self._named.take(prediction.labels.ravel())
        if prediction.observed is not None:
            np.putmask(says, ~prediction.observed.ravel(), UNKNOWN_CLASS)
        if prediction.flow is None and self.options.keep_movable:
            return says
        moving = np.flatnonzero(self._movable.take(says))
        if prediction.flow is not None:
            speeds = np.linalg.norm(prediction.flow.reshape(-1, 2)[moving], axis=1)
            # A flow that is not a number is unknown.
            moving = moving[~(speeds <= self.options.moving_speed)]
        says[moving] = UNKNOWN_CLASS
        return says

    def _addresses(
        self,
        lookup: Lookup,
        chosen: NDArray[np.int64],
        lower: NDArray[np.int64],
        first_block: NDArray[np.int64],
        numbers: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Addresses of the chosen map voxels; blocks that do not exist are created.

        Args:
            lookup: map voxels relative to ``lower``.
            chosen: (n,) positions in ``lookup``.
            lower: (3,) map index.
            first_block: (3,) index of the first block in ``numbers``.
            numbers: numbers of blocks, -1 where there is none; new ones are filled in.
        """
        corner = lower - first_block * BLOCK
        _, across, high = numbers.shape
        x, y = lookup.x + corner[0], lookup.y + corner[1]
        layers = np.arange(high * BLOCK[2] - corner[2]) + corner[2]
        columns, z = lookup.columns.take(chosen), lookup.z.take(chosen)
        at = (((x // BLOCK[0]) * across + y // BLOCK[1]) * high).take(columns)
        at += (layers // BLOCK[2]).take(z)
        flat = numbers.reshape(-1)
        blocks = flat.take(at)
        if (blocks < 0).any():
            missing = np.unique(at[blocks < 0])
            places = np.stack(np.unravel_index(missing, numbers.shape), axis=-1)
            flat[missing] = self._blocks.create(first_block + places)
            blocks = flat.take(at)
        below = POSITIONS[0][x % BLOCK[0]] + POSITIONS[1][y % BLOCK[1]]
        addresses: NDArray[np.int64] = blocks * BLOCK_VOXELS
        addresses += below.take(columns)
        addresses += POSITIONS[2][layers % BLOCK[2]].take(z)
        return addresses

    def _observe(self, addresses: NDArray[np.int64], labels: NDArray[np.uint8]) -> None:
        """Update voxels (n,), none of them listed twice."""
        before = self._blocks.log_odds.take(addresses)
        steps = self._steps.take(labels)
        hits = np.flatnonzero(steps > 0)
        votes = self._blocks.vote(addresses[hits], labels[hits])
        # A mover whose flow is underestimated once must not leave a trace.
        stands_since = self._movable[labels[hits]] & (votes < STANDING_FRAMES)
        steps[hits[stands_since]] = 0
        # int8 holds the sum: 70 + 17 and -40 - 8 are its extremes.
        after = np.where(before == UNSEEN, np.int8(0), before) + steps
        after = np.clip(after, LOWEST, HIGHEST, out=after)
        self._blocks.log_odds[addresses] = after
        # What was there is gone, and so are its votes.
        self._blocks.forget_votes(addresses[(after == LOWEST) & (before > LOWEST)])
