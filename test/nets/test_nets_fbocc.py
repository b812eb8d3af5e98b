"""The parts of FB-Occ and BEVDetOcc against their steps written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.backward_projection import BackwardProjectionConfig
from occ_perception.nets.cameras import CameraTensors
from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.occupancy_heads import MlpHeadConfig, PyramidHeadConfig
from occ_perception.nets.pyramid_encoder import PyramidEncoderConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

GRID = VoxelGrid((-3.0, -2.0, -1.0), (1.0, 1.0, 0.5), (6, 4, 8))
GEOMETRY = ViewGeometry((48, 64), DepthBins(1.0, 6.0, 0.5), GRID, num_cameras=3)
_OPTICAL = torch.tensor([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def drawn(module, seed=0):
    """Random weights in float64; statistics stay positive."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else 0.3 * noise)
    return module


def cameras():
    pose = torch.eye(4).repeat(1, 3, 1, 1)
    for camera, angle in enumerate((0.1, 1.9, 3.7)):
        c, s = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
        pose[0, camera, :3, :3] = torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ _OPTICAL
        pose[0, camera, :3, 3] = torch.tensor([0.1 * camera, 0.05, 0.3])
    return CameraTensors.of(
        grid_T_cam_BN44=pose.double(),
        K_BN33=torch.tensor([[40.0, 0, 33], [0, 41, 25], [0, 0, 1]]).double().repeat(1, 3, 1, 1),
        image_rotation_BN33=torch.diag(torch.tensor([0.9, 0.9, 1])).double().repeat(1, 3, 1, 1),
        image_translation_BN3=torch.tensor([2.0, -1.0, 0.0]).double().repeat(1, 3, 1),
    )


def attention_of_one_column(net, query, reference, depth, visible, context, weights):
    """What one column gets from the images before the output layer, sample by sample."""
    attention = net.image_attention
    offsets = attention.offsets(query).view(8, 8, 2)
    shares = attention.weights(query).view(8, 8).softmax(dim=1)
    total = torch.zeros(8, query.shape[0] // 8, dtype=query.dtype)
    for camera in range(3):
        if not visible[camera]:
            continue
        value = attention.value(context[camera].movedim(0, -1)).movedim(-1, 0)
        for head in range(8):
            channels = value[head * 2 : head * 2 + 2][None]
            for sample in range(8):
                anchor = sample % 4
                place = reference[camera, anchor]
                moved = place + offsets[head, sample] / torch.tensor([4.0, 3.0])
                number = int(((depth[camera, anchor] - 1.0) / 0.5).floor().clamp(0, 9))
                known = at(weights[camera, number][None, None], place)
                total[head] += shares[head, sample] * known * at(channels, moved)
    return total.flatten() / max(1, int(visible.sum()))


def at(maps, place):
    grid = (2 * place - 1).view(1, 1, 1, 2).to(maps.dtype)
    return F.grid_sample(maps, grid, align_corners=False).flatten()


def test_columns_attend_to_the_images_as_written():
    net = drawn(BackwardProjectionConfig(channels=16, hidden=24).build(GEOMETRY))
    net.columns.points_QK3 = net.columns.points_QK3.double()
    generator = torch.Generator().manual_seed(1)
    context = torch.randn(1, 3, 16, 3, 4, dtype=torch.float64, generator=generator)
    weights = torch.rand(1, 3, 10, 3, 4, dtype=torch.float64, generator=generator)
    columns = torch.randn(1, 24, 16, dtype=torch.float64, generator=generator)
    rig = cameras()
    seen = net.columns(rig, GridAugmentation.none(1))
    code = net._position_code()
    got = net.image_attention(columns, code, context, weights, seen)
    unseen = 0
    for q in range(24):
        y, x = divmod(q, 6)
        reference, depth, visible = [], [], []
        for camera in range(3):
            pose, K = rig.grid_T_cam_BN44[0, camera], rig.K_BN33[0, camera]
            inside = False
            for height in (-0.5, 0.5, 1.5, 2.5):  # four parts of four metres
                point = torch.tensor([-3 + x + 0.5, -2 + y + 0.5, height]).double()
                u = K @ torch.linalg.inv(pose[:3, :3]) @ (point - pose[:3, 3])
                near = max(float(u[2]), 1e-5)
                px = torch.stack([0.9 * u[0] / near + 2.0, 0.9 * u[1] / near - 1.0])
                place = px / torch.tensor([64.0, 48.0])
                reference.append(place)
                depth.append(u[2])
                inside |= bool(u[2] > 1e-5 and (place > 1e-5).all() and (place < 1 - 1e-5).all())
            visible.append(inside)
        expected = net.image_attention.output(
            attention_of_one_column(
                net,
                columns[0, q] + code[q],
                torch.stack(reference).view(3, 4, 2),
                torch.stack(depth).view(3, 4),
                torch.tensor(visible),
                context[0],
                weights[0],
            )
        )
        unseen += not any(visible)
        torch.testing.assert_close(got[0, q], expected, atol=1e-6, rtol=1e-6)
    assert 0 < unseen < 24


def test_columns_attend_to_their_neighbours_as_written():
    net = drawn(BackwardProjectionConfig(channels=16).build(GEOMETRY)).plane_attention
    net.places_Q2 = net.places_Q2.double()
    generator = torch.Generator().manual_seed(2)
    columns = torch.randn(1, 24, 16, dtype=torch.float64, generator=generator)
    code = torch.randn(24, 16, dtype=torch.float64, generator=generator)
    got = net(columns, code)
    value = net.value(columns[0]).view(4, 6, 16).movedim(-1, 0)  # without the code
    for q in (0, 9, 23):
        y, x = divmod(q, 6)
        offsets = net.offsets(columns[0, q] + code[q]).view(8, 4, 2)
        shares = net.weights(columns[0, q] + code[q]).view(8, 4).softmax(dim=1)
        heads = []
        for head in range(8):
            places = torch.tensor([(x + 0.5) / 6, (y + 0.5) / 4]) + offsets[head] / torch.tensor(
                [6.0, 4.0]
            )
            maps = value[2 * head : 2 * head + 2][None]
            heads.append(sum(s * at(maps, p) for s, p in zip(shares[head], places, strict=True)))
        torch.testing.assert_close(got[0, q], net.output(torch.cat(heads)), atol=1e-6, rtol=1e-6)


def test_the_position_code_tells_x_first():
    net = BackwardProjectionConfig(channels=16).build(GEOMETRY)
    code = net._position_code().view(4, 6, 16)
    assert torch.equal(code[2, 5, :8], net.column_code.weight[5])
    assert torch.equal(code[2, 5, 8:], net.row_code.weight[2])


def test_reducing_first_equals_the_published_order():
    config = PyramidHeadConfig(classes=5, channels=4, width=6, hidden=3)
    net = drawn(config.build())
    generator = torch.Generator().manual_seed(3)
    volumes = [
        torch.randn(1, 4, 8 // s, 8 // s, 4 // s, dtype=torch.float64, generator=generator)
        for s in (1, 2, 4)
    ]
    levels = [net.refine(volumes[0])]
    levels += [scale(volume) for scale, volume in zip(net.scales, volumes, strict=True)]
    share = net.weigh(levels[0]).softmax(dim=1)
    raised = [
        F.interpolate(level, size=(16, 16, 8), mode="trilinear", align_corners=False)
        for level in levels
    ]
    mixed = sum(share[:, s : s + 1] * level for s, level in enumerate(raised))
    expected = net.classify(F.relu(net.norm(net.reduce(mixed))))
    torch.testing.assert_close(net(volumes), expected)
    assert config.output_grid(GRID).dims == (12, 8, 16)
    assert config.output_grid(GRID).upper == GRID.upper


def test_pyramid_adds_coarser_volumes_to_finer_ones_from_the_coarsest_on():
    config = PyramidEncoderConfig(
        in_channels=3, widths=(4, 5, 6), blocks=(1, 2, 1), strides=(1, 2, 2), out_channels=7
    )
    net = drawn(config.build())
    volumes = net.backbone(net.project(torch.randn(1, 3, 8, 4, 4, dtype=torch.float64)))
    assert [tuple(v.shape[1:]) for v in volumes] == [(4, 8, 4, 4), (5, 4, 2, 2), (6, 2, 1, 1)]
    a, b, c = (lateral(v) for lateral, v in zip(net.pyramid.lateral, volumes, strict=True))
    up = lambda v, like: F.interpolate(v, size=like.shape[2:], mode="trilinear")  # noqa: E731
    b = b + up(c, b)
    a = a + up(b, a)
    for got, smooth, merged in zip(
        net.pyramid(volumes), net.pyramid.smooth, (a, b, c), strict=True
    ):
        torch.testing.assert_close(got, smooth(merged))


def test_the_head_of_bevdetocc_looks_at_every_voxel_by_itself():
    net = drawn(MlpHeadConfig(classes=5, channels=3, hidden=4).build())
    volume = torch.randn(1, 3, 4, 5, 2, dtype=torch.float64)
    got = net(volume)
    features = F.relu(net.conv(volume))
    for y, x, z in ((0, 0, 0), (3, 4, 1), (2, 1, 0)):
        hidden = torch.log1p(torch.exp(net.hidden(features[0, :, y, x, z])))
        torch.testing.assert_close(got[0, :, y, x, z], net.classify(hidden))
