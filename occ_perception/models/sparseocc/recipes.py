"""SparseOcc (arXiv 2312.17118): recipes, checkpoint keys, and the cards of its
models."""

from __future__ import annotations

from dataclasses import replace

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import OCCSTUDIO_FILES, OCCSTUDIO_LICENCE, WITHOUT_MASK, ModelCard
from occ_perception.models.checkpoint_keys import NameRules
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
    """Eight frames, voxels of masks picked by seeded random numbers."""
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
    """The same network, voxels of masks picked at equal steps: nothing is random."""
    config = sparseocc()
    return replace(config, masks=replace(config.masks, draws=EvenDrawsConfig()))


_HEAD = "pts_bbox_head.transformer."
_LAYER: NameRules = (
    ("position.", "position_encoder."),
    ("attention.attend.", "self_attn.attention.attn."),
    ("attention.fading.", "self_attn.gen_tau."),
    ("attend.", "self_attn.self_attn."),
    ("sampling.offset.", "sampling.sampling_offset."),
    ("sampling.level_weights.", "sampling.scale_weights."),
    ("mixing.generate.", "mixing.parameter_generator."),
    ("mixing.merge.", "mixing.out_proj."),
    ("feed_forward.widen.", "ffn.layers.0.0."),
    ("feed_forward.narrow.", "ffn.layers.1."),
    ("mask.", "mask_proj."),
    ("classify.", "classifier."),
    ("norm", "norm"),
)
_VOXEL_LAYERS = tuple(
    (f"voxels.layers.{number}.{ours}", f"{_HEAD}voxel_decoder.decoder_layers.{number}.{theirs}")
    for number in range(3)
    for ours, theirs in _LAYER
)
_MASK_LAYER = tuple(
    (f"masks.layer.{ours}", f"{_HEAD}decoder.decoder_layer.{theirs}")
    for ours, theirs in (("sampling.offset.", "sampling.offset."), *_LAYER)
)
_NECK = tuple(
    (f"image.neck.{ours}.{level}.", f"img_neck.{theirs}.{level}.conv.")
    for level in range(4)
    for ours, theirs in (("lateral", "lateral_convs"), ("smooth", "fpn_convs"))
)

SPARSEOCC_NAMES: NameRules = (
    ("image.backbone.", "img_backbone."),
    *_NECK,
    *_VOXEL_LAYERS,
    ("voxels.lift.0.", f"{_HEAD}voxel_decoder.lift_feat_heads.0.0."),
    ("voxels.lift.1.", f"{_HEAD}voxel_decoder.lift_feat_heads.1.0."),
    ("voxels.lift.2.", f"{_HEAD}voxel_decoder.lift_feat_heads.2.0."),
    ("voxels.classify.", f"{_HEAD}voxel_decoder.seg_pred_heads."),
    ("masks.query.", f"{_HEAD}decoder.query_feat."),
    ("masks.place.", f"{_HEAD}decoder.query_pos."),
    *_MASK_LAYER,
)
"""Rules from our names to those of the file."""

CARDS = (
    ModelCard(
        name="sparseocc",
        title="SparseOcc",
        config=sparseocc(),
        config_stem="r50_nuimg_704x256_8f",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITHOUT_MASK,
        url=OCCSTUDIO_FILES + "r50_nuimg_704x256_8f.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "mIoU": 26.6,
            "RayIoU": 32.5,
            "RayIoU_1m_2m_4m": [26.2, 33.2, 38.1],
            "FPS": None,
            "memory_MB": 5967.0,
        },
        note=(
            "Looks from random voxels of its masks; the numbers are drawn once from a "
            "fixed seed. The published data files may have held the current frame in "
            "all eight places: resetting the stream before every frame gives that "
            "reading."
        ),
        cameras=CAMERAS,
        channel_order="rgb",
        names=SPARSEOCC_NAMES,
    ),
    ModelCard(
        name="sparseocc_even",
        title="SparseOcc, evenly spread",
        config=sparseocc_even(),
        config_stem=None,
        label_set="occ3d",
        backbone="R-50",
        protocol=WITHOUT_MASK,
        url=OCCSTUDIO_FILES + "r50_nuimg_704x256_8f.pth",
        licence=OCCSTUDIO_LICENCE,
        published=None,
        note=(
            "The checkpoint of sparseocc, looking from evenly spread voxels of its "
            "masks instead of random ones; no figures are published for that."
        ),
        cameras=CAMERAS,
        channel_order="rgb",
        names=SPARSEOCC_NAMES,
    ),
)
