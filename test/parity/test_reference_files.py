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


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_reference_file_passes(path, capsys):
    status = check.main([str(path)])
    assert status == 0, capsys.readouterr().out
