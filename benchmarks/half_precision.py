"""What half precision changes, emulated on a CPU: whole networks, and one part after the other.

    python benchmarks/half_precision.py [--model alocc_town] [--random-weights N] [--frames 6]
        [--precision bf16 fp16]

Frames come from a drive through a test town; the state is fed back. Each half precision is compared
with the readable operations in fp32, as the self-check does, and so is each part alone in it.

    equal               voxels with the same label, worst frame
    occupied equal      the same among voxels that either calls occupied, worst frame
    m/s                 mean difference of velocities among these, worst frame
    rms                 root mean square of the difference of class logits, all frames
    margin / rms        of the voxels whose label flips: how far the winner was ahead of the new one
                        in fp32, in multiples of rms: the largest, and the 99th percentile

A flip with a small margin is a voxel that was undecided. Results go to benchmarks/results/ as dated
JSON and Markdown.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from town import write_results

from occ_perception.frames import CameraFrame
from occ_perception.models.inputs import NetInputs, NetOutputs, Outputs
from occ_perception.models.state import TemporalState
from occ_perception.ops.backend import references_alone
from occ_perception.runtime.execution import (
    HALF,
    PreparedStep,
    half_parts,
    half_twin,
    prepared_step,
)
from occ_perception.runtime.self_check import REFERENCE, agreement_of
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel, load_model
from occ_perception.synthetic import Drive, DriveSensors, SensorOptions, Town
from occ_perception.synthetic.drive import KEYFRAME_PERIOD_S

TOWN = 20_000
IMAGE_SIZE = (704, 396)


class Run:
    """Predictions and logits of a drive, one way of running the network."""

    def __init__(self, model: LoadedModel, frames: list[CameraFrame], step: PreparedStep) -> None:
        self.logits_BKXYZ: list[Tensor] = []

        def recording(inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
            outputs, following = step(inputs, state)
            assert isinstance(outputs, NetOutputs) and outputs.logits_BKXYZ is not None
            self.logits_BKXYZ.append(outputs.logits_BKXYZ[:, 1:].clone())
            return outputs, following

        stream = OccupancyStream(model, execution=replace(step, run=recording))
        predictions = [stream.step(frame) for frame in frames]
        self.results = [(p.labels, p.flow) for p in predictions]


def row(model: LoadedModel, reference: Run, run: Run) -> dict[str, float]:
    """A row of the table."""
    agreement = agreement_of(run.results, reference.results, model.card.labels.empty_class)
    squares, count, margins = 0.0, 0, []
    for expected, got, (labels, _), (others, _) in zip(
        reference.logits_BKXYZ, run.logits_BKXYZ, reference.results, run.results, strict=True
    ):
        squares += float((got - expected).square().sum())
        count += got.numel()
        flipped = torch.from_numpy(np.argwhere(labels != others)).T
        x, y, z = flipped
        own = torch.from_numpy(labels[labels != others]).long()
        new = torch.from_numpy(others[labels != others]).long()
        logits = expected[0]
        margins.append(logits[own, x, y, z] - logits[new, x, y, z])
    rms = math.sqrt(squares / count)
    margin = torch.cat(margins) / max(rms, 1e-12)
    return {
        "equal %": 100 * agreement.voxels,
        "occupied equal %": 100 * agreement.occupied,
        "m/s": math.nan if agreement.velocity is None else agreement.velocity,
        "rms": rms,
        "margin / rms, p99": float(margin.quantile(0.99)) if len(margin) else 0.0,
        "max": float(margin.max()) if len(margin) else 0.0,
    }


def in_half(model: LoadedModel, dtype: torch.dtype, parts: list[str]) -> PreparedStep:
    """The network with some parts in half precision, by the readable operations."""
    twin = half_twin(model.net, dtype, parts)

    def step(inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
        with references_alone():
            outputs, following = twin(inputs, state)
        return outputs, following

    return PreparedStep(step, reuses_memory=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="alocc_town")
    parser.add_argument("--weights")
    parser.add_argument("--random-weights", type=int)
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--precision", nargs="+", default=list(HALF), choices=list(HALF))
    options = parser.parse_args()
    model = load_model(options.model, options.weights, options.random_weights)
    sensors = DriveSensors(Drive(Town(TOWN), 0), SensorOptions(size=IMAGE_SIZE, jitter_rig=True))
    frames = [sensors.frame(2.0 + KEYFRAME_PERIOD_S * n) for n in range(options.frames)]
    reference = Run(model, frames, prepared_step(model.net, REFERENCE))
    rows = {}
    for precision in options.precision:
        every = list(half_parts(model.net))
        for name, parts in ({"all parts": every} | {one: [one] for one in every}).items():
            run = Run(model, frames, in_half(model, HALF[precision], parts))
            rows[f"{precision}, {name}"] = row(model, reference, run)
            print(precision, name, rows[f"{precision}, {name}"], flush=True)
    write_results(f"half-precision-{options.model}", rows)


if __name__ == "__main__":
    main()
