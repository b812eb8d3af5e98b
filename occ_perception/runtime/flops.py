"""How much arithmetic a network takes, counted on its shapes: no number is computed.

Legend: B batch (always 1 here), N cameras.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import (
    CameraTensors,
    DepthHint,
    GridAugmentation,
    NetInputs,
    StepControl,
)

_META = torch.device("meta")


def _added_in_place(_total: Any, left: Any, right: Any, **_options: Any) -> int:
    """Operations of ``addmm_``, which torch's own list lacks, from shapes."""
    return 2 * int(left[0]) * int(left[1]) * int(right[1])


_ALSO_COUNTED = {torch.ops.aten.addmm_: _added_in_place}


def network_without_data(card: ModelCard) -> Any:
    """The network of a card with shapes and no numbers; takes neither memory nor time."""
    with _META:
        return card.build()


def multiply_accumulates(net: Any) -> dict[str, float]:
    """Multiply-accumulates of convolutions and matrix products in one step.

    What a part computes in other ways (sampling, splatting, norms) is not counted.

    Args:
        net: as it is run; it is not changed, and may be one without data.

    Returns:
        ``total``, and the share of every part that has one.
    """
    twin = _shapes_of(net)
    counter = FlopCounterMode(display=False, custom_mapping=_ALSO_COUNTED)
    with counter, torch.no_grad():
        twin(_inputs(twin), twin.initial_state(1, device=_META))
    counts = {name: sum(of.values()) / 2 for name, of in counter.get_flop_counts().items()}
    root = type(twin).__name__
    by_part = {name: counts.get(f"{root}.{name}", 0.0) for name, _ in twin.named_children()}
    return {
        "total": counter.get_total_flops() / 2,
        **{name: count for name, count in by_part.items() if count},
    }


def _shapes_of(net: Any) -> Any:
    """A copy of the network without its numbers."""
    memo: dict[int, Any] = {}
    for parameter in net.parameters():
        memo[id(parameter)] = nn.Parameter(_empty(parameter), requires_grad=False)
    for buffer in net.buffers():
        memo[id(buffer)] = _empty(buffer)
    return copy.deepcopy(net, memo)


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device=_META)


def _inputs(net: Any) -> NetInputs:
    """Shapes of one step."""
    config = net.config
    geometry = config.geometry
    cameras = (1, geometry.num_cameras)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=_META)

    return NetInputs(
        images_BN3HW=empty(*cameras, 3, *geometry.input_size),
        cameras=CameraTensors.of(
            grid_T_cam_BN44=empty(*cameras, 4, 4),
            K_BN33=empty(*cameras, 3, 3),
            image_rotation_BN33=empty(*cameras, 3, 3),
            image_translation_BN3=empty(*cameras, 3),
        ),
        control=StepControl(
            start_B=empty(1, dtype=torch.bool),
            previous_T_current_B44=empty(1, 4, 4, dtype=torch.float64),
            position_B=empty(1, dtype=torch.int64),
            previous_cam_T_cam_BN44=empty(*cameras, 4, 4, dtype=torch.float64),
        ),
        augmentation=GridAugmentation.of(empty(1, 3, 3)),
        depth=DepthHint(empty(*cameras, *geometry.input_size))
        if net.config.measured_depth
        else None,
    )
