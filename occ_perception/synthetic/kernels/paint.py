"""Painting the ground raster: from road profiles to kerbs, surfaces and road markings.

Two families of roads: family 0 runs along x (its lateral coordinate is y), family 1 along y.
``u`` and ``v`` are the signed distances (m) of a cell from the nearest kerb of either family,
negative on the carriageway.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import math

from occ_perception.synthetic.kernels.columns import (
    ASPHALT,
    CAR_PARK,
    CODE_LAYER,
    COLOUR_LAYER,
    DISTANCE_SCALE,
    FOOTPATH,
    HALF_TOWN,
    KERB_LAYER,
    LAWN,
    MARK_LAYER,
    SLABS,
    SURFACE_CELL,
    SURFACE_CELLS,
)
from occ_perception.synthetic.kernels.compiled import kernel

# Columns of a road's profile; distances from the centre line outwards, metres.
HALF, MEDIAN, MEDIAN_CODE, LANES, LANE_WIDTH, PARKING, VERGE, VERGE_CODE, WALK, YELLOW = range(10)
NUM_PROFILE_COLUMNS = 10

CORNER_RADIUS = 4.0
ZEBRA_NEAR, ZEBRA_FAR = 1.2, 4.2
STOP_WITH_ZEBRA, STOP_WITHOUT = 5.0, 1.2
"""Distance of the stop line's near edge from the crossed road's kerb, metres."""


@kernel()
def _band(value, low, high):
    return min(value - low, high - value)


@kernel()
def _repeat(value, period):
    return value - math.floor(value / period) * period


@kernel()
def _markings(lateral, along, v, road, zebra, incoming):
    """(signed distance to paint, 1 if yellow) on a road; ``lateral`` is signed, ``v`` > 0."""
    d = abs(lateral)
    inner = 0.5 * road[MEDIAN]
    outer = inner + road[LANES] * road[LANE_WIDTH]
    stop = STOP_WITH_ZEBRA if zebra else STOP_WITHOUT
    best = -1.0
    yellow = 0
    if zebra and d > inner:
        stripes = _band(_repeat(lateral, 1.0), 0.0, 0.5)
        best = min(stripes, _band(v, ZEBRA_NEAR, ZEBRA_FAR), road[HALF] - 0.3 - d)
    if incoming:
        line = min(_band(v, stop, stop + 0.4), _band(d, inner + 0.2, outer - 0.1))
        best = max(best, line)
    begin = v - stop - 0.8
    if begin < -0.3:
        return best, yellow
    line = 0.06 - abs(d - inner - 0.25) if road[MEDIAN] > 0.0 else 0.06 - abs(d - 0.15)
    line = min(line, begin)
    if line > best:
        best = line
        yellow = int(road[YELLOW])
    edge = 0.06 - abs(d - outer + (0.0 if road[PARKING] > 0.0 else 0.25))
    for lane in range(1, int(road[LANES])):
        dash = min(
            0.07 - abs(d - inner - lane * road[LANE_WIDTH]),
            _band(_repeat(along, 9.0), 0.3, 3.8),
        )
        edge = max(edge, dash)
    if road[PARKING] > 0.0 and d > outer:
        bay = min(0.05 - abs(_repeat(along, 6.0) - 3.0), min(d - outer, road[HALF] - 0.2 - d))
        edge = max(edge, bay)
    edge = min(edge, begin)
    if edge > best:
        best = edge
        yellow = 0
    return best, yellow


@kernel()
def _park_path(x, y):
    """Signed distance to the footpaths of a park, position relative to its middle."""
    across = 1.3 - abs(x - 4.0 * math.sin(0.09 * y))
    return max(across, 1.3 - abs(y - 3.0 * math.sin(0.11 * x + 1.0)))


@kernel()
def _byte(distance):
    return min(max(int(128.0 + DISTANCE_SCALE * distance + 0.5), 0), 255)


@kernel()
def _nearest_road(lateral, centres, cosines, roads, sample, start):
    """Index of the road with the nearest kerb; roads are sorted by position, ``start`` a guess."""
    r = start
    best = abs(lateral - centres[r, sample]) * cosines[r, sample] - roads[r, HALF]
    while r + 1 < roads.shape[0]:
        other = abs(lateral - centres[r + 1, sample]) * cosines[r + 1, sample] - roads[r + 1, HALF]
        if other >= best:
            break
        best = other
        r += 1
    return r, best


@kernel()
def paint_ground(
    surface,
    first,
    last,
    roads0,
    centres0,
    cosines0,
    roads1,
    centres1,
    cosines1,
    zebras,
    block_codes,
    middles0,
    middles1,
    right_hand,
):
    """Paint rows ``first``..``last`` (cells along x) of the surface raster.

    Args:
        roads0, roads1: (R, NUM_PROFILE_COLUMNS) profiles, sorted by position.
        centres0, cosines0: (R, SURFACE_CELLS) lateral position of the centre line and cosine of
            its angle at each cell along the family's axis.
        zebras: (R0, R1, 4) uint8: crossing on family 0's arm before / after the junction, then
            on family 1's.
        block_codes: (R0 + 1, R1 + 1) surface code of each block.
        middles0: (R0 + 1,) y of the blocks' middles; middles1: (R1 + 1,) x of them.
        right_hand: 1 where traffic keeps right, else -1.
    """
    for i in range(first, last):
        x = (i + 0.5) * SURFACE_CELL - HALF_TOWN
        a = 0
        for j in range(SURFACE_CELLS):
            y = (j + 0.5) * SURFACE_CELL - HALF_TOWN
            a, u = _nearest_road(y, centres0, cosines0, roads0, i, a)
            b, v = _nearest_road(x, centres1, cosines1, roads1, j, 0)
            lateral0 = (y - centres0[a, i]) * cosines0[a, i]
            lateral1 = (x - centres1[b, j]) * cosines1[b, j]
            if u < CORNER_RADIUS and v < CORNER_RADIUS:
                kerb = CORNER_RADIUS - math.hypot(CORNER_RADIUS - u, CORNER_RADIUS - v)
            else:
                kerb = min(u, v)
            on0 = u < v
            band = roads0[a, VERGE] if on0 else roads1[b, VERGE]
            walk = band + (roads0[a, WALK] if on0 else roads1[b, WALK])
            mark = -1.0
            yellow = 0
            low = ASPHALT
            high = SLABS
            if kerb < 0.6:
                # the carriageway, its median, and the edge of what lies beside it
                crossing = max(u, v) < 6.5
                if band > 0.0 and not crossing:
                    high = int(roads0[a, VERGE_CODE] if on0 else roads1[b, VERGE_CODE])
                if u < 0.0 and v > 0.0:
                    after = 1 if lateral1 > 0.0 else 0
                    heads_up = (lateral0 < 0.0) == (right_hand > 0)
                    mark, yellow = _markings(
                        lateral0,
                        x,
                        v,
                        roads0[a],
                        zebras[a, b, after] > 0,
                        heads_up == (after == 0),
                    )
                elif v < 0.0 and u > 0.0:
                    after = 1 if lateral0 > 0.0 else 0
                    heads_up = (lateral1 > 0.0) == (right_hand > 0)
                    mark, yellow = _markings(
                        lateral1,
                        y,
                        u,
                        roads1[b],
                        zebras[a, b, 2 + after] > 0,
                        heads_up == (after == 0),
                    )
                if roads0[a, MEDIAN] > 0.0 and u < 0.0:
                    island = min(0.5 * roads0[a, MEDIAN] - abs(lateral0), v - 7.0)
                    if island > -0.6:
                        high = int(roads0[a, MEDIAN_CODE])
                        kerb = max(kerb, island)
                if roads1[b, MEDIAN] > 0.0 and v < 0.0:
                    island = min(0.5 * roads1[b, MEDIAN] - abs(lateral1), u - 7.0)
                    if island > -0.6:
                        high = int(roads1[b, MEDIAN_CODE])
                        kerb = max(kerb, island)
            elif kerb < band and max(u, v) > 6.5:
                high = int(roads0[a, VERGE_CODE] if on0 else roads1[b, VERGE_CODE])
            if kerb > walk - 0.6:
                row = a + (1 if lateral0 > 0.0 else 0)
                column = b + (1 if lateral1 > 0.0 else 0)
                code = block_codes[row, column]
                middle_x = x - middles1[column]
                middle_y = y - middles0[row]
                if code == CAR_PARK:
                    low = CAR_PARK
                    kerb = min(kerb, walk - kerb)
                    if kerb < -0.3:
                        aisle = _repeat(middle_y, 17.0)
                        line = 0.06 - abs(_repeat(middle_x, 2.6) - 1.3)
                        mark = max(
                            min(line, _band(aisle, 0.0, 5.0)), min(line, _band(aisle, 12.0, 17.0))
                        )
                elif kerb > walk:
                    high = code
                    if code == LAWN and _park_path(middle_x, middle_y) > 0.0:
                        high = FOOTPATH
            if on0 and kerb > -0.6 and u > -0.6 and u < walk + 1.0:
                # the way into a car park crosses the footway without a kerb
                row = a + (1 if lateral0 > 0.0 else 0)
                column = b + (1 if lateral1 > 0.0 else 0)
                if block_codes[row, column] == CAR_PARK:
                    kerb = min(kerb, abs(x - middles1[column]) - 3.0)
                    low = CAR_PARK if u > 0.3 else ASPHALT
            surface[i, j, KERB_LAYER] = _byte(kerb)
            surface[i, j, MARK_LAYER] = _byte(mark)
            surface[i, j, CODE_LAYER] = (low << 4) | high
            surface[i, j, COLOUR_LAYER] = yellow
