"""Which share of damaged JPEGs do decoders notice?

    python benchmarks/jpeg_damage.py BAG [--images 6] [--out FILE.json]

Images of a recording are damaged at 200 random places each: one byte is changed, or a block of
bytes is set to zero, as by a lost packet or sector. Printed is the percentage of damaged images
that are noticed: by Pillow and OpenCV (which fail), by libjpeg (whose warnings OpenCV prints and
Python cannot see), by our check of markers, and by our check of markers and codes.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO

import cv2
import numpy as np
from PIL import Image

from occ_perception.bags.recording import Recording
from occ_perception.sensing import images
from occ_perception.sensing.images import EncodedImage, ImageError

PLACES = 200
BLOCKS = {"one byte changed": 0, "64 zeros": 64, "512 zeros": 512, "1400 zeros": 1400}


@contextmanager
def standard_error() -> Iterator[IO[bytes]]:
    """What the C library writes to standard error meanwhile."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield file
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def noticed_by(data: bytes) -> set[str]:
    names = set()
    try:
        Image.open(io.BytesIO(data)).load()
    except Exception:  # any error means that the damage was noticed
        names.add("Pillow")
    array = np.frombuffer(data, np.uint8)
    with standard_error() as file:
        if cv2.imdecode(array, cv2.IMREAD_COLOR) is None:
            names |= {"OpenCV", "libjpeg's warnings"}
        file.seek(0)
        if file.read():
            names.add("libjpeg's warnings")
    if images._jpeg_problem(array):
        names.add("our markers")
    try:
        images.check_compressed(EncodedImage("jpeg", data))
    except ImageError:
        names.add("our markers and codes")
    return names


def damaged(data: bytes, zeros: int, random: np.random.Generator) -> bytes:
    changed = bytearray(data)
    if zeros:
        place = int(random.integers(len(data) - zeros))
        changed[place : place + zeros] = bytes(zeros)
    else:
        changed[random.integers(len(data))] ^= int(random.integers(1, 256))
    return bytes(changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bag", type=Path)
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with Recording(arguments.bag) as bag:
        wanted = {name for name, kind in bag.topic_types.items() if "CompressedImage" in kind}
        messages = islice(bag.messages(wanted), arguments.images)
        files = [bytes(bag.decode(message).data) for message in messages]
    random = np.random.default_rng(0)
    shares = {}
    for name, zeros in BLOCKS.items():
        counts: Counter[str] = Counter()
        for data in files:
            for _ in range(PLACES):
                counts.update(noticed_by(damaged(data, zeros, random)))
        shares[name] = {who: round(100 * n / len(files) / PLACES, 1) for who, n in counts.items()}
    size = "x".join(map(str, Image.open(io.BytesIO(files[0])).size))
    mean_kB = round(float(np.mean([len(data) for data in files])) / 1e3, 1)
    result = {"images": len(files), "size": size, "mean_kB": mean_kB, "noticed_percent": shares}
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
