"""One step of a model as a function of named tensors.

Inputs are those of :class:`~occ_perception.models.inputs.NetInputs` by the path of their fields,
such as ``cameras.pixel_T_grid_BN44``, and the state before, ``state.history.slots_BTYXC``. Outputs
are labels, velocities and the state after, ``next.history.slots_BTYXC``. All numbers are float32:
what the networks compute in float64 on the way is rounded too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from occ_perception.models.inputs import NetInputs, Outputs
from occ_perception.models.postprocess import decode
from occ_perception.models.state import TemporalState, state_tensors
from occ_perception.ops.backend import references_alone
from occ_perception.runtime.execution import PreparedStep
from occ_perception.runtime.nested import named_tensors_of, with_tensors
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

LABELS, FLOW, SUMS = "labels_BXYZ", "flow_BXYZ2", "sums"
STATE, NEXT = "state.", "next."


@dataclass(frozen=True, eq=False)
class FlatStep:
    """A step that is ready to be written.

    Attributes:
        program: of the inputs in the order of ``inputs``.
        inputs: name -> example, state included.
        outputs: name -> example, state included.
    """

    program: ExportedProgram
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


def flat_step(model: LoadedModel) -> FlatStep:
    """Trace a step of a model at its full size; the shapes become fixed.

    Every operation is traced by its readable reference, so that the file holds nothing of our own.
    """
    inputs, state = _second_step(model)
    step = _Flat(model, inputs, state)
    examples = {name: _single(tensor) for name, tensor in step_inputs(inputs, state).items()}
    with torch.no_grad(), references_alone():
        traced = torch.export.export(step, tuple(examples.values()), strict=False)
        _without_doubles(traced)
        # Traced again, because the types of everything that follows change.
        traced = torch.export.export(traced.module(), tuple(examples.values()), strict=False)
        values = traced.module()(*examples.values())
    outputs = dict(zip(step.output_names, values, strict=True))
    return FlatStep(traced, examples, outputs)


def step_inputs(inputs: NetInputs, state: TemporalState) -> dict[str, Tensor]:
    """Name -> tensor of a step; the augmentation, which is none when a network runs, is not one."""
    named = named_tensors_of(replace(inputs, augmentation=None))  # type: ignore[arg-type]
    return named | {STATE + name: tensor for name, tensor in state_tensors(state).items()}


class _Flat(nn.Module):
    """A network whose forward takes and gives tensors in a fixed order."""

    def __init__(self, model: LoadedModel, inputs: NetInputs, state: TemporalState) -> None:
        super().__init__()
        self.net: Any = model.net
        self._card = model.card
        self._augmentation = inputs.augmentation
        self._inputs = replace(inputs, augmentation=None)  # type: ignore[arg-type]
        self._state = state
        self._count = len(named_tensors_of(self._inputs))
        flow = [FLOW] if model.card.config.predicts_flow else []
        following = [NEXT + name for name in state_tensors(state)]
        self.output_names = [LABELS, *flow, SUMS, *following]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        inputs = with_tensors(self._inputs, tensors[: self._count])
        state = with_tensors(self._state, tensors[self._count :])
        inputs = replace(inputs, augmentation=self._augmentation)
        outputs, following = self.net(inputs, state)
        decoded = decode(outputs, self._card)
        flow = [] if decoded.flow_BXYZ2 is None else [decoded.flow_BXYZ2]
        return (decoded.labels_BXYZ, *flow, decoded.sums, *state_tensors(following).values())


def _second_step(model: LoadedModel) -> tuple[NetInputs, TemporalState]:
    """Inputs and state of a step with a past, as a stream makes them."""
    seen: list[tuple[NetInputs, TemporalState]] = []

    def run(inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
        seen.append((inputs, state))
        with references_alone():
            outputs, following = model.net(inputs, state)
        return outputs, following

    stream = OccupancyStream(model, execution=PreparedStep(run, reuses_memory=False))
    for frame in random_frames(model.card, 2):
        stream.step(frame)
    return seen[-1]


def _single(tensor: Tensor) -> Tensor:
    """A copy, in float32 if it is in float64."""
    single = tensor.float() if tensor.dtype == torch.float64 else tensor
    return single.detach().clone(memory_format=torch.contiguous_format)


def _without_doubles(program: ExportedProgram) -> None:
    """Compute in float32 what is computed in float64; in place."""
    for node in program.graph.nodes:
        node.args = _with_singles(node.args)
        node.kwargs = _with_singles(node.kwargs)
    for holder in (program.constants, program.state_dict):
        for name, value in holder.items():
            if isinstance(value, Tensor) and value.dtype == torch.float64:
                holder[name] = value.float()


def _with_singles(value: Any) -> Any:
    if value is torch.float64:
        return torch.float32
    if isinstance(value, dict):
        return {name: _with_singles(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        items: Sequence[Any] = [_with_singles(item) for item in value]
        return type(value)(items)
    return value
