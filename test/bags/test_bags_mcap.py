"""mcap files with and without index, chunks, profile, and with messages of other systems."""

from __future__ import annotations

import bag_families
import numpy as np
import pytest
from mcap.writer import IndexType, Writer
from mcap_files import (
    messages_of,
    with_message_outside_of_chunks,
    with_neighbours_swapped,
    with_statistics_of_zero,
    write_mcap,
)
from nuscenes_folder import drawn_images

from occ_perception.bags.drive import open_recording
from occ_perception.bags.recording import BagError, RecordedMessage, Recording

FOXGLOVE = ("/CAM_LEFT/image", "protobuf", "foxglove.CompressedImage", "protobuf")
EVENTS = ("/events", "json", "Event", "jsonschema")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A recording of two frame sets per second, and the stamps of its frames."""
    path = tmp_path_factory.mktemp("source") / "bag"
    bag_families.foxglove(path, drawn_images(keyframes=2, size=(80, 46)))
    return path


@pytest.fixture(scope="module")
def messages(source) -> list[RecordedMessage]:
    return messages_of(source)


def assert_same(path, messages: list[RecordedMessage]) -> None:
    """Every message comes out, in the order of time, without a problem."""
    with Recording(path) as recording:
        read = [(m.topic, m.received_ns, bytes(m.raw)) for m in recording.messages()]
        problems = [str(problem) for problem in recording.problems]
    times = [time for _, time, _ in read]
    assert times == sorted(times)
    assert sorted(read) == sorted((m.topic, m.received_ns, bytes(m.raw)) for m in messages)
    assert problems == []


FORMS = {
    "no message index": {"index_types": IndexType.ALL & ~IndexType.MESSAGE},
    "no chunk index": {"index_types": IndexType.MESSAGE},
    "no index": {"index_types": IndexType.NONE},
    "no statistics": {"use_statistics": False},
    "no channels in the summary": {"repeat_channels": False, "repeat_schemas": False},
    "no schemas in the summary": {"repeat_schemas": False},
    "no summary": {
        "index_types": IndexType.NONE,
        "repeat_channels": False,
        "repeat_schemas": False,
        "use_statistics": False,
        "use_summary_offsets": False,
    },
    "no chunks": {"use_chunking": False},
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS.keys())
def test_every_form_of_index_gives_every_message(tmp_path, messages, options):
    disordered = with_neighbours_swapped(messages)
    assert disordered != messages
    assert_same(write_mcap(tmp_path / "x.mcap", disordered, **options), messages)


@pytest.mark.parametrize("kept", [0.4, 0.8])
@pytest.mark.parametrize("form", ["no message index", "no chunks"])
def test_every_form_is_read_up_to_a_missing_end(tmp_path, messages, form, kept):
    path = write_mcap(tmp_path / "x.mcap", messages, **FORMS[form])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with Recording(path) as recording:
        read = [(m.topic, m.received_ns) for m in recording.messages()]
        assert [problem.reason for problem in recording.problems] == ["damaged_file"]
        assert sum(topic.count for topic in recording.topics.values()) == len(read)
    assert 0.3 * len(messages) < len(read) < len(messages)
    assert read == [(m.topic, m.received_ns) for m in messages[: len(read)]]


def test_a_message_outside_of_the_chunks_is_read(tmp_path, messages):
    path = write_mcap(tmp_path / "x.mcap", messages[:-1], use_statistics=False)
    topics = list(dict.fromkeys(m.topic for m in messages))
    with_message_outside_of_chunks(path, messages[-1], topics.index(messages[-1].topic) + 1)
    assert_same(path, messages)


def test_a_summary_that_counts_nothing_hides_nothing(tmp_path, messages):
    path = write_mcap(tmp_path / "x.mcap", messages)
    with_statistics_of_zero(path)
    assert_same(path, messages)


def test_a_message_whose_length_is_damaged_ends_only_what_no_index_covers(tmp_path, messages):
    path = write_mcap(tmp_path / "x.mcap", messages, use_chunking=False)
    data = path.read_bytes()
    at = data.index(bytes(messages[5].raw)) - 22 - 8
    path.write_bytes(data[:at] + (3).to_bytes(8, "little") + data[at + 8 :])
    with Recording(path) as recording:
        assert len(list(recording.messages())) == 5
        assert "are not readable" in recording.problems[0].text


def test_topics_can_be_read_alone_in_every_form(tmp_path, messages):
    for n, options in enumerate(FORMS.values()):
        with Recording(write_mcap(tmp_path / f"{n}.mcap", messages, **options)) as recording:
            stamps = [m.received_ns for m in recording.messages({"/tf"})]
        assert stamps == [m.received_ns for m in messages if m.topic == "/tf"]


def test_a_damaged_block_loses_only_its_own_messages_and_is_counted(tmp_path, messages):
    path = write_mcap(tmp_path / "x.mcap", messages)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 50] = bytes(50)
    path.write_bytes(bytes(data))
    with Recording(path) as recording:
        read = list(recording.messages())
        problems = {problem.reason: problem.text for problem in recording.problems}
    assert 0.5 * len(messages) < len(read) < len(messages)
    assert read[0].received_ns == messages[0].received_ns
    assert read[-1].received_ns == messages[-1].received_ns
    assert problems["damaged_file"].startswith("x.mcap: the block of messages at byte")
    lost = len(messages) - len(read)
    numbers = [int(word) for word in problems["message_count"].split() if word.isdigit()]
    assert numbers[0] - numbers[1] == lost


def test_an_empty_profile_is_no_obstacle(tmp_path, messages):
    assert_same(write_mcap(tmp_path / "x.mcap", messages, profile=""), messages)


def test_type_names_without_msg_are_understood(source, tmp_path, messages):
    path = write_mcap(tmp_path / "x.mcap", messages, type_name=lambda n: n.replace("/msg/", "/"))
    with open_recording(source) as recorded, open_recording(path) as frames:
        assert [f.stamp_ns for f in frames] == [f.stamp_ns for f in recorded]
        assert frames.problems == []
        assert frames.recording.topic_types == recorded.recording.topic_types


IDL = """\
{line}
IDL: car_msgs/msg/Wheel
#include "car_msgs/msg/Spin.idl"
module car_msgs {{
  module msg {{
    struct Wheel {{
      boolean turns;
      car_msgs::msg::Spin spin;
    }};
  }};
}};

{line}
IDL: car_msgs/msg/Spin
module car_msgs {{
  module msg {{
    struct Spin {{
      float rate;
    }};
  }};
}};
""".format(line="=" * 80)


def test_definitions_in_idl_are_used(tmp_path):
    writer = Writer(str(tmp_path / "x.mcap"))
    writer.start("ros2")
    schema = writer.register_schema("car_msgs/msg/Wheel", "ros2idl", IDL.encode())
    raw = b"\0\1\0\0\1\0\0\0" + np.float32(1.5).tobytes()
    writer.add_message(writer.register_channel("/wheel", "cdr", schema), 5, raw, 5)
    writer.finish()
    with Recording(tmp_path / "x.mcap") as recording:
        (wheel,) = map(recording.decode, recording.messages())
        assert recording.problems == []
    assert wheel.turns and wheel.spin.rate == 1.5


def test_ros_1_messages_are_read_as_from_a_ros_1_bag(tmp_path):
    bag = bag_families.clynamen(tmp_path / "scene.bag", drawn_images(keyframes=1, size=(80, 46)))
    path = write_mcap(tmp_path / "x.mcap", messages_of(bag), "ros1", others=[EVENTS])
    with Recording(bag) as expected, Recording(path) as recording:
        assert recording.is_ros1 and recording.topic_types == expected.topic_types
        pairs = list(zip(recording.messages(), expected.messages(), strict=True))
        assert len(pairs) > 10
        for message, other in pairs:
            assert recording.decode(message).header if message.topic == "/odom" else True
            assert (message.topic, message.received_ns) == (other.topic, other.received_ns)
            assert bytes(message.raw) == bytes(other.raw)
        image = next(m for m, _ in pairs if m.kind == "sensor_msgs/msg/Image")
        assert recording.header_stamp_ns(image) == image.received_ns
        assert recording.decode(image).encoding == "bgr8"
        texts = [str(problem) for problem in recording.problems]
    assert texts == ["x.mcap: these are no ROS messages: /events (json, Event)"]


def test_messages_of_other_systems_beside_ros_messages_are_named(tmp_path, messages):
    path = write_mcap(tmp_path / "x.mcap", messages, others=[FOXGLOVE, EVENTS])
    with Recording(path) as recording:
        assert len(list(recording.messages())) == len(messages)
        (problem,) = recording.problems
    assert problem.reason == "foreign_topic"
    assert "/CAM_LEFT/image (protobuf, foxglove.CompressedImage), /events (json, " in problem.text


def test_a_file_without_ros_messages_is_refused_with_what_it_holds(tmp_path):
    path = write_mcap(tmp_path / "x.mcap", [], profile="", others=[FOXGLOVE])
    with pytest.raises(BagError) as refusal:
        Recording(path)
    text = str(refusal.value)
    assert "it holds no ROS messages but /CAM_LEFT/image (protobuf, foxglove.Comp" in text
    assert "profile" not in text.lower()
