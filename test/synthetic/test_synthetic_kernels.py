"""Kernels against plain formulas, and the cache of their machine code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import synthetic_scenes as scenes

from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.kernels.rays import meet_solid, trace
from occ_perception.synthetic.kernels.terrain import ground_height, is_raised
from occ_perception.synthetic.solids import SolidList


def solid(kind: int, half, yaw: float, taper) -> np.ndarray:
    parts = SolidList(columns.MANMADE)
    parts.add(kind, (1.0, -2.0, 0.5), half, columns.PAINT, (0.5, 0.5, 0.5), yaw, taper)
    return parts.figure().shapes


def is_inside(shapes: np.ndarray, kind: int, points: np.ndarray) -> np.ndarray:
    """Whether world points lie in the solid, straight from its definition."""
    row = shapes[0]
    offset = points - row[:3]
    c, s = row[columns.COS], row[columns.SIN]
    x, y = c * offset[:, 0] + s * offset[:, 1], c * offset[:, 1] - s * offset[:, 0]
    u, v, w = x / row[columns.HX], y / row[columns.HY], offset[:, 2] / row[columns.HZ]
    up = (w + 1) / 2
    if kind == columns.ELLIPSOID:
        return u * u + v * v + w * w <= 1
    if kind == columns.CYLINDER:
        return (np.hypot(u, v) <= 1 - row[columns.TAPER_X] * up) & (np.abs(w) <= 1)
    wide, deep = 1 - row[columns.TAPER_X] * up, 1 - row[columns.TAPER_Y] * up
    return (np.abs(u) <= wide) & (np.abs(v) <= deep) & (np.abs(w) <= 1)


@pytest.mark.parametrize(
    ("kind", "half", "taper"),
    [
        (columns.BOX, (1.5, 0.6, 0.9), (0.0, 0.0)),
        (columns.BOX, (1.5, 0.6, 0.9), (0.4, 0.9)),
        (columns.BOX, (1.5, 0.6, 0.9), (-0.2, 0.1)),
        (columns.ELLIPSOID, (1.5, 0.6, 0.9), (0.0, 0.0)),
        (columns.CYLINDER, (0.8, 0.8, 1.2), (0.0, 0.0)),
        (columns.CYLINDER, (0.8, 0.5, 1.2), (0.6, 0.6)),
    ],
)
def test_a_ray_is_inside_a_solid_exactly_between_its_two_distances(kind, half, taper) -> None:
    shapes = solid(kind, half, 0.7, taper)
    rng = np.random.default_rng(3)
    t = np.linspace(0.0, 12.0, 6001)
    hits = 0
    for _ in range(200):
        origin = np.array([1.0, -2.0, 0.5]) + 5 * unit(rng.normal(size=3) * (1, 1, 0.4))
        direction = unit(np.array([1.0, -2.0, 0.5]) + rng.uniform(-1.2, 1.2, 3) - origin)
        near, far = meet_solid(shapes, kind, 0, *origin, *direction)
        inside = is_inside(shapes, kind, origin + t[:, None] * direction)
        expected = (t >= near) & (t <= far)
        assert np.count_nonzero(inside != expected) <= 2
        hits += bool(inside.any())
    assert hits > 60


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_rays_stop_at_the_first_thing_a_fine_march_meets() -> None:
    scene = scenes.scene(scenes.FRAMES[0])
    world = scene.world
    opaque = ~np.isin(
        world.tags[:, columns.MATERIAL], (columns.LEAVES, columns.RAILING, columns.SPOKES)
    )
    rng = np.random.default_rng(5)
    origin = scene.world_T_ego[:3, 3] + (0, 0, 1.6)
    steps = np.arange(0.0, 30.0, 0.02)
    compared = 0
    for _ in range(60):
        direction = unit(np.array([*rng.normal(size=2), rng.uniform(-0.35, 0.1)]))
        distance, met = trace(world, *origin, *direction, 30.0)
        if met >= 0 and not opaque[met]:
            continue
        points = origin + steps[:, None] * direction
        first = 30.0
        for n in np.nonzero(opaque)[0]:
            if np.hypot(*(world.shapes[n, :2] - origin[:2])) > 31 + world.shapes[n, columns.REACH]:
                continue
            inside = is_inside(world.shapes[n : n + 1], world.tags[n, columns.KIND], points)
            inside &= steps > 0.05
            if inside.any():
                first = min(first, float(steps[inside.argmax()]))
        ground = [ground_height(world.surface, world.blocks, world.relief, *p[:2]) for p in points]
        below = points[:, 2] < np.array(ground)
        if below.any():
            first = min(first, float(steps[below.argmax()]))
        assert abs(distance - first) < 0.05 or abs(direction[2]) < 0.02
        compared += 1
    assert compared > 30


def test_kerbs_are_as_in_the_raster_and_roads_are_low() -> None:
    town = scenes.town(20_000)
    ground = town.ground
    rng = np.random.default_rng(0)
    points = rng.uniform(-149, 149, (4000, 2))
    raised = np.array([is_raised(ground.surface, ground.blocks, *p) for p in points])
    codes = ground.surface_code(*points.T)
    assert np.mean(raised == (codes >= columns.FIRST_RAISED)) > 0.995
    for road in town.plan.roads[0]:
        lane = road.points(np.arange(-140, 140, 5.0), road.lane_offset(1, 0))
        assert (ground.surface_code(*lane.T) == columns.ASPHALT).all()


def run_kernel(**environment: str) -> str:
    code = (
        "from occ_perception.synthetic.kernels import noise, compiled;"
        "noise.hashed(1, 2, 3, 4);"
        "print(sum(noise.hashed.stats.cache_hits.values()), compiled._CACHE_FOLDER)"
    )
    cleared = {
        k: v for k, v in os.environ.items() if k not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")
    }
    cleared["PYTHONPATH"] = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**cleared, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def test_machine_code_is_kept_on_disk_in_the_users_cache(tmp_path: Path) -> None:
    hits, folder = run_kernel(XDG_CACHE_HOME=str(tmp_path)).split()
    assert hits == "0"
    assert Path(folder).parent == tmp_path / "occ_perception"
    assert list(Path(folder).rglob("*.nbc"))
    assert run_kernel(XDG_CACHE_HOME=str(tmp_path)).split()[0] == "1"
    chosen = tmp_path / "chosen"
    assert str(chosen) in run_kernel(NUMBA_CACHE_DIR=str(chosen))


def test_a_read_only_home_is_accepted(tmp_path: Path) -> None:
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    assert str(tmp_path / "tmp") in run_kernel(
        HOME=str(not_a_folder), TMPDIR=make(tmp_path / "tmp")
    )


def test_a_temporary_folder_that_others_can_write_to_is_not_used(tmp_path: Path) -> None:
    """They could put pickles there, which numba reads."""
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    temporary = Path(make(tmp_path / "tmp"))
    open_to_all = temporary / f"occ_perception-{os.getuid()}"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    folder = run_kernel(HOME=str(not_a_folder), TMPDIR=str(temporary)).split()[1]
    assert Path(folder).is_relative_to(temporary)
    assert list(open_to_all.iterdir()) == []
    assert Path(folder).parent.stat().st_mode & 0o077 == 0


def make(folder: Path) -> str:
    folder.mkdir()
    return str(folder)
