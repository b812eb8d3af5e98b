"""Every reference file of a model in the zoo, by the pass rule."""

from __future__ import annotations

import os
from pathlib import Path

import check
import pytest

from occ_perception.models.zoo import MODELS

STEMS = {card.config_stem for card in MODELS.values()}
FILES = sorted(
    path
    for path in Path(os.environ.get("OCC_SHARED", "/nonexistent"), "reference/golden").glob("*.npz")
    if path.stem in STEMS
)


# Between them: map and volume networks, sixteen frames and gradient-descent fusion, flow, lidar.
USUAL = {
    "aloccflow_2d_r50_256x704_bevdet_preatrain_16f",
    "alocc_3d_r50_256x704_bevdet_preatrain_16f_gt_depth",
    "alocc_3d_r50_256x704_bevdet_preatrain_gdfusion",
}


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=() if p.stem in USUAL else pytest.mark.slow) for p in FILES],
)
def test_reference_file_passes(path, capsys):
    status = check.main([str(path)])
    assert status == 0, capsys.readouterr().out
