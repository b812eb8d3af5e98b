"""The published models: what each one is, needs and was reported to reach.

A card is part of its checkpoint: weights are meaningless without the preprocessing, grid and
history spacing they were trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, LabelSet
from occ_perception.models import alocc
from occ_perception.models.occupancy_net import OccupancyNet, OccupancyNetConfig
from occ_perception.models.published_names import OCCSTUDIO_NAMES, NameRules
from occ_perception.nets.view_geometry import ViewGeometry

NUSCENES_CAMERAS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
_HUGGINGFACE = "https://huggingface.co/Dobbin/OccStudio/resolve/main/"
_REFERENCE_LICENCE = "Apache-2.0 (reference project)"
_WITH_MASK = "trained with camera mask"
_WITHOUT_MASK = "trained without camera mask"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a decoded picture becomes network input.

    Attributes:
        input_size: height and width of the network input.
        native_size: height and width of the pictures the intrinsics of training belong to.
        mean, std: subtracted and divided by, in input channel order.
        channel_order: of the network input. Published models read ``bgr`` and normalise it with
            the constants of RGB by position.
        interpolation: resampling filter (with antialiasing).
        crop: which part is kept after scaling to the input's width.
    """

    input_size: tuple[int, int]
    native_size: tuple[int, int] = (900, 1600)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: str = "bgr"
    interpolation: str = "bicubic"
    crop: str = "bottom"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One published model.

    Attributes:
        name: what users call it.
        title: the published name.
        config_stem: file stem of the published configuration, None where there is none.
        recipe: builds the network's configuration.
        preprocessing: from picture to input.
        cameras: names in the order of the camera axis.
        reference_camera: the camera whose stamp the grid is expressed at.
        grid: cells of the output.
        grid_frame: ``ego`` or ``lidar``.
        history_spacing_s: seconds between committed frames in training; 0 without history.
        history_frames: number of past frames that matter; 0 without history.
        label_set: key of :data:`occ_perception.labels.LABEL_SETS`.
        excluded_class: class id that never wins, None for none.
        published: reported figures as published, None where none are known.
        protocol: how the reported figures were obtained.
        url: where the checkpoint is published, None where it is not.
        sha256: of that file, None until known.
        licence: of the checkpoint.
        backbone: image backbone.
        modality: ``C`` cameras only, ``C+D`` cameras and measured depth.
        names: rules from our parameter names to the file's.
    """

    name: str
    title: str
    config_stem: str | None
    recipe: Callable[[], OccupancyNetConfig]
    preprocessing: Preprocessing
    cameras: tuple[str, ...] = NUSCENES_CAMERAS
    reference_camera: str = "CAM_FRONT"
    grid: VoxelGrid
    grid_frame: str = "ego"
    history_spacing_s: float
    history_frames: int
    label_set: str
    excluded_class: int | None = None
    published: Mapping[str, Any] | None
    protocol: str
    url: str | None
    sha256: str | None = None
    licence: str = _REFERENCE_LICENCE
    backbone: str = "R-50"
    modality: str = "C"
    names: NameRules = OCCSTUDIO_NAMES

    @property
    def labels(self) -> LabelSet:
        """Class names and the id of free space."""
        return LABEL_SETS[self.label_set]

    def build(self, geometry: ViewGeometry | None = None) -> OccupancyNet:
        """The network on the CPU in evaluation mode, its weights not yet meaningful.

        Args:
            geometry: other sizes than the published ones, for tests and studies.
        """
        config = self.recipe()
        if geometry is not None:
            config = config.with_geometry(geometry)
        return OccupancyNet(config).eval()


def get_card(name: str) -> ModelCard:
    """The card called ``name``.

    Raises:
        KeyError: there is none; the message lists the names there are.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise KeyError(f"no model {name!r}; there are {', '.join(sorted(MODELS))}") from None


def _card(
    name: str, title: str, config_stem: str, recipe: Callable[[], OccupancyNetConfig], **facts: Any
) -> ModelCard:
    """A card whose sizes are those of its recipe, so that the two cannot disagree."""
    config = recipe()
    history = config.temporal
    return ModelCard(
        name=name,
        title=title,
        config_stem=config_stem,
        recipe=recipe,
        preprocessing=Preprocessing(input_size=config.geometry.input_size),
        grid=config.output_grid,
        history_spacing_s=0.5 if history else 0.0,
        history_frames=history.frames if history else 0,
        url=f"{_HUGGINGFACE}{config_stem}.pth",
        **facts,
    )


_CARDS = (
    _card(
        "alocc_2d_mini",
        "ALOcc-2D-mini",
        "alocc_2d_mini_r50_256x704_bevdet_preatrain_16f",
        alocc.alocc_2d_mini,
        label_set="occ3d",
        published={"mIoU": 41.4, "mIoU_D": 35.4, "IoU": 70.0, "FPS": 30.5, "memory_MB": 1605.0},
        protocol=_WITH_MASK,
    ),
    _card(
        "alocc_2d_mini_nomask",
        "ALOcc-2D-mini",
        "alocc_2d_mini_r50_256x704_bevdet_preatrain_16f_wo_mask",
        alocc.alocc_2d_mini,
        label_set="occ3d",
        published={
            "mIoU": 33.4,
            "RayIoU": 39.3,
            "RayIoU_1m_2m_4m": (32.9, 40.1, 44.8),
            "FPS": 30.5,
            "memory_MB": 1605.0,
        },
        protocol=_WITHOUT_MASK,
    ),
    _card(
        "alocc_2d_mini_surroundocc",
        "ALOcc-2D-mini",
        "alocc_2d_mini_r50_256x704_bevdet_preatrain_surroundocc",
        alocc.alocc_2d_mini_surroundocc,
        grid_frame="lidar",
        label_set="surroundocc",
        excluded_class=0,
        published={"mIoU": 21.5, "mIoU_D": 19.5, "IoU": 31.5, "FPS": 5.8, "memory_MB": 2869.0},
        protocol=_WITH_MASK,
    ),
)

MODELS: dict[str, ModelCard] = {card.name: card for card in _CARDS}
"""Every model by name."""
