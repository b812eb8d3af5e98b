"""Whether an exported file says what the model says, with the state fed back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from occ_perception.exporting.onnx_file import OnnxModel
from occ_perception.frames import CameraFrame
from occ_perception.models.state import state_tensors
from occ_perception.runtime.self_check import REFERENCE
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

ENOUGH = 0.999
"""Share of equal labels that every frame must reach."""


@dataclass(frozen=True)
class FrameParity:
    """One frame.

    Attributes:
        labels: share of voxels with the same label.
        occupied: the same among voxels that either calls occupied; 1 if there are none.
        velocity: largest difference of a velocity, m/s; None without flow.
        state: largest difference of a number that is remembered, in multiples of its tensor's rms.
    """

    labels: float
    occupied: float
    velocity: float | None
    state: float

    @property
    def is_enough(self) -> bool:
        """Whether it passes."""
        return self.labels >= ENOUGH


def compare_frames(
    model: LoadedModel, exported: OnnxModel, frames: Iterable[CameraFrame]
) -> Iterator[FrameParity]:
    """Both on the same frames, each with its own state."""
    reference = OccupancyStream(model, execution=REFERENCE)
    other = OccupancyStream(exported.loaded, execution=exported.step)
    empty = model.card.labels.empty_class
    for frame in frames:
        expected, got = reference.step(frame), other.step(frame)
        same = expected.labels == got.labels
        occupied = (expected.labels != empty) | (got.labels != empty)
        velocity = None
        if expected.flow is not None and got.flow is not None:
            velocity = float(np.abs(expected.flow - got.flow).max())
        yield FrameParity(
            float(same.mean()),
            float(same[occupied].mean()) if occupied.any() else 1.0,
            velocity,
            _away(reference, other),
        )


def _away(reference: OccupancyStream, other: OccupancyStream) -> float:
    worst = 0.0
    theirs = state_tensors(other.snapshot().state)
    for name, tensor in state_tensors(reference.snapshot().state).items():
        rms = float(tensor.float().square().mean().sqrt())
        away = float((tensor.float() - theirs[name].float()).abs().max())
        worst = max(worst, away / rms if rms else away)
    return worst
