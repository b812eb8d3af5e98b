"""The street plan: two crossing families of curved roads, with lanes, and the blocks between."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.seeds import random_for

EDGE = columns.HALF_TOWN - 0.5
"""Roads and lanes are sampled to this distance from the town's middle, metres."""


@dataclass(frozen=True)
class Road:
    """A road across the whole town.

    ``family`` 0 runs along x and its lateral coordinate is y; family 1 runs along y with lateral
    coordinate x. The centre line is ``position + bend * sin(2 pi u / wavelength + phase)``.
    Widths in metres; ``side`` +1 is the side of greater lateral coordinate, -1 the other.
    """

    family: int
    position: float
    bend: float
    wavelength: float
    phase: float
    lanes: int
    lane_width: float
    median: float
    median_code: int
    parking: float
    verge: float
    verge_code: int
    walk: float
    yellow: bool

    @property
    def half(self) -> float:
        """Centre line to kerb."""
        return self.median / 2 + self.lanes * self.lane_width + self.parking

    @property
    def reach(self) -> float:
        """Centre line to the edge of the blocks."""
        return self.half + self.verge + self.walk

    def centre(self, u: Float64 | float) -> Float64:
        """Lateral coordinate of the centre line at ``u`` along the road's axis."""
        return np.asarray(
            self.position
            + self.bend * np.sin(2 * np.pi * np.asarray(u) / self.wavelength + self.phase)
        )

    def slope(self, u: Float64 | float) -> Float64:
        """Tangent of the centre line's angle to the axis."""
        k = 2 * np.pi / self.wavelength
        return np.asarray(self.bend * k * np.cos(k * np.asarray(u) + self.phase))

    def points(self, u: Float64 | float, offset: Float64 | float) -> Float64:
        """(..., 2) world positions at ``u``, ``offset`` metres from the centre line, signed."""
        along = np.asarray(u, dtype=np.float64)
        lateral = self.centre(along) + offset * np.sqrt(1 + self.slope(along) ** 2)
        pair = (along, lateral) if self.family == 0 else (lateral, along)
        return np.stack(np.broadcast_arrays(*pair), axis=-1)

    def heading(self, u: Float64 | float) -> Float64:
        """World yaw of the direction of increasing ``u``, radians."""
        angle = np.arctan(self.slope(u))
        return np.asarray(angle if self.family == 0 else np.pi / 2 - angle)

    def facing(self, u: float, side: int) -> float:
        """Yaw of a figure on this side of the road whose +y axis points to the centre line."""
        left_of_road = (side > 0) == (self.family == 0)
        return float(self.heading(u)) + (math.pi if left_of_road else 0.0)

    def lane_offset(self, side: int, lane: int) -> float:
        """Signed offset of a lane's centre; lane 0 is next to the centre line."""
        return side * (self.median / 2 + (lane + 0.5) * self.lane_width)


@dataclass(frozen=True)
class StreetPlan:
    """All roads, blocks and crossings of a town.

    Attributes:
        roads: the two families, each sorted by position.
        block_codes: (R0 + 1, R1 + 1) surface code of the block below road (i, j) of either family.
        zebras: (R0, R1, 4) crossings on the arms of each junction, see ``kernels/paint.py``.
        right_hand: whether traffic keeps right.
    """

    roads: tuple[tuple[Road, ...], tuple[Road, ...]]
    block_codes: NDArray[np.int64]
    zebras: NDArray[np.uint8]
    right_hand: bool

    def direction(self, road: Road, side: int) -> int:
        """+1 if traffic on this side of the road moves towards greater ``u``, otherwise -1."""
        sign = -side if road.family == 0 else side
        return sign if self.right_hand else -sign

    def side_towards(self, road: Road, direction: int) -> int:
        """Side of the road on which traffic moves in ``direction``."""
        return 1 if self.direction(road, 1) == direction else -1

    def crossed(self, road: Road) -> tuple[Road, ...]:
        """Roads of the other family."""
        return self.roads[1 - road.family]

    def junction(self, road: Road, other: Road) -> float:
        """``u`` on ``road`` where the two centre lines meet."""
        u = other.position
        for _ in range(20):
            u = float(other.centre(float(road.centre(u))))
        return u

    def zebra(self, road: Road, other: Road, after: bool) -> bool:
        """Whether ``road`` has a crossing before or after its junction with ``other``."""
        first, second = (road, other) if road.family == 0 else (other, road)
        pair = (self.roads[0].index(first), self.roads[1].index(second))
        return bool(self.zebras[pair[0], pair[1], 2 * road.family + int(after)])

    def middles(self, family: int) -> Float64:
        """Lateral coordinate of the middles of the strips between a family's roads."""
        positions = [-170.0, *(road.position for road in self.roads[family]), 170.0]
        return np.array([(a + b) / 2 for a, b in itertools.pairwise(positions)])


def plan_streets(seed: int) -> StreetPlan:
    """Draw the street plan of town ``seed``."""
    rng = random_for("streets", seed)
    right_hand = bool(rng.random() < 0.6)
    yellow = bool(rng.random() < 0.6)
    families = tuple(_draw_family(rng, family, yellow) for family in (0, 1))
    shape = (len(families[0]) + 1, len(families[1]) + 1)
    codes = np.array([columns.PAVED, columns.LAWN, columns.CAR_PARK, columns.GRASS, columns.SQUARE])
    blocks = rng.choice(codes, size=shape, p=[0.42, 0.18, 0.14, 0.16, 0.10])
    zebras = (rng.random((shape[0] - 1, shape[1] - 1, 4)) < 0.6).astype(np.uint8)
    return StreetPlan((families[0], families[1]), blocks.astype(np.int64), zebras, right_hand)


def _draw_family(rng: np.random.Generator, family: int, yellow: bool) -> tuple[Road, ...]:
    middle = _draw_road(rng, family, yellow, float(rng.uniform(-14, 14)))
    roads = [middle]
    for sign in (-1, 1):
        previous = middle
        while True:
            candidate = _draw_road(rng, family, yellow, 0.0)
            gap = rng.uniform(38, 80) + previous.bend + candidate.bend
            position = previous.position + sign * (previous.half + gap + candidate.half)
            if abs(position) > columns.HALF_TOWN - candidate.half:
                break
            previous = Road(**{**candidate.__dict__, "position": float(position)})
            roads.append(previous)
    return tuple(sorted(roads, key=lambda road: road.position))


def _draw_road(rng: np.random.Generator, family: int, yellow: bool, position: float) -> Road:
    lanes = 1 if rng.random() < 0.6 else int(rng.integers(2, 4))
    has_median = lanes > 1 and rng.random() < 0.65
    has_verge = rng.random() < 0.6
    return Road(
        family=family,
        position=position,
        bend=float(rng.uniform(0, 5)),
        wavelength=float(rng.uniform(120, 260)),
        phase=float(rng.uniform(0, 2 * math.pi)),
        lanes=lanes,
        lane_width=float(rng.uniform(3.0, 3.6)),
        median=float(rng.uniform(0.9, 3.0)) if has_median else 0.0,
        median_code=int(rng.choice([columns.COBBLES, columns.GRASS], p=[0.6, 0.4])),
        parking=2.3 if rng.random() < 0.5 else 0.0,
        verge=float(rng.uniform(1.2, 2.5)) if has_verge else 0.0,
        verge_code=int(rng.choice([columns.COBBLES, columns.GRASS], p=[0.4, 0.6])),
        walk=float(rng.uniform(2.0, 4.0)),
        yellow=yellow,
    )
