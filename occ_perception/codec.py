"""Encodes occupancy and flow as the flat arrays of messages, and decodes them; numpy, no ROS.

The order is that of occ_msgs/GridGeometry: x fastest, flat index = i + nx * (j + ny * k) of voxel
[i, j, k]. Horizontal surfaces then form long runs, which run-length encoding compresses well.

Decoders check everything: an inconsistent message raises :class:`MessageError` and is never
decoded. A consistent message with wrong content (a car voxel labelled truck) cannot be detected
here; transport checksums protect against that.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import OccError, OptionError

FORMAT_VERSION = 2
"""The version of the message layout that this module writes and reads."""

DENSE, SPARSE, RLE = 0, 1, 2
"""Values of SemanticOccupancy.encoding."""

MAX_VOXELS = 2**26
"""Largest grid that is encoded or decoded: 67 million voxels, six times the largest published one.

A corrupt header must not make a reader allocate gigabytes.
"""

_NAMES = {"dense": DENSE, "sparse": SPARSE, "rle": RLE}
_LONGEST_RUN = np.iinfo(np.uint16).max
_UNKNOWN_CLASS = 255

UInt8 = NDArray[np.uint8]
UInt16 = NDArray[np.uint16]
UInt32 = NDArray[np.uint32]
Float32 = NDArray[np.float32]
Dims = tuple[int, int, int]


class MessageError(OccError):
    """A message that contradicts itself, or has an unknown format version."""


@dataclass(frozen=True, eq=False)
class EncodedOccupancy:
    """The arrays of a SemanticOccupancy message; those its encoding does not use are empty.

    Attributes:
        encoding: DENSE, SPARSE or RLE.
        labels: (n,) uint8 class ids; one per voxel, per listed voxel or per run.
        indices: (n,) uint32 flat voxel indices, strictly ascending; SPARSE only.
        run_lengths: (n,) uint16, each >= 1, summing to the number of voxels; RLE only.
    """

    encoding: int
    labels: UInt8
    indices: UInt32 = field(default_factory=lambda: np.empty(0, np.uint32))
    run_lengths: UInt16 = field(default_factory=lambda: np.empty(0, np.uint16))

    @property
    def num_bytes(self) -> int:
        """Size of the arrays in a message."""
        arrays = (self.labels, self.indices, self.run_lengths)
        return sum(array.nbytes for array in arrays)


@dataclass(frozen=True, eq=False)
class EncodedFlow:
    """The arrays of an OccupancyFlow message.

    Attributes:
        indices: (n,) uint32 flat voxel indices, strictly ascending.
        vx, vy: (n,) float32 velocity over ground, m/s.
        min_speed: voxels slower than this were left out, m/s.
    """

    indices: UInt32
    vx: Float32
    vy: Float32
    min_speed: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Size of the arrays in a message."""
        return self.indices.nbytes + self.vx.nbytes + self.vy.nbytes


def encoding_from_name(name: str) -> int:
    """DENSE, SPARSE or RLE from ``dense``, ``sparse`` or ``rle``.

    Raises:
        OptionError: no such encoding.
    """
    if name not in _NAMES:
        raise OptionError(f"unknown encoding {name!r}, expected one of {', '.join(_NAMES)}")
    return _NAMES[name]


def check_format_version(version: int) -> None:
    """Refuse messages of a format version that this module cannot read.

    Raises:
        MessageError: ``version`` is not FORMAT_VERSION.
    """
    if version != FORMAT_VERSION:
        raise MessageError(
            f"message has format version {version}, this reader knows {FORMAT_VERSION}; "
            "build writer and reader from the same release of occ_msgs"
        )


def encode_occupancy(labels_XYZ: UInt8, empty_class: int, encoding: int = RLE) -> EncodedOccupancy:
    """Encode a label volume; the result shares no memory with it.

    Args:
        labels_XYZ: (X, Y, Z) uint8 class ids.
        empty_class: id of free space, which SPARSE leaves out.
        encoding: DENSE, SPARSE or RLE.

    Raises:
        ValueError: wrong dtype, shape or encoding.
        MessageError: the grid is too large, or a class id is invalid.
    """
    _check_volume("labels", labels_XYZ, np.uint8)
    _check_id("empty class", empty_class)
    labels = _flatten(labels_XYZ)
    if encoding == DENSE:
        return EncodedOccupancy(DENSE, labels)
    if encoding == SPARSE:
        occupied = np.flatnonzero(labels != empty_class)
        return EncodedOccupancy(SPARSE, labels[occupied], indices=occupied.astype(np.uint32))
    if encoding == RLE:
        first, lengths = _runs(labels)
        return EncodedOccupancy(RLE, labels[first], run_lengths=lengths)
    raise ValueError(_unknown_encoding(encoding))


def decode_occupancy(
    encoded: EncodedOccupancy,
    dims: Sequence[int],
    empty_class: int,
    num_classes: int,
    unknown_class: int = _UNKNOWN_CLASS,
) -> UInt8:
    """The (X, Y, Z) uint8 label volume of a message; arguments as in :func:`validate_occupancy`.

    Raises:
        MessageError: the message contradicts itself; the text names the field and the place.
    """
    message, shape = _check_arrays(encoded, dims)
    _check_class_ids(message.labels, empty_class, num_classes, unknown_class)
    return _spread(message, message.labels, shape, empty_class)


def validate_occupancy(
    encoded: EncodedOccupancy,
    dims: Sequence[int],
    empty_class: int,
    num_classes: int,
    unknown_class: int = _UNKNOWN_CLASS,
) -> None:
    """Check a message without creating its grid.

    Args:
        encoded: arrays of the message.
        dims: voxels along x, y, z.
        empty_class: id of free space.
        num_classes: length of the message's class names.
        unknown_class: id of unobserved voxels; not an index into the class names.

    Raises:
        MessageError: the message contradicts itself; the text names the field and the place.
    """
    message, _ = _check_arrays(encoded, dims)
    _check_class_ids(message.labels, empty_class, num_classes, unknown_class)


def encode_observed(observed_XYZ: NDArray[np.bool_]) -> UInt32:
    """(n,) uint32 lengths of alternating runs in flat order, voxels that were not observed first.

    Only the first may be 0.

    Args:
        observed_XYZ: (X, Y, Z) bool.

    Raises:
        ValueError: wrong dtype or shape.
        MessageError: the grid is too large.
    """
    _check_volume("observed", observed_XYZ, np.bool_)
    flat = _flatten(observed_XYZ)
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0] if flat[0] else [], borders, [flat.size]])
    return np.diff(ends, prepend=0).astype(np.uint32)


def decode_observed(runs: UInt32, dims: Sequence[int]) -> NDArray[np.bool_] | None:
    """The (X, Y, Z) bool volume of :func:`encode_observed`; None for a message without runs.

    Raises:
        MessageError: a run but the first is 0, or the runs do not sum to the number of voxels.
    """
    nx, ny, nz = _check_dims(dims)
    runs = _check_flat("observed_runs", runs, np.uint32)
    if not runs.size:
        return None
    empty = np.flatnonzero(runs[1:] == 0)
    if empty.size:
        raise MessageError(f"observed_runs: run {empty[0] + 1} has length 0")
    total = int(runs.sum(dtype=np.uint64))
    if total != nx * ny * nz:
        raise MessageError(f"observed_runs sum to {total} voxels, the grid has {nx * ny * nz}")
    is_observed = np.arange(runs.size) % 2 == 1
    flat = np.repeat(is_observed, runs)
    return np.ascontiguousarray(flat.reshape(nz, ny, nx).T)


def encode_flow(
    flow_XYZ2: Float32, moving_mask_XYZ: NDArray[np.bool_], min_speed: float = 0.0
) -> EncodedFlow:
    """List the velocity of moving voxels.

    Args:
        flow_XYZ2: (X, Y, Z, 2) float32 velocity over ground (vx, vy), m/s.
        moving_mask_XYZ: (X, Y, Z) bool, the voxels that may move (occupied by a moving class).
        min_speed: leave out voxels slower than this, m/s.

    Raises:
        ValueError: wrong dtype or shape.
        MessageError: the grid is too large, a velocity is not finite, or ``min_speed`` is invalid.
    """
    _check_volume("moving mask", moving_mask_XYZ, np.bool_)
    if flow_XYZ2.shape != (*moving_mask_XYZ.shape, 2) or flow_XYZ2.dtype != np.float32:
        raise ValueError(
            f"flow is {flow_XYZ2.dtype} {flow_XYZ2.shape}, expected float32 "
            f"{(*moving_mask_XYZ.shape, 2)} (X, Y, Z, 2)"
        )
    _check_min_speed(min_speed)
    indices = np.flatnonzero(_flatten(moving_mask_XYZ))
    z, y, x = np.unravel_index(indices, moving_mask_XYZ.shape[::-1])
    velocity = flow_XYZ2[x, y, z]
    fast = ~(np.hypot(velocity[:, 0], velocity[:, 1]) < min_speed)
    encoded = EncodedFlow(
        indices[fast].astype(np.uint32),
        velocity[fast, 0],
        velocity[fast, 1],
        float(min_speed),
    )
    _check_finite(encoded)
    return encoded


def decode_flow(encoded: EncodedFlow, dims: Sequence[int]) -> Float32:
    """The (X, Y, Z, 2) float32 velocity volume of a message, m/s; zero where no voxel is listed.

    Args:
        encoded: arrays of the message.
        dims: voxels along x, y, z.

    Raises:
        MessageError: the message contradicts itself; the text names the field and the place.
    """
    nx, ny, nz = _check_dims(dims)
    indices = _check_flat("indices", encoded.indices, np.uint32)
    for name, component in (("vx", encoded.vx), ("vy", encoded.vy)):
        _check_length(name, _check_flat(name, component, np.float32), len(indices), "one per index")
    _check_indices(indices, nx * ny * nz)
    _check_min_speed(encoded.min_speed)
    _check_finite(encoded)
    flow = np.zeros((nx, ny, nz, 2), np.float32)
    z, y, x = np.unravel_index(indices, (nz, ny, nx))
    flow[x, y, z, 0] = encoded.vx
    flow[x, y, z, 1] = encoded.vy
    return flow


def _flatten(volume_XYZ: NDArray[Any]) -> NDArray[Any]:
    """A copy in flat order: the transpose is (Z, Y, X), whose C order is x fastest."""
    flat: NDArray[Any] = volume_XYZ.T.flatten()
    return flat


def _spread(message: EncodedOccupancy, values: UInt8, dims: Dims, unlisted: int) -> UInt8:
    """One value per entry of a checked message -> one per voxel, (X, Y, Z)."""
    if message.encoding == RLE:
        flat = np.repeat(values, message.run_lengths)
    elif message.encoding == SPARSE:
        flat = np.full(dims[0] * dims[1] * dims[2], unlisted, np.uint8)
        flat[message.indices] = values
    else:
        flat = values
    volume_XYZ: UInt8 = flat.reshape(dims[::-1]).T.copy(order="C")
    return volume_XYZ


def _runs(labels: UInt8) -> tuple[NDArray[np.int64], UInt16]:
    """Where each run of equal voxels starts, and its length; runs over 65535 are split."""
    starts = np.concatenate([[0], np.flatnonzero(labels[1:] != labels[:-1]) + 1])
    lengths = np.diff(starts, append=labels.size)
    pieces = -(-lengths // _LONGEST_RUN)
    last_piece = np.cumsum(pieces) - 1
    first = np.repeat(starts, pieces)
    split = np.full(first.size, _LONGEST_RUN, np.uint16)
    split[last_piece] = lengths - _LONGEST_RUN * (pieces - 1)
    return first, split


def _check_arrays(encoded: EncodedOccupancy, dims: Sequence[int]) -> tuple[EncodedOccupancy, Dims]:
    """The message as typed arrays with consistent lengths, and ``dims`` as integers."""
    shape = _check_dims(dims)
    voxels = shape[0] * shape[1] * shape[2]
    labels = _check_flat("labels", encoded.labels, np.uint8)
    indices = _check_flat("indices", encoded.indices, np.uint32)
    run_lengths = _check_flat("run_lengths", encoded.run_lengths, np.uint16)
    if encoded.encoding == DENSE:
        _check_length("labels", labels, voxels, "one per voxel")
    elif encoded.encoding == SPARSE:
        _check_length("indices", indices, len(labels), "one per label")
        _check_indices(indices, voxels)
    elif encoded.encoding == RLE:
        _check_length("run_lengths", run_lengths, len(labels), "one per label")
        _check_runs(run_lengths, voxels)
    else:
        raise MessageError(_unknown_encoding(encoded.encoding))
    if encoded.encoding != SPARSE:
        _check_length("indices", indices, 0, "they belong to SPARSE only")
    if encoded.encoding != RLE:
        _check_length("run_lengths", run_lengths, 0, "they belong to RLE only")
    return EncodedOccupancy(encoded.encoding, labels, indices, run_lengths), shape


def _unknown_encoding(encoding: object) -> str:
    known = ", ".join(f"{value} ({name})" for name, value in _NAMES.items())
    return f"unknown encoding {encoding!r}, expected {known}"


def _check_dims(dims: Sequence[int]) -> Dims:
    try:
        nx, ny, nz = (operator.index(count) for count in dims)
    except (TypeError, ValueError):
        raise MessageError(f"dims must be three integers (x, y, z), got {dims!r}") from None
    if min(nx, ny, nz) <= 0:
        raise MessageError(f"dims (x, y, z) must be positive, got {(nx, ny, nz)}")
    if nx * ny * nz > MAX_VOXELS:
        raise MessageError(
            f"dims (x, y, z) = {(nx, ny, nz)} are {nx * ny * nz} voxels, "
            f"more than the {MAX_VOXELS} that are decoded; the header is probably corrupt"
        )
    return nx, ny, nz


def _check_volume(
    name: str, volume: NDArray[Any], dtype: type, shape: tuple[int, ...] | None = None
) -> None:
    if volume.ndim != 3 or volume.dtype != dtype or volume.shape != (shape or volume.shape):
        expected = f"{np.dtype(dtype)} {shape or '(X, Y, Z)'}"
        raise ValueError(f"{name}: got {volume.dtype} {volume.shape}, expected {expected}")
    _check_dims(volume.shape)


def _check_flat(name: str, values: Any, dtype: type) -> NDArray[Any]:
    array = np.asarray(values)
    # The type of an empty list does not matter; anything else must not be cast silently.
    if array.ndim != 1 or (array.dtype != dtype and array.size):
        raise MessageError(
            f"{name}: got {array.dtype} of shape {array.shape}, expected flat {np.dtype(dtype)}"
        )
    return array.astype(dtype, copy=False)


def _check_length(name: str, values: NDArray[Any], expected: int, why: str) -> None:
    if len(values) != expected:
        raise MessageError(f"{name} has {len(values)} entries, expected {expected}: {why}")


def _check_indices(indices: UInt32, voxels: int) -> None:
    disorder = np.flatnonzero(indices[1:] <= indices[:-1])
    if disorder.size:
        at = int(disorder[0])
        raise MessageError(
            f"indices must ascend strictly, but entries {at} and {at + 1} are "
            f"{indices[at]} and {indices[at + 1]}"
        )
    if indices.size and indices[-1] >= voxels:
        raise MessageError(f"index {indices[-1]} is outside a grid of {voxels} voxels")


def _check_runs(run_lengths: UInt16, voxels: int) -> None:
    empty_runs = np.flatnonzero(run_lengths == 0)
    if empty_runs.size:
        raise MessageError(f"run {empty_runs[0]} has length 0, expected at least 1")
    total = int(run_lengths.sum(dtype=np.int64))
    if total != voxels:
        raise MessageError(f"runs sum to {total} voxels, the grid has {voxels}")


def _check_id(name: str, value: int) -> None:
    if not 0 <= value <= 255:
        raise MessageError(f"{name} must be an id in 0..255, got {value}")


def _check_class_ids(labels: UInt8, empty_class: int, num_classes: int, unknown_class: int) -> None:
    _check_id("unknown class", unknown_class)
    if not 1 <= num_classes <= unknown_class:
        raise MessageError(
            f"{num_classes} class names, expected 1 to {unknown_class}: "
            f"id {unknown_class} is kept for unobserved voxels"
        )
    if not 0 <= empty_class < num_classes:
        raise MessageError(f"empty class {empty_class} is not one of {num_classes} class names")
    strangers = np.flatnonzero((labels >= num_classes) & (labels != unknown_class))
    if strangers.size:
        at = int(strangers[0])
        raise MessageError(
            f"labels[{at}] = {labels[at]}, expected an id below {num_classes} or the unknown "
            f"class {unknown_class}"
        )


def _check_min_speed(min_speed: float) -> None:
    if not (np.isfinite(min_speed) and min_speed >= 0):
        raise MessageError(f"min_speed must be finite and >= 0 m/s, got {min_speed}")


def _check_finite(encoded: EncodedFlow) -> None:
    for name, component in (("vx", encoded.vx), ("vy", encoded.vy)):
        bad = np.flatnonzero(~np.isfinite(component))
        if bad.size:
            at = int(bad[0])
            raise MessageError(
                f"{name}[{at}] = {component[at]} m/s of voxel {encoded.indices[at]} is not finite"
            )
