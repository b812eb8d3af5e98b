"""The index of a data set: it is read as written, and errors are located."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import training_folders as folders
from occ_training.data.groups import history_groups, usable_frames
from occ_training.data.index import DatasetIndex
from occ_training.data.records import DatasetError


def three(root: Path) -> DatasetIndex:
    return folders.index(
        root,
        folders.frame("a0", "a", 1_000),
        folders.frame("a1", "a", 2_000, x=np.pi),
        folders.frame("b0", "b", 500),
    )


def test_an_index_is_read_back_without_loss(tmp_path: Path) -> None:
    written = three(tmp_path / "data")
    file = written.save(tmp_path / "elsewhere")
    read = DatasetIndex.load(file)
    assert read.root.resolve() == (tmp_path / "data").resolve()
    assert read.header.label_sets == written.header.label_sets
    assert read.sequences() == {"a": range(0, 2), "b": range(2, 3)}
    for ours, theirs in zip(read.frames, written.frames, strict=True):
        assert (ours.token, ours.stamp_ns, ours.labels) == (
            theirs.token,
            theirs.stamp_ns,
            theirs.labels,
        )
        assert np.array_equal(ours.world_T_reference_ego, theirs.world_T_reference_ego)
        assert np.array_equal(ours.world_T_lidar_ego, theirs.world_T_lidar_ego)
        assert np.array_equal(ours.cameras["CAM"].K, theirs.cameras["CAM"].K)
    assert read.frames[0].world_T_lidar_ego[0, 3] - read.frames[0].world_T_reference_ego[0, 3] == (
        pytest.approx(0.1)
    )


def test_a_failed_save_keeps_the_earlier_index(tmp_path: Path) -> None:
    good = three(tmp_path)
    file = good.save(tmp_path)
    before = file.read_bytes()
    bad = replace(good, frames=(replace(good.frames[0], source={"value": float("nan")}),))
    with pytest.raises(ValueError, match="JSON"):
        bad.save(tmp_path)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("line", "change", "message"),
    [
        (1, ("occ-dataset", "other"), "no occ-dataset header"),
        (1, ('"version":1', '"version":9'), "format version 9"),
        (1, ('"classes":"occ3d"', '"classes":"occ5d"'), "occ5d"),
        (2, ('"K":', '"C":'), "line 2: field 'K' is missing"),
        (2, ('"size":[', '"size":[1],"was":['), r"line 2: size \[1\] is not \[width, height\]"),
        (3, ("{", "["), "line 3"),
        (3, ('"token":"a1"', '"token":"a0"'), "a0.*two frames"),
        (3, ('"token":"a1"', '"token":["a1"]'), r"line 3: token is \['a1'\], expected a text"),
        (3, ('"image":"a1.jpg"', '"image":7'), "line 3: image is 7, expected a text"),
        (3, ('"stamp_ns":2000', '"stamp_ns":Infinity'), "line 3: cannot convert"),
        (3, ('"stamp_ns":2000', '"stamp_ns":1000'), "not later"),
        (4, ('"occ3d":"b0.npz"', '"occ9":"b0.npz"'), "label set occ9 is not in the header"),
        (4, ('"reference_camera":"CAM"', '"reference_camera":"REAR"'), "reference camera REAR"),
        (4, ('"K":[200.0,', '"K":[0.0,'), "camera CAM: focal lengths"),
    ],
)
def test_a_damaged_index_is_refused_with_its_place(
    tmp_path: Path, line: int, change: tuple[str, str], message: str
) -> None:
    file = three(tmp_path).save(tmp_path)
    lines = file.read_text().splitlines(keepends=True)
    assert change[0] in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(*change, 1)
    file.write_text("".join(lines))
    with pytest.raises(DatasetError, match=message) as error:
        DatasetIndex.load(file)
    assert str(file) in str(error.value)


def test_sequences_must_not_be_mixed(tmp_path: Path) -> None:
    a0, a1, b0 = three(tmp_path).frames
    with pytest.raises(DatasetError, match="continues after another"):
        folders.index(tmp_path, a0, b0, a1)


def test_the_message_for_a_missing_index_names_the_commands(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="occ-train prepare"):
        DatasetIndex.load(tmp_path)


def test_selection_keeps_the_order_and_names_unknown_sequences(tmp_path: Path) -> None:
    index = three(tmp_path)
    assert [frame.token for frame in index.select(["b", "a"]).frames] == ["a0", "a1", "b0"]
    assert [frame.token for frame in index.select(["b"]).frames] == ["b0"]
    with pytest.raises(DatasetError, match="no sequence c"):
        index.select(["c"])


def test_groups_are_recordings_cut_into_pieces_and_at_gaps() -> None:
    seven = [folders.frame(f"a{n}", "a", 100 * n) for n in range(7)]
    two = [folders.frame(f"b{n}", "b", 100 * n) for n in range(2)]
    assert history_groups(seven + two).tolist() == [0] * 7 + [1] * 2
    # ceil(7 / 2) = 4 frames, then the rest; each recording starts a new group
    assert history_groups(seven + two, pieces=2).tolist() == [0] * 4 + [1] * 3 + [2, 3]
    holed = [*seven[:3], *seven[5:], *two]
    assert history_groups(holed).tolist() == [0, 0, 0, 1, 1, 2, 2]
    missing_one = [*seven[:3], *seven[4:]]
    assert history_groups(missing_one).tolist() == [0] * 6


def test_frames_that_lack_something_are_counted_by_what_they_lack(tmp_path: Path) -> None:
    a0, a1, b0 = three(tmp_path).frames
    index = folders.index(tmp_path, replace(a0, labels={}), replace(a1, lidar=None), b0)
    usable, left_out = usable_frames(index, ("CAM",), labels=("occ3d",), points=True)
    assert [frame.token for frame in usable.frames] == ["b0"]
    assert left_out.tokens == ("a0", "a1")
    assert left_out.summary(3) == (
        "left out 2 of 3 frames: no lidar points in 1, occ3d labels in 1"
    )
    with pytest.raises(DatasetError, match=r"no frame for this model.*REAR in 3"):
        usable_frames(index, ("REAR",))
