"""Overfitting two frames of the town: images, poses, labels and losses are consistent."""

from __future__ import annotations

from pathlib import Path

import pytest
from occ_training.overfitting import OverfitResult, overfit_two_frames


@pytest.mark.slow
def test_the_loss_falls_tenfold_and_the_scores_approach_the_oracle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = overfit_two_frames(tmp_path, steps=360, voxels=50, accelerator="cpu")
    with capsys.disabled():
        print(f"\n{result.summary()}")
    assert result.last_loss < result.first_loss / 10
    # The oracle has the depth and class of every pixel, but not what lies behind surfaces.
    assert result.scores["IoU"] > 0.5 * result.oracle["IoU"]
    assert result.scores["mIoU"] > 0.5 * result.oracle["mIoU"]


def test_the_summary_names_the_loss() -> None:
    scores = {"mIoU": 0.35, "IoU": 0.68}
    summary = OverfitResult(19.3, 1.6, scores, scores, Path("w")).summary()
    assert "loss without the cosine term of flow 19.300 -> 1.600" in summary
