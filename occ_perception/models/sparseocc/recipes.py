"""Recipes of SparseOcc (arXiv 2312.17118)."""

from __future__ import annotations

from dataclasses import replace

from occ_perception.geometry import VoxelGrid
from occ_perception.models.sparseocc.net import SparseOccConfig
from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.sparse.frame_history import FrameHistoryConfig
from occ_perception.nets.sparse.geometry import SparseGeometry
from occ_perception.nets.sparse.mask_decoder import MaskDecoderConfig
from occ_perception.nets.sparse.mask_points import EvenDrawsConfig
from occ_perception.nets.sparse.pyramid import STRIDES, ImagePyramidConfig
from occ_perception.nets.sparse.sampling import LookConfig
from occ_perception.nets.sparse.voxel_decoder import VoxelDecoderConfig, VoxelLayerConfig

CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_FRONT_LEFT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_BACK_RIGHT",
)
"""In the order of the camera axis, which matters: of several cameras that see a place, the first
is looked at."""

_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.4, 0.4, 0.4), dims=(200, 200, 16))


def sparseocc() -> SparseOccConfig:
    """Eight frames, cells of masks picked by seeded random numbers."""
    return SparseOccConfig(
        geometry=SparseGeometry((256, 704), _GRID, num_cameras=len(CAMERAS)),
        image=ImagePyramidConfig(backbone=ResNetConfig(depth=50, out_strides=STRIDES)),
        temporal=FrameHistoryConfig(frames=7),
        voxels=VoxelDecoderConfig(
            layers=(
                VoxelLayerConfig(
                    look=LookConfig(points=4, mixed_points=128), keep=2000, keep_in_training=4000
                ),
                VoxelLayerConfig(
                    look=LookConfig(points=2, mixed_points=64), keep=8000, keep_in_training=16000
                ),
                VoxelLayerConfig(
                    look=LookConfig(points=1, mixed_points=32),
                    keep=32000,
                    keep_in_training=64000,
                    heads=None,
                ),
            )
        ),
        masks=MaskDecoderConfig(look=LookConfig(points=4, mixed_points=128)),
    )


def sparseocc_even() -> SparseOccConfig:
    """The same network, cells of masks picked at equal steps: nothing is random."""
    config = sparseocc()
    return replace(config, masks=replace(config.masks, draws=EvenDrawsConfig()))
