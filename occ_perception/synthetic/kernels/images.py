"""One ray per sample: colour, distance, class and instance of every pixel from the same hit."""

# mypy: allow-untyped-defs
from __future__ import annotations

import math

import numpy as np

from occ_perception.synthetic.kernels.columns import (
    CLASS,
    COS,
    FREE,
    HEDGE,
    INSTANCE,
    KIND,
    LEAVES,
    MATERIAL,
    MET_KERB,
    MET_NOTHING,
    SIN,
    SURFACE_CLASS,
)
from occ_perception.synthetic.kernels.compiled import kernel
from occ_perception.synthetic.kernels.materials import solid_colour
from occ_perception.synthetic.kernels.noise import hashed
from occ_perception.synthetic.kernels.rays import meet_solids, to_local, trace
from occ_perception.synthetic.kernels.shading import (
    DUSK,
    HAZE,
    OVERCAST,
    SUN_X,
    SUN_Y,
    SUN_Z,
    WET,
    ambient_light,
    ground_colour,
    sky_colour,
    solid_normal,
    sun_light,
)
from occ_perception.synthetic.kernels.terrain import is_raised, relief_height, surface_code

VIEW = 400.0
SHADOW_RANGE = 70.0


@kernel()
def class_of_hit(world, met, x, y):
    """Occ3D class of what a ray met at a world position."""
    if met >= 0:
        return np.uint8(world.tags[met, CLASS])
    if met == MET_NOTHING:
        return np.uint8(FREE)
    raised = met == MET_KERB or is_raised(world.surface, world.blocks, x, y)
    return SURFACE_CLASS[surface_code(world.surface, x, y, raised)]


@kernel(fast=True, inline=True)
def _sky_above(world, x, y, z, nx, ny, nz, jitter):
    """Part of the sky that is open above a point near the ground, from one short ray."""
    angle = 6.2831853 * jitter
    tilt = 0.22 * math.sqrt(_scramble(jitter))
    ux = tilt * math.cos(angle) + 0.2 * nx
    uy = tilt * math.sin(angle) + 0.2 * ny
    uz = 1.0
    scale = 1.0 / math.sqrt(ux * ux + uy * uy + uz * uz)
    _, solid = meet_solids(
        world,
        x + 0.02 * nx,
        y + 0.02 * ny,
        z + 0.02 * nz,
        ux * scale,
        uy * scale,
        uz * scale,
        1.3,
        True,
    )
    return 0.45 if solid >= 0 else 1.0


@kernel(fast=True)
def _scramble(value):
    stretched = value * 977.0
    return stretched - math.floor(stretched)


@kernel(fast=True, inline=True)
def radiance(world, w, ox, oy, oz, dx, dy, dz, pixel, jitter):
    """(r, g, b, distance, what was met) along a ray; ``pixel`` is the angle of one pixel."""
    t, met = trace(world, ox, oy, oz, dx, dy, dz, VIEW)
    sky_r, sky_g, sky_b = 0.0, 0.0, 0.0
    if met == MET_NOTHING:
        sky_r, sky_g, sky_b = sky_colour(dx, dy, dz, w)
        return sky_r, sky_g, sky_b, 0.0, met
    x = ox + t * dx
    y = oy + t * dy
    z = oz + t * dz
    grain = pixel * t
    if met >= 0:
        lx, ly, lz = to_local(world.shapes, met, x, y, z)
        ax, ay, az = solid_normal(world.shapes, world.tags[met, KIND], met, lx, ly, lz)
        r, g, b, shine = solid_colour(
            world.shapes, world.tags, met, lx, ly, lz, ax, ay, az, grain, w[DUSK]
        )
        c = world.shapes[met, COS]
        s = world.shapes[met, SIN]
        nx = c * ax - s * ay
        ny = s * ax + c * ay
        nz = az
        material = world.tags[met, MATERIAL]
        if material in (LEAVES, HEDGE):
            i = math.floor(lx * 16.0)
            j = math.floor(ly * 16.0)
            k = math.floor(lz * 16.0)
            turn = hashed(i, j, k, 81)
            nx += 0.8 * (turn - 0.5)
            ny += 0.8 * (_scramble(turn) - 0.5)
            nz += 0.8 * (_scramble(turn + 0.37) - 0.3)
            scale = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-9)
            nx *= scale
            ny *= scale
            nz *= scale
        height = z - relief_height(world.relief, x, y)
        contact = min(0.62 + 0.55 * max(height, 0.0), 1.0)
    else:
        height = z - relief_height(world.relief, x, y)
        r, g, b, shine = ground_colour(world.surface, x, y, grain, met == MET_KERB, height)
        nx, ny, nz = 0.0, 0.0, 1.0
        if met == MET_KERB:
            scale = 1.0 / math.sqrt(dx * dx + dy * dy + 1e-9)
            nx, ny, nz = -dx * scale, -dy * scale, 0.0
        contact = 1.0
        if t < 30.0:
            contact = _sky_above(world, x, y, z, nx, ny, nz, jitter)
        shine *= 0.75 * w[WET]
        r *= 1.0 - 0.45 * w[WET]
        g *= 1.0 - 0.45 * w[WET]
        b *= 1.0 - 0.45 * w[WET]
    if nx * dx + ny * dy + nz * dz > 0.0:
        nx, ny, nz = -nx, -ny, -nz
    if shine >= 0.0 or shine > -0.9:
        light_r, light_g, light_b = ambient_light(nz, w)
        light_r *= contact
        light_g *= contact
        light_b *= contact
        facing = nx * w[SUN_X] + ny * w[SUN_Y] + nz * w[SUN_Z]
        if facing > 0.0 and w[OVERCAST] < 0.97 and w[DUSK] < 0.99:
            lift = 0.01 + 0.0004 * t
            _, shade = meet_solids(
                world,
                x + lift * nx,
                y + lift * ny,
                z + lift * nz,
                w[SUN_X],
                w[SUN_Y],
                w[SUN_Z],
                SHADOW_RANGE,
                True,
            )
            if shade < 0:
                sun_r, sun_g, sun_b = sun_light(w)
                light_r += sun_r * facing
                light_g += sun_g * facing
                light_b += sun_b * facing
        if shine >= 0.0:
            r *= light_r
            g *= light_g
            b *= light_b
            if shine > 0.02:
                facing = -(nx * dx + ny * dy + nz * dz)
                mirror = 1.0 - facing
                mirror2 = mirror * mirror
                fresnel = shine * (0.06 + 0.94 * mirror2 * mirror2 * mirror)
                ux = dx + 2.0 * facing * nx
                uy = dy + 2.0 * facing * ny
                uz = dz + 2.0 * facing * nz
                # Low directions mirror the other side of the street, not the sky.
                sky_r, sky_g, sky_b = sky_colour(ux, uy, max(uz, 0.0), w)
                seen = min(max(0.35 + 2.2 * uz, 0.2), 1.0)
                sky_r *= seen
                sky_g *= seen
                sky_b *= seen
                r = r + (sky_r - r) * fresnel
                g = g + (sky_g - g) * fresnel
                b = b + (sky_b - b) * fresnel
    clear = math.exp(-t * w[HAZE])
    if clear < 0.985:
        sky_r, sky_g, sky_b = sky_colour(dx, dy, 0.0, w)
        r = sky_r + (r - sky_r) * clear
        g = sky_g + (g - sky_g) * clear
        b = sky_b + (b - sky_b) * clear
    return r, g, b, t, met


@kernel(fast=True)
def render_rows(
    world, w, pose, intrinsics, first, last, samples, colour, distance, classes, instances
):
    """Render rows ``first``..``last`` of one camera.

    Args:
        pose: (4, 4) ``world_T_cam``.
        intrinsics: fx, fy, cx, cy in pixels; integer coordinates are pixel centres.
        samples: rays per pixel for colour (1, 2 or 4); all else comes from the central one.
        colour: (H, W, 3) float32 linear; distance: (H, W) float32 metres along the ray, 0 = sky;
            classes: (H, W) uint8; instances: (H, W) int32.
    """
    fx, fy, cx, cy = intrinsics
    ox = pose[0, 3]
    oy = pose[1, 3]
    oz = pose[2, 3]
    pixel = 1.0 / fx
    for row in range(first, last):
        for column in range(colour.shape[1]):
            total_r, total_g, total_b = 0.0, 0.0, 0.0
            for sample in range(samples):
                du, dv = 0.0, 0.0
                if samples > 1:
                    du = 0.31 * (1.0 - 2.0 * (sample & 1))
                    dv = 0.31 * (1.0 - 2.0 * ((sample >> 1) ^ (sample & 1)))
                    if sample == 0:
                        du, dv = 0.0, 0.0
                a = (column + du - cx) / fx
                b = (row + dv - cy) / fy
                dx = pose[0, 0] * a + pose[0, 1] * b + pose[0, 2]
                dy = pose[1, 0] * a + pose[1, 1] * b + pose[1, 2]
                dz = pose[2, 0] * a + pose[2, 1] * b + pose[2, 2]
                scale = 1.0 / math.sqrt(dx * dx + dy * dy + dz * dz)
                dx *= scale
                dy *= scale
                dz *= scale
                jitter = hashed(column, row, sample, 5)
                red, green, blue, t, met = radiance(world, w, ox, oy, oz, dx, dy, dz, pixel, jitter)
                total_r += red
                total_g += green
                total_b += blue
                if sample == 0:
                    distance[row, column] = t
                    instances[row, column] = world.tags[met, INSTANCE] if met >= 0 else 0
                    classes[row, column] = class_of_hit(world, met, ox + t * dx, oy + t * dy)
            colour[row, column, 0] = total_r / samples
            colour[row, column, 1] = total_g / samples
            colour[row, column, 2] = total_b / samples


@kernel(fast=True)
def develop(colour, gains, seed, noise, normals, curve, image):
    """Turn linear light into an 8-bit image: vignetting, noise, then the tone curve.

    Args:
        colour: (H, W, 3) float32 linear.
        gains: (3,) exposure times white balance.
        seed: of the noise.
        noise: (2,) shot and read noise in linear units.
        normals: (1024,) standard normal numbers to draw the noise from.
        curve: (4096,) uint8 tone curve over linear 0..2.
        image: (H, W, 3) uint8 output.
    """
    height, width = image.shape[0], image.shape[1]
    reach = 1.0 / (0.25 * (width * width + height * height))
    for row in range(height):
        for column in range(width):
            x = column - 0.5 * width
            y = row - 0.5 * height
            fall = 1.0 - 0.28 * (x * x + y * y) * reach
            draw = np.int64(hashed(column, row, 0, seed) * 4294967296.0)
            for k in range(3):
                value = colour[row, column, k] * gains[k] * fall
                bell = normals[(draw >> (10 * k)) & 1023]
                value += bell * (noise[1] + noise[0] * math.sqrt(max(value, 0.0)))
                index = np.int64(value * 2048.0)
                image[row, column, k] = curve[min(max(index, 0), 4095)]
