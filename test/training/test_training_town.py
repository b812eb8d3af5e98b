"""Frames of the town as a data set: their content, and that they are rendered only once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from occ_training.data.dataset import OccupancyDataset
from occ_training.data.file_checks import check_files
from occ_training.data.index import DatasetIndex
from occ_training.data.records import DatasetError
from occ_training.town import Clip, RenderError, TownData, nearest_surfaces, town_dataset
from small_training import small_card, small_recipe

from occ_perception.geometry import transform_points
from occ_perception.synthetic.render import View

DATA = TownData(size=(176, 99))
CLIPS = [Clip(3, 1, 4, 2), Clip(3, 2, 7, 1)]
RENDER = """
import sys
from pathlib import Path
from occ_training.town import Clip, TownData, town_dataset
if __name__ == "__main__":
    clips = [Clip(3, 1, 4, 2), Clip(3, 2, 7, 1)]
    town_dataset(Path(sys.argv[1]), "both", clips, TownData(size=(176, 99)), int(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> DatasetIndex:
    """A rendered data set; read-only."""
    return town_dataset(tmp_path_factory.mktemp("frames"), "both", CLIPS, DATA, jobs=1)


def start(folder: Path, jobs: int = 1) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", RENDER, folder, str(jobs)], env=environment)


def wait_for(condition, seconds: float = 300.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- what is in a frame ---------------------------------------------------------------------------


def test_a_clip_is_a_sequence_of_an_ordinary_data_set(rendered) -> None:
    again = DatasetIndex.load(rendered.root / "both.jsonl")
    assert [frame.token for frame in again.frames] == [
        "town-00003-001-04-02-04",
        "town-00003-001-04-02-05",
        "town-00003-002-07-01-07",
    ]
    assert list(again.sequences().values()) == [range(2), range(2, 3)]
    assert check_files(again, "decode")[1].problems == []
    dataset = OccupancyDataset(again, small_card(), small_recipe().sample_options(small_card()))
    second = dataset[1]
    assert 0.0 < float(second.previous_T_current_44[0, 3]) < 15.0  # metres in half a second
    assert [bool(dataset[n].start) for n in range(3)] == [True, False, True]
    assert second.flow_XYZ2.any() and second.camera_mask_XYZ.any()
    assert not second.camera_mask_XYZ.all()


def test_surfaces_lie_in_voxels_of_their_class(rendered) -> None:
    """Points, poses, calibration and labels of a frame are consistent."""
    frame = rendered.frames[0]
    lidar, grid = frame.lidar, rendered.header.label_sets["occ3d"].grid
    points = np.fromfile(rendered.path(lidar.points), np.float32).reshape(-1, 3)
    classes = np.fromfile(rendered.path(lidar.semantics), np.uint8)
    with np.load(rendered.path(frame.labels["occ3d"])) as arrays:
        labels = arrays["semantics"]
    ego_T_lidar = np.linalg.inv(frame.world_T_reference_ego) @ lidar.world_T_lidar
    in_ego = transform_points(ego_T_lidar, points)
    near = np.linalg.norm(in_ego, axis=1) < 20.0
    index = grid.indices(in_ego)
    inside = near & grid.contains(index)
    agree = 0
    for voxel, kind in zip(index[inside], classes[inside], strict=True):
        low, high = np.maximum(voxel - 1, 0), voxel + 2
        agree += kind in labels[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    assert inside.sum() > 300
    assert agree > 0.95 * inside.sum()


def test_a_surface_projects_to_its_own_pixel(rendered) -> None:
    """As measured depth of the network's input: most blocks of every camera have one."""
    card = small_card()
    options = small_recipe().sample_options(card)
    sample = OccupancyDataset(rendered, card, options)[0]
    depth = sample.depth_NHW.numpy()
    blocks = depth.reshape(6, 8, 8, 22, 8).transpose(0, 1, 3, 2, 4).reshape(6, 8 * 22, 64)
    assert (blocks[:, 4 * 22 :] > 0).any(axis=2).mean() > 0.95  # the lower half sees ground
    assert ((sample.semantics_NHW.numpy() != 255) == (depth > 0)).all()


def test_the_nearest_of_a_block_is_kept_and_sky_is_not() -> None:
    rng = np.random.default_rng(0)
    distance = rng.uniform(5, 50, (19, 20)).astype(np.float32)
    classes = rng.integers(1, 17, (19, 20)).astype(np.uint8)
    distance[3:11, 8:16], classes[3:11, 8:16] = 0.0, 17  # one block of sky
    distance[12, 2] = 1.0
    view = View(np.zeros((19, 20, 3), np.float32), distance, classes, np.zeros((19, 20), np.int32))
    K = np.array([[30.0, 0.0, 9.0], [0.0, 31.0, 8.0], [0.0, 0.0, 1.0]])
    points, kinds = nearest_surfaces(view, K)
    depth = view.depth(K)
    expected = []
    for row in (3, 11):
        for column in (0, 8):
            block = depth[row : row + 8, column : column + 8]
            if block.any():
                v, u = np.unravel_index(block.argmin(), block.shape)
                expected.append((u + column, v + row))
    assert len(points) == len(expected) == 3
    pixels = points @ K.T
    assert pixels[:, :2] / pixels[:, 2:] == pytest.approx(np.array(expected, dtype=float))
    assert points[:, 2] == pytest.approx([depth[v, u] for u, v in expected])
    assert kinds.tolist() == [classes[v, u] for u, v in expected]
    assert points[:, 2].min() < 1.0


def test_towns_of_the_splits_do_not_mix() -> None:
    data = TownData()
    by_split = [data.clips(name) for name in ("train", "validation", "test")]
    towns = [{clip.town for clip in clips} for clips in by_split]
    assert [len(each) for each in towns] == [400, 8, 50]
    assert not towns[0] & towns[1] | towns[0] & towns[2] | towns[1] & towns[2]
    assert sum(clip.frames for clip in by_split[0]) == 8000
    assert len({clip.name for clips in by_split for clip in clips}) == 858
    assert all(clip.first + clip.frames <= 41 for clips in by_split for clip in clips)
    assert replace(data, seed=1).clips("train") != by_split[0]


def test_clips_of_a_drive_lie_in_equal_parts_of_it() -> None:
    data = TownData(towns=3, drives=2, drive_clips=3, clip_frames=2)
    clips = data.clips("train")
    assert len(clips) == len({clip.name for clip in clips}) == 3 * 2 * 3
    for number, clip in enumerate(clips):
        part = number % 3
        assert (clip.town, clip.drive) == (clips[number - part].town, clips[number - part].drive)
        assert 41 * part // 3 <= clip.first
        assert clip.first + clip.frames <= 41 * (part + 1) // 3
    one = replace(data, drive_clips=1).clips("train")
    assert [clip.town for clip in one] == [clip.town for clip in clips[::3]]
    with pytest.raises(RenderError, match="21 clips of 2 key frames do not fit into a drive of 41"):
        replace(data, drive_clips=21).clips("train")


# --- rendered once --------------------------------------------------------------------------------


def test_existing_clips_are_not_rendered_again(rendered, monkeypatch) -> None:
    before = content(rendered.root)
    monkeypatch.setattr("occ_training.town._render_clip", lambda *_: pytest.fail("rendered"))
    printed = []
    town_dataset(rendered.root, "both", CLIPS, DATA, log=printed.append)
    assert printed == [] and content(rendered.root) == before


def test_frames_with_another_provenance_are_refused(rendered, monkeypatch) -> None:
    with pytest.raises(DatasetError, match=r"size \[176, 99\] there, \[352, 198\] wanted"):
        town_dataset(rendered.root, "both", CLIPS, replace(DATA, size=(352, 198)))
    with pytest.raises(DatasetError, match="points surfaces there, lidar wanted"):
        town_dataset(rendered.root, "both", CLIPS, replace(DATA, points="lidar"))
    monkeypatch.setattr("occ_perception.synthetic.provenance.GENERATOR_VERSION", 99)
    with pytest.raises(DatasetError, match="generator 1 there, 99 wanted; delete"):
        town_dataset(rendered.root, "both", CLIPS, DATA)


def test_a_killed_render_resumes_with_the_missing_clips(tmp_path, rendered) -> None:
    process = start(tmp_path)
    try:
        parts = tmp_path / "parts"
        wait_for(lambda: parts.is_dir() and len(list(parts.glob("*.jsonl"))) == 1)
        wait_for(lambda: any(path.name.startswith(".town") for path in frames_of(tmp_path)))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    (done,) = parts.glob("*.jsonl")
    stamp = done.stat().st_mtime_ns
    town_dataset(tmp_path, "both", CLIPS, DATA, jobs=1)
    assert done.stat().st_mtime_ns == stamp
    assert sorted(path.name for path in frames_of(tmp_path)) == [clip.name for clip in CLIPS]
    assert content(tmp_path) == content(rendered.root)


def frames_of(folder: Path) -> list[Path]:
    return list((folder / "frames").iterdir()) if (folder / "frames").is_dir() else []


def test_a_clip_folder_without_an_index_is_rendered_again(tmp_path, rendered) -> None:
    (tmp_path / "frames" / CLIPS[0].name).mkdir(parents=True)
    (tmp_path / "frames" / CLIPS[0].name / "04.npz").write_bytes(b"half")
    town_dataset(tmp_path, "both", CLIPS, DATA, jobs=1)
    assert content(tmp_path) == content(rendered.root)


@pytest.mark.slow
def test_processes_that_render_into_one_folder_share_the_work(tmp_path, rendered) -> None:
    both = [start(tmp_path) for _ in range(2)]
    assert [process.wait(timeout=500) for process in both] == [0, 0]
    assert content(tmp_path) == content(rendered.root)


def test_a_clip_that_cannot_be_rendered_is_named(tmp_path) -> None:
    with pytest.raises(RenderError, match=r"1 of 2 towns .*town 4: .*drive -1 does not exist"):
        town_dataset(tmp_path, "both", [Clip(4, -1, 4, 2), CLIPS[1]], DATA, jobs=1)
    assert [part.stem for part in (tmp_path / "parts").iterdir()] == [CLIPS[1].name]
