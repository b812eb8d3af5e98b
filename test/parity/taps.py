"""Which of our modules holds what a golden file calls by its published name.

One row per intermediate; a later model adds its rows here and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Read = Callable[[tuple[Any, ...], Any], Tensor]


def _output(_args: tuple[Any, ...], output: Any) -> Tensor:
    return output


def _item(index: int) -> Read:
    return lambda _args, output: output[index]


def _field(name: str) -> Read:
    return lambda _args, output: getattr(output, name)


def _argument(index: int) -> Read:
    return lambda args, _output: args[index]


def _cameras_flat(_args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.flatten(0, 1)


def _slots_flat(_args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.flatten(1, 2)


@dataclass(frozen=True)
class Tap:
    """One intermediate.

    Attributes:
        name: in the golden file.
        module: path of ours that computes it.
        read: its value from the module's arguments and output.
        lifts: whether it lies at or before the lift, where every sample must agree.
    """

    name: str
    module: str
    read: Read = _output
    lifts: bool = False


TAPS = (
    Tap("img_backbone.0", "image.backbone", _item(0), lifts=True),
    Tap("img_backbone.1", "image.backbone", _item(1), lifts=True),
    Tap("img_neck.0", "image.neck", lifts=True),
    Tap("depth_net.mlp_input", "depth", _argument(1), lifts=True),
    Tap("depth_net.reduce_conv", "depth.reduce", lifts=True),
    Tap("depth_net.context_se", "depth.context_gate", lifts=True),
    Tap("depth_net.depth_se", "depth.depth_gate", lifts=True),
    Tap("depth_net.depth_conv", "depth.depth_logits", lifts=True),
    Tap("depth_net.occ_conv", "depth.length_branch", lifts=True),
    Tap("depth_net.depth_pred", "depth", _field("surface_BNDhw"), lifts=True),
    Tap("depth_net.context", "depth", _field("context_BNChw"), lifts=True),
    Tap("depth_net.geometry", "occlusion", lifts=True),
    Tap("view_transformer", "lift", lifts=True),
    Tap("history_warped", "temporal.warp", _slots_flat),
    Tap("history_keyframe_time_conv", "temporal.project", _cameras_flat),
    Tap("history_keyframe_cat_conv", "temporal.fuse"),
    Tap("fuse_history.fused_bev_feat", "temporal", _item(0)),
    Tap("img_bev_encoder_backbone.0", "encoder.backbone", _item(0)),
    Tap("img_bev_encoder_backbone.1", "encoder.backbone", _item(1)),
    Tap("img_bev_encoder_backbone.2", "encoder.backbone", _item(2)),
    Tap("img_bev_encoder_neck", "encoder.neck"),
    Tap("final_conv", "height.conv"),
    Tap("head_logits", "head"),
)
LIFTS = frozenset(tap.name for tap in TAPS if tap.lifts)


@contextmanager
def tapped(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects copies of all intermediates of the next forward under their published names."""
    modules = dict(net.named_modules())
    caught: dict[str, Tensor] = {}
    handles = []
    for tap in TAPS:
        module = modules.get(tap.module)
        if module is None:
            continue

        def hook(_module: nn.Module, args: Any, output: Any, tap: Tap = tap) -> None:
            caught[tap.name] = tap.read(args, output).detach().clone()

        handles.append(module.register_forward_hook(hook))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()
