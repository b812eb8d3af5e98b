"""What a model of the zoo is, needs and was reported to reach.

A card is part of its checkpoint: weights are meaningless without the preprocessing, grid and
history spacing they were trained with. Cards stand beside the recipes of their family.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from occ_perception.errors import OccError
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, LabelSet
from occ_perception.models.checkpoint_keys import OCCSTUDIO_NAMES, NameRules
from occ_perception.models.network import Network, NetworkConfig

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

OCCSTUDIO_FILES = "https://huggingface.co/Dobbin/OccStudio/resolve/main/"
OCCSTUDIO_LICENCE = "Apache-2.0 (reference project)"
WITH_MASK = "trained with camera mask"
WITHOUT_MASK = "trained without camera mask"


class ModelError(OccError):
    """There is no such model, or it does not suit the cameras and sensors that there are."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a decoded image becomes network input: its lower part, scaled to the input's width.

    Attributes:
        input_size: height and width of the network input.
        native_size: height and width of the images the intrinsics of training belong to.
        mean, std: subtracted and divided by, in input channel order.
        channel_order: of the network input. Most released models read ``bgr`` and normalise it
            with the constants of RGB by position; SparseOcc reads ``rgb``.
        interpolation: resampling filter (with antialiasing).
    """

    input_size: tuple[int, int]
    native_size: tuple[int, int] = (900, 1600)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    channel_order: str = "bgr"
    interpolation: str = "bicubic"


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One released model.

    Sizes are those of its network, so that the two cannot disagree.

    Attributes:
        name: what users call it.
        title: its name in the paper or the reference code's tables.
        config: the network as a choice of parts.
        config_stem: file stem of the released configuration, None where there is none.
        native_size, channel_order: see :class:`Preprocessing`.
        cameras: names in the order of the camera axis.
        absent_cameras: cameras of the released model that this one does without, see
            :meth:`with_cameras`.
        reference_camera: the camera whose stamp the grid is expressed at.
        grid_frame: ``ego`` or ``lidar``.
        frame_spacing_s: seconds between frames in training.
        label_set: key of :data:`occ_perception.labels.LABEL_SETS`.
        excluded_class: class id that never wins, None for none.
        published: reported figures as published, None where none are known: metrics in percent,
            mAVE in m/s; frames per second and memory in float32 on one RTX 4090, according to a
            third party.
        protocol: how the model was trained and measured, None where that is not known.
        url: where the checkpoint is published, None where it is not.
        sha256: of that file, None until known.
        packaged: file of this package that holds the weights, None where they are published.
        licence: of the checkpoint, None where there is none.
        backbone: image backbone.
        note: what else a user of the checkpoint should know.
        names: rules from our parameter names to the file's.
        unused_keys: tensors that only the file has -> why the network does without.

    Raises:
        ValueError: a field has a value that there is not, or disagrees with the network.
    """

    name: str
    title: str
    config: NetworkConfig
    config_stem: str | None = None
    native_size: tuple[int, int] = (900, 1600)
    channel_order: str = "bgr"
    cameras: tuple[str, ...] = NUSCENES_CAMERAS
    absent_cameras: tuple[str, ...] = ()
    reference_camera: str = "CAM_FRONT"
    grid_frame: str = "ego"
    frame_spacing_s: float = 0.5
    label_set: str
    excluded_class: int | None = None
    published: Mapping[str, Any] | None = None
    protocol: str | None = None
    url: str | None = None
    sha256: str | None = None
    packaged: Path | None = None
    licence: str | None = None
    backbone: str
    note: str = ""
    names: NameRules = OCCSTUDIO_NAMES
    unused_keys: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        expected = {
            "label_set": LABEL_SETS,
            "grid_frame": ("ego", "lidar"),
            "channel_order": ("bgr", "rgb"),
            "reference_camera": self.cameras,
        }
        for name, values in expected.items():
            value = getattr(self, name)
            if value not in values:
                raise ValueError(
                    f"card of model {self.name}: {name} is {value!r}, expected one of "
                    f"{', '.join(values)}"
                )
        if len(self.cameras) != self.config.geometry.num_cameras:
            raise ValueError(
                f"card of model {self.name}: cameras are {', '.join(self.cameras)}, but its "
                f"network has {self.config.geometry.num_cameras}"
            )

    @property
    def preprocessing(self) -> Preprocessing:
        """From image to input."""
        return Preprocessing(
            input_size=self.config.geometry.input_size,
            native_size=self.native_size,
            channel_order=self.channel_order,
        )

    @property
    def grid(self) -> VoxelGrid:
        """Voxels of the output."""
        return self.config.output_grid

    @property
    def history_frames(self) -> int:
        """Number of past frames that matter; 0 without history. Matching with the previous
        images is a history of one frame."""
        return self.config.history_frames

    @property
    def history_spacing_s(self) -> float:
        """Seconds between committed frames in training; 0 without history."""
        return self.frame_spacing_s if self.history_frames else 0.0

    @property
    def class_scores(self) -> str:
        """What classes are compared by: ``sigmoid``, ``softmax`` or ``masks``."""
        return self.config.class_scores

    @property
    def measures_depth(self) -> bool:
        """Whether the network is given depth that a lidar measured."""
        return self.config.measured_depth

    @property
    def modality(self) -> str:
        """The sensors as tables print them: ``C`` cameras only, ``C+D`` and measured depth."""
        return "C+D" if self.measures_depth else "C"

    @property
    def labels(self) -> LabelSet:
        """Class names and the id of free space."""
        return LABEL_SETS[self.label_set]

    def with_cameras(self, names: Collection[str]) -> ModelCard:
        """The card for a rig that has only some of the model's cameras; others are left out.

        The network and its weights are the published ones. What only an absent camera sees stays
        empty, as if nothing had ever been seen there; docs/deviations.md has the details.

        Raises:
            ModelError: ``names`` has none of the model's cameras.
        """
        present = tuple(name for name in self.cameras if name in names)
        if present == self.cameras:
            return self
        if not present:
            raise ModelError(
                f"model {self.name} needs at least one of the cameras {', '.join(self.cameras)}; "
                f"there are {', '.join(names) or 'none'}. Say which is which in model_cameras of "
                "the layout file"
            )
        geometry = replace(self.config.geometry, num_cameras=len(present))
        return replace(
            self,
            config=self.config.with_geometry(geometry),
            cameras=present,
            absent_cameras=tuple(name for name in self.cameras if name not in names),
            reference_camera=(
                self.reference_camera if self.reference_camera in present else present[0]
            ),
        )

    def resized(
        self, input_size: tuple[int, int] | None = None, grid: VoxelGrid | None = None
    ) -> ModelCard:
        """The card of the same network for other images and voxels, for tests and studies.

        Weights fit as they are, though nothing says that they are of use at that size. Native
        images and intrinsics stay: they are scaled to the input's width as at the released size.

        Args:
            input_size: height and width of the network input, multiples of 32; None keeps it.
            grid: voxels that images are lifted to, which for bird's-eye-view networks and for
                pyramid heads are not those of the output; None keeps them.
        """
        geometry = self.config.geometry
        geometry = replace(
            geometry, input_size=input_size or geometry.input_size, grid=grid or geometry.grid
        )
        return replace(self, config=self.config.with_geometry(geometry))

    def build(self) -> Network:
        """The network on the CPU in evaluation mode, its weights not yet meaningful."""
        return self.config.build().eval()
