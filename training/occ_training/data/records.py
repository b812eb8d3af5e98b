"""Records of a data set's frames: images, lidar, labels, and their poses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from occ_perception.errors import OccError
from occ_perception.geometry import Float64, VoxelGrid


class DatasetError(OccError):
    """A data set that cannot be used; the message says which file or line, and what to do."""


@dataclass(frozen=True, eq=False)
class CameraRecord:
    """One image of a frame.

    Attributes:
        image: path of the file, relative to the root; rectified, JPEG or PNG.
        stamp_ns: time of exposure.
        K: (3, 3) intrinsics at the size of the file.
        width, height: that size, pixels.
        ego_T_cam: (4, 4) mounting.
        world_T_ego: (4, 4) ego pose at ``stamp_ns``.
    """

    image: str
    stamp_ns: int
    K: Float64
    width: int
    height: int
    ego_T_cam: Float64
    world_T_ego: Float64

    @property
    def world_T_cam(self) -> Float64:
        """(4, 4) pose of the camera at its own exposure."""
        return self.world_T_ego @ self.ego_T_cam


@dataclass(frozen=True, eq=False)
class LidarRecord:
    """The lidar at a frame: its pose, and its points if there are any.

    Attributes:
        points: path of little-endian float32 rows, lidar frame; None where only the pose is known.
        columns: names of the columns, beginning with ``x, y, z``.
        stamp_ns: time of the sweep.
        ego_T_lidar: (4, 4) mounting.
        world_T_ego: (4, 4) ego pose at ``stamp_ns``.
        semantics: path of one class id per point: raw uint8 (any suffix), ``.npy`` or ``.npz``
            (its only array, or ``lidar_seg``); None if there is none.
        semantics_ids: what the ids mean: ``lidarseg`` (nuScenes general classes) or the name of
            a label set.
    """

    points: str | None
    columns: tuple[str, ...]
    stamp_ns: int
    ego_T_lidar: Float64
    world_T_ego: Float64
    semantics: str | None = None
    semantics_ids: str = "occ3d"

    @property
    def world_T_lidar(self) -> Float64:
        """(4, 4) pose of the lidar at its own stamp."""
        return self.world_T_ego @ self.ego_T_lidar


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """One frame: images, lidar and labels.

    Attributes:
        token: unique name of the frame in its data set.
        sequence: name of the recording or scene.
        stamp_ns: time by which frames of a sequence are ordered (of the sweep if there is one).
        reference_camera: the camera whose stamp the grid belongs to.
        cameras: camera name -> image; may lack cameras of the header.
        lidar: None if there is none.
        labels: key of the header's ``label_sets`` -> path of the file.
        source: its origin, as JSON: stamps, ids, names of the original.
    """

    token: str
    sequence: str
    stamp_ns: int
    reference_camera: str
    cameras: Mapping[str, CameraRecord]
    lidar: LidarRecord | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def world_T_reference_ego(self) -> Float64:
        """(4, 4) ego pose at the reference camera's stamp."""
        return self.cameras[self.reference_camera].world_T_ego

    @property
    def world_T_lidar_ego(self) -> Float64:
        """(4, 4) ego pose at the lidar's stamp; at the reference camera's without a lidar."""
        return self.world_T_reference_ego if self.lidar is None else self.lidar.world_T_ego


@dataclass(frozen=True)
class LabelFormat:
    """The format of the label files under one key.

    Attributes:
        reader: name of the file format, see :mod:`occ_training.data.label_files`.
        classes: label set of the ids after reading.
        grid: voxels of the files.
        frame: ``ego`` or ``lidar``, the frame of the grid.
        time: whose stamp that frame refers to: ``lidar`` or ``reference_camera``.
    """

    reader: str
    classes: str
    grid: VoxelGrid
    frame: Literal["ego", "lidar"] = "ego"
    time: Literal["lidar", "reference_camera"] = "lidar"


@dataclass(frozen=True)
class DatasetHeader:
    """What all frames of a data set share.

    Attributes:
        name: of the data set, for display.
        cameras: names of the cameras of a complete frame.
        label_sets: key -> format of its files.
        ego_frame: name of the ego frame in the source data.
        root: folder that paths are relative to; itself relative to the index, or absolute.
        source: how it was made, as JSON.
    """

    name: str
    cameras: tuple[str, ...]
    label_sets: Mapping[str, LabelFormat] = field(default_factory=dict)
    ego_frame: str = "base_link"
    root: str = "."
    source: Mapping[str, Any] = field(default_factory=dict)
