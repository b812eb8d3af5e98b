"""Small inputs packed into one copy: every bit arrives, in its own shape and type."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from small_networks import inputs
from torch import Tensor

from occ_perception.models.inputs import CameraTensors
from occ_perception.runtime.stream import StepGeometry
from occ_perception.runtime.transfer import download, pack, unpack, upload

META = torch.device("meta")


@dataclass(frozen=True)
class Mixed:
    flag: Tensor
    absent: Tensor | None
    geometry: StepGeometry
    rate: float


def test_packed_tensors_come_back_bit_for_bit_each_at_an_aligned_place() -> None:
    step = inputs(0, 1, 1)
    cameras = [getattr(step.cameras, field.name) for field in fields(CameraTensors)]
    odd = [torch.tensor([True]), torch.rand(3, 5, dtype=torch.float64).T, torch.empty(0)]
    tensors = [*odd, *cameras, step.control.position_B, step.images_BN3HW[..., ::2]]
    packed = pack(tensors)
    assert packed.dtype == torch.uint8
    for tensor, back in zip(tensors, unpack(packed, tensors), strict=True):
        assert (back.dtype, back.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(back, tensor)
        assert back.untyped_storage().data_ptr() == packed.untyped_storage().data_ptr()
        assert back.storage_offset() * back.element_size() % 64 == 0


def test_dataclasses_keep_their_form_on_another_device() -> None:
    step = inputs(0, 1, 1)
    values = Mixed(torch.tensor([True]), None, StepGeometry(step.cameras, step.control), 0.5)
    assert upload(values, torch.device("cpu")) is values
    there = upload(values, META)
    assert (there.absent, there.rate) == (None, 0.5)
    assert there.flag.dtype == torch.bool and there.flag.device == META
    for mine, theirs in (
        (values.geometry.cameras, there.geometry.cameras),
        (values.geometry.control, there.geometry.control),
    ):
        for field in fields(mine):
            one, other = getattr(mine, field.name), getattr(theirs, field.name)
            assert other.device == META
            assert (one.dtype, one.shape) == (other.dtype, other.shape)


def test_what_is_in_main_memory_is_not_copied_on_its_way_back() -> None:
    step = inputs(0, 1, 1)
    values = Mixed(torch.tensor([True]), None, StepGeometry(step.cameras, step.control), 0.5)
    assert download(values) is values
