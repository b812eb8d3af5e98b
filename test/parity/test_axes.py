"""A whole network on a non-square grid: exchanging x and y everywhere transposes the result.

Nothing of the network is recomputed here: the mirrored run reaches every place where X and Y
could be confused (splat, warp, encoder, height, labels) with the sizes exchanged.
"""

from __future__ import annotations

import torch

from occ_perception.geometry import VoxelGrid
from occ_perception.models.inputs import CameraTensors, GridAugmentation, NetInputs, StepControl
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import get_card

EXCHANGE = torch.eye(4)[[1, 0, 2, 3]]


def network(card, mirrored):
    lower, dims = (-6.0, -4.0, -1.0), (16, 8, 1)
    if mirrored:
        lower, dims = (lower[1], lower[0], lower[2]), (dims[1], dims[0], dims[2])
    grid = VoxelGrid(lower, (1.0, 1.0, 6.4), dims)
    net = card.resized((64, 96), grid).build()
    fill_random_weights(net, card, scale={"depth_net.context_conv.weight": 20.0})
    # The camera code contains the pose and may not see that it is mirrored.
    torch.nn.init.zeros_(net.depth.camera_norm.weight)
    if mirrored:
        for part in (net.encoder, net.height):
            for conv in part.modules():
                if isinstance(conv, torch.nn.Conv2d):
                    conv.weight.data = conv.weight.data.transpose(2, 3).contiguous()
    return net


def inputs(frame, mirrored):
    generator = torch.Generator().manual_seed(frame)
    turn = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
    pose = torch.eye(4).repeat(1, 6, 1, 1)
    for camera in range(6):
        angle = torch.tensor(camera * torch.pi / 3)
        yaw = torch.eye(3)
        yaw[:2, :2] = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        pose[0, camera, :3, :3] = yaw @ turn
        pose[0, camera, :3, 3] = torch.tensor([0.5, 0.2 * camera, 1.5])
    motion = torch.eye(4)
    motion[:2, :2] = torch.tensor([[0.995, -0.0999], [0.0999, 0.995]])
    motion[:3, 3] = torch.tensor([1.3, 0.4, 0.1])
    if mirrored:
        pose, motion = EXCHANGE @ pose, EXCHANGE @ motion @ EXCHANGE
    K = torch.tensor([[60.0, 0, 48], [0, 60, 40], [0, 0, 1]])
    return NetInputs(
        images_BN3HW=torch.randn(1, 6, 3, 64, 96, generator=generator),
        cameras=CameraTensors.of(
            grid_T_cam_BN44=pose,
            K_BN33=K.expand(1, 6, 3, 3),
            image_rotation_BN33=torch.eye(3).expand(1, 6, 3, 3),
            image_translation_BN3=torch.zeros(1, 6, 3),
        ),
        control=StepControl(
            start_B=torch.tensor([frame == 0]),
            previous_T_current_B44=(motion if frame else torch.eye(4)).double()[None],
            position_B=torch.tensor([frame]),
        ),
        augmentation=GridAugmentation.none(1),
    )


@torch.no_grad()
def test_exchanging_x_and_y_everywhere_transposes_the_logits():
    card = get_card("alocc_2d_mini")
    plain, mirror = network(card, False), network(card, True)
    state, mirror_state = plain.initial_state(1), mirror.initial_state(1)
    for frame in range(3):
        outputs, state = plain(inputs(frame, False), state)
        mirrored, mirror_state = mirror(inputs(frame, True), mirror_state)
        logits = outputs.logits_BKXYZ
        assert logits.shape == (1, 19, 16, 8, 16)
        assert mirrored.logits_BKXYZ.shape == (1, 19, 8, 16, 16)
        error = (mirrored.logits_BKXYZ.transpose(2, 3) - logits).abs().max() / logits.std()
        assert error < 1e-4, f"frame {frame}"
