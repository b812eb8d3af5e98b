"""Golden numbers with the network as streams run it: norms folded, head merged, channels last."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from check import check_file, opened
from golden_file import GoldenFile
from test_reference_files import STEMS

from occ_perception.models.network import Network
from occ_perception.runtime.folding import fold

CPU = torch.device("cpu")
COMMITTED = sorted(Path(__file__).with_name("golden").glob("*.npz"))
# Merged away: the map is no longer brought to a volume.
GONE = {"final_conv"}


def as_run(path: Path) -> GoldenFile:
    """The file with its network rewritten."""
    golden = opened(path)
    build = golden.build

    def rewritten() -> Network:
        net = build()
        fold(net, CPU)
        return net

    golden.build = rewritten
    return golden


def failures(path: Path) -> list[str]:
    verdicts = list(check_file(as_run(path), CPU))
    assert len(verdicts) > 20
    return [f"f{n} {v.line()}" for n, v in verdicts if not v.passed and v.name not in GONE]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_files_pass(path: Path) -> None:
    assert failures(path) == []


@pytest.mark.slow
@pytest.mark.parametrize("stem", STEMS)
def test_reference_files_pass(stem: str, shared_dir: Path) -> None:
    assert failures(shared_dir / "reference/golden" / f"{stem}.npz") == []
