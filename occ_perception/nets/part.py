"""What modules declare about how they may be run, beside what they compute."""

from __future__ import annotations

from typing import ClassVar

from torch import nn


class Part(nn.Module):
    """A module with something to declare about how it may be run.

    Attributes:
        folds: (convolution, norm) pairs by attribute name, where ``forward`` applies the norm to
            the output of the convolution, and uses neither for anything else. Not for a norm
            after weights that are used without calling their convolution. Neighbours in an
            ``nn.Sequential`` need no declaration.
        runs_in_half: whether a part of a network may compute in half precision. Nothing that
            places pixels in the grid, warps or remembers may: a bfloat16 coordinate on a grid of
            200 voxels is off by half a voxel.
        keeps_weights: why a network with this module must not be rewritten for running, empty if
            it may be.
        keeps_memory_order: why a network with this module must not store maps channels last,
            empty if it may.
    """

    folds: ClassVar[tuple[tuple[str, str], ...]] = ()
    runs_in_half: ClassVar[bool] = False
    keeps_weights: ClassVar[str] = ""
    keeps_memory_order: ClassVar[str] = ""
