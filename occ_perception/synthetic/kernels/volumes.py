"""Voxel labels, observation masks and lidar returns from the same solids as the images.

Grids are given by ``lower`` (3,), ``size`` (3,) and the shape of the volume, in ego axes; ``pose``
is ``world_T_ego`` (4, 4). Compiled without fastmath, so that labels are bit-equal everywhere.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import math

import numpy as np

from occ_perception.synthetic.kernels.columns import (
    BLUE,
    BOX,
    CLASS,
    COS,
    CYLINDER,
    FACADE,
    FREE,
    GREEN,
    HX,
    HY,
    HZ,
    INSTANCE,
    KERB_HEIGHT,
    KERB_LAYER,
    KIND,
    MATERIAL,
    MET_NOTHING,
    RED,
    ROOF,
    SIN,
    SURFACE_CLASS,
    TAPER_X,
    TAPER_Y,
    X,
    Y,
    Z,
)
from occ_perception.synthetic.kernels.compiled import kernel
from occ_perception.synthetic.kernels.images import class_of_hit
from occ_perception.synthetic.kernels.noise import hashed
from occ_perception.synthetic.kernels.rays import footprint, to_local, trace
from occ_perception.synthetic.kernels.terrain import (
    ground_height,
    is_raised,
    signed_distance,
    surface_code,
)

SHELL = 0.6
"""Buildings are hollow further inside than this, metres."""
BEYOND_HIT = 0.12
"""An observed ray enters this far into what it hits, metres."""


@kernel()
def fill_ground(world, pose, lower, size, votes, labels):
    """Give the voxels that hold the ground's height the class of the ground.

    Each column is sampled near its four corners, so that sloping ground leaves no gaps; where
    several fall into one voxel the most frequent class wins, on a tie the one with the higher id,
    which is the raised one. The face of a kerb may reach into the voxel below. ``votes`` is
    scratch of shape (Z, number of occupied classes), uint8.
    """
    for i in range(labels.shape[0]):
        for j in range(labels.shape[1]):
            votes[:] = 0
            foot = -1
            face = np.uint8(FREE)
            for sample in range(4):
                x = lower[0] + (i + 0.1 + 0.8 * (sample & 1)) * size[0]
                y = lower[1] + (j + 0.1 + 0.8 * (sample >> 1)) * size[1]
                z = 0.0
                wx, wy = 0.0, 0.0
                for _ in range(2):
                    wx = pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3]
                    wy = pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3]
                    wz = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3]
                    z += ground_height(world.surface, world.blocks, world.relief, wx, wy) - wz
                k = math.floor((z - lower[2]) / size[2])
                if 0 <= k < labels.shape[2]:
                    raised = is_raised(world.surface, world.blocks, wx, wy)
                    own = SURFACE_CLASS[surface_code(world.surface, wx, wy, raised)]
                    votes[k, own] += 1
                    if raised and signed_distance(world.surface, KERB_LAYER, wx, wy) < size[0]:
                        foot = math.floor((z - KERB_HEIGHT - lower[2]) / size[2])
                        face = own
            for k in range(labels.shape[2]):
                best = 1
                for c in range(FREE):
                    if votes[k, c] >= best:
                        best = votes[k, c]
                        labels[i, j, k] = c
            if foot >= 0 and labels[i, j, foot] == FREE:
                labels[i, j, foot] = face


@kernel()
def _touches(shapes, kind, material, n, x, y, z, reach, across):
    """Whether a voxel centred here, relative to solid n's centre, touches the solid.

    ``reach`` is half the voxel's edge, ``across`` half its extent along the solid's own x and y.
    """
    hx = shapes[n, HX]
    hy = shapes[n, HY]
    hz = shapes[n, HZ]
    if abs(z) > hz + reach:
        return False
    low = min(max(z - reach, -hz), hz) + hz
    high = max(min(z + reach, hz), -hz) + hz
    if kind == BOX:
        kx = shapes[n, TAPER_X] * hx / (2.0 * hz)
        ky = shapes[n, TAPER_Y] * hy / (2.0 * hz)
        wide = hx - kx * (low if kx > 0.0 else high)
        deep = hy - ky * (low if ky > 0.0 else high)
        if abs(x) > wide + across or abs(y) > deep + across:
            return False
        if material in (FACADE, ROOF):
            hollow = wide - abs(x) > SHELL and deep - abs(y) > SHELL and hz - abs(z) > SHELL
            return not hollow
        return True
    # The point of the voxel that is nearest to the axis or the centre.
    u = max(abs(x) - across, 0.0) / hx
    v = max(abs(y) - across, 0.0) / hy
    if kind == CYLINDER:
        k = shapes[n, TAPER_X] / (2.0 * hz)
        radius = 1.0 - k * (low if k > 0.0 else high)
        return u * u + v * v <= radius * radius
    w = max(abs(z) - reach, 0.0) / hz
    return u * u + v * v + w * w <= 1.0


@kernel()
def _span(pose, px, py, pz, half, axis, reach, lower, size, labels):
    """First and end index along an ego axis of the voxels that a box could touch."""
    centre = pose[0, axis] * px + pose[1, axis] * py + pose[2, axis] * pz
    extent = (
        abs(pose[0, axis]) * half[0] + abs(pose[1, axis]) * half[1] + abs(pose[2, axis]) * half[2]
    )
    extent += 1.1 * reach
    first = math.floor((centre - extent - lower[axis]) / size[axis])
    last = math.floor((centre + extent - lower[axis]) / size[axis])
    return max(first, 0), min(last + 1, labels.shape[axis])


@kernel()
def fill_solids(world, pose, lower, size, priority, labels, instances):
    """Give every voxel that a solid touches its class and instance; higher priority wins.

    Where priorities are equal the solid that comes first keeps the voxel.
    """
    reach = 0.5 * size[0]
    shapes = world.shapes
    for n in range(shapes.shape[0]):
        kind = world.tags[n, KIND]
        material = world.tags[n, MATERIAL]
        own = world.tags[n, CLASS]
        px = shapes[n, X] - pose[0, 3]
        py = shapes[n, Y] - pose[1, 3]
        pz = shapes[n, Z] - pose[2, 3]
        fx, fy = footprint(shapes, n)
        half = (fx, fy, shapes[n, HZ])
        # Round solids have no direction of their own: the voxel's axes serve.
        turned = kind == BOX or shapes[n, HX] != shapes[n, HY]
        c = pose[0, 0] * shapes[n, COS] + pose[1, 0] * shapes[n, SIN]
        s = pose[0, 0] * shapes[n, SIN] - pose[1, 0] * shapes[n, COS]
        across = reach * (abs(c) + abs(s)) if turned else reach
        centre_x = pose[0, 0] * px + pose[1, 0] * py + pose[2, 0] * pz
        centre_y = pose[0, 1] * px + pose[1, 1] * py + pose[2, 1] * pz
        i0, i1 = _span(pose, px, py, pz, half, 0, reach, lower, size, labels)
        j0, j1 = _span(pose, px, py, pz, half, 1, reach, lower, size, labels)
        k0, k1 = _span(pose, px, py, pz, half, 2, reach, lower, size, labels)
        for i in range(i0, i1):
            for j in range(j0, j1):
                for k in range(k0, k1):
                    if priority[labels[i, j, k]] >= priority[own]:
                        continue
                    x = lower[0] + (i + 0.5) * size[0]
                    y = lower[1] + (j + 0.5) * size[1]
                    z = lower[2] + (k + 0.5) * size[2]
                    lx, ly, lz = to_local(
                        shapes,
                        n,
                        pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * z + pose[0, 3],
                        pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * z + pose[1, 3],
                        pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * z + pose[2, 3],
                    )
                    if not turned:
                        lx = x - centre_x
                        ly = y - centre_y
                    if _touches(shapes, kind, material, n, lx, ly, lz, reach, across):
                        labels[i, j, k] = own
                        instances[i, j, k] = world.tags[n, INSTANCE]


@kernel()
def _walk(ox, oy, oz, dx, dy, dz, limit, lower, size, labels, stop_at_occupied, mask):
    """Mark the voxels a ray crosses up to ``limit``; origin and direction in ego axes."""
    near = 0.0
    far = limit
    for axis in range(3):
        o = ox if axis == 0 else (oy if axis == 1 else oz)
        d = dx if axis == 0 else (dy if axis == 1 else dz)
        low = lower[axis]
        high = low + size[axis] * mask.shape[axis]
        if d == 0.0:
            if o < low or o >= high:
                return
            continue
        t0 = (low - o) / d
        t1 = (high - o) / d
        near = max(near, min(t0, t1))
        far = min(far, max(t0, t1))
    if near >= far:
        return
    x = (ox + near * dx - lower[0]) / size[0]
    y = (oy + near * dy - lower[1]) / size[1]
    z = (oz + near * dz - lower[2]) / size[2]
    i = min(max(math.floor(x), 0), mask.shape[0] - 1)
    j = min(max(math.floor(y), 0), mask.shape[1] - 1)
    k = min(max(math.floor(z), 0), mask.shape[2] - 1)
    step_i = 1 if dx > 0.0 else -1
    step_j = 1 if dy > 0.0 else -1
    step_k = 1 if dz > 0.0 else -1
    delta_i = size[0] / abs(dx) if dx != 0.0 else 1e30
    delta_j = size[1] / abs(dy) if dy != 0.0 else 1e30
    delta_k = size[2] / abs(dz) if dz != 0.0 else 1e30
    next_i = near + ((i + 1 - x) if dx > 0.0 else (x - i)) * delta_i if dx != 0.0 else 1e30
    next_j = near + ((j + 1 - y) if dy > 0.0 else (y - j)) * delta_j if dy != 0.0 else 1e30
    next_k = near + ((k + 1 - z) if dz > 0.0 else (z - k)) * delta_k if dz != 0.0 else 1e30
    while True:
        mask[i, j, k] = 1
        if stop_at_occupied and labels[i, j, k] != FREE:
            return
        if next_i < next_j and next_i < next_k:
            if next_i > far:
                return
            i += step_i
            next_i += delta_i
            if i < 0 or i >= mask.shape[0]:
                return
        elif next_j < next_k:
            if next_j > far:
                return
            j += step_j
            next_j += delta_j
            if j < 0 or j >= mask.shape[1]:
                return
        else:
            if next_k > far:
                return
            k += step_k
            next_k += delta_k
            if k < 0 or k >= mask.shape[2]:
                return


@kernel()
def observe_rows(
    world,
    pose,
    world_T_cam,
    intrinsics,
    first,
    last,
    width,
    stride,
    limit,
    lower,
    size,
    labels,
    stop_at_occupied,
    mask,
):
    """Mark what a camera's pixels see, every ``stride`` pixels of rows ``first``..``last``.

    Rays end at the solids, not at voxels, unless ``stop_at_occupied``: then at the first voxel
    of ``labels`` that is not free.
    """
    fx, fy, cx, cy = intrinsics
    ego_x = world_T_cam[0, 3] - pose[0, 3]
    ego_y = world_T_cam[1, 3] - pose[1, 3]
    ego_z = world_T_cam[2, 3] - pose[2, 3]
    ox = pose[0, 0] * ego_x + pose[1, 0] * ego_y + pose[2, 0] * ego_z
    oy = pose[0, 1] * ego_x + pose[1, 1] * ego_y + pose[2, 1] * ego_z
    oz = pose[0, 2] * ego_x + pose[1, 2] * ego_y + pose[2, 2] * ego_z
    for row in range(first, last, stride):
        for column in range(0, width, stride):
            a = (column - cx) / fx
            b = (row - cy) / fy
            dx = world_T_cam[0, 0] * a + world_T_cam[0, 1] * b + world_T_cam[0, 2]
            dy = world_T_cam[1, 0] * a + world_T_cam[1, 1] * b + world_T_cam[1, 2]
            dz = world_T_cam[2, 0] * a + world_T_cam[2, 1] * b + world_T_cam[2, 2]
            scale = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
            dx *= scale
            dy *= scale
            dz *= scale
            reach = limit
            if not stop_at_occupied:
                t, _ = trace(
                    world,
                    world_T_cam[0, 3],
                    world_T_cam[1, 3],
                    world_T_cam[2, 3],
                    dx,
                    dy,
                    dz,
                    limit,
                )
                reach = min(t + BEYOND_HIT, limit)
            _walk(
                ox,
                oy,
                oz,
                pose[0, 0] * dx + pose[1, 0] * dy + pose[2, 0] * dz,
                pose[0, 1] * dx + pose[1, 1] * dy + pose[2, 1] * dz,
                pose[0, 2] * dx + pose[1, 2] * dy + pose[2, 2] * dz,
                reach,
                lower,
                size,
                labels,
                stop_at_occupied,
                mask,
            )


@kernel()
def observe_points(origin, directions, distances, lower, size, labels, mask):
    """Mark what rays from ``origin`` (3,) along ``directions`` (n, 3) cross; all in ego axes."""
    for n in range(directions.shape[0]):
        _walk(
            origin[0],
            origin[1],
            origin[2],
            directions[n, 0],
            directions[n, 1],
            directions[n, 2],
            distances[n],
            lower,
            size,
            labels,
            False,
            mask,
        )


@kernel()
def sweep(world, origin, directions, limit, distances, classes, instances, intensities):
    """Range, class, instance and brightness (0..1) of the first thing along each ray.

    ``directions`` (n, 3) are unit vectors in the world. Where nothing returns the class is free
    and the distance ``limit``.
    """
    for n in range(directions.shape[0]):
        dx = directions[n, 0]
        dy = directions[n, 1]
        dz = directions[n, 2]
        t, met = trace(world, origin[0], origin[1], origin[2], dx, dy, dz, limit)
        distances[n] = t
        x = origin[0] + t * dx
        y = origin[1] + t * dy
        classes[n] = class_of_hit(world, met, x, y)
        instances[n] = 0
        bright = 0.0
        if met >= 0:
            instances[n] = world.tags[met, INSTANCE]
            shapes = world.shapes
            bright = (shapes[met, RED] + shapes[met, GREEN] + shapes[met, BLUE]) / 3.0
        elif met != MET_NOTHING:
            bright = 0.15 + 0.1 * hashed(int(x * 2.0 + 4000.0), int(y * 2.0 + 4000.0), 0, 91)
        intensities[n] = bright
