"""A network's step as recorded graphs: one call to the device replays all of its kernels.

A graph reads and writes fixed memory, so the step has a slab for its inputs and two buffers for the
state. One graph reads the first buffer and writes the second, the other one the reverse. A stream
that only asks (``commit=False``) goes on from the buffer that it came from, and the one it did not
use is written again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from occ_perception.models.inputs import NetInputs, Outputs
from occ_perception.models.state import TemporalState, clone_state, state_tensors
from occ_perception.runtime.nested import leaves_of, tensors_of, with_tensors

T = TypeVar("T")
Step = Callable[[NetInputs, TemporalState], tuple[Outputs, TemporalState]]
Record = Callable[[Callable[[], T]], tuple[T, Callable[[], Any]]]
"""Runs a function once; returns its result and a function that computes it anew in place."""

_WARM_UPS = 3
# A rig whose cameras come and go has a graph for each of their sets; more are not kept.
_KEPT = 4


def cuda_graph(run: Callable[[], T]) -> tuple[T, Callable[[], Any]]:
    """Record a function as a CUDA graph, after runs in which libraries choose their kernels.

    Raises:
        RuntimeError: the function does what cannot be recorded, such as waiting for the device.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return result, graph.replay


@dataclass(frozen=True, eq=False)
class _Recorded:
    """Graphs for inputs of one form.

    Attributes:
        slab: inputs that the graphs read.
        states: both buffers.
        outputs: of the graph that reads the buffer with the same number.
        replays: those graphs.
    """

    slab: NetInputs
    states: tuple[TemporalState, TemporalState]
    outputs: tuple[Outputs, Outputs]
    replays: tuple[Callable[[], Any], Callable[[], Any]]


class GraphStep:
    """A step that replays graphs.

    Outputs are valid until the next call, and so is a returned state until the call after the next:
    who keeps a state longer copies it. Any state may be given, also one that was copied.

    Args:
        run: the step; it must not depend on values of tensors but by computing with them.
        record: how it is recorded, e.g. :func:`cuda_graph`.
    """

    def __init__(self, run: Step, record: Record[Any] = cuda_graph) -> None:
        self._run, self._record = run, record
        self._recorded: dict[Hashable, _Recorded] = {}

    def __call__(self, inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
        """Outputs and the next state; inputs of a new form are recorded first."""
        form = (_form(inputs), tuple(t.shape for t in state_tensors(state).values()))
        recorded = self._recorded.get(form)
        if recorded is None:
            while len(self._recorded) >= _KEPT:
                self._recorded.pop(next(iter(self._recorded)))
            recorded = self._recorded[form] = self._new(inputs, state)
        for fixed, given in zip(tensors_of(recorded.slab), tensors_of(inputs), strict=True):
            fixed.copy_(given, non_blocking=True)
        number = int(state is recorded.states[1])
        if state is not recorded.states[number]:
            _copy(state, recorded.states[number])
        recorded.replays[number]()
        return recorded.outputs[number], recorded.states[1 - number]

    def _new(self, inputs: NetInputs, state: TemporalState) -> _Recorded:
        slab = with_tensors(inputs, [tensor.clone() for tensor in tensors_of(inputs)])
        first = clone_state(state)
        given = {t.untyped_storage().data_ptr() for t in tensors_of((slab, first))}

        def forth() -> tuple[Outputs, TemporalState]:
            outputs, after = self._run(slab, first)
            # What the network hands on unchanged must not be overwritten on the way back.
            own = [
                t.clone() if t.untyped_storage().data_ptr() in given else t
                for t in tensors_of(after)
            ]
            return outputs, with_tensors(after, own)

        (outputs, second), replay_forth = self._record(forth)

        def back() -> Outputs:
            outputs, after = self._run(slab, second)
            _copy(after, first)
            return outputs

        outputs_back, replay_back = self._record(back)
        return _Recorded(
            slab, (first, second), (outputs, outputs_back), (replay_forth, replay_back)
        )


def _copy(source: TemporalState, target: TemporalState) -> None:
    for there, here in zip(tensors_of(target), tensors_of(source), strict=True):
        there.copy_(here)


def _form(inputs: NetInputs) -> Hashable:
    """What a graph is recorded for: shapes of the tensors, and everything else by value."""
    return tuple(
        (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves_of(inputs)
    )
