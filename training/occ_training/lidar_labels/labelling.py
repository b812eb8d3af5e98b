"""Labels for the frames of a recording from its lidar, with a few seconds of sweeps in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import CameraRig
from occ_perception.geometry import Float64, VoxelGrid
from occ_perception.labels import LabelSet
from occ_training.lidar_labels.boxes import BoxTracks
from occ_training.lidar_labels.sweeps import NO_CLASS, Sweep
from occ_training.lidar_labels.visibility import camera_mask
from occ_training.lidar_labels.window import LabelRule, SweepWindow

Mask = NDArray[np.bool_]

NAMELESS_CLASS = 0
"""Class of occupied voxels whose points have no class: ``others`` of Occ3D."""


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """A frame that needs labels.

    Attributes:
        time_line: how often time went back in the recording before it.
        stamp_ns: of its reference camera.
        rig: its cameras, with the distortion of their images.
        world_T_ego: (4, 4) ego pose at that stamp.
        ego_T_cam: camera -> (4, 4) pose at its own exposure in the ego axes at ``stamp_ns``.
    """

    time_line: int
    stamp_ns: int
    rig: CameraRig
    world_T_ego: Float64
    ego_T_cam: Mapping[str, Float64]


@dataclass(frozen=True, eq=False)
class LidarLabels:
    """Labels of one frame in the format of Occ3D.

    Attributes:
        semantics: (X, Y, Z) uint8 class ids.
        mask_lidar: (X, Y, Z) voxels that are occupied, or that a ray crossed.
        mask_camera: (X, Y, Z) voxels of ``mask_lidar`` that a camera sees.
        flow: (X, Y, Z, 2) float32 over ground along the ego axes, m/s; None without boxes.
    """

    semantics: NDArray[np.uint8]
    mask_lidar: Mask
    mask_camera: Mask
    flow: NDArray[np.float32] | None


class LidarLabeller:
    """Makes labels from sweeps.

    Args:
        grid: cubic voxels of the labels, in ego axes.
        classes: label set of the labels.
        boxes: tracks of objects; points of moving ones follow the box. Without boxes a point is
            carried to a frame only if its voxel was not observed as free in between.
        rule: parameters.
    """

    def __init__(
        self,
        grid: VoxelGrid,
        classes: LabelSet,
        boxes: BoxTracks | None = None,
        rule: LabelRule | None = None,
    ) -> None:
        self._grid = grid
        self._classes = classes
        self._boxes = boxes
        self._rule = rule or LabelRule()

    def label(
        self, frames: Sequence[LabelledFrame], sweeps: Iterable[Sweep]
    ) -> Iterator[tuple[LabelledFrame, LidarLabels | None]]:
        """Labels of frames in time order; None if no sweep is near.

        Sweeps are read once, in time order, and dropped as soon as no frame needs them.
        """
        window = round(self._rule.window_s * 1e9)
        near: deque[Sweep] = deque()
        stream = iter(sweeps)
        ahead = next(stream, None)
        for core in _cores(frames, round(self._rule.core_s * 1e9)):
            first = (core[0].time_line, core[0].stamp_ns - window)
            last = (core[0].time_line, core[-1].stamp_ns + window)
            while ahead is not None and (ahead.time_line, ahead.stamp_ns) <= last:
                near.append(ahead)
                ahead = next(stream, None)
            while near and (near[0].time_line, near[0].stamp_ns) < first:
                near.popleft()
            yield from self._core(core, list(near))

    def _core(
        self, frames: Sequence[LabelledFrame], sweeps: list[Sweep]
    ) -> Iterator[tuple[LabelledFrame, LidarLabels | None]]:
        if not sweeps:
            yield from ((frame, None) for frame in frames)
            return
        names = [
            name
            for n, name in enumerate(self._classes.class_names)
            if n != self._classes.empty_class
        ]
        window = SweepWindow(
            [frame.world_T_ego for frame in frames],
            [frame.stamp_ns for frame in frames],
            sweeps,
            self._boxes or BoxTracks(),
            self._grid,
            names,
            self._rule,
        )
        stamps = np.array([sweep.stamp_ns for sweep in sweeps])
        for frame in frames:
            # Without a sweep at its own time a frame would lack moving objects.
            if np.abs(stamps - frame.stamp_ns).min() > self._rule.nearest_sweep_s * 1e9:
                yield frame, None
                continue
            yield frame, self._labels(window, frame)

    def _labels(self, window: SweepWindow, frame: LabelledFrame) -> LidarLabels:
        found = window.occupancy(frame.stamp_ns, frame.world_T_ego)
        classes = np.where(found.classes == NO_CLASS, np.uint8(NAMELESS_CLASS), found.classes)
        semantics = np.where(found.occupied, classes, np.uint8(self._classes.empty_class))
        seen = camera_mask(found.occupied, frame.rig, frame.ego_T_cam, self._grid)
        return LidarLabels(
            semantics,
            found.observed,
            seen & found.observed,
            None if self._boxes is None else found.flow,
        )


def _cores(frames: Sequence[LabelledFrame], longest_ns: int) -> Iterator[list[LabelledFrame]]:
    """Sections of frames: one time line each, at most ``longest_ns`` long."""
    core: list[LabelledFrame] = []
    for frame in frames:
        if core and (
            frame.time_line != core[0].time_line or frame.stamp_ns - core[0].stamp_ns > longest_ns
        ):
            yield core
            core = []
        core.append(frame)
    if core:
        yield core
