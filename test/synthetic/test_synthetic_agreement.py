"""Images, labels, masks, lidar and poses of the town are consistent."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import synthetic_scenes as scenes
from numpy.typing import NDArray

from occ_perception.geometry import invert_transform, project_points, transform_points
from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.drive import assemble_world
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.labels import (
    OCC3D_GRID,
    PRIORITY,
    LidarMasks,
    OccupancyLabels,
    camera_mask,
    openocc_labels,
    voxelise,
)
from occ_perception.synthetic.lidar import BEAMS, ray_sweep, sense
from occ_perception.synthetic.render import render_view
from occ_perception.synthetic.rig import synthetic_rig
from occ_perception.synthetic.seeds import GENERATOR_VERSION
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions

SIZE = (352, 198)
# Digests of a frame of a test town, and of one of the demonstration drive, by version.
MADE_BY_VERSION_1 = {
    (20_000, 0, 2.0): "bc8d0d536537746b626f8c076c81bd1c28384020ce8ce80a8dd2f2ffe7a3bcc7",
    (30_000, 4, 6.0): "c19a3d402396a61a4e0e25c1efec5ce76241addbc2122c9d8875095841fe8860",
}
FREE = columns.FREE
every_frame = pytest.mark.parametrize("frame", scenes.FRAMES, ids=str)


def surface_points(frame) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Ego positions (n, 3) and classes (n,) of all pixels that show a surface in the grid."""
    points, classes = [], []
    for camera in synthetic_rig(SIZE).cameras:
        view = scenes.views(frame, SIZE)[camera.name]
        depth = view.depth(camera.K).astype(np.float64)
        v, u = np.nonzero(depth > 0)
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.K).T
        in_ego = transform_points(camera.ego_T_cam, rays * depth[v, u, None])
        inside = OCC3D_GRID.contains(OCC3D_GRID.indices(in_ego))
        points.append(in_ego[inside])
        classes.append(view.classes[v, u][inside])
    return np.concatenate(points), np.concatenate(classes)


def at(volume: NDArray, index: NDArray[np.int64]) -> NDArray:
    return volume[index[..., 0], index[..., 1], index[..., 2]]


def test_visible_surfaces_lie_in_voxels_of_their_class() -> None:
    labels, classes = [], []
    for frame in scenes.FRAMES:
        points, seen = surface_points(frame)
        labels.append(at(scenes.voxels(frame)[0], OCC3D_GRID.indices(points)))
        classes.append(seen)
    voxel, pixel = np.concatenate(labels), np.concatenate(classes)
    assert len(voxel) > 500_000
    occupied = voxel != FREE
    outranked = occupied & (PRIORITY[voxel] > PRIORITY[pixel])
    assert occupied.mean() >= 0.998
    assert (voxel == pixel).mean() >= 0.96
    assert ((voxel == pixel) | outranked).mean() >= 0.985


@every_frame
def test_the_camera_mask_holds_what_the_images_show(frame) -> None:
    scene = scenes.scene(frame)
    mask = camera_mask(scene, synthetic_rig())
    points, _ = surface_points(frame)
    assert at(mask, OCC3D_GRID.indices(points)).mean() > 0.99
    assert 0.1 < mask.mean() < 0.75
    # What a camera sees lies in the field of view of one: nothing right above the vehicle.
    assert not mask[95:103, 98:102, 9:].all(axis=2).any()
    coarse = camera_mask(scene, synthetic_rig(), stop_at=scenes.voxels(frame)[0])
    assert (coarse & mask).sum() / coarse.sum() > 0.9


@every_frame
def test_boxes_project_onto_their_own_pixels(frame) -> None:
    """Solids' corners through the written calibration against the rendered silhouette."""
    scene = scenes.scene(frame)
    seed, index, _ = frame
    ego_T_world = invert_transform(scene.world_T_ego)
    overlaps = []
    for camera in synthetic_rig((704, 396)).cameras:
        cam_T_ego = invert_transform(camera.ego_T_cam)
        for body in scene.bodies:
            if len(overlaps) > 25:
                break
            own = scene.world.tags[:, columns.INSTANCE] == body.instance
            middle = np.array(body.pose[:3]) - scene.world_T_ego[:3, 3]
            if not 5 < np.linalg.norm(middle) < 24:
                continue
            ground = scenes.town(seed).ground
            alone = assemble_world(
                ground, scene.world.shapes[own], scene.world.tags[own], scene.world_T_ego[:2, 3]
            )
            in_ego = transform_points(ego_T_world, solid_corners(alone))
            uv, depth = project_points(camera.K, cam_T_ego, in_ego)
            if depth.min() < 4 or depth.max() > 25:
                continue
            if uv.min() < 2 or (uv.max(axis=0) > (camera.width - 3, camera.height - 3)).any():
                continue
            lonely = type(scene)(0.0, scene.world_T_ego, alone, scene.velocities, ())
            view = render_view(lonely, scenes.drive(seed, index).weather, camera)
            shown = np.argwhere(view.instances == body.instance)[:, ::-1]
            if len(shown) < 300:
                continue
            overlaps.append(hull_overlap(uv, shown))
    assert len(overlaps) >= 8
    assert min(overlaps) > 0.9


def solid_corners(world) -> NDArray[np.float64]:
    """World points whose hull is that of the solids: corners, rims and samples of ellipsoids."""
    around = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    square = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]], dtype=float)
    circle = np.stack([np.cos(around), np.sin(around)], axis=-1)
    corners = []
    for row, tag in zip(world.shapes, world.tags, strict=True):
        if tag[columns.KIND] == columns.ELLIPSOID:
            heights = np.sin(np.linspace(-np.pi / 2, np.pi / 2, 13))
            rings = [(circle * np.sqrt(1 - h * h), h) for h in heights]
        else:
            section = square if tag[columns.KIND] == columns.BOX else circle
            shrink = 1 - row[[columns.TAPER_X, columns.TAPER_Y]]
            rings = [(section, -1.0), (section * shrink, 1.0)]
        c, s = row[columns.COS], row[columns.SIN]
        for ring, height in rings:
            x, y = (ring * row[[columns.HX, columns.HY]]).T
            z = np.full(len(ring), row[columns.Z] + height * row[columns.HZ])
            world_x, world_y = row[columns.X] + c * x - s * y, row[columns.Y] + s * x + c * y
            corners.append(np.stack([world_x, world_y, z], axis=-1))
    return np.concatenate(corners)


def hull_overlap(uv, shown) -> float:
    """IoU of the hulls of projected points and of the squares of the pixels that show the thing."""
    half = np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])
    squares = (shown[:, None] + half).reshape(-1, 2)
    hulls = [cv2.convexHull(points.astype(np.float32)) for points in (uv, squares)]
    shared, _ = cv2.intersectConvexConvex(*hulls)
    return shared / (sum(map(cv2.contourArea, hulls)) - shared)


@every_frame
def test_lidar_points_agree_with_rendered_depth(frame) -> None:
    scene = scenes.scene(frame)
    rig = synthetic_rig(SIZE)
    points = sense(ray_sweep(scene, rig.ego_T_lidar), np.random.default_rng(0))
    in_ego = transform_points(rig.ego_T_lidar, points.points[:, :3])
    errors, same_class = [], []
    for camera in rig.cameras:
        view = scenes.views(frame, SIZE)[camera.name]
        uv, depth = project_points(camera.K, invert_transform(camera.ego_T_cam), in_ego)
        ahead = (depth > 1) & np.isfinite(uv).all(axis=1)
        uv, depth, own = uv[ahead], depth[ahead], points.classes[ahead]
        inside = (uv > 1).all(axis=1) & (uv < (camera.width - 2, camera.height - 2)).all(axis=1)
        uv, depth, own = uv[inside], depth[inside], own[inside]
        i, j = np.floor(uv[:, 1]).astype(int), np.floor(uv[:, 0]).astype(int)
        fv, fu = uv[:, 1] - i, uv[:, 0] - j
        rendered = view.depth(camera.K)
        nearness = 1.0 / np.maximum(rendered.astype(np.float64), 1e-3)
        a, b, c, d = (nearness[i + m, j + n] for m, n in ((0, 0), (0, 1), (1, 0), (1, 1)))
        # On a plane the inverse depth is linear in the pixel, so a silhouette shows as a step.
        flat = np.abs(a + d - b - c) < 0.02 * a
        for m, n in ((0, 1), (1, 0), (1, 1)):
            flat &= view.classes[i + m, j + n] == view.classes[i, j]
            flat &= view.instances[i + m, j + n] == view.instances[i, j]
        flat &= np.isfinite(a + b + c + d) & (np.maximum(a, d) < 1.6 * np.minimum(a, d))
        # Leaves and railings let some rays through and not others.
        flat &= ~np.isin(view.classes[i, j], (columns.VEGETATION, columns.MANMADE))
        expected = 1.0 / ((a * (1 - fu) + b * fu) * (1 - fv) + (c * (1 - fu) + d * fu) * fv)
        # The lidar looks over what hides its target from the camera.
        seen = flat & (depth < expected + 0.5)
        errors.append(np.abs(depth - expected)[seen])
        same_class.append((own == view.classes[i, j])[seen])
    error = np.concatenate(errors)
    assert len(error) > 1500
    assert np.median(error) < 0.03
    assert np.percentile(error, 95) < 0.2
    assert np.concatenate(same_class).mean() > 0.98
    assert set(np.unique(points.points[:, 4])) == set(range(BEAMS))


def test_flow_carries_voxels_into_the_same_instance() -> None:
    hits, stays, total = 0, 0, 0
    for seed, index, t in scenes.FRAMES:
        _, instances, flow = scenes.voxels((seed, index, t))
        drive = scenes.drive(seed, index)
        later = voxelise(drive.scene(t + 0.5))[1]
        speed = np.linalg.norm(flow, axis=-1)
        assert (speed[instances == 0] == 0).all()
        cells = np.argwhere(speed > 0.5)
        centres = OCC3D_GRID.centers(cells)
        motion = invert_transform(drive.pose(t + 0.5)) @ drive.pose(t)
        for moved in (True, False):
            points = centres.copy()
            if moved:
                points[:, :2] += 0.5 * at(flow, cells)
            landed = OCC3D_GRID.indices(transform_points(motion, points))
            inside = OCC3D_GRID.contains(landed)
            same = at(later, landed[inside]) == at(instances, cells[inside])
            if moved:
                hits += int(same.sum())
                total += len(same)
            else:
                stays += int(same.sum())
    assert total > 2000
    assert hits / total >= 0.88
    assert stays / total < 0.6


@every_frame
def test_flow_is_one_vector_per_instance(frame) -> None:
    labels, instances, flow = scenes.voxels(frame)
    movable = LABEL_SETS["occ3d"].moving_ids()
    assert set(np.unique(labels[instances > 0])) <= set(movable)
    for instance in np.unique(instances[instances > 0]):
        assert len(np.unique(flow[instances == instance], axis=0)) == 1


def test_lidar_mask_holds_the_points_and_most_of_the_ground_around() -> None:
    seed, index, t = scenes.FRAMES[0]
    drive, rig = scenes.drive(seed, index), synthetic_rig()
    sweep = ray_sweep(drive.scene(t), rig.ego_T_lidar)
    mask = LidarMasks(drive, rig.ego_T_lidar).at(t, sweep)
    hit = sweep.classes != FREE
    points = transform_points(rig.ego_T_lidar, sweep.rays[hit] * sweep.exact_ranges[hit, None])
    index3 = OCC3D_GRID.indices(points)
    inside = OCC3D_GRID.contains(index3)
    assert at(mask, index3[inside]).mean() > 0.999


def test_openocc_variant_renames_classes_and_numbers_instances() -> None:
    frame = scenes.FRAMES[1]
    semantics, instances, flow = scenes.voxels(frame)
    nowhere = np.zeros(semantics.shape, dtype=bool)
    labels = OccupancyLabels(OCC3D_GRID, semantics, instances, flow, nowhere, nowhere)
    variant = openocc_labels(labels)
    names = LABEL_SETS["openocc"].class_names
    for class_id, name in enumerate(LABEL_SETS["occ3d"].class_names):
        expected = name if name in names else "free"
        assert {names[n] for n in np.unique(variant.semantics[semantics == class_id])} <= {expected}
    movers = len(np.unique(instances[instances > 0]))
    assert np.array_equal(np.unique(variant.instances[instances > 0]), np.arange(1, movers + 1))
    assert (variant.instances[variant.semantics == 16] == 0).mean() > 0.99
    assert (variant.instances[(variant.semantics != 16)] > 0).all()


def digest(seed: int, index: int, t: float, threads: int) -> str:
    drive = scenes.drive(seed, index)
    scene, rig = drive.scene(t), synthetic_rig((160, 90))
    parts = [*voxelise(scene), camera_mask(scene, synthetic_rig(), stride=16, threads=threads)]
    parts.append(ray_sweep(scene, rig.ego_T_lidar).exact_ranges)
    parts.append(np.round(drive.pose(t), 9))
    view = render_view(scene, drive.weather, rig.cameras[1], threads=threads)
    parts += [view.colour, view.classes, view.instances]
    return hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in parts)).hexdigest()


@pytest.mark.parametrize("frame", MADE_BY_VERSION_1, ids=str)
def test_a_seed_gives_the_same_output_until_the_version_is_incremented(frame) -> None:
    """Digests of values that are equal on all processors, and of rounded other values."""
    seed, index, t = frame
    sensors = DriveSensors(scenes.drive(seed, index), SensorOptions(jitter_rig=True))
    labels, lidar, rig = sensors.labels(t), sensors.points(t), sensors.rig
    exact = [labels.semantics, labels.instances, labels.flow, labels.mask_camera, labels.mask_lidar]
    exact += [lidar.points, lidar.classes, lidar.instances]
    rounded = [sensors.drive.pose(t), sensors.ego_T_lidar]
    rounded += [matrix for camera in rig.cameras for matrix in (camera.K, camera.ego_T_cam)]
    exact += [np.round(matrix, 6) + 0.0 for matrix in rounded]
    made = hashlib.sha256(b"".join(np.ascontiguousarray(p).tobytes() for p in exact)).hexdigest()
    assert {GENERATOR_VERSION: made} == {1: MADE_BY_VERSION_1[frame]}


def test_another_process_with_other_threads_makes_the_same_frame() -> None:
    frame = scenes.FRAMES[2]
    code = f"import test_synthetic_agreement as t; print(t.digest(*{frame!r}, threads=1))"
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == digest(*frame, threads=3)
