"""What every network of the zoo is: one interface for those who build, load and run them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from occ_perception.geometry import VoxelGrid
from occ_perception.models.inputs import NetInputs, Outputs
from occ_perception.models.state import TemporalState
from occ_perception.nets.bev_encoder import VoxelPlaces


class NetworkConfig(Protocol):
    """A network as a choice of parts."""

    @property
    def geometry(self) -> Any:
        """``input_size``, ``grid`` and ``num_cameras``, and what else the kind of network needs."""

    @property
    def output_grid(self) -> VoxelGrid:
        """The grid of the class map."""

    @property
    def history_frames(self) -> int:
        """Number of past frames that matter; 0 without history."""

    @property
    def class_scores(self) -> str:
        """What classes are compared by, see :class:`~occ_perception.models.card.ModelCard`."""

    @property
    def measured_depth(self) -> bool:
        """Whether depth that a lidar measured is an input when the network is run."""

    @property
    def matches_images(self) -> bool:
        """Whether it compares images with those before."""

    @property
    def fuses_depth(self) -> bool:
        """Whether measured depth enters where depth is fused with the past."""

    @property
    def predicts_flow(self) -> bool:
        """Whether it gives velocities."""

    def with_geometry(self, geometry: Any) -> NetworkConfig:
        """The same network for other sizes."""

    def build(self) -> Network:
        """The network, its weights not yet meaningful."""


class Network(nn.Module, ABC):
    """Camera images of one step, and the state of the steps before, to what fills the grid.

    Attributes:
        config: what it was built from.
    """

    config: Any

    @property
    def image_embed(self) -> nn.Module | None:
        """Weights that only a loss on images reads, None where there are none."""
        return None

    def image_prototypes(self) -> Tensor:
        """(K, C) prototypes in the space of the lifted context, for a loss on images.

        Raises:
            ValueError: the network was built without.
        """
        raise ValueError(
            f"this {type(self).__name__} has no prototypes for a loss on images; leave the term "
            "ImageMasks out of the recipe"
        )

    def class_logits(self, _volume_BCXYZ: Tensor, _places: VoxelPlaces) -> Tensor:
        """Class logits of single voxels, (V, K), for a loss on drawn voxels.

        Args:
            _volume_BCXYZ: from the outputs.
            _places: V voxels.

        Raises:
            ValueError: the head looks at more than single voxels.
        """
        raise ValueError(
            f"the head of this {type(self).__name__} cannot be asked for single voxels; replace "
            "the term DrawnVoxels of the recipe by one over all voxels"
        )

    def velocity_bins(self, _features_VC: Tensor) -> Tensor:
        """Logits over the velocity bins of single voxels, (V, 88, 2), for a loss on velocities.

        Args:
            _features_VC: of V voxels, from the outputs.

        Raises:
            ValueError: the network predicts no flow.
        """
        raise ValueError(
            f"this {type(self).__name__} predicts no flow; leave the term Velocities out of the "
            "recipe"
        )

    @abstractmethod
    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> TemporalState:
        """The state before the first frame, which must have its start flag set.

        Args:
            batch_size: number of independent streams.
            device: the parameters' device unless given.
            dtype: of the remembered features.
        """

    @abstractmethod
    def forward(self, inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
        """One step of B streams.

        Args:
            inputs: batched, on the device of the parameters.
            state: from :meth:`initial_state` or the step before; it is not changed.

        Returns:
            Raw outputs, and the state after this step.
        """
