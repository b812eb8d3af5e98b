"""FB-Occ (arXiv 2307.01492): recipes, and the cards of its models."""

from __future__ import annotations

from collections.abc import Mapping

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import (
    OCCSTUDIO_FILES,
    OCCSTUDIO_LICENCE,
    WITH_MASK,
    WITHOUT_MASK,
    ModelCard,
)
from occ_perception.models.checkpoint_keys import OCCSTUDIO_NAMES, NameRules
from occ_perception.models.gdfusion import GDFUSION_NAMES, with_gradient_fusion
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.backward_projection import BackwardProjectionConfig
from occ_perception.nets.depth_net import DepthNetConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.lift import HardLiftConfig
from occ_perception.nets.occupancy_heads import PyramidHeadConfig
from occ_perception.nets.pyramid_encoder import PyramidEncoderConfig
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

_REFINE = "backward_projection."
_LAYER = _REFINE + "transformer.encoder.layers.0."
_PARTS: NameRules = (
    ("refine.embedding.", _REFINE + "bev_embedding."),
    ("refine.row_code.", _REFINE + "positional_encoding.row_embed."),
    ("refine.column_code.", _REFINE + "positional_encoding.col_embed."),
    ("refine.plane_attention.offsets.", _LAYER + "attentions.0.sampling_offsets."),
    ("refine.plane_attention.weights.", _LAYER + "attentions.0.attention_weights."),
    ("refine.plane_attention.value.", _LAYER + "attentions.0.value_proj."),
    ("refine.plane_attention.output.", _LAYER + "attentions.0.output_proj."),
    (
        "refine.image_attention.offsets.",
        _LAYER + "attentions.1.deformable_attention.sampling_offsets.",
    ),
    (
        "refine.image_attention.weights.",
        _LAYER + "attentions.1.deformable_attention.attention_weights.",
    ),
    ("refine.image_attention.value.", _LAYER + "attentions.1.deformable_attention.value_proj."),
    ("refine.image_attention.output.", _LAYER + "attentions.1.output_proj."),
    ("refine.widen.", _LAYER + "ffns.0.layers.0.0."),
    ("refine.narrow.", _LAYER + "ffns.0.layers.1."),
    ("refine.norms.", _LAYER + "norms."),
    ("encoder.project.conv.", "img_bev_encoder_backbone.input_proj.0."),
    ("encoder.project.bn.", "img_bev_encoder_backbone.input_proj.1."),
    *(
        (f"encoder.pyramid.{ours}.{i}.", f"img_bev_encoder_neck.{theirs}.{i}.0.")
        for ours, theirs in (("lateral", "lateral_convs"), ("smooth", "fpn_convs"))
        for i in range(3)
    ),
    ("head.refine.", "occupancy_head.deblock."),
    ("head.scales.", "occupancy_head.occ_convs."),
    ("head.weigh.", "occupancy_head.voxel_soft_weights."),
    ("head.reduce.", "occupancy_head.occ_pred_conv.0."),
    ("head.norm.", "occupancy_head.occ_pred_conv.1."),
    ("head.classify.", "occupancy_head.occ_pred_conv.3."),
)
FBOCC_NAMES: NameRules = (*_PARTS, *OCCSTUDIO_NAMES)
FBOCC_GF_NAMES: NameRules = (*_PARTS, *GDFUSION_NAMES)

FBOCC_UNUSED: Mapping[str, str] = {
    _REFINE + "transformer.cams_embeds": "one code per camera, multiplied by zero where it is used"
}

_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.8, 0.8, 0.8), dims=(100, 100, 8))
_CHANNELS = 80
_OCC3D_CLASSES = 19


def fbocc() -> OccupancyNetConfig:
    """Voxel network that projects forward and backward, sixteen frames of history."""
    return OccupancyNetConfig(
        geometry=ViewGeometry((256, 704), DepthBins(2.0, 42.0, 0.5), _GRID, num_cameras=6),
        image=ImageEncoderConfig(backbone=ResNetConfig(depth=50)),
        depth=DepthNetConfig(
            context_channels=_CHANNELS, width=512, aspp_channels=512, occluded_bins=None
        ),
        lift=HardLiftConfig(),
        refine=BackwardProjectionConfig(channels=_CHANNELS),
        temporal=ConcatHistoryConfig(channels=_CHANNELS),
        encoder=PyramidEncoderConfig(
            in_channels=_CHANNELS,
            widths=(64, 128, 256),
            blocks=(2, 2, 2),
            strides=(1, 2, 2),
            out_channels=256,
        ),
        head=PyramidHeadConfig(classes=_OCC3D_CLASSES, channels=256),
    )


def fbocc_gf() -> OccupancyNetConfig:
    """The same with gradient-descent fusion (GDFusion, arXiv 2504.12959) as its memory."""
    return with_gradient_fusion(fbocc())


CARDS = (
    ModelCard(
        name="fbocc",
        title="FB-Occ",
        config=fbocc(),
        config_stem="fbocc-r50-cbgs_depth_16f_16x4_20e",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "fbocc-r50-cbgs_depth_16f_16x4_20e.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 39.8, "mIoU_D": 34.2, "IoU": 69.9, "FPS": 10.3, "memory_MB": 4099.0},
        names=FBOCC_NAMES,
        unused_keys=FBOCC_UNUSED,
    ),
    ModelCard(
        name="fbocc_nomask",
        title="FB-Occ",
        config=fbocc(),
        config_stem="fbocc-r50-cbgs_depth_16f_16x4_20e_wo_mask",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITHOUT_MASK,
        url=OCCSTUDIO_FILES + "fbocc-r50-cbgs_depth_16f_16x4_20e_wo_mask.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "mIoU": 31.1,
            "RayIoU": 39.0,
            "RayIoU_1m_2m_4m": [33.0, 39.9, 44.0],
            "FPS": 10.3,
            "memory_MB": 4099.0,
        },
        names=FBOCC_NAMES,
        unused_keys=FBOCC_UNUSED,
    ),
    ModelCard(
        name="fbocc_gf",
        title="FB-Occ-GF",
        config=fbocc_gf(),
        config_stem="fbocc-r50-cbgs_depth_16f_16x4_20e_gdfusion",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "fbocc-r50-cbgs_depth_16f_16x4_20e_gdfusion.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 42.1, "mIoU_D": 36.4, "IoU": 73.3, "FPS": 10.3, "memory_MB": 2879.0},
        names=FBOCC_GF_NAMES,
        unused_keys=FBOCC_UNUSED,
    ),
)
