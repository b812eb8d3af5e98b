"""What rounding before motion fusion becomes behind it.

Motion fusion multiplies small differences: places of voxels come from sums over large features,
and where the field is steep a place a little off gives another step altogether. How much each
stored value depends on that is measured: the network is run again and again with its lifted volume
changed by one part in a million, which is how far two float32 computations of it differ.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from golden_file import GoldenFile
from taps import tapped
from torch import Tensor, nn
from verdict import Verdict

from occ_perception.models.inputs import NetOutputs

Run = tuple[dict[str, Tensor], NetOutputs]

_PART = 1e-6
_RUNS = 4
# The stored values have a rounding of their own, as large as ours.
_TIMES_OUR_OWN = 2.0


class Shaken:
    """A golden file's network run several times, its lifted volume changed at random.

    Args:
        golden: gives the inputs.
        net: its network.
        device: where it is.
    """

    def __init__(self, golden: GoldenFile, net: nn.Module, device: torch.device) -> None:
        self._golden, self._net, self._device = golden, net, device
        self._states = [net.initial_state(batch_size=1)] * _RUNS
        self._frames = iter(golden.frames)
        self._generator = torch.Generator().manual_seed(0)

    def run_to(self, frame: int) -> list[Run]:
        """Intermediates and outputs of a frame in every run; frames are asked for in order."""
        for number in self._frames:
            inputs = self._golden.inputs(number, self._device)
            handle = self._net.lift.register_forward_hook(self._change)
            runs: list[Run] = []
            for index, state in enumerate(self._states):
                with torch.no_grad(), tapped(self._net) as caught:
                    outputs, self._states[index] = self._net(inputs, state)
                runs.append((caught, outputs))
            handle.remove()
            if number == frame:
                return runs
        raise ValueError(f"frame {frame} has passed already")

    def _change(self, _module: nn.Module, _arguments: tuple[Tensor, ...], volume: Tensor) -> Tensor:
        noise = torch.randn(volume.shape, generator=self._generator).to(volume.device)
        return volume * (1.0 + _PART * noise)


def spread(caught: dict[str, Tensor], outputs: NetOutputs, runs: list[Run]) -> Run:
    """Intermediates and logits as far from ours as the farthest run, times two."""

    def farthest(ours: Tensor, others: list[Tensor]) -> Tensor:
        off = torch.stack([(other - ours).abs() for other in others]).amax(dim=0)
        return ours + _TIMES_OUR_OWN * off

    values = {
        name: farthest(value, [run[name] for run, _ in runs])
        for name, value in caught.items()
        if not name.endswith("|slack")
    }
    logits = farthest(outputs.logits_BKXYZ, [out.logits_BKXYZ for _, out in runs])
    return values, replace(outputs, logits_BKXYZ=logits)


def explained_by_rounding(verdict: Verdict, allowing: Verdict) -> Verdict:
    """The verdict, passed where it is with that spread allowed for."""
    if verdict.passed or not allowing.passed:
        return verdict
    note = f"{verdict.beyond - allowing.beyond} explained by rounding before motion fusion"
    return replace(verdict, passed=True, by_rounding=True, note=note)
