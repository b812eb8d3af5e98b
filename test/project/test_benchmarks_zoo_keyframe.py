"""The key frame run: what it reads, and that it does only what is missing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_streams import frame_at, surround_rig

from occ_perception.geometry import invert_transform, transform_points
from occ_perception.models.card import NUSCENES_CAMERAS
from occ_perception.models.zoo import get_card

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import zoo_keyframe


@pytest.fixture
def written(tmp_path):
    """A frame, and a folder with the same content."""
    frame = frame_at(5.0, surround_rig(NUSCENES_CAMERAS, lidar=True))
    ego_T_lidar = frame.rig.ego_T_lidar
    points = np.random.default_rng(0).uniform(-20, 20, (50, 5)).astype(np.float32)
    points.tofile(tmp_path / "LIDAR_TOP.bin")
    cams = {}
    for camera in frame.rig.cameras:
        cv2.imwrite(str(tmp_path / f"{camera.name}.png"), frame.images[camera.name][..., ::-1])
        cams[camera.name] = {
            "file": f"{camera.name}.png",
            "timestamp_us": frame.stamps_ns[camera.name] // 1000,
            "width": camera.width,
            "height": camera.height,
            "K": camera.K.tolist(),
            "cam2ego": camera.ego_T_cam.round(9).tolist(),
            "ego2global": frame.world_T_ego[camera.name].round(9).tolist(),
        }
    facts = {
        "timestamp_us": 5_020_000,
        "lidar2ego": ego_T_lidar.round(9).tolist(),
        "ego2global": frame.world_T_ego["CAM_BACK"].round(9).tolist(),
        "cams": cams,
        "lidar": {"file": "LIDAR_TOP.bin", "columns": ["x", "y", "z", "intensity", "ring"]},
    }
    (tmp_path / "frames.json").write_text(json.dumps({"frames": [facts]}))
    return tmp_path, frame, points


def test_a_folder_becomes_the_frame_that_it_describes(written):
    folder, frame, points = written
    got = zoo_keyframe.keyframe(folder)
    assert got.rig.names == frame.rig.names
    for name in frame.rig.names:
        assert np.array_equal(got.images[name], frame.images[name])  # RGB, as it was
        assert got.stamps_ns[name] == frame.stamps_ns[name]
        np.testing.assert_allclose(got.world_T_ego[name], frame.world_T_ego[name], atol=1e-8)
    back = transform_points(invert_transform(frame.rig.ego_T_lidar), got.lidar.points)
    np.testing.assert_allclose(back, points[:, :3], atol=1e-6)


def test_models_of_other_rigs_get_drawn_images_and_the_rest_real_ones(written):
    folder, frame, _ = written
    source, frames = zoo_keyframe.frames_for(get_card("alocc_3d_waymo"), folder)
    assert source == "drawn" and len(frames) == 2
    assert frames[0].images["CAM_SIDE_LEFT"].shape == (1280, 1920, 3)
    source, (first, second) = zoo_keyframe.frames_for(get_card("alocc_3d_depth"), folder)
    assert source == "real" and second.stamp_ns - first.stamp_ns == zoo_keyframe.STEP_NS
    assert second.lidar.stamp_ns - first.lidar.stamp_ns == zoo_keyframe.STEP_NS
    assert first.stamp_ns == frame.stamp_ns


def test_finished_models_are_not_run_again(written, tmp_path, monkeypatch, capsys):
    folder, _, _ = written
    out, results = tmp_path / "out", tmp_path / "results"
    out.mkdir()
    figures = {
        **{"model": "alocc_2d_mini", "images": "real", "depth": "", "image": "256x704"},
        **{"grid": "200x200x16", "first_s": 1.5, "second_s": 1.25, "second_cpu_s": 2.5},
        **{"peak_gb": 1.4, "classes": 9, "load_average": [0.5, 1.0], "date": "2026-01-01"},
        **{"precision": "float32", "compiled": False, "versions": {"torch": "2"}},
        "device": {"name": "a CPU", "threads": 2},
    }
    (out / "alocc_2d_mini.json").write_text(json.dumps(figures))
    asked = []

    class Failed:
        returncode = 1

    def run(command, **_):
        asked.append(command[3])
        return Failed

    monkeypatch.setattr(zoo_keyframe.subprocess, "run", run)
    names = ["alocc_2d_mini", "alocc_2d_mini_nomask", "alocc_2d"]
    code = zoo_keyframe.main([str(folder), *names, "--out", str(out), "--results", str(results)])
    assert (code, asked) == (1, ["alocc_2d"])  # finished; the same network; missing, and failed
    (page,) = results.glob("*-zoo-keyframe.md")
    assert "| alocc_2d_mini | real | 256x704 | 200x200x16 | 1.50 | 1.25 | 2.50 | 1.40 | 9 |" in (
        page.read_text()
    )
    assert zoo_keyframe.main([str(folder), "alocc_4d"]) == 2
    assert "no model alocc_4d" in capsys.readouterr().err
