"""Extra samples against a loop over pixels, taps and depths."""

from __future__ import annotations

import torch

from occ_perception.nets.inter_object import InterObjectConfig


def test_equals_the_loop_over_taps_and_depths():
    torch.manual_seed(0)
    net = InterObjectConfig(last_bin=5, in_channels=6).build()
    features, weights = torch.randn(1, 2, 6, 2, 3), torch.rand(1, 2, 12, 2, 3)
    weights[0, 0, 0, 0, 0] = 9.0  # most probable in the first bin: one depth falls out
    weights[0, 1, 4, 1, 2] = 9.0  # around the clamp
    with torch.no_grad():
        got = net(features, weights)
        factor = torch.sigmoid(net.factors.conv(features[0]))
        offset = (4 * net.offsets.conv(features[0])).clamp(-8, 8)
    outer_taps = [tap for tap in range(9) if tap != 4]
    for n, row, column in torch.cartesian_prod(
        torch.arange(2), torch.arange(2), torch.arange(3)
    ).tolist():
        ray = weights[0, n, :, row, column]
        best = int(ray.argmax())
        for t, tap in enumerate(outer_taps):
            for h in range(3):
                at = (0, n, 3 * t + h, row, column)
                depth_bin = min(max(best + h - 1, 0), 5)
                kept = best + h - 1 >= 0
                expected = ray[depth_bin] * factor[n, 3 * tap + h, row, column] * kept
                assert got.depth_bin_BNEhw[at] == depth_bin
                torch.testing.assert_close(got.weight_BNEhw[at], expected)
                torch.testing.assert_close(
                    got.offset_BNEhw2[at], offset[n, 2 * tap : 2 * tap + 2, row, column]
                )
