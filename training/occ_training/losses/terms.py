"""Loss terms: each combines losses with their weights.

A recipe lists its terms; the loss is their sum. Legend as in :mod:`occ_training.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import NetOutputs, Outputs, SparseOutputs
from occ_perception.models.network import Network
from occ_perception.nets.bev_encoder import VoxelPlaces
from occ_training.data.dataset import Content
from occ_training.data.records import DatasetError
from occ_training.data.sample import Batch
from occ_training.losses import voxels
from occ_training.losses.causal import causal_loss
from occ_training.losses.classes import (
    class_frequencies,
    head_targets,
    log_weights,
    sampling_weights,
)
from occ_training.losses.flow import at_voxels, flow_losses, moving_voxels
from occ_training.losses.image_branch import (
    depth_binary_cross_entropy,
    depth_cross_entropy,
    image_logits,
    nearest_point_labels,
)
from occ_training.losses.masks import MaskLoss, MaskLossConfig
from occ_training.losses.matching import (
    average_matches,
    covered_labels,
    listed_voxel_loss,
    matched_losses,
)
from occ_training.sampler import seed_of

Losses = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class SupervisedStep:
    """Outputs and labels of a step.

    Attributes:
        net: the network, for terms that use its parameters.
        card: of the network.
        batch: samples on the network's device.
        outputs: of the network.
        seed: of all random draws in this step.
    """

    net: Network
    card: ModelCard
    batch: Batch
    outputs: Any
    seed: int

    @property
    def labels_BXYZ(self) -> Tensor:
        """Class ids, 255 = not supervised."""
        if self.batch.labels_BXYZ is None:
            raise DatasetError(
                "this recipe needs occupancy labels, and the samples have none; add labels to the "
                "data set"
            )
        return self.batch.labels_BXYZ

    @cached_property
    def targets_BXYZ(self) -> Tensor:
        """Head class of every voxel, 255 = not supervised."""
        return head_targets(self.labels_BXYZ)

    @cached_property
    def pixel_targets_BNhw(self) -> Tensor:
        """Head class of every feature pixel, 255 = unknown."""
        depth, semantics = self.batch.depth_BNHW, self.batch.semantics_BNHW
        if depth is None or semantics is None:
            raise DatasetError(
                "this recipe supervises images with classes of lidar points, and the samples "
                "have none; add point classes to the data set, or leave the term out of the recipe"
            )
        stride = self.card.config.geometry.feature_stride
        return head_targets(nearest_point_labels(depth, semantics, stride))

    @property
    def measured_depth_BNHW(self) -> Tensor:
        """Metric depth, 0 = none."""
        if self.batch.depth_BNHW is None:
            raise DatasetError(
                "this recipe supervises depth, and the samples have no lidar points; add them to "
                "the data set, or leave the term out of the recipe"
            )
        return self.batch.depth_BNHW

    def generators(self, purpose: str, device: torch.device) -> list[torch.Generator]:
        """One per sample, seeded by the frame, so draws do not depend on its place in the batch."""
        return [
            torch.Generator(device).manual_seed(seed_of(self.seed, index, *purpose.encode()))
            for index in self.batch.indices
        ]


class Term(Protocol):
    """A part of the loss.

    Attributes:
        contents: what it needs of a frame besides images.
    """

    contents: ClassVar[tuple[Content, ...]]

    def __call__(self, step: SupervisedStep) -> Losses:
        """Losses of the step by name, weighted."""


@dataclass(frozen=True, kw_only=True)
class VoxelMasks:
    """Class masks over voxels (ALOcc)."""

    contents: ClassVar[tuple[Content, ...]] = ("labels",)
    points: MaskLossConfig = field(default_factory=MaskLossConfig)

    def __call__(self, step: SupervisedStep) -> Losses:
        """``mask`` and ``dice``."""
        logits = step.outputs.logits_BKXYZ
        loss = MaskLoss(step.card.label_set, self.points)
        drawn = step.generators("voxels", logits.device)
        masks = loss(logits.flatten(2), step.targets_BXYZ.flatten(1), drawn)
        return {"mask": masks.mask, "dice": masks.dice}


@dataclass(frozen=True, kw_only=True)
class ImageMasks:
    """The same prototypes on the lifted context, against classes of lidar points (ALOcc).

    If the classes of the voxels have other ids (OpenOcc), both still share the prototypes, and the
    class weights follow the ids of the voxels, as in the reference code.
    """

    contents: ClassVar[tuple[Content, ...]] = ("depth", "point_classes")
    points: MaskLossConfig = field(default_factory=lambda: MaskLossConfig(points=1056))
    weight: float = 0.1

    def __call__(self, step: SupervisedStep) -> Losses:
        """``image_mask`` and ``image_dice``."""
        assert step.outputs.context_BNChw is not None
        prototypes_KC = step.net.image_prototypes()
        logits = image_logits(step.outputs.context_BNChw, prototypes_KC)
        loss = MaskLoss(step.card.label_set, self.points)
        drawn = step.generators("pixels", logits.device)
        masks = loss(logits.flatten(2), step.pixel_targets_BNhw.flatten(1), drawn)
        return {"image_mask": self.weight * masks.mask, "image_dice": self.weight * masks.dice}


@dataclass(frozen=True, kw_only=True)
class DepthCrossEntropy:
    """Cross entropy of the measured depth bin (ALOcc)."""

    contents: ClassVar[tuple[Content, ...]] = ("depth",)
    weight: float = 1.0

    def __call__(self, step: SupervisedStep) -> Losses:
        """``depth``."""
        geometry = step.card.config.geometry
        surface = step.outputs.depth_BNDhw
        assert surface is not None
        loss = depth_cross_entropy(surface, step.measured_depth_BNHW, geometry)
        return {"depth": self.weight * loss}


@dataclass(frozen=True, kw_only=True)
class DepthBinaryCrossEntropy:
    """Binary cross entropy of the measured depth bin (BEVDet, FB-Occ)."""

    contents: ClassVar[tuple[Content, ...]] = ("depth",)
    weight: float

    def __call__(self, step: SupervisedStep) -> Losses:
        """``depth``."""
        geometry = step.card.config.geometry
        surface = step.outputs.depth_BNDhw
        assert surface is not None
        loss = depth_binary_cross_entropy(surface, step.measured_depth_BNHW, geometry)
        return {"depth": self.weight * loss}


@dataclass(frozen=True, kw_only=True)
class VoxelCrossEntropy:
    """Plain cross entropy over voxels (BEVDetOcc)."""

    contents: ClassVar[tuple[Content, ...]] = ("labels",)

    def __call__(self, step: SupervisedStep) -> Losses:
        """``voxel_ce``."""
        pair = voxels.supervised(step.outputs.logits_BKXYZ, step.targets_BXYZ)
        return {"voxel_ce": voxels.cross_entropy(*pair)}


@dataclass(frozen=True, kw_only=True)
class VoxelFocalLovasz:
    """Focal, both scale losses and Lovász over voxels (FB-Occ, arXiv 2307.01492)."""

    contents: ClassVar[tuple[Content, ...]] = ("labels",)

    def __call__(self, step: SupervisedStep) -> Losses:
        """``voxel_focal``, ``voxel_semantic``, ``voxel_geometric`` and ``voxel_lovasz``."""
        targets = step.targets_BXYZ
        logits_VK, targets_V = voxels.supervised(step.outputs.logits_BKXYZ, targets)
        by_class = log_weights(step.card.label_set).to(logits_VK.device)
        radial = voxels.radial_weights((targets.shape[1], targets.shape[2])).to(logits_VK.device)
        radial_V = radial[None, :, :, None].expand(targets.shape)[targets != UNKNOWN_CLASS]
        return {
            "voxel_focal": voxels.focal(logits_VK, targets_V, by_class, radial_V),
            "voxel_semantic": voxels.semantic_scale(logits_VK, targets_V),
            "voxel_geometric": voxels.geometric_scale(logits_VK, targets_V),
            "voxel_lovasz": voxels.lovasz_softmax(logits_VK, targets_V),
        }


@dataclass(frozen=True, kw_only=True)
class DrawnVoxels:
    """Cross entropy, both scale losses and both Lovász losses over voxels drawn at random.

    A few per cent of the voxels teach as much as all of them. Where no other term reads the class
    logits, they are computed for the drawn voxels alone, see :func:`reads_all_logits`. Class
    weights of the cross entropy are :func:`~occ_training.losses.classes.sampling_weights`, scaled
    to a mean of one over all voxels.

    Attributes:
        points: voxels per frame, drawn among those with a label.
        semantic, geometric, lovasz, occupied: weights of the other losses; the last one is that of
            the Lovász loss of occupied against free.
        lovasz_every: the Lovász losses, which sort, are taken over every so many of the voxels.
    """

    contents: ClassVar[tuple[Content, ...]] = ("labels",)
    points: int = 30_000
    semantic: float = 0.3
    geometric: float = 0.5
    lovasz: float = 1.0
    occupied: float = 1.0
    lovasz_every: int = 3

    def __call__(self, step: SupervisedStep) -> Losses:
        """``voxel_ce``, ``voxel_semantic``, ``_geometric``, ``_lovasz`` and ``_occupied``."""
        logits_VK, targets_V = self._drawn(step)
        weights_K = sampling_weights(step.card.label_set)
        counts_C = class_frequencies(step.card.label_set)
        weights_K = weights_K * (counts_C.sum() / (weights_K[1:] * counts_C).sum()).float()
        few = slice(None, None, self.lovasz_every)
        lovasz = voxels.lovasz_softmax(logits_VK[few], targets_V[few])
        occupied = voxels.lovasz_occupied(logits_VK[few], targets_V[few])
        return {
            "voxel_ce": voxels.cross_entropy(logits_VK, targets_V, weights_K.to(logits_VK)),
            "voxel_semantic": self.semantic * voxels.semantic_scale(logits_VK, targets_V),
            "voxel_geometric": self.geometric * voxels.geometric_scale(logits_VK, targets_V),
            "voxel_lovasz": self.lovasz * lovasz,
            "voxel_occupied": self.occupied * occupied,
        }

    def _drawn(self, step: SupervisedStep) -> tuple[Tensor, Tensor]:
        targets_BXYZ = step.targets_BXYZ
        generators = step.generators("drawn voxels", targets_BXYZ.device)
        drawn = []
        for b, (target, generator) in enumerate(zip(targets_BXYZ, generators, strict=True)):
            places_V3 = (target != UNKNOWN_CLASS).nonzero()
            if not len(places_V3):
                continue
            device = places_V3.device
            pick = torch.randint(len(places_V3), (self.points,), generator=generator, device=device)
            drawn.append(F.pad(places_V3[pick], (1, 0), value=b))
        if not drawn:
            raise DatasetError(
                "no voxel of this batch has a label; see ignore_unseen of the recipe"
            )
        places = VoxelPlaces(*torch.cat(drawn).unbind(1))
        b_V, x_V, y_V, z_V = places
        if step.outputs.logits_BKXYZ is not None:
            logits_VK = step.outputs.logits_BKXYZ[b_V, :, x_V, y_V, z_V]
        else:
            logits_VK = step.net.class_logits(step.outputs.volume_BCXYZ, places)
        return logits_VK.float(), targets_BXYZ[b_V, x_V, y_V, z_V]


@dataclass(frozen=True, kw_only=True)
class Velocities:
    """Velocity bins, squared error and direction (ALOcc-Flow)."""

    contents: ClassVar[tuple[Content, ...]] = ("labels",)
    weight: float = 1.0

    def __call__(self, step: SupervisedStep) -> Losses:
        """``flow_bins``, ``flow`` and ``flow_cosine``."""
        outputs, truth = step.outputs, step.batch.flow_BXYZ2
        if truth is None:
            raise DatasetError(
                "this recipe supervises velocities, and the data set has none; add flow to the "
                "labels, or leave the term out of the recipe"
            )
        known = moving_voxels(step.labels_BXYZ, truth, step.card.labels)
        features_VC = at_voxels(outputs.flow_features_BCXYZ, known)
        bins_VK2 = step.net.velocity_bins(features_VC)
        losses = flow_losses(bins_VK2, truth[known].flip(-1))  # the head has y before x
        return {
            "flow_bins": self.weight * losses.bins,
            "flow": self.weight * losses.squared,
            "flow_cosine": self.weight * losses.cosine,
        }


@dataclass(frozen=True, kw_only=True)
class CausalLoss:
    """Features of a class depend only on pixels of that class (CausalOcc, arXiv 2509.08388)."""

    contents: ClassVar[tuple[Content, ...]] = ("labels", "depth", "point_classes")
    weight: float = 0.02

    def __call__(self, step: SupervisedStep) -> Losses:
        """``causal``."""
        lifted, context = step.outputs.lifted_BCXYZ, step.outputs.context_BNChw
        assert lifted is not None and context is not None
        loss = causal_loss(
            lifted,
            context,
            step.targets_BXYZ,
            step.pixel_targets_BNhw,
            step.generators("causal", torch.device("cpu")),
        )
        return {"causal": self.weight * loss}


@dataclass(frozen=True, kw_only=True)
class ListedVoxels:
    """Voxels from coarse to fine, and masks matched with the classes that occur (SparseOcc)."""

    contents: ClassVar[tuple[Content, ...]] = ("labels",)

    def __call__(self, step: SupervisedStep) -> Losses:
        """``voxels_N`` per level, and ``mask``, ``dice`` and ``classes`` over all predictions."""
        outputs = step.outputs
        assert isinstance(outputs, SparseOutputs)
        weights_K = log_weights(step.card.label_set)[1:].to(step.labels_BXYZ.device)
        losses: Losses = {}
        for number, level in enumerate(outputs.levels):
            side = 2 ** (len(outputs.levels) - 1 - number)
            per_sample = [
                listed_voxel_loss(logits, covered_labels(corner, side, labels), weights_K)
                for logits, corner, labels in zip(
                    level.logits_BVK, level.corner_BV3, step.labels_BXYZ, strict=True
                )
            ]
            losses[f"voxels_{number}"] = torch.stack(per_sample).mean()
        finest = outputs.levels[-1]
        labels_BV = [
            covered_labels(corner, 1, labels)[:, 0]
            for corner, labels in zip(finest.corner_BV3, step.labels_BXYZ, strict=True)
        ]
        matched = [
            [
                matched_losses(classes, masks, labels_V)
                for classes, masks, labels_V in zip(
                    prediction.class_logits_BQK, prediction.mask_logits_BQV, labels_BV, strict=True
                )
            ]
            for prediction in outputs.predictions
        ]
        count = average_matches([sample.matches for sample in matched[0]])
        for name in ("mask", "dice", "classes"):
            terms = [getattr(sample, name) for samples in matched for sample in samples]
            losses[name] = torch.stack(terms).sum() / count
        return losses


_TERMS: tuple[type[Term], ...] = (
    VoxelMasks,
    ImageMasks,
    DepthCrossEntropy,
    DepthBinaryCrossEntropy,
    VoxelCrossEntropy,
    VoxelFocalLovasz,
    DrawnVoxels,
    Velocities,
    CausalLoss,
    ListedVoxels,
)
TERMS = {term.__name__: term for term in _TERMS}
"""Every term by the name that run files use."""

_WITHOUT_ALL_LOGITS = (
    DrawnVoxels,
    ImageMasks,
    DepthCrossEntropy,
    DepthBinaryCrossEntropy,
    Velocities,
)


def reads_all_logits(terms: Sequence[Term]) -> bool:
    """Whether some term reads the class logits of all voxels; any unknown one is taken to do so."""
    return not all(isinstance(term, _WITHOUT_ALL_LOGITS) for term in terms)


def full_precision(outputs: Outputs) -> Outputs:
    """The outputs in float32, in which every loss is computed."""
    if not isinstance(outputs, NetOutputs):
        return outputs
    floats = {
        name: value.float()
        for name, value in vars(outputs).items()
        if isinstance(value, Tensor) and name != "context_BNChw"  # keeps its place in the graph
    }
    return replace(outputs, **floats)
