"""Two frames of the town learnt by heart: images, poses, labels and losses belong together."""

from __future__ import annotations

from pathlib import Path

import pytest
from occ_training.overfitting import OverfitResult, overfit_two_frames


@pytest.mark.slow
def test_the_loss_falls_tenfold_and_the_answers_near_the_oracle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = overfit_two_frames(tmp_path, steps=360, voxels=50, accelerator="cpu")
    with capsys.disabled():
        print(f"\n{result.summary()}")
    assert result.last_loss < result.first_loss / 10
    # The oracle knows the depth and class of every pixel, but not what lies behind.
    assert result.scores["IoU"] > 0.5 * result.oracle["IoU"]
    assert result.scores["mIoU"] > 0.5 * result.oracle["mIoU"]


def test_the_summary_says_which_loss_it_means() -> None:
    scores = {"mIoU": 0.35, "IoU": 0.68}
    summary = OverfitResult(19.3, 1.6, scores, scores, Path("w")).summary()
    assert "loss without the cosine term of flow 19.300 -> 1.600" in summary
