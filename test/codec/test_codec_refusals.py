"""Every contradiction in a message has its own error message."""

from __future__ import annotations

import array
import dataclasses
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from occ_perception.codec import (
    DENSE,
    FORMAT_VERSION,
    MAX_VOXELS,
    RLE,
    SPARSE,
    EncodedFlow,
    EncodedOccupancy,
    MessageError,
    check_format_version,
    decode_flow,
    decode_observed,
    decode_occupancy,
    encode_flow,
    encode_observed,
    encode_occupancy,
    encoding_from_name,
)
from occ_perception.errors import OptionError

DIMS = (4, 3, 2)
NUM_CLASSES = 18
EMPTY = 17


@pytest.fixture
def labels() -> np.ndarray:
    volume = np.full(DIMS, EMPTY, np.uint8)
    volume[0, 0, 0] = 4
    volume[1:3, 2, 1] = 11
    return volume


def decode(message: EncodedOccupancy, **changes) -> np.ndarray:
    arguments = {"dims": DIMS, "empty_class": EMPTY, "num_classes": NUM_CLASSES}
    arguments.update({key: changes.pop(key) for key in list(changes) if key in arguments})
    unknown = changes.pop("unknown_class", 255)
    return decode_occupancy(
        dataclasses.replace(message, **changes), **arguments, unknown_class=unknown
    )


REFUSALS = [
    (DENSE, {"labels": np.zeros(23, np.uint8)}, "labels has 23 entries, expected 24"),
    (DENSE, {"labels": np.full(24, 18, np.uint8)}, r"labels\[0\] = 18, expected an id below 18"),
    (DENSE, {"indices": np.zeros(1, np.uint32)}, "indices has 1 entries, expected 0"),
    (DENSE, {"run_lengths": np.ones(1, np.uint16)}, "run_lengths has 1 entries, expected 0"),
    (DENSE, {"labels": np.zeros(24, np.int64)}, "labels: got int64 .* expected flat uint8"),
    (DENSE, {"labels": np.zeros((4, 6), np.uint8)}, r"labels: got uint8 of shape \(4, 6\)"),
    (SPARSE, {"indices": np.array([0, 9, 9], np.uint32)}, "entries 1 and 2 are 9 and 9"),
    (SPARSE, {"indices": np.array([0, 22, 21], np.uint32)}, "entries 1 and 2 are 22 and 21"),
    (SPARSE, {"indices": np.array([0, 21, 24], np.uint32)}, "index 24 is outside .* 24 voxels"),
    (SPARSE, {"indices": np.array([0, 21], np.uint32)}, "indices has 2 entries, expected 3"),
    (SPARSE, {"run_lengths": np.ones(3, np.uint16)}, "run_lengths has 3 entries, expected 0"),
    (RLE, {"run_lengths": np.array([1, 20, 2, 0], np.uint16)}, "run 3 has length 0"),
    (RLE, {"run_lengths": np.array([1, 20, 2, 2], np.uint16)}, "sum to 25 voxels, the grid has 24"),
    (RLE, {"run_lengths": np.array([1, 20, 3], np.uint16)}, "run_lengths has 3 entries"),
    (RLE, {"encoding": 3}, r"unknown encoding 3, expected 0 \(dense\), 1 \(sparse\), 2 \(rle\)"),
    (RLE, {"encoding": DENSE}, "labels has 4 entries, expected 24"),
    (RLE, {"dims": (4, 3)}, r"dims must be three integers .* got \(4, 3\)"),
    (RLE, {"dims": (4, 3, 2.0)}, "dims must be three integers"),
    (RLE, {"dims": (4, 0, 2)}, r"must be positive, got \(4, 0, 2\)"),
    (RLE, {"dims": (4, 3, 3)}, "sum to 24 voxels, the grid has 36"),
    (RLE, {"num_classes": 0}, "0 class names, expected 1 to 255"),
    (RLE, {"num_classes": 256}, "256 class names, expected 1 to 255"),
    (RLE, {"num_classes": 17}, "empty class 17 is not one of 17 class names"),
    (RLE, {"unknown_class": 3}, "18 class names, expected 1 to 3"),
    (RLE, {"unknown_class": 256}, "unknown class must be an id in 0..255, got 256"),
]


@pytest.mark.parametrize(("encoding", "changes", "text"), REFUSALS)
def test_a_contradiction_is_named(labels, encoding, changes, text):
    message = encode_occupancy(labels, EMPTY, encoding)
    with pytest.raises(MessageError, match=text):
        decode(message, **changes)


@pytest.mark.parametrize("dims", [(2**32 - 1, 1, 1), (2**16, 2**16, 1), (2**31, 2**31, 4)])
@pytest.mark.parametrize("encoding", [DENSE, SPARSE, RLE])
def test_a_huge_grid_is_refused_before_memory_is_asked_for(dims, encoding):
    message = EncodedOccupancy(encoding, np.empty(0, np.uint8))
    nothing = np.empty(0, np.float32)
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match=f"more than the {MAX_VOXELS}"):
            decode(message, dims=np.array(dims, np.uint32))
        with pytest.raises(MessageError, match=f"more than the {MAX_VOXELS}"):
            decode_flow(EncodedFlow(np.empty(0, np.uint32), nothing, nothing), dims)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_largest_published_grid_fits():
    assert MAX_VOXELS >= 512 * 512 * 40


def test_the_unknown_class_is_accepted_although_it_has_no_name(labels):
    labels[3, 0, 1] = 255
    for encoding in (DENSE, SPARSE, RLE):
        decoded = decode(encode_occupancy(labels, EMPTY, encoding))
        np.testing.assert_array_equal(decoded, labels)


def test_fields_of_ros_messages_are_read(labels):
    """Python message classes hold array.array, and an empty list for fields that were not set."""
    message = encode_occupancy(labels, EMPTY, RLE)
    received = EncodedOccupancy(
        RLE,
        array.array("B", message.labels.tolist()),
        [],
        array.array("H", message.run_lengths.tolist()),
    )
    np.testing.assert_array_equal(decode(received), labels)
    empty = EncodedOccupancy(SPARSE, [], [], [])
    assert (decode(empty) == EMPTY).all()


@pytest.mark.parametrize(
    ("volume", "kind", "text"),
    [
        (np.zeros((4, 3, 2), np.int32), ValueError, "labels: got int32"),
        (np.zeros((4, 6), np.uint8), ValueError, r"uint8 \(4, 6\), expected uint8 \(X, Y, Z\)"),
        (np.zeros((4, 0, 2), np.uint8), MessageError, "dims .* must be positive"),
    ],
)
def test_the_encoder_refuses_what_it_cannot_write(volume, kind, text):
    with pytest.raises(kind, match=text):
        encode_occupancy(volume, EMPTY)


def test_the_encoder_refuses_bad_arguments(labels):
    with pytest.raises(MessageError, match=r"empty class must be an id in 0\.\.255, got 256"):
        encode_occupancy(labels, 256)
    with pytest.raises(ValueError, match="unknown encoding 7"):
        encode_occupancy(labels, EMPTY, 7)


def test_the_flow_encoder_refuses_bad_arguments():
    mask = np.ones(DIMS, bool)
    flow = np.zeros((*DIMS, 2), np.float32)
    with pytest.raises(ValueError, match="flow is float64"):
        encode_flow(flow.astype(np.float64), mask)
    with pytest.raises(ValueError, match=r"flow is float32 \(4, 3, 2\)"):
        encode_flow(flow[..., 0], mask)
    with pytest.raises(MessageError, match="min_speed must be finite and >= 0 m/s, got -1"):
        encode_flow(flow, mask, -1.0)
    flow[1, 2, 0, 1] = np.inf
    with pytest.raises(MessageError, match=r"vy\[9\] = inf m/s of voxel 9 is not finite"):
        encode_flow(flow, mask)


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        ([4, 20, 1], "observed_runs sum to 25 voxels, the grid has 24"),
        ([2**32 - 1, 2**32 - 1, 26], "observed_runs sum to 8589934616 voxels"),
        ([4, 0, 20], "observed_runs: run 1 has length 0"),
    ],
)
def test_runs_of_observed_voxels_that_contradict_the_grid_are_refused(runs, text):
    with pytest.raises(MessageError, match=text):
        decode_observed(np.array(runs, np.uint32), DIMS)


def test_observed_voxels_of_the_wrong_type_are_refused(labels):
    with pytest.raises(ValueError, match="observed: got uint8"):
        encode_observed(labels)
    assert decode_observed(np.empty(0, np.uint32), DIMS) is None


def test_names_and_versions():
    assert [encoding_from_name(name) for name in ("dense", "sparse", "rle")] == [0, 1, 2]
    with pytest.raises(OptionError, match="unknown encoding 'zip', expected one of dense, sparse"):
        encoding_from_name("zip")
    check_format_version(FORMAT_VERSION)
    with pytest.raises(MessageError, match="format version 9, this reader knows 2"):
        check_format_version(9)


def test_constants_agree_with_the_message_definitions():
    folder = Path(__file__).parents[2] / "occ_msgs" / "msg"
    text = (folder / "SemanticOccupancy.msg").read_text()
    flow_text = (folder / "OccupancyFlow.msg").read_text()
    for line in (f"DENSE={DENSE}", f"SPARSE={SPARSE}", f"RLE={RLE}"):
        assert f"uint8 {line}" in text
    for definition in (text, flow_text):
        assert f"uint8 FORMAT_VERSION={FORMAT_VERSION}\n" in definition


@pytest.mark.parametrize(
    ("file", "free", "kilobytes"),
    [
        ("occ3d_labels.npz", 17, {DENSE: 640, SPARSE: 156, RLE: 51}),
        ("openocc_flow_labels.npz", 16, {DENSE: 640, SPARSE: 291, RLE: 59}),
    ],
)
def test_sizes_on_real_labels(shared_dir, file, free, kilobytes):
    folder = shared_dir / "data" / "occ3d-openocc-labels"
    labels = np.load(folder / file)["semantics"].astype(np.uint8)
    for encoding, expected in kilobytes.items():
        message = encode_occupancy(labels, free, encoding)
        assert round(message.num_bytes / 1000) == expected
        decoded = decode_occupancy(message, labels.shape, free, free + 1)
        np.testing.assert_array_equal(decoded, labels)


def test_size_of_real_flow(shared_dir):
    path = shared_dir / "data" / "occ3d-openocc-labels" / "openocc_flow_labels.npz"
    with np.load(path) as file:
        movers = (file["semantics"] <= 7) & (np.abs(file["flow"]).max(-1) > 0)
        flow = file["flow"]
    message = encode_flow(flow, movers)
    assert len(message.indices) == np.count_nonzero(movers)
    decoded = decode_flow(message, movers.shape)
    np.testing.assert_array_equal(decoded[movers], flow[movers])
    assert not decoded[~movers].any()
