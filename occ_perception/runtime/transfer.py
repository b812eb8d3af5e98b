"""Tensors on their way to a device and back: one copy for all of a step's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

from occ_perception.runtime.nested import tensors_of, with_tensors

T = TypeVar("T")

# Every tensor begins where any number format may, and where vector units like it.
_ALIGNMENT_BYTES = 64


def upload(values: T, device: torch.device) -> T:
    """Dataclasses of tensors on a device; what is there already is returned as it is.

    A copy of every tensor by itself would make a GPU wait a dozen times per step. Their bytes are
    put side by side into page-locked memory instead, and go up in one copy that nothing waits for.

    Args:
        values: a dataclass with tensors of main memory, or with such dataclasses; other fields
            stay what they are.
        device: where they are wanted.
    """
    if device.type == "cpu":
        return values
    tensors = tensors_of(values)
    there = pack(tensors, pinned=device.type == "cuda").to(device, non_blocking=True)
    uploaded: T = with_tensors(values, unpack(there, tensors))
    return uploaded


def download(values: T) -> T:
    """Dataclasses of tensors of one device in main memory; what is there is returned as it is.

    The host waits for a GPU once, not for every tensor.
    """
    tensors = tensors_of(values)
    if not tensors or tensors[0].device.type == "cpu":
        return values
    downloaded: T = with_tensors(values, unpack(pack(tensors).cpu(), tensors))
    return downloaded


def pack(tensors: Sequence[Tensor], pinned: bool = False) -> Tensor:
    """The bytes of tensors of one device, side by side, uint8; there is at least one."""
    device = tensors[0].device
    packed = torch.empty(_size(tensors), dtype=torch.uint8, device=device, pin_memory=pinned)
    for part, tensor in zip(unpack(packed, tensors), tensors, strict=True):
        part.copy_(tensor)
    return packed


def unpack(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Views of packed bytes, with the shapes and types of the tensors that were packed."""
    views, first = [], 0
    for tensor in like:
        count = tensor.numel() * tensor.element_size()
        views.append(packed[first : first + count].view(tensor.dtype).view(tensor.shape))
        first += _aligned(count)
    return views


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(_aligned(tensor.numel() * tensor.element_size()) for tensor in tensors)


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
