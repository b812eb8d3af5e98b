"""Time and bit equality of JPEG decoders on real images.

    python benchmarks/jpeg_decoders.py FOLDER [--out FILE.json]

Every .jpg below FOLDER is decoded to RGB by Pillow, by OpenCV and by our decode_image, on one
thread, from bytes in memory. The output is milliseconds of CPU time per image, which other
programs affect little, and the largest difference from Pillow, which the reference code uses.
"""

from __future__ import annotations

import argparse
import io
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import PIL
from PIL import Image

from occ_perception.sensing.images import EncodedImage, decode_image

WARM_UP, REPETITIONS = 1, 5


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def opencv(data: bytes) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def ours(data: bytes) -> np.ndarray:
    return decode_image(EncodedImage("jpeg", data))


def measure(decode: Callable[[bytes], np.ndarray], files: list[bytes]) -> dict[str, float]:
    times = []
    for repetition in range(WARM_UP + REPETITIONS):
        for data in files:
            start = time.thread_time()
            decode(data)
            if repetition >= WARM_UP:
                times.append((time.thread_time() - start) * 1e3)
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    largest = max(int(np.abs(decode(d).astype(int) - pillow(d)).max()) for d in files)
    figures = {"min": min(times), "p50": p50, "p90": p90, "p99": p99, "max": max(times)}
    return {f"{name}_ms": round(value, 2) for name, value in figures.items()} | {
        "largest_difference_from_pillow": largest
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    files = [path.read_bytes() for path in sorted(arguments.folder.rglob("*.jpg"))]
    result = {
        "images": len(files),
        "mean_kB": round(float(np.mean([len(f) for f in files])) / 1e3, 1),
        "size": "x".join(map(str, pillow(files[0]).shape[1::-1])),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "opencv": cv2.__version__,
        "pillow": PIL.__version__,
        "decoders": {f.__name__: measure(f, files) for f in (pillow, opencv, ours)},
    }
    print(json.dumps(result, indent=2))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
