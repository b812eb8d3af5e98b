"""The stereo cost's GPU kernel, on machines without a GPU: interpreted, and compiled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from interpreted import needs_triton, run_interpreted

pytestmark = needs_triton
FILE = "interpreted_stereo_cost.py"


def test_in_the_interpreter() -> None:
    run_interpreted(FILE, "-m", "not slow")


@pytest.mark.slow
def test_in_the_interpreter_at_the_size_of_a_network() -> None:
    run_interpreted(FILE, "-m", "slow")


@pytest.mark.slow
@pytest.mark.parametrize("features", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("capability", [90, 89, 87])
def test_compiles_without_spills_and_rounds_as_the_reference(
    capability: int, features: str, tmp_path: Path
) -> None:
    from ahead_of_time import SHARED_MEMORY, compile_kernel

    from occ_perception.ops import stereo_cost_triton as module

    pointer = f"*{features}"
    compiled = compile_kernel(
        module.cost_kernel,
        {
            "now_nCP": pointer,
            "then_nCP": pointer,
            "places_nPD2": "*fp32",
            "cost_nDP": pointer,
            "outside_cost": "fp32",
        },
        {
            "C": 256,
            "D": 88,
            "h": 64,
            "w": 176,
            "DEPTHS": module.DEPTHS,
            "PIXELS": module.PIXELS,
        },  # ALOcc-3D
        capability,
        tmp_path,
        num_warps=module.WARPS,
        enable_fp_fusion=False,
    )
    assert compiled.stack == 0 and compiled.registers <= 64
    assert compiled.shared <= SHARED_MEMORY[capability]
    assert not re.search(r"fma\.|div\.full|approx|(add|sub|mul|setp)\.\S*ftz", compiled.ptx)
    # Every value of a sample stays in its lane.
    assert not re.search(r"\b(LDS|STS|BAR)\b", compiled.sass)
