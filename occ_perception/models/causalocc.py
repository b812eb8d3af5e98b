"""CausalOcc (arXiv 2509.08388) on BEVDetOcc and ALOcc-3D: recipes, and the cards of its models.

Nothing but the paper's figures is published for these networks: names in files are those of the
public framework's parts.
"""

from __future__ import annotations

from dataclasses import replace

from occ_perception.models import alocc, bevdet
from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint_keys import OCCSTUDIO_NAMES, NameRules
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.nets.lift import GroupedLiftConfig, NormalisedTransferConfig
from occ_perception.nets.normalised_convolution import NormalisedConvolutionConfig
from occ_perception.nets.pose_correction import PoseCorrectionConfig

_PARTS: NameRules = (
    ("pose.summary.", "pose_net."),
    ("pose.head.", "pose_head."),
    ("lift.offset.", "depth_net.offset_conv."),
    ("pre.summary.", "pre_process.layers.0.0.weight_net.0."),
    ("pre.spread.", "pre_process.layers.0.0.weight_head.0."),
    ("pre.mix.", "pre_process.layers.0.0.weight_head_channel."),
)
CAUSAL_BEVDETOCC_NAMES: NameRules = (*_PARTS, *bevdet.BEVDETOCC_NAMES)
CAUSAL_ALOCC_NAMES: NameRules = (*_PARTS, *OCCSTUDIO_NAMES)

_GROUPS = 4


def causal_bevdetocc() -> OccupancyNetConfig:
    """BEVDetOcc with causal lifting, without history."""
    return replace(_causal(bevdet.bevdetocc_sf()), temporal=None)


def causal_alocc_3d() -> OccupancyNetConfig:
    """ALOcc-3D with causal lifting, without history."""
    return replace(causal_alocc_3d_16f(), temporal=None)


def causal_alocc_3d_16f() -> OccupancyNetConfig:
    """ALOcc-3D with causal lifting, sixteen frames of history."""
    config = _causal(alocc.alocc_3d())
    return replace(config, occlusion=NormalisedTransferConfig(), inter_object=None)


def _causal(config: OccupancyNetConfig) -> OccupancyNetConfig:
    """The network with a way from pixels to voxels that keeps their mass."""
    channels = config.depth.context_channels
    return replace(
        config,
        pose=PoseCorrectionConfig(),
        depth=replace(config.depth, groups=_GROUPS),
        lift=GroupedLiftConfig(channels=channels, groups=_GROUPS),
        pre=NormalisedConvolutionConfig(channels=channels),
    )


CARDS = (
    ModelCard(
        name="causal_bevdetocc",
        title="CausalOcc (BEVDetOcc + C)",
        config=causal_bevdetocc(),
        config_stem=None,
        label_set="occ3d",
        backbone="R-50",
        protocol=None,
        url=None,
        licence=None,
        published={"mIoU": 38.31, "mIoU_D": 31.51, "IoU": 71.17},
        note=(
            "figures recorded with the public configurations; no checkpoint and no "
            "reference numbers are published: the network follows the paper's "
            "description and is held to its equations only"
        ),
        names=CAUSAL_BEVDETOCC_NAMES,
    ),
    ModelCard(
        name="causal_alocc_3d",
        title="CausalOcc (ALOcc-3D + C)",
        config=causal_alocc_3d(),
        config_stem=None,
        label_set="occ3d",
        backbone="R-50",
        protocol=None,
        url=None,
        licence=None,
        published={"mIoU": 40.94, "mIoU_D": 35.45, "IoU": 70.69},
        note=(
            "figures recorded with the public configurations; no checkpoint and no "
            "reference numbers are published: the network follows the paper's "
            "description and is held to its equations only"
        ),
        names=CAUSAL_ALOCC_NAMES,
    ),
    ModelCard(
        name="causal_alocc_3d_16f",
        title="CausalOcc (ALOcc-3D 16f + C)",
        config=causal_alocc_3d_16f(),
        config_stem=None,
        label_set="occ3d",
        backbone="R-50",
        protocol=None,
        url=None,
        licence=None,
        published={"mIoU": 45.87, "mIoU_D": 39.55, "IoU": 75.89},
        note=(
            "figures recorded with the public configurations; no checkpoint and no "
            "reference numbers are published: the network follows the paper's "
            "description and is held to its equations only"
        ),
        names=CAUSAL_ALOCC_NAMES,
    ),
)
