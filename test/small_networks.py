"""Full networks with small images and grids, and inputs for them from two endless scenes."""

from __future__ import annotations

import math

import torch

from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import (
    CameraTensors,
    DepthHint,
    GridAugmentation,
    NetInputs,
    StepControl,
)
from occ_perception.models.random_weights import fill_random_weights

INPUT_SIZE = (64, 96)
_OPTICAL = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # ego axes from camera axes


def small_card(card: ModelCard) -> ModelCard:
    """The card with 64x96 images and 16 x 8 columns of 1 m."""
    return card.resized(INPUT_SIZE, card.config.geometry.grid.with_columns((16, 8), 1.0))


def small_network(card: ModelCard):
    """The network of the small card with recipe weights."""
    net = small_card(card).build()
    # Factors that keep the untrained network away from constant features and saturated logits.
    scale = {
        "depth_net.context_conv.weight": 20.0,
        "depth_net.offset_conv.weight": 0.02,  # of features twenty times as large
        "alocc_head.mask_embed.4.weight": 0.1,
    }
    fill_random_weights(net, card, scale=scale)
    return net


def inputs(
    scene: int, frame: int, position: int, cameras: int = 6, depth: bool = False
) -> NetInputs:
    """One slot's input; position 0 starts a sequence; with sparse measured depth on request."""
    generator = torch.Generator().manual_seed(1000 * scene + frame)
    pose = torch.eye(4).repeat(1, cameras, 1, 1)
    for camera in range(cameras):
        pose[0, camera, :3, :3] = _yaw(2 * math.pi * camera / cameras) @ _OPTICAL
        pose[0, camera, :3, 3] = torch.tensor([0.5, 0.1 * camera, 1.5])
    motion = torch.eye(4, dtype=torch.float64)
    if position:
        motion[:3, :3] = _yaw(0.05 * (scene + 1)).double()
        motion[:3, 3] = torch.tensor([0.8, 0.1 * scene, 0.02])
    K = torch.tensor([[60.0, 0, 48], [0, 60, 40], [0, 0, 1]])
    optical_motion = torch.linalg.inv(pose.double()) @ motion @ pose.double()
    images = torch.randn(1, cameras, 3, *INPUT_SIZE, generator=generator)
    measured = torch.rand(1, cameras, *INPUT_SIZE, generator=generator)
    return NetInputs(
        images_BN3HW=images,
        cameras=CameraTensors.of(
            grid_T_cam_BN44=pose,
            K_BN33=K.repeat(1, cameras, 1, 1),
            image_rotation_BN33=torch.eye(3).repeat(1, cameras, 1, 1),
            image_translation_BN3=torch.zeros(1, cameras, 3),
        ),
        control=StepControl(
            start_B=torch.tensor([position == 0]),
            previous_T_current_B44=motion[None],
            position_B=torch.tensor([position]),
            previous_cam_T_cam_BN44=optical_motion,
        ),
        augmentation=GridAugmentation.none(1),
        depth=DepthHint(torch.where(measured < 0.01, 2 + 2000 * measured, 0.0)) if depth else None,
    )


def batched(*slots: NetInputs) -> NetInputs:
    """Slots side by side."""

    def join(parts):
        first = parts[0]
        if first is None or isinstance(first, float | bool):
            return first
        if isinstance(first, torch.Tensor):
            return torch.cat(parts)
        names = first.__dataclass_fields__
        return type(first)(**{n: join([getattr(p, n) for p in parts]) for n in names})

    return join(slots)


def _yaw(angle: float) -> torch.Tensor:
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]])
