"""Every reference file of a model in the zoo, by the pass rule."""

from __future__ import annotations

import check
import pytest

from occ_perception.models.zoo import MODELS

# Trained without the camera mask: the same networks as their counterparts, which have files.
_WITHOUT_MASK = "_wo_mask"
STEMS = sorted(
    {
        card.config_stem
        for card in MODELS.values()
        if card.config_stem and not card.config_stem.endswith(_WITHOUT_MASK)
    }
)
# The quickest that have between them: a map and a volume, sixteen frames and gradient-descent
# fusion, stereo, flow, lidar depth; hard assignment; and the sparse network, which has nothing in
# common with them. The committed file adds a network without stereo.
USUAL = {
    "bevdetocc_r50_256x704_bevdet_pretrain_solofusion_16f",
    "aloccflow_2d_r50_256x704_bevdet_preatrain_16f",
    "alocc_3d_r50_256x704_bevdet_preatrain_gt_depth_gdfusion",
    "r50_nuimg_704x256_8f",
}


# Of the others, a quick one of another annotation set runs in the slice of slow tests.
SLICE = {"alocc_2d_mini_r50_256x704_bevdet_preatrain_surroundocc"}


def usual_or_slow(stem: str):
    """A parameter; what is not among the usual ones takes minutes all together."""
    slow = pytest.mark.slow(ci=True) if stem in SLICE else pytest.mark.slow
    return pytest.param(stem, id=stem, marks=() if stem in USUAL else slow)


@pytest.mark.parametrize("stem", [usual_or_slow(stem) for stem in STEMS])
def test_reference_file_passes(stem, shared_dir, capsys):
    path = shared_dir / "reference/golden" / f"{stem}.npz"
    status = check.main([str(path)])
    assert status == 0, capsys.readouterr()
