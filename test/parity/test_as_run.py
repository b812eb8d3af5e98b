"""Golden numbers with the network as streams run it: norms folded, head merged, channels last."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from check import check_file
from golden_file import GoldenFile

from occ_perception.models.zoo import MODELS
from occ_perception.runtime.folding import fold

CPU = torch.device("cpu")
COMMITTED = sorted(Path(__file__).with_name("golden").glob("*.npz"))
STEMS = {card.config_stem for card in MODELS.values()}
ALL = sorted(
    path
    for path in Path(os.environ.get("OCC_SHARED", "/nonexistent"), "reference/golden").glob("*.npz")
    if path.stem in STEMS
)
# Merged away: the map is no longer brought to a volume.
GONE = {"final_conv"}


class AsRun(GoldenFile):
    """The file's network, rewritten."""

    def build(self):
        net = super().build()
        fold(net, CPU)
        return net


def failures(path: Path) -> list[str]:
    verdicts = list(check_file(AsRun(path), CPU))
    assert len(verdicts) > 20
    return [f"f{n} {v.line()}" for n, v in verdicts if not v.passed and v.name not in GONE]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_files_pass(path: Path) -> None:
    assert failures(path) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_reference_files_pass(path: Path) -> None:
    assert failures(path) == []
