"""Is the compressed data of a JPEG whole? Its Huffman codes are followed, without decoding pixels.

libjpeg fills damaged parts with grey and prints a warning that no Python library passes on. Damage
nearly always breaks the codes: one that does not exist, a block of more than 64 coefficients, data
that ends before the last block or goes on after it (ITU-T T.81, annexes B and F). The loops are
compiled by numba; without that package nothing is checked here.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_BASELINE = (0xC0, 0xC1)
_DHT, _SOS, _DQT, _DRI = 0xC4, 0xDA, 0xDB, 0xDD

# DC is eight times the mean of a block, of samples from -128 to 127; with room for rounding.
_LARGEST_DC = 1024 + 64
# Some cameras leave a few bytes between the last block and the next marker.
_STRAY_BYTES = 16

CAN_CHECK = find_spec("numba") is not None
"""Whether scans are checked on this machine."""

_PROBLEMS = {
    1: "a Huffman code that does not exist",
    2: "a block of more than 64 coefficients",
    3: "data that ends before the last block",
    4: "data that goes on after the last block",
    5: "a restart marker that is missing or misplaced",
    6: "a block brighter or darker than any image",
}


class _Coding(NamedTuple):
    """How the blocks of an interleaved scan are coded; arguments of ``follow_codes``."""

    tables: NDArray[np.uint16]
    short_codes: NDArray[np.uint16]
    block_parts: NDArray[np.int64]
    dc_limits: NDArray[np.int64]
    mcus: int
    restart_interval: int


def scan_problem(data: NDArray[np.uint8]) -> str | None:
    """What is wrong with the compressed data of a JPEG whose markers are in order, or None.

    Baseline JPEGs with one scan are checked, as cameras send them; others never have a problem.
    """
    if not CAN_CHECK:
        return None
    file = data.tobytes()
    try:
        start, coding = _scan_of(file)
    except (IndexError, KeyError, ValueError, ZeroDivisionError):
        return None  # tables left out, as in motion JPEG, or a header that the decoder refuses
    if coding is None:
        return None
    dc = np.zeros(len(coding.dc_limits), dtype=np.int64)
    bytes_of_file = np.frombuffer(file, np.uint8)
    return _PROBLEMS.get(_follow_codes()(bytes_of_file, start, *coding, _STRAY_BYTES, dc))


@cache
def _follow_codes() -> Any:
    from occ_perception.sensing.jpeg_scan_numba import follow_codes

    return follow_codes


def _scan_of(file: bytes) -> tuple[int, _Coding | None]:
    """First byte and coding of the first scan; no coding if it cannot be checked."""
    tables: list[tuple[int, bytes]] = []
    frame = segment = b""
    interval, position = 0, 2
    while True:
        marker = file[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        length = int.from_bytes(file[position + 2 : position + 4], "big")
        segment = file[position + 4 : position + 2 + length]
        position += 2 + length
        if marker in _BASELINE:
            frame = segment
        elif marker in (_DHT, _DQT):
            tables.append((marker, segment))
        elif marker == _DRI:
            interval = int.from_bytes(segment, "big")
        elif marker == _SOS:
            break
    # Other frames are progressive or not of Huffman codes; a height of 0 follows the scan.
    is_usual = frame and frame[0] == 8 and any(frame[1:3]) and segment[0] == frame[5]
    return position, _coding(frame, segment, tuple(tables), interval) if is_usual else None


@lru_cache(maxsize=32)  # all images of a camera are coded alike
def _coding(
    frame: bytes, scan: bytes, segments: tuple[tuple[int, bytes], ...], interval: int
) -> _Coding:
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    samplings = {frame[6 + 3 * k]: divmod(frame[7 + 3 * k], 16) for k in range(frame[5])}
    if len(samplings) == 1:  # blocks of a single component are not grouped
        samplings = dict.fromkeys(samplings, (1, 1))
    across = max(horizontal for horizontal, _ in samplings.values())
    down = max(vertical for _, vertical in samplings.values())
    codes: dict[int, NDArray[np.uint16]] = {}
    dc_steps: dict[int, int] = {}
    for marker, segment in segments:
        if marker == _DHT:
            codes |= _codes(segment)
        else:
            dc_steps |= _dc_steps(segment)
    keys, components = list(codes), list(samplings)
    block_parts = []
    for k in range(scan[0]):
        horizontal, vertical = samplings[scan[1 + 2 * k]]
        dc, ac = divmod(scan[2 + 2 * k], 16)
        part = (keys.index(dc), keys.index(16 + ac), components.index(scan[1 + 2 * k]))
        block_parts += [part] * (horizontal * vertical)
    limits = [_LARGEST_DC // dc_steps[frame[8 + 3 * k]] + 2 for k in range(len(components))]
    mcus = -(-width // (8 * across)) * -(-height // (8 * down))
    by_16_bits = np.stack(list(codes.values()))
    by_10_bits = np.ascontiguousarray(by_16_bits[:, ::64])
    by_10_bits[by_10_bits >> 8 > 10] = 0
    parts, dc_limits = np.array(block_parts), np.array(limits)
    return _Coding(by_16_bits, by_10_bits, parts, dc_limits, mcus, interval)


def _codes(segment: bytes) -> dict[int, NDArray[np.uint16]]:
    """Tables of a DHT segment: class and id -> the code at the start of any 16 bits.

    Entries are 256 * length of the code + its symbol; 0 where no code exists.
    """
    tables, position = {}, 0
    while position < len(segment):
        key, counts = segment[position], segment[position + 1 : position + 17]
        position += 17
        table, code = np.zeros(65536, dtype=np.uint16), 0
        for length, count in enumerate(counts, start=1):
            for symbol in segment[position : position + count]:
                table[code << 16 - length : code + 1 << 16 - length] = length << 8 | symbol
                code += 1
            position += count
            code <<= 1
        tables[key] = table
    return tables


def _dc_steps(segment: bytes) -> dict[int, int]:
    """Quantisation tables of a DQT segment: id -> step of the DC coefficient."""
    steps, position = {}, 0
    while position < len(segment):
        wide, key = divmod(segment[position], 16)
        size = 2 if wide else 1
        steps[key] = int.from_bytes(segment[position + 1 : position + 1 + size], "big")
        position += 1 + 64 * size
    return steps
