"""One velocity per column, spread over the volume; training gives features of the same."""

from __future__ import annotations

import torch

from occ_perception.models.zoo import get_card
from occ_perception.nets.column_flow import ColumnFlowConfig
from occ_perception.nets.flow_head import expected_velocity

DIMS = (12, 8, 5)
GEOMETRY = get_card("alocc_town").config.geometry


def test_a_column_moves_as_one_and_so_do_the_voxels_of_one_place_of_the_map() -> None:
    net = ColumnFlowConfig(in_channels=6, hidden=4).build(GEOMETRY).eval()
    with torch.no_grad():
        velocity = net(torch.randn(2, 6, 4, 6), DIMS).velocity_BYXZ2
    assert velocity.shape == (2, 8, 12, 5, 2)
    assert bool((velocity == velocity[..., :1, :]).all())
    for y, x in ((0, 0), (3, 5), (7, 11)):
        place = velocity[:, y // 2 * 2, x // 2 * 2]
        torch.testing.assert_close(velocity[:, y, x], place, atol=0, rtol=0)
    assert float(velocity.std()) > 0


def test_training_gives_what_velocities_are_made_of() -> None:
    torch.manual_seed(0)
    net = ColumnFlowConfig(in_channels=6, hidden=4).build(GEOMETRY).eval()
    maps = torch.randn(1, 6, 4, 6)
    with torch.no_grad():
        velocity = net(maps, DIMS).velocity_BYXZ2
        net.train()
        net.norm.eval()
        features = net(maps, DIMS).features_BCYXZ
    assert features.shape == (1, 4, 4, 6, 1)  # one per column of the map
    chosen = features[0, :, 3 // 2, 7 // 2, 0][None]
    got = expected_velocity(net.velocity_bins(chosen))
    torch.testing.assert_close(got[0], velocity[0, 3, 7, 2])
