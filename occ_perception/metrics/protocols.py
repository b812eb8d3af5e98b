"""Evaluation protocols: the metrics and masks of each annotation set, as published.

A protocol has parts; each is one metric with its mask. :class:`Evaluation` updates all of them from
one prediction and one :class:`FrameTruth`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, LabelSet
from occ_perception.metrics.counting import CountingMetric, MetricsError
from occ_perception.metrics.flow import FlowScore
from occ_perception.metrics.ray_iou import OCC3D_GRID, RayIoU
from occ_perception.metrics.report import Report
from occ_perception.metrics.voxel_iou import SurroundOccIoU, VoxelIoU


@dataclass(frozen=True, eq=False)
class FrameTruth:
    """Ground truth of one frame, as far as a protocol needs it. Arrays or tensors.

    Attributes:
        labels: (X, Y, Z) class ids of the label set, 255 where unlabelled.
        camera_mask: (X, Y, Z) bool or 0/1, voxels a camera sees. (Waymo: in the field of view and
            observed.)
        lidar_mask: (X, Y, Z) bool or 0/1, voxels the lidar saw.
        flow: (X, Y, Z, 2) velocity (vx, vy) in m/s, along the grid's axes.
        lidar_origins: (T, 3) ray origins, see :func:`~occ_perception.metrics.rays.lidar_origins`.
        name: name of the frame, for error messages.
    """

    labels: Any
    camera_mask: Any = None
    lidar_mask: Any = None
    flow: Any = None
    lidar_origins: Any = None
    name: str = ""


@dataclass(frozen=True)
class Part:
    """One metric of a protocol.

    Attributes:
        build: creates the empty metric for a grid.
        inputs: argument of its ``update`` -> source: ``predicted_labels``, ``predicted_flow`` or a
            field of :class:`FrameTruth`.
        by_default: whether it runs without being requested by name.
    """

    build: Callable[[VoxelGrid], CountingMetric]
    inputs: Mapping[str, str]
    by_default: bool = True


@dataclass(frozen=True)
class Protocol:
    """An annotation set and the metrics that its results are published in."""

    name: str
    label_set: LabelSet
    parts: Mapping[str, Part]


_LABELS = {"preds": "predicted_labels", "target": "labels"}
_RAYS = {**_LABELS, "origins": "lidar_origins"}
_FLOW = {**_RAYS, "preds_flow": "predicted_flow", "target_flow": "flow"}


def _protocols() -> dict[str, Protocol]:
    def voxels(label_set: LabelSet, mask: str = "", by_default: bool = True) -> Part:
        inputs = {**_LABELS, "mask": mask} if mask else _LABELS
        return Part(lambda _grid: VoxelIoU(label_set), inputs, by_default)

    occ3d, openocc, waymo, surroundocc, openoccupancy = (
        LABEL_SETS[name] for name in ("occ3d", "openocc", "waymo", "surroundocc", "openoccupancy")
    )
    protocols = (
        Protocol(
            "occ3d",
            occ3d,
            {
                "camera_mask": voxels(occ3d, "camera_mask"),
                "all_voxels": voxels(occ3d),
                "rays": Part(lambda grid: RayIoU(occ3d, grid), _RAYS),
                "lidar_mask": voxels(occ3d, "lidar_mask", by_default=False),
                "rays_and_flow": Part(lambda grid: FlowScore(occ3d, grid), _FLOW, False),
            },
        ),
        Protocol(
            "openocc",
            openocc,
            {
                "rays_and_flow": Part(lambda grid: FlowScore(openocc, grid), _FLOW),
                "all_voxels": voxels(openocc, by_default=False),
            },
        ),
        Protocol(
            "surroundocc",
            surroundocc,
            {"all_voxels": Part(lambda _grid: SurroundOccIoU(surroundocc), _LABELS)},
        ),
        Protocol(
            "openoccupancy",
            openoccupancy,
            {"all_voxels": Part(lambda _grid: SurroundOccIoU(openoccupancy), _LABELS)},
        ),
        Protocol(
            "waymo",
            waymo,
            {"camera_mask": voxels(waymo, "camera_mask"), "all_voxels": voxels(waymo)},
        ),
    )
    return {protocol.name: protocol for protocol in protocols}


PROTOCOLS: dict[str, Protocol] = _protocols()
"""Every protocol by the name of its annotation set."""


class Evaluation(nn.Module):
    """All metrics of a protocol, updated frame by frame.

    Results of different frames, from different objects, processes or machines, ``merge`` to the
    same numbers as one pass. Each frame must be counted once; the report contains their number.

    Args:
        protocol: a key of :data:`PROTOCOLS`.
        parts: names of the parts to run; None = the default parts.
        grid: voxel layout of the volumes; only the ray metrics use it.

    Raises:
        MetricsError: no such protocol or part; the message lists the existing ones.
    """

    def __init__(
        self,
        protocol: str,
        parts: Iterable[str] | None = None,
        grid: VoxelGrid = OCC3D_GRID,
    ) -> None:
        super().__init__()
        if protocol not in PROTOCOLS:
            raise MetricsError(f"no protocol {protocol!r}; protocols are {', '.join(PROTOCOLS)}")
        self.protocol = PROTOCOLS[protocol]
        known = self.protocol.parts
        names = [n for n in known if known[n].by_default] if parts is None else list(parts)
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise MetricsError(f"protocol {protocol!r} has parts {', '.join(known)}; got {names}")
        self.metrics = nn.ModuleDict({name: known[name].build(grid) for name in names})

    def part(self, name: str) -> CountingMetric:
        """The metric of a part."""
        return cast(CountingMetric, self.metrics[name])

    def update(self, labels: Any, truth: FrameTruth, flow: Any = None) -> None:
        """Count one frame.

        Args:
            labels: (X, Y, Z) predicted class ids.
            truth: ground truth.
            flow: (X, Y, Z, 2) predicted (vx, vy) in m/s, if the protocol has flow.

        Raises:
            MetricsError: the frame lacks an input of a part, or shapes or ids are wrong; the
                message names frame and part. In that case no part has counted the frame.
        """
        sources = {
            "predicted_labels": labels,
            "predicted_flow": flow,
            **{field.name: getattr(truth, field.name) for field in fields(truth)},
        }
        before = {name: _copied(self.part(name).counters()) for name in self.metrics}
        try:
            for name in self.metrics:
                self._update_part(name, sources)
        except BaseException:  # some parts may have counted the frame
            for name, counters in before.items():
                for counter, value in counters.items():
                    self.part(name).counters()[counter].copy_(value)
            raise

    def merge(self, other: Evaluation) -> Self:
        """Add the counts of ``other``, seen on different frames; returns self.

        Raises:
            MetricsError: ``other`` evaluates another protocol, other parts or another grid.
        """
        if self.protocol.name != other.protocol.name or set(self.metrics) != set(other.metrics):
            raise MetricsError(
                f"cannot merge {other.protocol.name} {list(other.metrics)} into "
                f"{self.protocol.name} {list(self.metrics)}"
            )
        for name in self.metrics:
            self.part(name).merge(other.part(name))
        return self

    def reset(self) -> None:
        """Set all counters to zero."""
        for name in self.metrics:
            self.part(name).reset()

    def _update_part(self, name: str, sources: Mapping[str, Any]) -> None:
        inputs = self.protocol.parts[name].inputs
        frame = f"frame {sources['name'] or '(unnamed)'}, {self.protocol.name} {name}"
        absent = [source for source in inputs.values() if sources[source] is None]
        if absent:
            raise MetricsError(
                f"{frame}: needs {', '.join(absent)}; load it, or leave this part out "
                f"(the parts are {', '.join(self.protocol.parts)})"
            )
        try:
            self.part(name).update(
                **{key: torch.as_tensor(sources[source])[None] for key, source in inputs.items()}
            )
        except MetricsError as error:
            raise MetricsError(f"{frame}: {error}") from error

    def compute(self) -> dict[str, dict[str, Tensor]]:
        """Part -> scores, summed over all processes, see :meth:`CountingMetric.compute`."""
        return {name: self.part(name).compute() for name in self.metrics}

    def report(self, title: str = "") -> Report:
        """The scores to print or save."""
        scores = {
            part: {name: float(value) for name, value in values.items()}
            for part, values in self.compute().items()
        }
        frames = {int(values.pop("frames")) for values in scores.values()}
        return Report(title, self.protocol.name, max(frames), scores)


def _copied(counters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: counter.clone() for name, counter in counters.items()}
