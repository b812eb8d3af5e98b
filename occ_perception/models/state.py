"""The temporal state of a network: a value, never an attribute of a module.

One NamedTuple per temporal part, None for parts a network does not have; every tensor has the
batch axis first, and its shape depends on the network and the batch size only. A slot's content
is not read before a frame with its start flag set has written it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from occ_perception.errors import OccError
from occ_perception.nets.flow_head import FlowState
from occ_perception.nets.sparse.frame_history import FrameHistoryState
from occ_perception.nets.stereo import StereoState
from occ_perception.nets.temporal.concat_history import ConcatHistoryState
from occ_perception.nets.temporal.geometry_fusion import GeometryFusionState
from occ_perception.nets.temporal.gradient_fusion import GradientFusionState


class StateError(OccError):
    """A saved state belongs to another network."""


class TemporalState(NamedTuple):
    """Everything a network carries from frame to frame.

    Attributes:
        stereo: of the matching with the previous images.
        geometry: of the depth fusion in the frustum.
        history: of the volume or map fusion, or features of earlier frames.
        flow: of the flow head.
    """

    stereo: StereoState | None = None
    geometry: GeometryFusionState | None = None
    history: ConcatHistoryState | GradientFusionState | FrameHistoryState | None = None
    flow: FlowState | None = None


def state_of_cameras(state: TemporalState, cameras: Sequence[int]) -> TemporalState:
    """The state of some cameras alone; what is not of single cameras stays.

    Args:
        state: of a network with a camera axis.
        cameras: positions on that axis, ascending.
    """
    kept = list(cameras)
    return state._replace(
        stereo=_map_tensors(state.stereo, lambda tensor: tensor[:, kept]),
        geometry=_map_tensors(state.geometry, lambda tensor: tensor[:, kept]),
        history=(
            state.history._replace(
                maps=_map_tensors(state.history.maps, lambda tensor: tensor[:, :, kept]),
                pixel_T_ego_BFN44=state.history.pixel_T_ego_BFN44[:, :, kept],
            )
            if isinstance(state.history, FrameHistoryState)
            else state.history
        ),
    )


def remembers_cameras(state: TemporalState) -> bool:
    """Whether a part of the state belongs to single cameras."""
    of_frames = isinstance(state.history, FrameHistoryState)
    return state.stereo is not None or state.geometry is not None or of_frames


def state_to(state: TemporalState, device: torch.device | str) -> TemporalState:
    """The state on another device."""
    return _map_tensors(state, lambda tensor: tensor.to(device))


def detach_state(state: TemporalState) -> TemporalState:
    """The state without its autograd graph; shares memory."""
    return _map_tensors(state, Tensor.detach)


def clone_state(state: TemporalState) -> TemporalState:
    """A copy that shares no memory, each tensor contiguous."""
    return _map_tensors(state, lambda t: t.detach().clone(memory_format=torch.contiguous_format))


def state_bytes(state: TemporalState) -> int:
    """Memory of the state's tensors."""
    return sum(t.numel() * t.element_size() for t in state_tensors(state).values())


def state_tensors(state: TemporalState) -> dict[str, Tensor]:
    """Flat ``{"history.slots_BTYXC": tensor, ...}`` for saving; absent parts leave no entry."""
    flat: dict[str, Tensor] = {}

    def visit(value: Any, name: str) -> None:
        if isinstance(value, Tensor):
            flat[name] = value
        elif value is not None:
            for field in value._fields:
                visit(getattr(value, field), f"{name}.{field}" if name else field)

    visit(state, "")
    return flat


def state_from_tensors(like: TemporalState, flat: Mapping[str, Tensor]) -> TemporalState:
    """Inverse of :func:`state_tensors`.

    Args:
        like: a state of the network that is to use it, e.g. ``net.initial_state(1)``.
        flat: saved tensors.

    Raises:
        StateError: a tensor is missing, unexpected, or of another shape; the message names all.
    """
    expected = state_tensors(like)
    wrong = [f"missing {name}" for name in expected if name not in flat]
    wrong += [f"unexpected {name}" for name in flat if name not in expected]
    wrong += [
        f"{name} has shape {tuple(flat[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in flat and flat[name].shape != tensor.shape
    ]
    if wrong:
        raise StateError(
            "saved state does not belong to this network: " + "; ".join(wrong) + ". "
            "It was saved by another model, input size or batch size; start a new sequence instead"
        )
    names = {id(tensor): name for name, tensor in expected.items()}
    return _map_tensors(
        like, lambda t: flat[names[id(t)]].to(device=t.device, dtype=t.dtype, copy=True)
    )


def _map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if value is None:
        return None
    return type(value)(*(_map_tensors(field, change) for field in value))
