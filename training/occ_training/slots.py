"""Temporal state of the batch slots, from one training step to the next.

Legend: B slots of this process, X, Y, Z voxels of the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from occ_perception.models.inputs import MotionHint, Outputs
from occ_perception.models.network import Network
from occ_perception.models.state import (
    TemporalState,
    detach_state,
    state_from_tensors,
    state_tensors,
    state_to,
)
from occ_training.data.records import DatasetError
from occ_training.data.sample import Batch


class Slots:
    """The temporal state of a network in training, detached from the graph.

    Args:
        net: the network; it defines the state.

    Attributes:
        state: of the network, None before the first step.
        position_B: frames since the first of the sequence per slot, None before the first step.
    """

    def __init__(self, net: Network) -> None:
        self._net = net
        self.state: TemporalState | None = None
        self.position_B: Tensor | None = None
        self._labels_BXYZ: Tensor | None = None

    def forward(
        self,
        batch: Batch,
        *,
        depth_rate: float | None = None,
        motion_rate: float = 0.0,
        history: bool = True,
        dense: bool = True,
    ) -> Outputs:
        """The network's outputs on the next frame of each slot; updates the state.

        Args:
            batch: on the device of the network.
            depth_rate: share of the measured depth, see
                :class:`occ_perception.models.inputs.DepthHint`; None = no measured depth.
            motion_rate: share of the labels in the flow head, see
                :class:`occ_perception.models.inputs.MotionHint`; labels are stored for the next
                step while it is not 0.
            history: whether volumes are fused with the past.
            dense: whether class logits of all voxels are wanted, or the volume instead.

        Raises:
            ValueError: measured depth is needed, and the batch has none.
            DatasetError: labels are needed, and the batch has none.
        """
        if self.state is None or self.position_B is None:
            device = batch.start_B.device
            self.state = self._net.initial_state(len(batch), device)
            self.position_B = torch.zeros(len(batch), dtype=torch.long, device=device)
        position_B = torch.where(batch.start_B, 0, self.position_B)
        motion = self._motion(batch, motion_rate) if motion_rate > 0.0 else None
        inputs = replace(
            batch.inputs(position_B, depth_rate), history=history, dense=dense, motion=motion
        )
        outputs: Outputs
        outputs, state = self._net(inputs, self.state)
        self.state, self.position_B = detach_state(state), position_B + 1
        self._labels_BXYZ = None if motion is None else motion.labels_BXYZ
        return outputs

    def _motion(self, batch: Batch, rate: float) -> MotionHint:
        labels = batch.labels_BXYZ
        if labels is None:
            raise DatasetError(
                "the flow head needs labels while `motion_fading` lasts, and the samples have no "
                "occupancy labels; add them to the data set, or set `motion_fading` of the recipe "
                "to null"
            )
        before = labels if self._labels_BXYZ is None else self._labels_BXYZ
        return MotionHint(labels, before, rate)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state on the CPU, batch axis first, for a checkpoint."""
        if self.state is None or self.position_B is None:
            return {}
        flat = {**state_tensors(self.state), "position": self.position_B}
        if self._labels_BXYZ is not None:
            flat["labels"] = self._labels_BXYZ
        return {name: tensor.detach().cpu() for name, tensor in flat.items()}

    def restore(self, tensors: Mapping[str, Tensor], device: torch.device) -> None:
        """The inverse of :meth:`tensors`.

        Raises:
            StateError: they belong to another network or batch size.
        """
        flat = dict(tensors)
        position_B, labels_BXYZ = flat.pop("position"), flat.pop("labels", None)
        like = self._net.initial_state(len(position_B), "cpu")
        self.state = state_to(state_from_tensors(like, flat), device)
        self.position_B = position_B.to(device)
        self._labels_BXYZ = None if labels_BXYZ is None else labels_BXYZ.to(device)
