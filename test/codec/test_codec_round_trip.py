"""Messages of occupancy and flow decode to what was encoded, and damaged ones are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from occ_perception.codec import (
    DENSE,
    RLE,
    SPARSE,
    EncodedFlow,
    EncodedOccupancy,
    MessageError,
    decode_flow,
    decode_observed,
    decode_occupancy,
    encode_flow,
    encode_observed,
    encode_occupancy,
    validate_occupancy,
)

ENCODINGS = st.sampled_from([DENSE, SPARSE, RLE])
DIMS = st.tuples(*[st.integers(1, 9)] * 3)
NUM_CLASSES = 6
EMPTY = 4
UNKNOWN = 255


@st.composite
def label_volumes(draw):
    """Volumes with runs: a few classes, also the unknown one, voxel by voxel and in slabs."""
    dims = draw(DIMS)
    ids = st.sampled_from([*range(NUM_CLASSES), UNKNOWN])
    volume = draw(hnp.arrays(np.uint8, dims, elements=ids, fill=st.just(EMPTY)))
    for _ in range(draw(st.integers(0, 2))):
        axis = draw(st.integers(0, 2))
        slab = [slice(None)] * 3
        slab[axis] = draw(st.integers(0, dims[axis] - 1))
        volume[tuple(slab)] = draw(ids)
    return volume


def read_by_hand(message: EncodedOccupancy, dims, empty_class: int, num_classes: int):
    """Decode a message voxel by voxel, from its definition; None if it is invalid."""
    nx, ny, nz = dims
    voxels = nx * ny * nz
    labels = [int(value) for value in message.labels]
    indices = [int(value) for value in message.indices]
    runs = [int(value) for value in message.run_lengths]
    if any(label >= num_classes and label != UNKNOWN for label in labels):
        return None
    flat: list[int] = []
    if message.encoding == 0 and not indices and not runs:
        flat = labels
    elif message.encoding == 1 and len(indices) == len(labels) and not runs:
        if indices != sorted(set(indices)) or any(index >= voxels for index in indices):
            return None
        listed = dict(zip(indices, labels, strict=True))
        flat = [listed.get(voxel, empty_class) for voxel in range(voxels)]
    elif message.encoding == 2 and len(runs) == len(labels) and not indices and 0 not in runs:
        for label, count in zip(labels, runs, strict=True):
            flat += [label] * count
    if len(flat) != voxels:
        return None
    volume = np.empty(dims, np.uint8)
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                volume[i, j, k] = flat[i + nx * (j + ny * k)]
    return volume


@given(label_volumes(), ENCODINGS)
def test_labels_survive_every_encoding(labels, encoding):
    message = encode_occupancy(labels, EMPTY, encoding)
    validate_occupancy(message, labels.shape, EMPTY, NUM_CLASSES)
    decoded = decode_occupancy(message, labels.shape, EMPTY, NUM_CLASSES)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, labels)
    np.testing.assert_array_equal(read_by_hand(message, labels.shape, EMPTY, NUM_CLASSES), labels)


@given(DIMS.flatmap(lambda dims: hnp.arrays(np.bool_, dims)))
def test_observed_voxels_survive(observed):
    runs = encode_observed(observed)
    assert runs.dtype == np.uint32 and (runs[1:] > 0).all()
    assert (runs[0] == 0) == observed[0, 0, 0]
    np.testing.assert_array_equal(decode_observed(runs, observed.shape), observed)


@given(DIMS.flatmap(lambda dims: hnp.arrays(np.bool_, dims)), st.data())
def test_lost_and_repeated_runs_of_observed_voxels_are_refused(observed, data):
    runs = encode_observed(observed)
    place = data.draw(st.integers(0, len(runs) - 1))
    lost = np.delete(runs, place)
    twice = np.insert(runs, place, runs[place])
    for changed in (lost, twice):
        # A first run of no voxels may be missing: then the message has other voxels, or none.
        if changed.sum() == observed.size or not len(changed):
            continue
        with pytest.raises(MessageError, match="observed_runs"):
            decode_observed(changed, observed.shape)


@given(label_volumes(), ENCODINGS)
def test_a_message_and_its_volume_share_no_memory(labels, encoding):
    message = encode_occupancy(labels, EMPTY, encoding)
    decoded = decode_occupancy(message, labels.shape, EMPTY, NUM_CLASSES)
    assert not np.shares_memory(message.labels, labels)
    assert not np.shares_memory(message.labels, decoded)


@given(label_volumes(), st.sampled_from([65534, 65535, 65536, 131070, 131071, 200_000]))
def test_runs_longer_than_their_field_are_split(labels, length):
    """A long slab of one class before and after an arbitrary volume, along x."""
    long = np.full((length, 1, 1), EMPTY, np.uint8)
    volume = np.concatenate([long, labels.reshape(-1, 1, 1), long])
    message = encode_occupancy(volume, EMPTY)
    assert message.run_lengths.min() >= 1
    np.testing.assert_array_equal(
        decode_occupancy(message, volume.shape, EMPTY, NUM_CLASSES), volume
    )


FIELDS = ("labels", "indices", "run_lengths")


@st.composite
def damaged(draw, message: EncodedOccupancy):
    """One to three changes: a bit, an entry more or less, two entries swapped, the encoding."""
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.booleans()) and draw(st.booleans()):
            message = dataclasses.replace(message, encoding=draw(st.integers(0, 255)))
            continue
        name = draw(st.sampled_from(FIELDS))
        values = getattr(message, name).copy()
        place = draw(st.integers(0, max(len(values) - 1, 0)))
        change = draw(st.sampled_from(["bit", "insert", "delete", "swap", "truncate"]))
        if change == "bit" and len(values):
            values[place] ^= values.dtype.type(1 << draw(st.integers(0, 8 * values.itemsize - 1)))
        elif change == "insert":
            limit = int(np.iinfo(values.dtype).max)
            values = np.insert(values, place, values.dtype.type(draw(st.integers(0, limit))))
        elif change == "delete" and len(values):
            values = np.delete(values, place)
        elif change == "swap" and len(values):
            other = draw(st.integers(0, len(values) - 1))
            values[[place, other]] = values[[other, place]]
        elif change == "truncate":
            values = values[:place]
        message = dataclasses.replace(message, **{name: values})
    return message


@given(label_volumes(), ENCODINGS, st.data())
def test_damage_is_refused_or_reads_as_written(labels, encoding, data):
    """A damaged message is refused, or decodes to what its fields state voxel by voxel."""
    message = data.draw(damaged(encode_occupancy(labels, EMPTY, encoding)))
    dims = data.draw(st.one_of(st.just(labels.shape), st.permutations(labels.shape), DIMS))
    expected = read_by_hand(message, dims, EMPTY, NUM_CLASSES)
    if expected is None:
        with pytest.raises(MessageError):
            decode_occupancy(message, dims, EMPTY, NUM_CLASSES)
        with pytest.raises(MessageError):
            validate_occupancy(message, dims, EMPTY, NUM_CLASSES)
    else:
        np.testing.assert_array_equal(decode_occupancy(message, dims, EMPTY, NUM_CLASSES), expected)


@given(label_volumes(), ENCODINGS, st.data())
def test_a_lost_or_repeated_entry_is_always_refused(labels, encoding, data):
    """The commonest damage, a field cut short or an entry sent twice, is always noticed."""
    message = encode_occupancy(labels, EMPTY, encoding)
    used = [name for name in FIELDS if len(getattr(message, name))]
    if not used:  # a SPARSE message of an empty volume has no entries to lose
        return
    name = data.draw(st.sampled_from(used))
    values = getattr(message, name)
    place = data.draw(st.integers(0, len(values) - 1))
    if data.draw(st.booleans()):
        changed = np.delete(values, place)
    else:
        changed = np.insert(values, place, values[place])
    with pytest.raises(MessageError):
        decode_occupancy(
            dataclasses.replace(message, **{name: changed}), labels.shape, EMPTY, NUM_CLASSES
        )


@st.composite
def flow_volumes(draw):
    dims = draw(DIMS)
    speeds = st.floats(-40, 40, width=32)
    flow = draw(hnp.arrays(np.float32, (*dims, 2), elements=speeds))
    mask = draw(hnp.arrays(np.bool_, dims))
    return flow, mask


@given(flow_volumes(), st.sampled_from([0.0, 0.25, 5.0]))
def test_flow_lists_moving_voxels_and_only_those(volumes, min_speed):
    flow, mask = volumes
    message = encode_flow(flow, mask, min_speed)
    decoded = decode_flow(message, mask.shape)
    speed = np.sqrt((flow.astype(np.float64) ** 2).sum(-1))
    clearly_listed = mask & (speed > min_speed * (1 + 1e-6))
    clearly_left_out = ~mask | (speed < min_speed * (1 - 1e-6))
    np.testing.assert_array_equal(decoded[clearly_listed], flow[clearly_listed])
    assert not decoded[clearly_left_out].any()
    nx, ny, _ = mask.shape
    for index, vx, vy in zip(message.indices, message.vx, message.vy, strict=True):
        voxel = (index % nx, index // nx % ny, index // (nx * ny))
        assert (vx, vy) == tuple(flow[voxel])


@given(flow_volumes(), st.data())
def test_damaged_flow_is_refused(volumes, data):
    flow, mask = volumes
    mask[0, 0, 0] = True
    message = encode_flow(flow, mask)
    last = int(message.indices[-1])
    fields = {
        "out of range": {"indices": np.append(message.indices[:-1], np.uint32(mask.size))},
        "cut short": {"vx": message.vx[:-1]},
        "one too many": {"vy": np.append(message.vy, np.float32(0))},
        "twice": {
            "indices": np.append(message.indices, np.uint32(last)),
            "vx": np.append(message.vx, np.float32(1)),
            "vy": np.append(message.vy, np.float32(1)),
        },
        "not a number": {"vx": np.append(message.vx[:-1], np.float32("nan"))},
        "speed limit": {"min_speed": float("nan")},
    }
    changes = fields[data.draw(st.sampled_from(sorted(fields)))]
    with pytest.raises(MessageError):
        decode_flow(dataclasses.replace(message, **changes), mask.shape)


def test_a_flow_message_without_movers_is_a_still_volume():
    nothing = EncodedFlow(np.empty(0, np.uint32), np.empty(0, np.float32), np.empty(0, np.float32))
    flow = decode_flow(nothing, (3, 2, 4))
    assert flow.shape == (3, 2, 4, 2)
    assert flow.dtype == np.float32
    assert not flow.any()
