"""What the sparse file gives its network: on the device that was asked for, in the order to run."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from check import opened
from sparse_golden import FileDraws, SparseGoldenFile
from torch import Tensor

# A device whose tensors cannot meet those of a CPU, on every machine.
ELSEWHERE = torch.device("meta")


@pytest.fixture(scope="module")
def golden(shared_dir) -> SparseGoldenFile:
    return opened(shared_dir / "reference/golden/r50_nuimg_704x256_8f.npz")


def devices(value: Any) -> set[str]:
    if isinstance(value, Tensor):
        return {value.device.type}
    parts = [getattr(value, f.name) for f in fields(value)] if is_dataclass(value) else []
    return set().union(*(devices(part) for part in parts))


def test_inputs_of_a_chain_lie_on_the_device(golden) -> None:
    steps = golden.steps(2, ELSEWHERE)
    assert len(steps) == 3
    assert [devices(step) for step in steps] == [{"meta"}] * 3


def test_the_files_draws_lie_on_the_device() -> None:
    assert {part.device.type for part in FileDraws(3, ELSEWHERE)(0, 1)} == {"meta"}
    assert FileDraws(3, torch.device("cpu"))(0, 1).within_BQP.shape == (1, 100, 16)


def test_each_frame_has_a_sequence_of_its_own_that_begins_with_a_start(golden) -> None:
    sequences = [list(steps) for steps in golden.sequences(torch.device("cpu"))]
    starts = [[step.control.start_B.item() for step in steps] for steps in sequences]
    assert starts == [[True], [True, False, False], [True, False]]
