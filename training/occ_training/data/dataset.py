"""The frames of a data set as samples for one model.

Follows the data pipeline of the reference code (ALOcc, arXiv 2411.07725, based on BEVDet): the
order of random draws, previous images under the same augmentation, ego motion between the times
that labels refer to. Legend: see :mod:`occ_training.data.sample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from occ_perception.geometry import (
    Float64,
    VoxelGrid,
    invert_transform,
    relative_motion,
    scale_intrinsics,
)
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS, LabelSet
from occ_perception.metrics.rays import lidar_origins
from occ_perception.models.card import ModelCard, Preprocessing
from occ_perception.models.network import NetworkConfig
from occ_perception.sensing.lidar_projection import Winners, nearest_point, project_lidar
from occ_training.data.bev_augmentation import BevAugmentation, augment_labels
from occ_training.data.grids import labels_on_grid
from occ_training.data.groups import history_groups, usable_frames
from occ_training.data.images import ImageAugmentation, ImagePlan, normalise, read_image
from occ_training.data.index import DatasetIndex
from occ_training.data.label_files import (
    DataFileError,
    FrameLabels,
    read_labels,
    read_point_classes,
    read_points,
    read_ray_mask,
)
from occ_training.data.records import DatasetError, FrameRecord, LabelFormat
from occ_training.data.sample import Sample

Content = Literal["labels", "depth", "point_classes", "previous_images", "ray_origins"]
_CONTENTS = ("labels", "depth", "point_classes", "previous_images", "ray_origins")


class Visit(NamedTuple):
    """A frame and the number of the visit to it; each visit has its own augmentation."""

    frame: int
    number: int


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """What is loaded of a frame, and how it is augmented.

    Attributes:
        contents: in addition to the images: ``labels`` (with masks and flow if the set has
            them), ``depth`` maps and ``point_classes`` maps of the lidar, ``previous_images`` (for
            networks that match images), ``ray_origins`` for ray metrics.
        labels: key of the label set in the data set; None = the model's label set.
        ignore_unseen: labels become 255 where ``camera`` or ``lidar`` sees nothing, or where no
            ``ray`` of the benchmark passes; None keeps all.
        image, bev: augmentation; None for evaluation.
        pieces: number of pieces that each recording is cut into, each with its own history.
        point_ids: classes in point maps are those of the label set, or always Occ3D's (the released
            flow models were trained with those).
        winners: selects the point of a pixel.
        seed: of the augmentation. The same seed, frame and visit give the same sample in any
            process.
    """

    contents: tuple[Content, ...] = ("labels",)
    labels: str | None = None
    ignore_unseen: Literal["camera", "lidar", "ray"] | None = None
    image: ImageAugmentation | None = None
    bev: BevAugmentation | None = None
    pieces: int = 1
    point_ids: Literal["label_set", "occ3d"] = "label_set"
    winners: Winners = nearest_point
    seed: int = 0


class OccupancyDataset(Dataset[Sample]):
    """Frames of an index as samples for one model.

    Frames that lack a requested camera, label or sweep are left out and listed in
    :attr:`left_out`. Items are indexed by position or by :class:`Visit`.

    Args:
        index: the data set.
        card: the model: cameras, preprocessing, label set, frame of the grid.
        options: what is loaded, and how it is augmented.
        config: of the network if it is not the card's own (other sizes).

    Attributes:
        frames: the usable frames.
        left_out: the others.
        groups_F: (frames,) int64, number of the group with which each frame shares its history.

    Raises:
        DatasetError: no frame is usable, the labels do not fit the model, or an option is invalid.
    """

    def __init__(
        self,
        index: DatasetIndex,
        card: ModelCard,
        options: SampleOptions | None = None,
        config: NetworkConfig | None = None,
    ) -> None:
        self.card = card
        self.options = options or SampleOptions()
        config = config or card.config
        self._geometry = config.geometry
        self._grid = config.output_grid
        self._preprocessing = _with_input_size(card.preprocessing, config.geometry.input_size)
        key = self.options.labels or card.label_set
        self._label_key = key if "labels" in self.options.contents else None
        self._check_options(index)
        self._label_format = index.header.label_sets.get(key) if self._label_key else None
        if self._label_format is not None:
            _check_format(self._label_format, card)
        self.index, self.left_out = usable_frames(
            index,
            card.cameras,
            labels=[k for k in (self._label_key, self._ray_mask_key) if k],
            points="depth" in self.options.contents or "point_classes" in self.options.contents,
            point_classes="point_classes" in self.options.contents,
            lidar_pose=card.grid_frame == "lidar" or "ray_origins" in self.options.contents,
        )
        self.frames = self.index.frames
        self._sequences = self.index.sequences()
        self.groups_F = history_groups(self.frames, self.options.pieces)

    def __len__(self) -> int:
        return len(self.frames)

    def starts(self, index: int) -> bool:
        """Whether a frame is the first of its group."""
        return index == 0 or bool(self.groups_F[index] != self.groups_F[index - 1])

    def __getitem__(self, item: int | Visit) -> Sample:
        """The sample of a frame.

        Raises:
            DataFileError: a file is missing or damaged; the message names it and the next step.
        """
        index, visit = item if isinstance(item, tuple) else (item, 0)
        if not 0 <= index < len(self.frames):
            raise IndexError(f"frame {index} of a data set of {len(self.frames)}")
        try:
            return self._sample(index, visit)
        except DataFileError as error:
            raise DataFileError(
                f"frame {self.frames[index].token}: {error}. `occ-train prepare verify INDEX` "
                "lists all such files and writes an index without them"
            ) from error

    def _sample(self, index: int, visit: int) -> Sample:
        frame = self.frames[index]
        rng = np.random.default_rng([self.options.seed, visit, index])
        plans = self._plans(frame, rng)
        bda_33 = np.eye(3) if self.options.bev is None else self.options.bev.draw(rng)
        previous = self._frame_before(index)
        start = self.starts(index)
        motion = np.eye(4)
        if not start:
            motion = relative_motion(
                self._world_T_ego(self.frames[index - 1]), self._world_T_ego(frame)
            )
        maps = [plan.pixel_map(self._preprocessing.native_size[1]) for plan in plans]
        depth, point_classes = self._point_maps(frame, maps)
        labels = self._labels(frame, bda_33)
        return Sample(
            index=index,
            token=frame.token,
            sequence=frame.sequence,
            group=int(self.groups_F[index]),
            start=start,
            images_N3HW=self._images(frame, plans),
            grid_T_cam_N44=_float32(self._grid_T_cameras(frame)),
            K_N33=_float32(np.stack([self._native_K(frame, name) for name in self.card.cameras])),
            image_rotation_N33=_float32(np.stack([matrix for matrix, _ in maps])),
            image_translation_N3=_float32(np.stack([offset for _, offset in maps])),
            bev_augmentation_33=_float32(bda_33),
            previous_T_current_44=torch.from_numpy(motion),
            previous_cam_T_cam_N44=torch.from_numpy(self._camera_motion(previous, frame)),
            previous_images_N3HW=(
                self._images(previous, plans)
                if "previous_images" in self.options.contents
                else None
            ),
            depth_NHW=depth,
            semantics_NHW=point_classes,
            labels_XYZ=None if labels is None else torch.from_numpy(labels.semantics_XYZ),
            camera_mask_XYZ=_tensor(None if labels is None else labels.camera_mask_XYZ),
            lidar_mask_XYZ=_tensor(None if labels is None else labels.lidar_mask_XYZ),
            flow_XYZ2=_tensor(None if labels is None else labels.flow_XYZ2),
            lidar_origins_T3=self._ray_origins(index),
        )

    # -- images ----------------------------------------------------------------------------

    def _plans(self, frame: FrameRecord, rng: np.random.Generator) -> list[ImagePlan]:
        """The plan of each camera's images; they are drawn before anything else."""
        sizes = [(frame.cameras[n].width, frame.cameras[n].height) for n in self.card.cameras]
        augmentation = self.options.image
        if augmentation is None:
            return [ImagePlan.plain(size, self._preprocessing) for size in sizes]
        return [augmentation.draw(rng, size, self._preprocessing) for size in sizes]

    def _images(self, frame: FrameRecord, plans: Sequence[ImagePlan]) -> torch.Tensor:
        rows, columns = self._preprocessing.input_size
        crops = np.empty((len(plans), rows, columns, 3), dtype=np.uint8)
        for n, (name, plan) in enumerate(zip(self.card.cameras, plans, strict=True)):
            camera = frame.cameras[name]
            image = read_image(self.index.path(camera.image), (camera.width, camera.height))
            crops[n] = plan.apply(image, self._preprocessing.interpolation)
        return normalise(crops, self._preprocessing)

    # -- geometry ----------------------------------------------------------------------------

    def _frame_before(self, index: int) -> FrameRecord:
        """The frame whose images are matched: the previous one of the recording, or else itself.

        The first frame of a piece still has the previous frame of the recording.
        """
        frame = self.frames[index]
        before = self.frames[index - 1] if index else frame
        return before if before.sequence == frame.sequence else frame

    def _world_T_ego(self, frame: FrameRecord) -> Float64:
        """Ego pose at the time of the labels: the lidar's stamp for the public sets."""
        if self._label_format is not None and self._label_format.time == "reference_camera":
            return frame.world_T_reference_ego
        return frame.world_T_lidar_ego

    def _grid_T_cameras(self, frame: FrameRecord) -> Float64:
        """(N, 4, 4) camera poses in the frame of the grid.

        That is the ego frame at the reference camera's stamp, or the lidar frame at its own stamp.
        """
        world_T_grid = frame.world_T_reference_ego
        if self.card.grid_frame == "lidar":
            assert frame.lidar is not None
            world_T_grid = frame.lidar.world_T_lidar
        return invert_transform(world_T_grid) @ self._world_T_cameras(frame)

    def _world_T_cameras(self, frame: FrameRecord) -> Float64:
        return np.stack([frame.cameras[name].world_T_cam for name in self.card.cameras])

    def _camera_motion(self, previous: FrameRecord, frame: FrameRecord) -> Float64:
        """(N, 4, 4), from each camera to the same camera in the previous frame."""
        if previous is frame:
            return np.tile(np.eye(4), (len(self.card.cameras), 1, 1))
        return invert_transform(self._world_T_cameras(previous)) @ self._world_T_cameras(frame)

    def _native_K(self, frame: FrameRecord, name: str) -> Float64:
        camera = frame.cameras[name]
        return scale_intrinsics(camera.K, self._preprocessing.native_size[1] / camera.width)

    def _ray_origins(self, index: int) -> torch.Tensor | None:
        if "ray_origins" not in self.options.contents:
            return None
        sequence = self._sequences[self.frames[index].sequence]
        lidars = [self.frames[position].lidar for position in sequence]
        origins = lidar_origins(
            np.stack([lidar.world_T_ego for lidar in lidars if lidar is not None]),
            np.stack([lidar.ego_T_lidar for lidar in lidars if lidar is not None]),
            index - sequence.start,
        )
        return torch.from_numpy(origins)

    # -- lidar and labels --------------------------------------------------------------------

    def _point_maps(
        self, frame: FrameRecord, maps: Sequence[tuple[Float64, Float64]]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        with_classes = "point_classes" in self.options.contents
        lidar = frame.lidar
        if not (with_classes or "depth" in self.options.contents) or lidar is None:
            return None, None
        assert lidar.points is not None
        points = read_points(self.index.path(lidar.points), lidar.columns)
        classes = None
        if with_classes:
            assert lidar.semantics is not None
            file = self.index.path(lidar.semantics)
            wanted = self._point_label_set()
            classes = read_point_classes(file, lidar.semantics_ids, wanted, len(points))
        bins = self._geometry.depth
        found = [
            project_lidar(
                points[:, :3],
                classes,
                invert_transform(frame.cameras[name].world_T_cam) @ lidar.world_T_lidar,
                self._native_K(frame, name),
                pixel_map,
                self._preprocessing.input_size,
                (bins.lower, bins.upper),
                self.options.winners,
            )
            for name, pixel_map in zip(self.card.cameras, maps, strict=True)
        ]
        depth = torch.from_numpy(np.stack([m.depth_HW for m in found]))
        classes_of = [m.classes_HW for m in found if m.classes_HW is not None]
        return depth, torch.from_numpy(np.stack(classes_of)) if classes_of else None

    def _point_label_set(self) -> LabelSet:
        name = self.card.label_set if self.options.point_ids == "label_set" else "occ3d"
        return LABEL_SETS[name]

    def _labels(self, frame: FrameRecord, bda_33: Float64) -> FrameLabels | None:
        if self._label_key is None or self._label_format is None:
            return None
        path = self.index.path(frame.labels[self._label_key])
        labels = read_labels(path, self._label_format)
        labels = self._without_unseen(labels, frame)
        if not _same_shape_by_intent(self._label_format, self._grid):
            empty = LABEL_SETS[self._label_format.classes].empty_class
            labels = labels_on_grid(labels, self._label_format.grid, self._grid, empty)
        return augment_labels(labels, bda_33, self._grid)

    def _without_unseen(self, labels: FrameLabels, frame: FrameRecord) -> FrameLabels:
        rule = self.options.ignore_unseen
        if rule is None:
            return labels
        seen: NDArray[np.bool_] | None
        if rule == "ray":
            assert self._ray_mask_key is not None
            path = self.index.path(frame.labels[self._ray_mask_key])
            seen = read_ray_mask(path, self.index.header.label_sets[self._ray_mask_key])
        else:
            seen = labels.camera_mask_XYZ if rule == "camera" else labels.lidar_mask_XYZ
        if seen is None and self._label_format is not None and self._label_format.frame == "lidar":
            return labels  # SurroundOcc and OpenOccupancy have no masks: all are supervised
        if seen is None:
            raise DataFileError(
                f"{self.index.path(frame.labels[self._label_key or ''])}: has no {rule} mask; "
                "use labels with that mask, or set ignore_unseen to null"
            )
        labels.semantics_XYZ[~seen] = UNKNOWN_CLASS
        return labels

    @property
    def _ray_mask_key(self) -> str | None:
        wanted = self._label_key is not None and self.options.ignore_unseen == "ray"
        return f"{self._label_key}_ray_mask" if wanted else None

    def _check_options(self, index: DatasetIndex) -> None:
        unknown = [c for c in self.options.contents if c not in _CONTENTS]
        if unknown:
            raise DatasetError(
                f"unknown content {', '.join(unknown)}; there is {', '.join(_CONTENTS)}"
            )
        for key in (self._label_key, self._ray_mask_key):
            if key is not None and key not in index.header.label_sets:
                raise DatasetError(
                    f"data set {index.header.name} has no labels {key!r}; it has "
                    f"{', '.join(index.header.label_sets) or 'none'}"
                )


def _check_format(label_format: LabelFormat, card: ModelCard) -> None:
    """Refuse labels whose classes or frame differ from the model's output."""
    if LABEL_SETS[label_format.classes].class_names != card.labels.class_names:
        raise DatasetError(
            f"labels have the classes of {label_format.classes}, model {card.name} predicts those "
            f"of {card.label_set}; choose other labels or another model"
        )
    if label_format.frame != card.grid_frame:
        raise DatasetError(
            f"labels lie in the {label_format.frame} frame, model {card.name} predicts in the "
            f"{card.grid_frame} frame; choose other labels or another model"
        )


def _same_shape_by_intent(label_format: LabelFormat, grid: VoxelGrid) -> bool:
    """Whether grids count as equal: a released SurroundOcc model only has the same voxel counts."""
    return label_format.reader == "surroundocc" and label_format.grid.dims == grid.dims


def _with_input_size(preprocessing: Preprocessing, size: tuple[int, int]) -> Preprocessing:
    same = preprocessing.input_size == size
    return preprocessing if same else replace(preprocessing, input_size=size)


def _float32(array: Float64) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))


def _tensor(array: NDArray[np.generic] | None) -> torch.Tensor | None:
    return None if array is None else torch.from_numpy(array)
