"""Augmentation of the grid's frame.

Legend: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GridAugmentation:
    """Rotation, flip and scale of the grid's frame while training; the identity otherwise.

    Made on the host by :meth:`of`: no network inverts a matrix on its device.

    Attributes:
        matrix_B33: float32, applied to places in metres.
        inverse_B33: float64, its inverse.
    """

    matrix_B33: Tensor
    inverse_B33: Tensor

    @classmethod
    def of(cls, matrix_B33: Tensor) -> GridAugmentation:
        """Augmentation by regular matrices in main memory."""
        return cls(matrix_B33, torch.linalg.inv_ex(matrix_B33.double()).inverse)

    @classmethod
    def none(cls, batch_size: int) -> GridAugmentation:
        """The frame as it is."""
        return cls.of(torch.eye(3).repeat(batch_size, 1, 1))
