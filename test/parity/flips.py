"""Voxels of a motion field that rounding alone puts on one side of a node or the other.

The gradient step of motion fusion takes the slope of the box between nodes that a place lies in,
and takes none outside the grid. A place within rounding of a node may be in either box, the step
is then another one, and the encoder spreads what that voxel holds over its surroundings: of the
thousands of voxels of a golden file a few are in this position in every frame. How much each stored
value depends on them is measured: the network is run a second time with all of them on the other
side, and a value may deviate by what that changes.
"""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import torch
from golden_file import GoldenFile
from taps import PLACE_TOLERANCE, tapped
from torch import Tensor, nn
from verdict import Verdict

from occ_perception.models.inputs import NetOutputs
from occ_perception.nets.temporal import motion_fusion
from occ_perception.ops.backend import displacement_gradient


def gradient_on_the_other_side(
    displacement_BnA: Tensor, stored_BnA: Tensor, voxels_BnA: Tensor, sizes: tuple[int, ...]
) -> Tensor:
    """The displacement gradient with places next to a node mirrored at that node."""
    place = voxels_BnA + displacement_BnA
    to_node = place.round() - place
    mirrored = torch.where(to_node.abs() < PLACE_TOLERANCE, voxels_BnA + 2.0 * to_node, voxels_BnA)
    return displacement_gradient(displacement_BnA, stored_BnA, mirrored, sizes)


class OtherSide:
    """A golden file's network with every doubtful voxel on the other side, frame after frame.

    Args:
        golden: gives the inputs.
        net: its network, with motion fusion.
        device: where it is.
    """

    def __init__(self, golden: GoldenFile, net: nn.Module, device: torch.device) -> None:
        self._golden, self._net, self._device = golden, net, device
        self._state = net.initial_state(batch_size=1)
        self._frames = iter(golden.frames)

    def run_to(self, frame: int) -> tuple[dict[str, Tensor], NetOutputs]:
        """Intermediates and outputs of a frame; frames are asked for in rising order."""
        changed = mock.patch.object(
            motion_fusion, "displacement_gradient", gradient_on_the_other_side
        )
        for number in self._frames:
            inputs = self._golden.inputs(number, self._device)
            with torch.no_grad(), changed, tapped(self._net) as caught:
                outputs, self._state = self._net(inputs, self._state)
            if number == frame:
                return caught, outputs
        raise ValueError(f"frame {frame} has passed already")


def with_slack(caught: dict[str, Tensor], flipped: dict[str, Tensor]) -> dict[str, Tensor]:
    """Intermediates whose values may deviate by what the flips change."""
    slack = {
        f"{name}|slack": caught.get(f"{name}|slack", 0.0) + (value - flipped[name]).abs()
        for name, value in caught.items()
        if not name.endswith("|slack")
    }
    return {**caught, **slack}


def explained_by_flips(verdict: Verdict, allowing: Verdict) -> Verdict:
    """The verdict, passed where it is with flips allowed for."""
    if verdict.passed or not allowing.passed:
        return verdict
    note = f"{verdict.beyond - allowing.beyond} explained by places next to a node"
    if allowing.beyond:
        note = f"{note}, {allowing.note}"
    return replace(verdict, passed=True, note=note)
