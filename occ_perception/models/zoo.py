"""The published models: what each one is, needs and was reported to reach.

A card is part of its checkpoint: weights are meaningless without the preprocessing, grid and
history spacing they were trained with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, LabelSet
from occ_perception.models import alocc, bevdet, causalocc, fbocc, gdfusion, town
from occ_perception.models.network import Network, NetworkConfig
from occ_perception.models.published_names import OCCSTUDIO_NAMES, NameRules
from occ_perception.models.sparseocc import recipes as sparseocc
from occ_perception.models.sparseocc.names import SPARSEOCC_NAMES

NUSCENES_CAMERAS = (
    "CAM_FRONT_LEFT",
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
)
WAYMO_CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_LEFT",
    "CAM_FRONT_RIGHT",
    "CAM_SIDE_LEFT",
    "CAM_SIDE_RIGHT",
)
_KEYFRAME_SPACING_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a decoded picture becomes network input.

    Attributes:
        input_size: height and width of the network input.
        native_size: height and width of the pictures the intrinsics of training belong to.
        mean, std: subtracted and divided by, in input channel order.
        channel_order: of the network input. Most published models read ``bgr`` and normalise it
            with the constants of RGB by position; SparseOcc reads ``rgb``.
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
        absent_cameras: cameras of the published model that this one does without, see
            :meth:`with_cameras`.
        reference_camera: the camera whose stamp the grid is expressed at.
        grid: cells of the output.
        grid_frame: ``ego`` or ``lidar``.
        history_spacing_s: seconds between committed frames in training; 0 without history.
        history_frames: number of past frames that matter; 0 without history. Matching with the
            previous pictures is a history of one frame.
        label_set: key of :data:`occ_perception.labels.LABEL_SETS`.
        class_scores: ``sigmoid`` or ``softmax``, what classes are compared by.
        excluded_class: class id that never wins, None for none.
        published: reported figures as published, None where none are known.
        protocol: how the model was trained and measured, None where that is not known.
        url: where the checkpoint is published, None where it is not.
        sha256: of that file, None until known.
        packaged: file of this package that holds the weights, None where they are published.
        licence: of the checkpoint, None where there is none.
        backbone: image backbone.
        modality: ``C`` cameras only, ``C+D`` cameras and measured depth.
        note: what else a user of the checkpoint should know.
        names: rules from our parameter names to the file's.
        unused_keys: tensors that only the file has -> why the network does without.
    """

    name: str
    title: str
    config_stem: str | None
    recipe: Callable[[], NetworkConfig]
    preprocessing: Preprocessing
    cameras: tuple[str, ...] = NUSCENES_CAMERAS
    absent_cameras: tuple[str, ...] = ()
    reference_camera: str = "CAM_FRONT"
    grid: VoxelGrid
    grid_frame: str = "ego"
    history_spacing_s: float
    history_frames: int
    label_set: str
    class_scores: str = "sigmoid"
    excluded_class: int | None = None
    published: Mapping[str, Any] | None
    protocol: str | None
    url: str | None
    sha256: str | None = None
    packaged: Path | None = None
    licence: str | None
    backbone: str
    modality: str
    note: str = ""
    names: NameRules = OCCSTUDIO_NAMES
    unused_keys: Mapping[str, str] = field(default_factory=dict)

    @property
    def labels(self) -> LabelSet:
        """Class names and the id of free space."""
        return LABEL_SETS[self.label_set]

    @property
    def measures_depth(self) -> bool:
        """Whether the network is given depth that a lidar measured."""
        return "D" in self.modality

    def with_cameras(self, names: Collection[str]) -> ModelCard:
        """The card for a rig that has only some of the model's cameras; others are left out.

        The network and its weights are the published ones. What only an absent camera sees stays
        empty, as if nothing had ever been seen there; docs/deviations.md has the details.

        Raises:
            ValueError: ``names`` has none of the model's cameras.
        """
        present = tuple(name for name in self.cameras if name in names)
        if present == self.cameras:
            return self
        if not present:
            raise ValueError(
                f"model {self.name} needs at least one of the cameras {', '.join(self.cameras)}; "
                f"there are {', '.join(names) or 'none'}. Say which is which in model_cameras of "
                "the layout file"
            )
        config = self.recipe()
        config = config.with_geometry(replace(config.geometry, num_cameras=len(present)))
        return replace(
            self,
            recipe=lambda: config,
            cameras=present,
            absent_cameras=tuple(name for name in self.cameras if name not in names),
            reference_camera=(
                self.reference_camera if self.reference_camera in present else present[0]
            ),
        )

    def build(self, geometry: Any = None) -> Network:
        """The network on the CPU in evaluation mode, its weights not yet meaningful.

        Args:
            geometry: of the recipe's kind, with other sizes than the published ones, for tests
                and studies.
        """
        config = self.recipe()
        if geometry is not None:
            config = config.with_geometry(geometry)
        return config.build().eval()


def get_card(name: str) -> ModelCard:
    """The card called ``name``.

    Raises:
        KeyError: there is none; the message lists the names there are.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise KeyError(f"no model {name!r}; there are {', '.join(sorted(MODELS))}") from None


def _card(name: str, recipe: Callable[[], NetworkConfig], **extra: Any) -> ModelCard:
    """A card whose sizes are those of its recipe, so that the two cannot disagree."""
    config = recipe()
    facts = _FACTS[name]
    preprocessing = Preprocessing(
        input_size=config.geometry.input_size, **extra.pop("preprocessing", {})
    )
    spacing = extra.pop("history_spacing_s", _KEYFRAME_SPACING_S)
    return ModelCard(
        name=name,
        title=facts["title"],
        config_stem=facts["config"],
        recipe=recipe,
        preprocessing=preprocessing,
        grid=config.output_grid,
        history_spacing_s=spacing if config.history_frames else 0.0,
        history_frames=config.history_frames,
        label_set=facts["annotation"].lower(),
        class_scores=config.class_scores,
        published=facts["published"],
        protocol=facts["protocol"],
        url=facts["weights"],
        licence=facts["licence"],
        backbone=facts["backbone"],
        modality=facts["modality"],
        note=facts.get("note", ""),
        **extra,
    )


_FACTS: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "cards.yaml").read_text())

# The grid of these models lies in the lidar frame, and "others" is never answered.
_LIDAR_GRID: dict[str, Any] = {"grid_frame": "lidar", "excluded_class": 0}
_GF: dict[str, Any] = {"names": gdfusion.GDFUSION_NAMES}
_FBOCC: dict[str, Any] = {"names": fbocc.FBOCC_NAMES, "unused_keys": fbocc.FBOCC_UNUSED}
_SPARSEOCC: dict[str, Any] = {
    "cameras": sparseocc.CAMERAS,
    "preprocessing": {"channel_order": "rgb"},
    "names": SPARSEOCC_NAMES,
}
_WAYMO: dict[str, Any] = {
    "cameras": WAYMO_CAMERAS,
    "history_spacing_s": 0.1,
    "preprocessing": {"native_size": (1280, 1920)},
}

_CARDS = (
    _card("alocc_2d_mini", alocc.alocc_2d_mini),
    _card("alocc_2d_mini_nomask", alocc.alocc_2d_mini),
    _card("alocc_2d_mini_surroundocc", alocc.alocc_2d_mini_surroundocc, **_LIDAR_GRID),
    _card("alocc_2d", alocc.alocc_2d),
    _card("alocc_2d_nomask", alocc.alocc_2d),
    _card("alocc_3d", alocc.alocc_3d),
    _card("alocc_3d_nomask", alocc.alocc_3d),
    _card("alocc_3d_depth", alocc.alocc_3d),
    _card("alocc_3d_depth_internimage_t", alocc.alocc_3d_internimage_t),
    _card("alocc_3d_depth_swin_b", alocc.alocc_3d_swin_b),
    _card("alocc_3d_surroundocc", alocc.alocc_3d_surroundocc, **_LIDAR_GRID),
    _card("alocc_3d_waymo", alocc.alocc_3d_waymo, **_WAYMO),
    _card("alocc_flow_2d", alocc.alocc_flow_2d),
    _card("alocc_flow_3d", alocc.alocc_flow_3d),
    _card("alocc_2d_gf", gdfusion.alocc_2d_gf, **_GF),
    _card("alocc_2d_gf_openoccupancy", gdfusion.alocc_2d_gf_openoccupancy, **_GF, **_LIDAR_GRID),
    _card(
        "alocc_2d_gf_depth_openoccupancy",
        gdfusion.alocc_2d_gf_depth_openoccupancy,
        **_GF,
        **_LIDAR_GRID,
    ),
    _card("alocc_3d_gf", gdfusion.alocc_3d_gf, **_GF),
    _card("alocc_3d_gf_nomask", gdfusion.alocc_3d_gf, **_GF),
    _card("alocc_3d_gf_depth", gdfusion.alocc_3d_gf_depth, **_GF),
    _card("alocc_3d_gf_surroundocc", gdfusion.alocc_3d_gf_surroundocc, **_GF, **_LIDAR_GRID),
    _card("alocc_3d_gf_waymo", gdfusion.alocc_3d_gf_waymo, **_GF, **_WAYMO),
    _card("bevdetocc_sf", bevdet.bevdetocc_sf, names=bevdet.BEVDETOCC_NAMES),
    _card("bevdetocc_sf_nomask", bevdet.bevdetocc_sf, names=bevdet.BEVDETOCC_NAMES),
    _card("bevdetocc_gf", bevdet.bevdetocc_gf, names=bevdet.BEVDETOCC_GF_NAMES),
    _card("fbocc", fbocc.fbocc, **_FBOCC),
    _card("fbocc_nomask", fbocc.fbocc, **_FBOCC),
    _card("fbocc_gf", fbocc.fbocc_gf, **{**_FBOCC, "names": fbocc.FBOCC_GF_NAMES}),
    _card("sparseocc", sparseocc.sparseocc, **_SPARSEOCC),
    _card("sparseocc_even", sparseocc.sparseocc_even, **_SPARSEOCC),
    _card("causal_bevdetocc", causalocc.causal_bevdetocc, names=causalocc.CAUSAL_BEVDETOCC_NAMES),
    _card("causal_alocc_3d", causalocc.causal_alocc_3d, names=causalocc.CAUSAL_ALOCC_NAMES),
    _card("causal_alocc_3d_16f", causalocc.causal_alocc_3d_16f, names=causalocc.CAUSAL_ALOCC_NAMES),
    _card(
        "alocc_town",
        town.alocc_town,
        packaged=Path(__file__).parent / "weights" / "alocc_town.safetensors",
    ),
)

MODELS: dict[str, ModelCard] = {card.name: card for card in _CARDS}
"""Every model by name."""
