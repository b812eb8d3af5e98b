"""Scene fusion: a small layer that adapts itself to the scene while it drives through.

Legend: B batch, C channels, X, Y, Z voxels (maps have no Z axis).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.nets.temporal.step import StepControl, choose
from occ_perception.ops.backend import SceneLayer, scene_apply, scene_gradient


class SceneFusionState(NamedTuple):
    """What the scene's layer has learned since the sequence began.

    Attributes:
        weight_BCC, bias_BC: sums of all gradient steps; the layer is the checkpoint's minus them.
    """

    weight_BCC: Tensor
    bias_BC: Tensor


@dataclass(frozen=True, kw_only=True)
class SceneFusionConfig:
    """The scene's layer.

    Attributes:
        channels: width of the features.
        step_size: of the gradient step per frame.
    """

    channels: int
    step_size: float = 1.0

    def build(self) -> SceneFusion:
        """The module."""
        return SceneFusion(self)


class SceneFusion(nn.Module):
    """One step of gradient descent per frame on a layer, then the layer on the features.

    GDFusion (arXiv 2504.12959), scene-level fusion. With G the gradient of the layer's
    reconstruction error (see ops/gradient_steps.py), taken at the accumulated weight and bias and
    the checkpoint's gain and shift::

        dW <- dW + eta G_W          db <- db + eta G_b          eta = 1
        y   = layer(W0 - dW, b0 - db, gain0 - eta G_gain, shift0 - eta G_shift)(Q x) + Q x

    Gain and shift take this frame's step only: theirs is not accumulated. There is no decay, and
    a frame that starts a sequence takes its step like any other. The stored sums pass no gradient
    to the frames before.
    """

    def __init__(self, config: SceneFusionConfig) -> None:
        super().__init__()
        C = config.channels
        self.config = config
        self.query = nn.Linear(C, C, bias=False)
        self.key = nn.Linear(C, C, bias=False)
        self.value = nn.Linear(C, C, bias=False)
        self.weight = nn.Parameter(torch.eye(C)[None])
        self.bias = nn.Parameter(torch.zeros(1, C, 1))
        self.norm_weight = nn.Parameter(torch.ones(1, C, 1))
        self.norm_bias = nn.Parameter(torch.zeros(1, C, 1))

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> SceneFusionState:
        """Nothing learned yet."""
        precise = torch.promote_types(dtype, torch.float32)
        C = self.config.channels
        return SceneFusionState(
            torch.zeros(batch_size, C, C, device=device, dtype=precise),
            torch.zeros(batch_size, C, device=device, dtype=precise),
        )

    def forward(
        self, rows_BYXC: Tensor, state: SceneFusionState, step: StepControl
    ) -> tuple[Tensor, SceneFusionState]:
        """Adapted features (B, Y, X, C), and the state after this frame."""
        x = rows_BYXC.flatten(1, -2)
        learned = [choose(step.start_B, torch.zeros_like(s), s.detach()) for s in state]
        slots = len(x)
        layer = SceneLayer(
            weight_BCC=self.weight - learned[0],
            bias_BC=self.bias[..., 0] - learned[1],
            gain_BC=self.norm_weight[..., 0].expand(slots, -1),
            shift_BC=self.norm_bias[..., 0].expand(slots, -1),
        )
        gradient = scene_gradient(x, layer, self.key.weight, self.value.weight)
        eta = self.config.step_size
        adapted = SceneLayer(*(p - eta * g for p, g in zip(layer, gradient, strict=True)))
        y = scene_apply(x, adapted, self.query.weight)
        following = [s + eta * g.detach() for s, g in zip(learned, gradient[:2], strict=True)]
        return y.view(rows_BYXC.shape), SceneFusionState(*following)
