"""From class logits to the class map that evaluation and messages use.

Legend: B batch, K classes with the leading dummy class, X, Y, Z cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occ_perception.models.zoo import ModelCard


def class_map(logits_BKXYZ: Tensor, card: ModelCard) -> Tensor:
    """Most likely class id of every cell, uint8 (B, X, Y, Z).

    The dummy class is dropped first. The arg-max is taken after a float32 sigmoid, as published:
    logits above about 17 saturate to exactly 1 and the lowest id wins such ties.
    """
    scores = logits_BKXYZ[:, 1:].float().sigmoid()
    if card.excluded_class is not None:
        scores[:, card.excluded_class] = -1.0
    return scores.argmax(dim=1).to(torch.uint8)
