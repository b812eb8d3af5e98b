"""Folders of recordings: contradicting metadata, lost parts, odd names, write-ahead logs."""

from __future__ import annotations

import shutil
import sqlite3

import bag_families
import pytest
import yaml
import zstandard
from mcap_files import messages_of, write_mcap
from nuscenes_folder import drawn_images
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from occ_perception.bags.drive import open_recording
from occ_perception.bags.recording import BagError, Recording
from occ_perception.bags.writing import BagWriter
from occ_perception.cli import app

ODD_NAMES = ["drive#2", "50%41?mode=rw", "a&b=c [red] ä"]


@pytest.fixture(scope="module")
def images():
    return drawn_images(keyframes=2, size=(80, 46))


def edit_metadata(path, change) -> None:
    file = path / "metadata.yaml"
    content = yaml.safe_load(file.read_text())
    change(content["rosbag2_bagfile_information"])
    file.write_text(yaml.safe_dump(content))


def stamps_and_problems(path) -> tuple[list[int], list[str]]:
    with open_recording(path) as frames:
        stamps = [frame.stamp_ns for frame in frames]
        return stamps, [problem.reason for problem in frames.problems]


# -- metadata.yaml -------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", ["", "- history: 3", "no: [yaml", None])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_qos_in_the_metadata_does_not_choose_messages(tmp_path, images, storage, qos):
    path = bag_families.foxglove(tmp_path / "bag", images, storage)
    whole = stamps_and_problems(path)

    def change(info):
        for topic in info["topics_with_message_count"]:
            topic["topic_metadata"]["offered_qos_profiles"] = qos

    edit_metadata(path, change)
    assert stamps_and_problems(path) == whole
    assert len(whole[0]) > 4 and whole[1] == []


def test_qos_of_the_metadata_is_used_if_the_files_state_none(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_transforms(1, [], static=True)
    written = messages_of(tmp_path / "bag")
    (tmp_path / "bag" / "bag.mcap").unlink()
    write_mcap(tmp_path / "bag" / "bag.mcap", written)
    with Recording(tmp_path / "bag") as recording:
        (qos,) = recording.offered_qos("/tf_static")
    assert qos.durability.name == "TRANSIENT_LOCAL"


def test_counts_that_differ_from_the_metadata_are_a_problem_with_both_numbers(tmp_path, images):
    path = bag_families.foxglove(tmp_path / "bag", images)

    def change(info):
        for topic in info["topics_with_message_count"]:
            if topic["topic_metadata"]["name"] == "/CAM_BACK/image_rect_compressed":
                topic["message_count"] += 3

    count = sum(m.topic == "/CAM_BACK/image_rect_compressed" for m in messages_of(path))
    edit_metadata(path, change)
    text = (
        f"metadata.yaml states {count + 3} messages, but {count} are in its files: "
        f"/CAM_BACK/image_rect_compressed {count} instead of {count + 3}"
    )
    with open_recording(path) as frames:
        assert len(list(frames)) > 4
        assert [(p.reason, p.text) for p in frames.problems] == [("message_count", text)]
    output = CliRunner().invoke(app, ["info", str(path)]).output
    assert f"problem: {text}" in " ".join(output.split())


def test_parts_are_read_in_the_order_of_time_whatever_the_metadata_lists_first(tmp_path, images):
    source = bag_families.foxglove(tmp_path / "source", images)
    messages = messages_of(source)
    path = tmp_path / "bag"
    path.mkdir()
    shutil.copy(source / "metadata.yaml", path)
    size = len(messages) // 12 + 1
    names = [f"bag_{n}.mcap" for n in range(12)]
    for n, name in enumerate(names):
        write_mcap(path / name, messages[n * size : (n + 1) * size])
    edit_metadata(path, lambda info: info.update(relative_file_paths=sorted(names)))
    assert sorted(names) != names
    assert stamps_and_problems(path) == stamps_and_problems(source)


def test_a_file_that_the_metadata_does_not_list_is_named(tmp_path, images):
    path = bag_families.foxglove(tmp_path / "bag", images)
    shutil.copy(path / "bag.mcap", path / "again.mcap")
    stamps, problems = stamps_and_problems(path)
    assert len(stamps) == len(set(stamps)) and problems == ["file_not_listed"]


# -- compression ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["message", "file"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_compression_is_known_without_metadata_and_with_a_lost_part(
    tmp_path, images, storage, mode
):
    path = bag_families.foxglove(tmp_path / "bag", images, storage, mode)
    whole, _ = stamps_and_problems(path)
    edit_metadata(path, lambda info: info["relative_file_paths"].append("bag_1.mcap"))
    assert stamps_and_problems(path) == (whole, ["damaged_file"])
    (path / "metadata.yaml").unlink()
    assert stamps_and_problems(path) == (whole, ["no_metadata"])


def test_a_compressed_file_may_have_been_unpacked_since(tmp_path, images):
    path = bag_families.foxglove(tmp_path / "bag", images)
    edit_metadata(
        path,
        lambda info: info.update(
            relative_file_paths=["bag.mcap.zstd"],
            compression_mode="FILE",
            compression_format="zstd",
        ),
    )
    assert stamps_and_problems(path)[1] == []


def test_a_message_that_would_fill_the_memory_stays_packed(tmp_path):
    packed = zstandard.ZstdCompressor().compress(bytes(300_000_000))
    assert len(packed) < 100_000
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=StoragePlugin.MCAP)
    store = get_typestore(Stores.ROS2_HUMBLE)
    with writer:
        channel = writer.add_connection("/text", "std_msgs/msg/String", typestore=store)
        writer.write(channel, 1, packed)
    with Recording(tmp_path / "bag") as recording:
        (message,) = recording.messages()
        assert len(message.raw) == len(packed)
        with pytest.raises(BagError):
            recording.decode(message)


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_any_name_can_be_written_and_read(tmp_path, storage, name):
    with BagWriter(tmp_path / name, storage) as writer:
        writer.write_transforms(1, [], static=True)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    with Recording(tmp_path / name) as recording:
        assert len(list(recording.messages())) == 1 and recording.problems == []
    printed = CliRunner().invoke(app, ["info", str(tmp_path / name)]).output
    assert f"{name}: 0.0 s" in printed


# -- sqlite3 -------------------------------------------------------------------------------------


def test_what_lies_in_the_write_ahead_log_is_read_without_touching_the_folder(tmp_path, images):
    whole = bag_families.foxglove(tmp_path / "whole", images, "sqlite3")
    database = sqlite3.connect(whole / "whole.db3")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA wal_autocheckpoint=0")
    rows = list(database.execute("SELECT * FROM messages ORDER BY timestamp"))
    late = rows[len(rows) // 2 :]
    database.executemany("DELETE FROM messages WHERE id=?", [(row[0],) for row in late])
    database.commit()
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.executemany("INSERT INTO messages VALUES (?, ?, ?, ?)", late)
    database.commit()
    # The folder as it is while the recorder runs, or after it was killed.
    path = tmp_path / "bag"
    path.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(whole / f"whole.db3{suffix}", path / f"x_0.db3{suffix}")
    database.close()
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}
    stamps, problems = stamps_and_problems(path)
    assert stamps == stamps_and_problems(whole)[0] and len(stamps) > 4
    assert problems == ["no_metadata"]
    after = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in path.iterdir()}
    assert after == before


def test_messages_of_no_topic_and_an_open_journal_are_reported(tmp_path, images):
    path = bag_families.foxglove(tmp_path / "bag", images, "sqlite3")
    with sqlite3.connect(path / "bag.db3") as database:
        ((count,),) = database.execute(
            "SELECT count(*) FROM messages JOIN topics ON topics.id = topic_id WHERE name='/odom'"
        )
        database.execute("DELETE FROM topics WHERE name='/odom'")
    (path / "bag.db3-journal").write_bytes(b"x")
    with Recording(path) as recording:
        assert not any(message.topic == "/odom" for message in recording.messages())
        texts = [str(problem) for problem in recording.problems]
    assert texts[0] == f"bag.db3: {count} messages belong to no topic and are not read"
    assert "a journal lies beside it" in texts[1]
    assert f"/odom 0 instead of {count}" in texts[2]


# -- Git LFS -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3", "bag.bag"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
    )
    with pytest.raises(BagError, match=r"Git LFS pointer in place of the file; run `git lfs pull`"):
        Recording(tmp_path / name)
