"""Networks that enlarge rounding so much that no two float32 computations of them agree.

InternImage with weights of the recipe displaces its samples by pixels, and by more where its input
is larger: 26 such layers turn the last bit of the images into a third of a map's rms. Maps of a
Swin differ in their last bits, too, and matching them enlarges that a hundredfold. A stored value
then says less than its digits do. How much it says is measured: the network is run a second time
with its backbone in float64, and a deviation from the stored values passes where it is of the size
of what float32 alone does to our own.

The stored numbers come from a CPU. Another device sums in another order, so there every network has
such a twin. Which samples of a frame matched with itself hit a zero exactly is decided by rounding
as well; the twin's places in matching are therefore computed on a CPU.

What passes this way alone is marked, counted and named apart from what agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from golden_file import GoldenFile, Samples
from taps import tapped
from torch import Tensor, nn
from verdict import Verdict

from occ_perception.models.inputs import NetOutputs
from occ_perception.models.postprocess import decode
from occ_perception.models.state import TemporalState
from occ_perception.nets.backbones.internimage import InternImage
from occ_perception.nets.backbones.swin import SwinTransformer

# The stored values have a rounding of their own, as large as ours; largest values scatter.
_TIMES_OUR_OWN = 2.0


class PreciseBackbone(nn.Module):
    """A backbone computed in float64 between float32 images and float32 maps."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.double()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(m.float() for m in self.backbone(images.double()))


def needs_twin(net: nn.Module, device: torch.device) -> bool:
    """Whether stored values say less about a network on a device than their digits do."""
    enlarging = isinstance(net.image.backbone, InternImage | SwinTransformer)
    return enlarging or device.type != "cpu"


class PreciseTwin:
    """A golden file's network with its backbone in float64, frame after frame.

    Args:
        golden: gives network and inputs.
        device: where it runs.
    """

    def __init__(self, golden: GoldenFile, device: torch.device) -> None:
        self._golden, self._device = golden, device
        self._frames = iter(golden.frames)
        self._net: nn.Module | None = None
        self._state: TemporalState | None = None

    def run_to(self, frame: int) -> OwnNumbers:
        """What it has instead of the file's numbers of a frame; asked for in rising order."""
        if self._net is None:
            self._net = self._built()
            self._state = self._net.initial_state(batch_size=1)
        for number in self._frames:
            inputs = self._golden.inputs(number, self._device)
            with torch.no_grad(), tapped(self._net) as caught:
                outputs, self._state = self._net(inputs, self._state)
            if number == frame:
                return OwnNumbers(self._golden, caught, outputs)
        raise ValueError(f"frame {frame} has passed already")

    def _built(self) -> nn.Module:
        net = self._golden.build().to(self._device)
        net.image.backbone = PreciseBackbone(net.image.backbone)
        if net.config.matches_images:
            net.stereo.positions = _on_cpu(net.stereo.positions)
        return net


def _on_cpu(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function, computed there; its result is where its first argument is."""

    def there(*arguments: Tensor) -> Tensor:
        return function(*(tensor.cpu() for tensor in arguments)).to(arguments[0].device)

    return there


class OwnNumbers:
    """What a golden file would hold if it had been made by our twin.

    Args:
        golden: what is sampled, and where.
        caught: the twin's intermediates of the frame at hand.
        outputs: the twin's outputs of that frame.
    """

    def __init__(self, golden: GoldenFile, caught: dict[str, Tensor], outputs: NetOutputs) -> None:
        self.card = golden.card
        self._golden = golden
        self._caught = caught
        self._outputs = outputs

    def names(self, frame: int) -> list[str]:
        """The file's."""
        return self._golden.names(frame)

    def samples(self, frame: int, name: str) -> Samples:
        """The file's places, our values."""
        stored, own = self._golden.samples(frame, name), self._caught.get(name)
        return stored if own is None else replace(stored, values=_at(own.reshape(-1), stored))

    def logit_samples(self, frame: int) -> Samples:
        """The file's voxels, our logits."""
        stored = self._golden.logit_samples(frame)
        logits_KYXZ = self._outputs.logits_BKXYZ[0].transpose(1, 2)
        return replace(stored, values=_at(logits_KYXZ.flatten(1), stored))

    def flow_samples(self, frame: int) -> tuple[Samples, np.ndarray] | None:
        """The file's voxels, our velocities; None for models without flow."""
        stored, flow_BXYZ2 = self._golden.flow_samples(frame), self._outputs.flow_BXYZ2
        if stored is None or flow_BXYZ2 is None:
            return stored
        raw, public = stored[0], flow_BXYZ2[0].float().cpu().numpy()
        inside = public.transpose(1, 0, 2, 3)[..., ::-1].reshape(-1, 2)
        return replace(raw, values=inside[raw.index]), public.reshape(-1, 2)[raw.index]

    def labels(self, _frame: int) -> np.ndarray:
        """Our class map."""
        return decode(self._outputs, self.card).labels_BXYZ[0].cpu().numpy()


def _at(flat: Tensor, stored: Samples) -> np.ndarray:
    index = torch.from_numpy(stored.index).to(flat.device)
    return flat[..., index].float().cpu().numpy()


def within_rounding(verdict: Verdict, own: Verdict) -> Verdict:
    """The verdict, passed where the deviation is of the size of our own rounding; one that does
    not hold by itself says how large that is.

    Args:
        verdict: against the stored values.
        own: of the same tensor against our twin.
    """
    ordinary = (
        verdict.max_error <= _TIMES_OUR_OWN * own.max_error
        and verdict.mean_error <= _TIMES_OUR_OWN * own.mean_error
    )
    if verdict.passed:
        return verdict
    note = f"rounding alone: max {own.max_error:.1e}, mean {own.mean_error:.1e}"
    if not ordinary:
        return replace(verdict, note=f"{verdict.note}; {note}")
    return replace(verdict, passed=True, by_rounding=True, note=note)
