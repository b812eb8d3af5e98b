"""Which of our modules holds what a golden file calls by its checkpoint key.

One row per intermediate; a later model adds its rows here and nothing else. Where several rows
have one name, the first whose module the network has counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from occ_perception.nets.temporal.step import choose
from occ_perception.ops.backend import linear_corners, sample_rows

Call = tuple[tuple[Any, ...], Any]
"""Arguments and output of one call of a module."""
Read = Callable[[Call], Tensor]
PLACE_TOLERANCE = 2e-5
"""Voxels: ten spacings of float32 at a displacement of twenty, and what 98 in 100 of the stored
positions agree to. It is needed because the published numbers are no nearer to exact arithmetic
than ours: with the temporal part in float64, 14 of 20 000 published warped values and 13 of ours
are beyond the tolerance of values, which makes more than one in a thousand between the two."""


def _output(call: Call) -> Tensor:
    return call[1]


def _item(index: int) -> Read:
    return lambda call: call[1][index]


def _field(name: str) -> Read:
    return lambda call: getattr(call[1], name)


def _argument(index: int) -> Read:
    return lambda call: call[0][index]


def _cameras(read: Read) -> Read:
    """Batch and camera axis in one."""
    return lambda call: read(call).flatten(0, 1)


def _channels_first(read: Read) -> Read:
    """(B, Y, X, C) or (B, Y, X, Z, C) to (B, C, Y, X) or (B, C, Z, Y, X)."""

    def view(call: Call) -> Tensor:
        rows = read(call)
        return rows.permute(0, 4, 3, 1, 2) if rows.dim() == 5 else rows.permute(0, 3, 1, 2)

    return view


def _volume(read: Read) -> Read:
    """(B, Y, X[, Z], C) to (B, C, Y, X[, Z])."""
    return lambda call: read(call).movedim(-1, 1)


def _voxels_flat(call: Call) -> Tensor:
    """(B, Y, X[, Z], C) to (B, C, voxels)."""
    return call[1][0].flatten(1, -2).mT


def _slope_of_places(call: Call) -> Tensor:
    """How far sampled values move when their places do by what rounding may move them."""
    rows, voxels = call[0]
    total = torch.zeros_like(call[1])
    for axis in range(voxels.shape[-1]):
        step = torch.zeros_like(voxels)
        step[..., axis] = PLACE_TOLERANCE
        ends = [
            sample_rows(rows.flatten(1, -2), linear_corners(place.flatten(1, -2), rows.shape[1:-1]))
            for place in (voxels - step, voxels + step)
        ]
        total += (ends[1] - ends[0]).abs().view(rows.shape) / 2
    return total


def _sampling_grid(call: Call) -> Tensor:
    """Positions in voxels to the [-1, 1] range of the published sampling grid."""
    voxels = call[1][0]
    last = torch.tensor([size - 1 for size in voxels.shape[1:-1]], device=voxels.device)
    grid = (voxels * (2.0 / last) - 1.0)[..., [1, 0, 2][: voxels.shape[-1]]]
    return grid[:, :, :, None] if voxels.dim() == 4 else grid


def _previous_features(call: Call) -> Tensor:
    """What the plane sweep matches with: the state's features, or its own at a start."""
    features, state, step, _ = call[0]
    return choose(step.start_B, features, state.features_BNChw)


@dataclass(frozen=True)
class Tap:
    """One intermediate.

    Attributes:
        name: in the golden file.
        module: path of ours that computes it.
        read: its value from a call of the module.
        lifts: whether it lies at or before the lift, where every sample must agree.
        along: axis along which the values of several calls in one frame are joined.
        slack: how far each value may be off because the places it was read at may be.
    """

    name: str
    module: str
    read: Read = _output
    lifts: bool = False
    along: int = 0
    slack: Read | None = None


_WARPED = _channels_first(_output)
_WARP_SLACK = _channels_first(_slope_of_places)
_PAIR = _channels_first(lambda call: torch.cat(call[1]))
_SLOT = _channels_first(lambda call: call[1].flatten(0, 1))

TAPS = (
    Tap("img_backbone.0", "image.backbone", _item(0), lifts=True),
    Tap("img_backbone.1", "image.backbone", _item(1), lifts=True),
    Tap("img_backbone.2", "image.backbone", _item(2), lifts=True),
    Tap("img_neck.0", "image.neck", lifts=True),
    Tap("stereo_ref_feat", "stereo", _cameras(_previous_features), lifts=True),
    Tap("cost_volume", "stereo", _cameras(_item(0)), lifts=True),
    Tap("depth_net.cost_volumn_net", "depth.matching", lifts=True),
    Tap("depth_net.mlp_input", "depth", _argument(1), lifts=True),
    Tap("depth_net.reduce_conv", "depth.reduce", lifts=True),
    Tap("depth_net.context_se", "depth.context_gate", lifts=True),
    Tap("depth_net.depth_se", "depth.depth_gate", lifts=True),
    Tap("depth_net.depth_conv", "geometry_fusion", _cameras(_argument(0)), lifts=True),
    Tap("depth_net.depth_conv", "depth.depth_logits", lifts=True),
    Tap("depth_net.depth_head", "depth.depth_logits", lifts=True),
    Tap("depth_net.occ_conv", "depth.length_branch", lifts=True),
    Tap("depth_net.depth2occ_inter_weight", "inter_object.factors", lifts=True),
    Tap("depth_net.depth2occ_inter_bias", "inter_object.offsets", lifts=True),
    Tap("depth_net.depth_pred", "depth", _field("surface_BNDhw"), lifts=True),
    Tap("depth_net.context", "depth", _field("context_BNChw"), lifts=True),
    Tap("depth_net.depth_head2", "geometry_fusion.logits", lifts=True),
    Tap("depth_net.his_fused_logits", "geometry_fusion.blend", _item(0), lifts=True),
    Tap("depth_net.gate_net", "geometry_fusion.output_gate", _cameras(_output), lifts=True),
    Tap("depth_net.geometry", "geometry_fusion", _item(0), lifts=True),
    Tap("depth_net.geometry", "occlusion", lifts=True),
    Tap("view_transformer", "lift", lifts=True),
    Tap("backward_projection", "refine"),
    Tap("pre_process.0", "pre"),
    Tap("history_warped", "temporal.warp", _channels_first(_output), along=1),
    Tap("history_keyframe_time_conv", "temporal.project", _SLOT),
    Tap("history_keyframe_cat_conv", "temporal.fuse", _channels_first(_output)),
    Tap("his_stream_offset_net.0", "temporal.history.warp", _WARPED, slack=_WARP_SLACK),
    Tap("his_stream_offset_net.1", "temporal.motion", _sampling_grid),
    Tap("history_warped", "temporal.history.warp", _WARPED, slack=_WARP_SLACK),
    Tap("time_emb_net", "temporal.history.time_code"),
    Tap("history_keyframe_time_conv", "temporal.history.project", _PAIR),
    Tap("history_keyframe_cat_conv", "temporal.history.fuse", _channels_first(_output)),
    Tap("fuse_history.fused_bev_feat", "temporal.history", _volume(_item(0))),
    Tap("fuse_history.fused_bev_feat", "temporal", _item(0)),
    Tap("scene_his_func_after_vox_his", "temporal.scene", _voxels_flat),
    Tap("img_bev_encoder_backbone.0", "encoder.backbone", _item(0)),
    Tap("img_bev_encoder_backbone.1", "encoder.backbone", _item(1)),
    Tap("img_bev_encoder_backbone.2", "encoder.backbone", _item(2)),
    Tap("img_bev_encoder_backbone.3", "encoder.backbone", _item(3)),
    Tap("img_bev_encoder_neck", "encoder.neck"),
    Tap("img_bev_encoder_neck.0", "encoder.pyramid", _item(0)),
    Tap("img_bev_encoder_neck.1", "encoder.pyramid", _item(1)),
    Tap("img_bev_encoder_neck.2", "encoder.pyramid", _item(2)),
    Tap("final_conv", "height.conv"),
    Tap("flow_bev_history", "flow.history"),
    Tap("alocc_head.cost_volum_net", "flow.encode"),
    Tap("alocc_head.flow_post_conv", "flow.join"),
    Tap("head_flow", "flow", lambda call: call[1][0].velocity_BYXZ2),
    Tap("head_logits", "head"),
    Tap("occupancy_head.output_voxels.0", "head"),
)
LIFTS = frozenset(tap.name for tap in TAPS if tap.lifts)
FLOWS = frozenset(tap.name for tap in TAPS if tap.module.partition(".")[0] == "flow")


@contextmanager
def tapped(net: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Collects copies of all intermediates of the next forward under their checkpoint keys."""
    modules = dict(net.named_modules())
    caught: dict[str, Tensor] = {}
    handles = []
    tapped_names: dict[str, str] = {}
    for tap in TAPS:
        module = modules.get(tap.module)
        if module is None or tapped_names.setdefault(tap.name, tap.module) != tap.module:
            continue

        def hook(_module: nn.Module, args: Any, output: Any, tap: Tap = tap) -> None:
            try:
                value = tap.read((args, output)).detach().clone()
            except IndexError:  # a backbone or encoder with fewer stages
                return
            if tap.slack is not None:
                caught[f"{tap.name}|slack"] = tap.slack((args, output))
            earlier = caught.get(tap.name)
            caught[tap.name] = (
                value if earlier is None else torch.cat([earlier, value], dim=tap.along)
            )

        handles.append(module.register_forward_hook(hook))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()
