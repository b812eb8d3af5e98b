"""Class frequencies, and the class weights that follow from them.

Legend: C classes of an annotation set, K = C + 1 classes of a head with a leading dummy class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS

# Voxel counts over the training split of Occ3D-nuScenes and Occ3D-Waymo (as used in FB-Occ,
# arXiv 2307.01492, and ALOcc, arXiv 2411.07725).
_NUSCENES = (
    944004,
    1897170,
    152386,
    2391677,
    16957802,
    724139,
    189027,
    2074468,
    413451,
    2384460,
    5916653,
    175883646,
    4275424,
    51393615,
    61411620,
    105975596,
    116424404,
    1892500630,
)
_WAYMO = (
    1.20564946e8,
    5.14301232e8,
    4.5941915e7,
    1.0099978e7,
    1.678002e6,
    3.700225e6,
    6.2499853e7,
    2.697145e6,
    1.177286e6,
    2.35056e5,
    1.65496036e9,
    1.88202593e9,
    8.1748923e7,
    1.84173453e9,
    1.00114618e9,
    9.39473284e10,
)
_SAMPLING_EXPONENT = 0.25


def class_frequencies(label_set: str) -> Tensor:
    """(C,) float64 voxel counts in the order of the annotation set.

    Args:
        label_set: key of :data:`occ_perception.labels.LABEL_SETS`.
    """
    if label_set == "waymo":
        return torch.tensor(_WAYMO, dtype=torch.float64)
    counts = dict(zip(LABEL_SETS["occ3d"].class_names, _NUSCENES, strict=True))
    names = LABEL_SETS[label_set].class_names
    return torch.tensor([counts[name] for name in names], dtype=torch.float64)


def log_weights(label_set: str) -> Tensor:
    """(K,) float32 ``1 / ln(count + 0.001)``, 0 for the dummy class."""
    weights = 1.0 / torch.log(class_frequencies(label_set) + 0.001)
    return torch.cat([torch.zeros(1), weights.float()])


def mask_weights(label_set: str) -> Tensor:
    """(K,) float32 weights of the class masks: :func:`log_weights` with the first class at 1."""
    weights = log_weights(label_set)
    return weights / weights[1]


def sampling_weights(label_set: str) -> Tensor:
    """(K,) float32 relative chance that a voxel of a class is drawn; the most frequent has 1."""
    counts = class_frequencies(label_set)
    relative = (counts.max() / counts) ** _SAMPLING_EXPONENT
    return torch.cat([torch.zeros(1), relative.float()])


def head_targets(labels: Tensor) -> Tensor:
    """Labels for a head with a leading dummy class: int64, one more than the id, 255 kept."""
    labels = labels.long()
    return torch.where(labels == UNKNOWN_CLASS, labels, labels + 1)
