"""The compiled loop of :mod:`.jpeg_scan`; importing this module loads the package numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from occ_perception.ops.compiled import kernel

_FIRST_RESTART = 0xD0


@kernel
def follow_codes(
    data: Any,
    start: int,
    tables: Any,
    short_codes: Any,
    block_parts: Any,
    dc_limits: Any,
    mcus: int,
    restart_interval: int,
    stray_bytes: int,
    dc: Any,
) -> int:
    """Follow the codes of a baseline scan; returns 0, or the key of a problem.

    Args:
        data: (bytes,) uint8, the file; its last marker ends the scan.
        start: first byte of the scan.
        tables: (tables, 65536) uint16, length and symbol of the code that 16 bits begin with.
        short_codes: (tables, 1024) uint16, the same by the first 10 bits, 0 for longer codes.
        block_parts: (blocks of an MCU, 3) of each block the rows of ``tables`` for DC and AC, and
            the component.
        dc_limits: (components,) largest magnitude of a quantised DC coefficient.
        mcus: number of MCUs.
        restart_interval: MCUs between restart markers; 0 = there are none.
        stray_bytes: how many bytes may lie between the last code and a marker.
        dc: (components,) int64 zeros, working memory.
    """
    size, position = len(data), start
    bits, count = np.uint64(0), 0
    restarts, left = 0, restart_interval
    for _ in range(mcus):
        if restart_interval > 0 and left == 0:
            stray = count >> 3
            while position + 1 < size and (data[position] != 0xFF or data[position + 1] == 0):
                position += 1
                stray += 1
            while position + 1 < size and data[position + 1] == 0xFF:
                position += 1
            if position + 1 >= size or data[position + 1] != _FIRST_RESTART + restarts:
                return 5
            if stray > stray_bytes:
                return 4
            position += 2
            bits, count = np.uint64(0), 0
            dc[:] = 0
            restarts, left = (restarts + 1) & 7, restart_interval
        left -= 1
        for block in range(len(block_parts)):
            k = 0
            while k < 64:
                if count < 32:  # the longest code and its bits
                    while count <= 48 and position < size:
                        byte = data[position]
                        if byte == 0xFF:
                            if position + 1 >= size or data[position + 1] != 0:
                                break
                            position += 1
                        position += 1
                        bits = (bits << np.uint64(8)) | np.uint64(byte)
                        count += 8
                if count >= 16:
                    start_bits = (bits >> np.uint64(count - 16)) & np.uint64(0xFFFF)
                else:
                    start_bits = (bits << np.uint64(16 - count)) & np.uint64(0xFFFF)
                table = block_parts[block, min(k, 1)]
                entry = int(short_codes[table, start_bits >> np.uint64(6)])
                if entry == 0:
                    entry = int(tables[table, start_bits])
                symbol, length = entry & 255, entry >> 8
                if length == 0:
                    return 1
                magnitude = symbol & 15
                count -= length + magnitude
                if count < 0:
                    return 3
                if k == 0:
                    k = 1
                    if magnitude == 0:
                        continue
                    part = block_parts[block, 2]
                    value = int((bits >> np.uint64(count)) & np.uint64((1 << magnitude) - 1))
                    is_negative = value < 1 << (magnitude - 1)
                    dc[part] += value - ((1 << magnitude) - 1 if is_negative else 0)
                    if abs(dc[part]) > dc_limits[part]:
                        return 6
                elif magnitude == 0 and symbol != 0xF0:
                    break
                else:
                    k += (symbol >> 4) + 1
                    if k > 64:
                        return 2
    stray = count >> 3
    while position + 1 < size and (data[position] != 0xFF or data[position + 1] == 0):
        position += 1
        stray += 1
    return 4 if stray > stray_bytes else 0
