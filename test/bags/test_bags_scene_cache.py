"""Converted scenes are kept: the same place for the same scene, another one for what changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from nuscenes_folder import VERSION, drawn_scene
from typer.testing import CliRunner

from occ_perception.bags.discovery import choose_layout
from occ_perception.bags.nuscenes_tables import NuScenesError
from occ_perception.bags.recording import Recording
from occ_perception.bags.scene_cache import cached_scene, version_of_scene
from occ_perception.cli import app


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    drawn_scene(tmp_path / "data", "scene-0001", keyframes=1)
    return tmp_path / "data"


def test_the_command_converts_a_scene_once(root: Path) -> None:
    words = ["convert", "nuscenes", str(root), "--scene", "scene-0001"]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    bag = cached_scene(root, VERSION, "scene-0001")
    with Recording(bag) as recording:
        assert choose_layout(recording, None).name == "occ_perception"
    before = (bag / "metadata.yaml").stat().st_mtime_ns
    second = CliRunner().invoke(app, words)
    assert second.exit_code == 0
    assert "is there already, kept" in second.output
    assert (bag / "metadata.yaml").stat().st_mtime_ns == before
    assert [path.name for path in bag.parent.iterdir()] == [bag.name]


def test_all_scenes_need_a_version_and_a_place(root: Path) -> None:
    done = CliRunner().invoke(app, ["convert", "nuscenes", str(root), "--out", "x"])
    assert done.exit_code == 2
    assert "give --version and --out" in done.output.replace("\n", " ")


def test_whatever_the_bag_depends_on_gives_another_place(root: Path) -> None:
    def place(**options: object) -> Path:
        return cached_scene(root, VERSION, "scene-0001", **options)

    places = [place(), place(lidar=True), place(sweeps=False), place(storage="sqlite3")]
    labels = root / "gts" / "scene-0001"
    labels.mkdir(parents=True)
    places.append(place())
    (labels / "token").mkdir()
    places.append(place())
    table = root / VERSION / "ego_pose.json"
    table.write_text(table.read_text() + "\n")
    places.append(place())
    drawn_scene(root, "scene-0002", keyframes=1, start_us=1_633_151_603_547_590)
    places += [place(), cached_scene(root, VERSION, "scene-0002")]
    shutil.copytree(root, root.parent / "copy")
    places.append(cached_scene(root.parent / "copy", VERSION, "scene-0001"))
    assert len(set(places)) == len(places)
    assert place() == cached_scene(root / ".." / root.name, VERSION, "scene-0001")


def test_the_smallest_tables_that_have_the_scene_are_read(root: Path) -> None:
    shutil.copytree(root / VERSION, root / "v1.0-trainval")
    assert version_of_scene(root, "scene-0001") == VERSION
    drawn_scene(root, "scene-0002", keyframes=1, start_us=1_633_151_603_547_590)  # into VERSION
    assert version_of_scene(root, "scene-0001") == "v1.0-trainval"
    assert version_of_scene(root, "scene-0002") == VERSION
    with pytest.raises(NuScenesError, match=r"no scene 'scene-9'.*has scene-0001, scene-0002"):
        version_of_scene(root, "scene-9")
    with pytest.raises(NuScenesError, match=r"no folder with a scene\.json"):
        version_of_scene(root / "gts", "scene-0001")
