"""What a network's forward takes and gives.

Legend: B batch of independent streams, N cameras in the order of the model card, H and W network
input size, X, Y, Z output voxels, K head classes (with the leading dummy class where the published
head has one), D depth bins, h = H/16 and w = W/16.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from occ_perception.nets.cameras import CameraTensors
from occ_perception.nets.flow_head import MotionHint
from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.sparse.mask_decoder import MaskPrediction
from occ_perception.nets.sparse.voxel_decoder import VoxelLevel
from occ_perception.nets.temporal.step import StepControl

__all__ = [
    "CameraTensors",
    "DepthHint",
    "GridAugmentation",
    "MotionHint",
    "NetInputs",
    "NetOutputs",
    "Outputs",
    "SparseOutputs",
    "StepControl",
]


@dataclass(frozen=True)
class DepthHint:
    """Metric depth measured from outside: lidar at inference, ground truth while training.

    Attributes:
        depth_BNHW: metres at input resolution, 0 = none.
        rate: how much of the measurement replaces the predicted distribution where there is one,
            1 = all. (Networks that fuse depth over time take the measurement there instead, and
            mix it into the prediction while training only.)
    """

    depth_BNHW: Tensor
    rate: float = 1.0


@dataclass(frozen=True)
class NetInputs:
    """One step's input for a batch of streams.

    Attributes:
        images_BN3HW: float32, preprocessed as the card says.
        cameras: calibration.
        control: host decisions.
        augmentation: of the grid's frame.
        previous_images_BN3HW: given in training, where augmentation makes the state's stereo
            feature unusable; None while streaming.
        depth: measured depth, None where there is none.
        dense: False while training with a loss on drawn voxels alone: the volume comes out instead
            of the class logits of all voxels.
        motion: true classes that help the flow head to match, while training only.
        history: False while training has not yet switched on the fusion of volumes and depth with
            the past: every frame then counts as the first of a sequence. Matching and flow keep
            their state.
    """

    images_BN3HW: Tensor
    cameras: CameraTensors
    control: StepControl
    augmentation: GridAugmentation
    previous_images_BN3HW: Tensor | None = None
    depth: DepthHint | None = None
    dense: bool = True
    motion: MotionHint | None = None
    history: bool = True


@dataclass(frozen=True)
class NetOutputs:
    """Raw outputs of a dense network; arg-max, label conventions, losses and metrics live outside.

    Attributes:
        logits_BKXYZ: class logits, public axis order; None where the inputs say so.
        volume_BCXYZ: what :meth:`Network.class_logits` reads instead of them: features of voxels,
            or (B, C, X, Y) of columns that may be coarser.
        flow_BXYZ2: (vx, vy) m/s along the axes of the grid; None for models without flow, and
            while training.
        flow_features_BCXYZ: what the flow head takes velocity bins of single voxels from, while
            training only; its cells may be coarser than the voxels, by whole factors.
        depth_BNDhw: depth distribution before denoising.
        context_BNChw: context features (image supervision reads them).
        lifted_BCXYZ: features of the voxels before they meet the past, (B, C, X, Y) for maps, with
            their graph, while training only (the causal loss differentiates them by the context).
    """

    logits_BKXYZ: Tensor | None
    volume_BCXYZ: Tensor | None = None
    depth_BNDhw: Tensor | None = None
    context_BNChw: Tensor | None = None
    lifted_BCXYZ: Tensor | None = None
    flow_BXYZ2: Tensor | None = None
    flow_features_BCXYZ: Tensor | None = None


@dataclass(frozen=True)
class SparseOutputs:
    """Raw outputs of a network that predicts masks over the voxels it takes for occupied.

    Attributes:
        levels: voxels that survived, coarsest level first; the masks are over those of the last.
        predictions: masks and their classes, the last one counts and the others are for training.
        dims: voxels of the grid along x, y, z.
        flow_BXYZ2: None, there is no flow.
    """

    levels: tuple[VoxelLevel, ...]
    predictions: tuple[MaskPrediction, ...]
    dims: tuple[int, int, int]
    flow_BXYZ2: Tensor | None = None


Outputs = NetOutputs | SparseOutputs
"""What a network gives, see :func:`occ_perception.models.postprocess.decode`."""
