"""Semantic prototype head.

Legend: B batch, C channels, K classes with the leading dummy class, X, Y, Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from occ_perception.nets.part import Part


@dataclass(frozen=True, kw_only=True)
class PrototypeHeadConfig:
    """Classes and widths.

    Attributes:
        classes: number of prototypes; the reference label convention puts a dummy class first.
        channels: width of the volume.
        image_channels: width of the lifted context where the same prototypes also supervise the
            images while training, None where they do not.
        class_scores: what classes are compared by.
    """

    class_scores: ClassVar[str] = "sigmoid"

    classes: int
    channels: int
    image_channels: int | None = None

    def build(self) -> PrototypeHead:
        """The module."""
        return PrototypeHead(self)


class PrototypeHead(Part):
    """Class logits as products of voxel features with one learned prototype per class.

    ``logit[k] = <embed(norm(query_k)), feature>`` (ALOcc, arXiv 2411.07725, semantic prototypes;
    the mask embedding of MaskFormer, arXiv 2107.06278, with query k tied to class k). The
    embedding does not depend on the input: at inference this is a bias-free 1x1x1 convolution.
    """

    runs_in_half = True

    def __init__(self, config: PrototypeHeadConfig) -> None:
        super().__init__()
        self.query = nn.Embedding(config.classes, config.channels)
        self.norm = nn.LayerNorm(config.channels)
        self.voxel_embed = _embedding(config.channels, config.channels)
        self.image_embed: nn.Module | None = None
        if config.image_channels is not None:
            self.image_embed = _embedding(config.channels, config.image_channels)

    def forward(self, volume_BCYXZ: Tensor) -> Tensor:
        """Logits (B, K, Y, X, Z)."""
        prototypes_KC = self.prototypes()
        # Height lifting leaves z outermost in memory; multiplying in that order avoids a copy.
        logits_BKZYX = torch.einsum("kc,bczyx->bkzyx", prototypes_KC, volume_BCYXZ.movedim(-1, 2))
        return logits_BKZYX.movedim(2, -1)

    def prototypes(self) -> Tensor:
        """(K, C), which the volume is multiplied by."""
        return self.voxel_embed(self.norm(self.query.weight))

    def image_prototypes(self) -> Tensor:
        """(K, image_channels) prototypes in the space of the lifted context, for training losses.

        Raises:
            RuntimeError: the head was built without image supervision.
        """
        if self.image_embed is None:
            raise RuntimeError("this head has no image prototypes: image_channels is None")
        prototypes: Tensor = self.image_embed(self.norm(self.query.weight))
        return prototypes


def _embedding(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, out_channels),
    )
