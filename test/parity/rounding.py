"""Networks that enlarge rounding so much that no two float32 computations of them agree.

InternImage with weights of the recipe displaces its samples by pixels, and by more where its input
is larger: 26 such layers turn the last bit of the pictures into a third of a map's rms. Maps of a
Swin differ in their last bits, too, and matching them enlarges that a hundredfold. A stored value
then says less than its digits do. How much it says is measured: the network is run a second time
with its backbone in float64, and a deviation from the stored values passes where it is of the size
of what float32 alone does to our own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from golden_file import GoldenFile, Samples
from torch import Tensor, nn
from verdict import Verdict

from occ_perception.models.inputs import NetOutputs
from occ_perception.models.labels_from_logits import class_map
from occ_perception.nets.backbones.internimage import InternImage
from occ_perception.nets.backbones.swin import SwinTransformer

# The stored values have a rounding of their own, as large as ours; largest values scatter.
_TIMES_OUR_OWN = 2.0


class PreciseBackbone(nn.Module):
    """A backbone computed in float64 between float32 pictures and float32 maps."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone.double()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(m.float() for m in self.backbone(images.double()))


def precise_twin(golden: GoldenFile, net: nn.Module) -> nn.Module | None:
    """The file's network with a backbone in float64; None where float32 tells enough."""
    if not isinstance(net.image.backbone, InternImage | SwinTransformer):
        return None
    twin = golden.build()
    twin.image.backbone = PreciseBackbone(twin.image.backbone)
    return twin


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

    def flow_samples(self, _frame: int) -> None:
        """No network that needs a twin has flow."""

    def labels(self, _frame: int) -> np.ndarray:
        """Our class map."""
        return class_map(self._outputs.logits_BKXYZ, self.card)[0].cpu().numpy()


def _at(flat: Tensor, stored: Samples) -> np.ndarray:
    index = torch.from_numpy(stored.index).to(flat.device)
    return flat[..., index].float().cpu().numpy()


def within_rounding(verdict: Verdict, own: Verdict) -> Verdict:
    """The verdict, passed where the deviation is of the size of our own rounding.

    Args:
        verdict: against the stored values.
        own: of the same tensor against our twin.
    """
    ordinary = (
        verdict.max_error <= _TIMES_OUR_OWN * own.max_error
        and verdict.mean_error <= _TIMES_OUR_OWN * own.mean_error
    )
    if verdict.passed or not ordinary:
        return verdict
    note = f"rounding alone: max {own.max_error:.1e}, mean {own.mean_error:.1e}"
    return replace(verdict, passed=True, note=note)
