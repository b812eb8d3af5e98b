"""Cut a golden file down to what fits beside the tests: ``python trim.py FILE.npz OUT.npz``.

Keeps all inputs, the labels of every frame, and every k-th sample of each intermediate and of the
logits; k is noted beside each so that the checker finds the same positions. Says the size.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

INTERMEDIATE_SAMPLES = 600
LOGIT_SAMPLES = 150


def trimmed(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The smaller set of arrays."""
    kept = {}
    for name, array in arrays.items():
        if not name.endswith("|v"):
            kept[name] = array
            continue
        wanted = LOGIT_SAMPLES if name.endswith("/logits|v") else INTERMEDIATE_SAMPLES
        every = max(1, array.shape[-1] // wanted)
        kept[name] = array[..., ::every]
        kept[f"{name[:-2]}|every"] = np.int64(every)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    with np.load(options.source, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez_compressed(options.target, **trimmed(arrays))
    print(f"{options.target}: {options.target.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
