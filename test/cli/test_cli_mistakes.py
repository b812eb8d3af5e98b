"""Forty mistakes on the command line, and what is said: one line, with what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from occ_perception.cli import app
from occ_perception.errors import did_you_mean

# Command and words of the answer. `empty` is an empty folder, `text.txt` a file of one line,
# `bad.yaml` no YAML. Usage errors of options are printed by the library in a frame.
MISTAKES = """
infos bag | Did you mean 'info'?
run | Missing argument 'source'
run bag -m alocc_3d | Missing option '--out'
run bag -m alocc_3d -o out --wieghts f | No such option: --wieghts (Possible options:
run bag -m alocc_3d -o out --every 0 | Invalid value for '--every'
run bag -m alocc_3d -o out --limit two | Invalid value for '--limit'
run nowhere -m alocc_3d -o out | no recording at nowhere: there is no such file
run empty -m alocc_3d -o out | A folder of images is read by `occ run`
run text.txt -m alocc_3d -o out | expected a rosbag2 folder or a file ending in
run bag -m alocc_4d -o out | did you mean alocc_3d, alocc_2d,
run bag -m ALOCC_3D -o out | did you mean alocc_3d,
run bag -m zzz -o out | no model 'zzz'; `occ models list` prints all
run images -m alocc_town -o out | they need a rig file and a file of poses
run images -m alocc_town -o out --rig nuscenes | they need a file of poses (--rig, --poses)
run images -m alocc_town -o out --rig nuscene --poses p | did you mean nuscenes?
run images -m alocc_town -o out --rig bad.yaml --poses p | bad.yaml is not YAML
run images -m alocc_town -o out --rig nuscenes --poses p | poses p cannot be read
run empty -m alocc_town -o out --poses p | a bag has its own poses
info nowhere | no recording at nowhere
info text.txt | text.txt is not a recording
view | nothing to show: give a bag, a folder, or --live
view empty | give exactly one of --out, --rerun and --open3d
view empty -o film.avi | expected a name ending in .mp4, .png or .rrd
view empty -o film.mp4 | empty is not a rosbag2 folder
score nowhere | no recording at nowhere
map empty -o a.las | expected a name ending in .ot, .ply, .npz
map empty -o a.ot --voxel-size -1 | --voxel-size must be positive, got -1 m
map empty -o a.ot --rig nuscenes | need --model
map nowhere -o a.ot | no recording at nowhere
models show alocc | did you mean alocc_3d,
models show | Missing argument 'name'
weights check nowhere.pth | no checkpoint at nowhere.pth
weights check text.txt | is not a checkpoint file: it starts with b'x
weights fetch alocc_3dd | did you mean alocc_3d,
weights fetch alocc_town | weights belong to this package
weights convert text.txt -m alocc_3d -o a.pth | expected a name ending in .safetensors
convert nuscenes empty --version v1 --scene s -o out | no nuScenes tables in empty/v1
town drive -o out --frames 0 | Invalid value for '--frames'
town drive -o out --size 100x100 | give a positive size at most that high
play nowhere | no recording at nowhere
bench alocc_3e | did you mean alocc_3d,
"""
TABLE = [tuple(map(str.strip, line.split("|"))) for line in MISTAKES.strip().splitlines()]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OCC_WEIGHTS", str(tmp_path / "no-weights"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x\n")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    (tmp_path / "images/0").mkdir(parents=True)
    (tmp_path / "images/0/CAM_FRONT.jpg").write_bytes(b"")


def test_there_are_forty() -> None:
    assert len(TABLE) >= 40
    assert len({command for command, _ in TABLE}) == len(TABLE)


@pytest.mark.parametrize(("command", "words"), TABLE)
def test_a_mistake_is_answered(command: str, words: str) -> None:
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 2, result.output
    flat = " ".join(result.output.replace("\u2502", " ").split())
    assert words in flat, result.output
    assert "Traceback" not in result.output
    if flat.startswith("error: "):
        assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("alocc_3D", "did you mean alocc_3d, alocc_2d?"),
        ("ALOCC_2D", "did you mean alocc_2d, alocc_3d?"),
        ("zzz", ""),
    ],
)
def test_near_names(name: str, expected: str) -> None:
    assert did_you_mean(name, ["alocc_2d", "alocc_3d", "sparseocc"]) == expected
