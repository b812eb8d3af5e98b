"""The front door: `occ_perception.open_recording`, as docs/bags.md shows it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from nuscenes_folder import VERSION, drawn_scene

import occ_perception
from occ_perception.bags.nuscenes import convert_nuscenes

DOCS = Path(__file__).parents[2] / "docs" / "bags.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a recording that has the name of the docs."""
    path = tmp_path_factory.mktemp("drive")
    drawn_scene(path / "data", keyframes=2)
    convert_nuscenes(path / "data", VERSION, "scene-0001", path / "scene-0103", lidar=False)
    return path


def test_what_the_docs_show_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    text = DOCS.read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text[text.index("## From Python") :], re.DOTALL)
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("occ_perception ('CAM_FRONT_LEFT', ") and lines[0].endswith(" ()")
    assert lines[1].startswith("[] FrameSetCounters(complete=7, incomplete=0, ")
    assert len(lines) == 2 + 7
    assert all(re.match(r"scene-0103 \d{19} \(\) \[", line) for line in lines[2:])


def test_frame_sets_are_the_source_of_frames(folder):
    with occ_perception.open_recording(folder / "scene-0103") as drive:
        frames = list(drive)
        assert len(frames) == drive.expected_frames == 7
        for frame, item in zip(frames, drive.frame_sets(), strict=True):
            assert (frame.stamp_ns, frame.sequence) == (
                item.frame_set.reference_stamp_ns,
                "scene-0103",
            )
            assert frame.stamps_ns == item.frame_set.stamps_ns
            for name, stamp in item.frame_set.stamps_ns.items():
                np.testing.assert_array_equal(item.poses.at(stamp), frame.world_T_ego[name])
            assert item.rig.fingerprint() == frame.rig.fingerprint(), "nothing is distorted here"
        assert drive.reference_stamps() == [frame.stamp_ns for frame in frames]


def test_the_package_alone_imports_no_library():
    code = (
        "import sys; before = set(sys.modules); import occ_perception\n"
        "assert 'open_recording' in dir(occ_perception)\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before}))\n"
        "occ_perception.open_recording; assert 'rosbags' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = set(re.findall(r"'(\w+)'", done.stdout))
    assert names - set(sys.stdlib_module_names) == {"occ_perception"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'open_bag'"):
        occ_perception.open_bag  # noqa: B018
