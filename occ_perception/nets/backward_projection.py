"""Backward projection: every column of the grid asks the images what it looks like.

Legend: B batch, N cameras, C channels, M heads, S samples, K heights of a column, D depth bins,
h, w feature pixels, X, Y, Z voxels; Q = Y * X columns, x innermost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.cameras import CameraTensors
from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.part import Part
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry
from occ_perception.ops.backend import deformable_attention, sample_bins

_MARGIN = 1e-5


@dataclass(frozen=True, kw_only=True)
class BackwardProjectionConfig:
    """One layer of attention.

    Attributes:
        channels: width of the lifted volume and of the image features.
        heads: of both attentions.
        plane_samples: samples per column and head on the plane of columns.
        heights: points of a column that are looked up in the images.
        samples_per_height: samples per such point and head.
        hidden: width between the two last layers.
    """

    channels: int
    heads: int = 8
    plane_samples: int = 4
    heights: int = 4
    samples_per_height: int = 2
    hidden: int = 320

    def build(self, geometry: ViewGeometry) -> BackwardProjection:
        """The module for a frustum and a grid."""
        return BackwardProjection(self, geometry)


class BackwardProjection(Part):
    """A map of what the lifted volume lacks, (B, C, Y, X).

    FB-BEV (arXiv 2308.02236), depth-aware backward projection. Each column of the grid is a
    query that starts from the mean of its voxels; it attends to its neighbours, then to the images
    at the places where its heights appear there, weighted by how probable the depth net thinks
    their depth. The columns are learned one by one, so that the grid cannot change its size.
    """

    keeps_memory_order = (
        "the maps that a backward projection refines are steep where they are warped: another "
        "order of sums moves single values there beyond what parity allows"
    )

    def __init__(self, config: BackwardProjectionConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        C = config.channels
        X, Y, _ = geometry.grid.dims
        self.columns = ColumnPoints(config.heights, geometry)
        self.embedding = nn.Embedding(Y * X, C)
        self.row_code = nn.Embedding(Y, C // 2)
        self.column_code = nn.Embedding(X, C // 2)
        self.plane_attention = PlaneAttention(config, geometry)
        self.image_attention = ImageAttention(config, geometry)
        self.widen = nn.Linear(C, config.hidden)
        self.narrow = nn.Linear(config.hidden, C)
        self.norms = nn.ModuleList(nn.LayerNorm(C) for _ in range(3))

    def forward(
        self,
        volume_BCYXZ: Tensor,
        context_BNChw: Tensor,
        weights_BNDhw: Tensor,
        cameras: CameraTensors,
        augmentation: GridAugmentation,
    ) -> Tensor:
        """What to add to every height of the lifted volume.

        Args:
            volume_BCYXZ: the lifted volume.
            context_BNChw: features that were lifted.
            weights_BNDhw: the distribution they were lifted with.
            cameras: calibration.
            augmentation: of the grid frame.
        """
        voxels = volume_BCYXZ.shape[2:4]
        seen = self.columns(cameras, augmentation)
        columns = self.embedding.weight + volume_BCYXZ.mean(dim=-1).flatten(2).mT
        code_QC = self._position_code()
        columns = self.norms[0](columns + self.plane_attention(columns, code_QC))
        looked_up = self.image_attention(columns, code_QC, context_BNChw, weights_BNDhw, seen)
        columns = self.norms[1](columns + looked_up)
        columns = self.norms[2](columns + self.narrow(F.relu(self.widen(columns))))
        return columns.mT.unflatten(2, voxels)

    def _position_code(self) -> Tensor:
        """(Q, C): half of it encodes x, half of it y."""
        Y, X = len(self.row_code.weight), len(self.column_code.weight)
        along_x = self.column_code.weight.expand(Y, -1, -1)
        along_y = self.row_code.weight[:, None].expand(-1, X, -1)
        return torch.cat([along_x, along_y], dim=-1).flatten(0, 1)


class SeenColumns(NamedTuple):
    """Where the points of the columns appear in the images.

    Attributes:
        place_BNQK2: (x, y) in [0, 1] over the image.
        depth_BNQK: metres along the optical axis.
        visible_BNQ: bool, whether any point of the column lies in the image.
    """

    place_BNQK2: Tensor
    depth_BNQK: Tensor
    visible_BNQ: Tensor


class ColumnPoints(nn.Module):
    """Points on the axis of every column, at the centres of equal parts of the grid's height.

    Single precision and the order of operations are those of the released networks: a depth on
    the border of two bins falls to one or the other by the last bit.
    """

    points_QK3: Tensor
    image_size_2: Tensor

    def __init__(self, heights: int, geometry: ViewGeometry) -> None:
        super().__init__()
        height, width = geometry.input_size
        (x, y, z), (dx, dy, dz) = geometry.grid.lower, geometry.grid.voxel_size
        X, Y, Z = geometry.grid.dims
        coarse = dz * Z / heights
        axes = [
            torch.arange(count) * step + low + step / 2
            for low, count, step in ((y, Y, dy), (x, X, dx), (z, heights, coarse))
        ]
        along_y, along_x, along_z = torch.meshgrid(*axes, indexing="ij")
        points = torch.stack([along_x, along_y, along_z], dim=-1).flatten(0, 1)
        image_size = torch.tensor((width, height), dtype=points.dtype)
        self.register_buffer("points_QK3", points, persistent=False)
        self.register_buffer("image_size_2", image_size, persistent=False)

    @torch.no_grad()
    def forward(self, cameras: CameraTensors, augmentation: GridAugmentation) -> SeenColumns:
        """Project all points into all cameras, whose poses the network has not corrected."""
        assert cameras.native_T_grid_BN33 is not None
        # The inverse is rounded from float64: with an augmentation, which there is while training
        # only, its last bit may differ from an inverse taken in float32.
        undo_B33 = augmentation.inverse_B33.to(self.points_QK3.dtype)
        points_BQK3 = torch.einsum("bij,qkj->bqki", undo_B33, self.points_QK3)
        pose = cameras.grid_T_cam_BN44
        shifted = points_BQK3[:, None] - pose[:, :, None, None, :3, 3]
        x, y, depth = torch.einsum("bnij,bnqkj->ibnqk", cameras.native_T_grid_BN33, shifted)
        near = depth.clamp(min=_MARGIN)
        native = torch.stack([x / near, y / near, depth], dim=-1)
        pixels = torch.einsum("bnij,bnqkj->bnqki", cameras.image_rotation_BN33, native)
        pixels = pixels + cameras.image_translation_BN3[:, :, None, None]
        place = pixels[..., :2] / self.image_size_2
        inside = ((place > _MARGIN) & (place < 1.0 - _MARGIN)).all(dim=-1)
        visible = (inside & (pixels[..., 2] > _MARGIN)).any(dim=-1)
        return SeenColumns(place, pixels[..., 2], visible)


class PlaneAttention(nn.Module):
    """Every column looks at its neighbours (deformable attention, arXiv 2010.04159).

    Where to look and how much depends on the column's place, what is seen there does not.
    """

    places_Q2: Tensor
    size_2: Tensor

    def __init__(self, config: BackwardProjectionConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        C, samples = config.channels, config.heads * config.plane_samples
        X, Y, _ = geometry.grid.dims
        self.heads = config.heads
        self.voxels = (Y, X)
        self.offsets = nn.Linear(C, samples * 2)
        self.weights = nn.Linear(C, samples)
        self.value = nn.Linear(C, C)
        self.output = nn.Linear(C, C)
        centres = torch.meshgrid(
            (torch.arange(Y) + 0.5) / Y, (torch.arange(X) + 0.5) / X, indexing="ij"
        )
        self.register_buffer(
            "places_Q2", torch.stack(centres[::-1], dim=-1).flatten(0, 1), persistent=False
        )
        size = torch.tensor((X, Y), dtype=torch.get_default_dtype())
        self.register_buffer("size_2", size, persistent=False)

    def forward(self, columns_BQC: Tensor, code_QC: Tensor) -> Tensor:
        query = columns_BQC + code_QC
        value = self.value(columns_BQC).mT.unflatten(2, self.voxels).unflatten(1, (self.heads, -1))
        offset = self.offsets(query).unflatten(-1, (self.heads, -1, 2))
        weight = self.weights(query).unflatten(-1, (self.heads, -1)).softmax(dim=-1)
        place = self.places_Q2[:, None, None] + offset / self.size_2
        return self.output(deformable_attention(value, place, weight))


class ImageAttention(nn.Module):
    """Every column looks at the images around the places where its heights appear.

    A sample's weight is multiplied by the probability that its height is what the image shows
    there: the lifting distribution at the height's own place, without the sample's offset, in the
    bin of the height's depth. Weights are not normalised again. The sum over cameras is divided by
    the number of cameras that see the column at all; heights that fall outside an image weigh
    nothing, since nothing is known there.
    """

    size_2: Tensor

    def __init__(self, config: BackwardProjectionConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        C, samples = config.channels, config.heads * config.heights * config.samples_per_height
        self.heads, self.heights = config.heads, config.heights
        self.bins: DepthBins = geometry.depth
        self.offsets = nn.Linear(C, samples * 2)
        self.weights = nn.Linear(C, samples)
        self.value = nn.Linear(C, C)
        self.output = nn.Linear(C, C)
        size = torch.tensor(geometry.feature_size[::-1], dtype=torch.get_default_dtype())
        self.register_buffer("size_2", size, persistent=False)

    def forward(
        self,
        columns_BQC: Tensor,
        code_QC: Tensor,
        context_BNChw: Tensor,
        weights_BNDhw: Tensor,
        seen: SeenColumns,
    ) -> Tensor:
        query = columns_BQC + code_QC
        # Samples run over the heights innermost.
        offset = self.offsets(query).unflatten(-1, (self.heads, -1, self.heights, 2))
        weight = self.weights(query).unflatten(-1, (self.heads, -1)).softmax(dim=-1)
        weight = weight.unflatten(-1, (-1, self.heights))
        known_BNQK = self._probability(weights_BNDhw, seen) * seen.visible_BNQ[..., None]
        total = torch.zeros_like(columns_BQC)
        for camera in range(context_BNChw.shape[1]):  # samples of all cameras would be large
            context = context_BNChw[:, camera].movedim(1, -1)
            value = self.value(context).movedim(-1, 1).unflatten(1, (self.heads, -1))
            place = seen.place_BNQK2[:, camera, :, None, None] + offset / self.size_2
            known = weight * known_BNQK[:, camera, :, None, None]
            total = total + deformable_attention(value, place.flatten(3, 4), known.flatten(3))
        cameras_BQ1 = seen.visible_BNQ.sum(dim=1)[..., None].clamp(min=1)
        return self.output(total / cameras_BQ1)

    def _probability(self, weights_BNDhw: Tensor, seen: SeenColumns) -> Tensor:
        """(B, N, Q, K) how much lies at each height's place in the bin of its depth."""
        bin_BNQK = ((seen.depth_BNQK - self.bins.lower) / self.bins.step).floor()
        bin_BNQK = bin_BNQK.clamp(0, self.bins.count - 1).long()
        sampled = sample_bins(
            weights_BNDhw.flatten(0, 1),
            seen.place_BNQK2.flatten(0, 1).flatten(1, 2),
            bin_BNQK.flatten(0, 1).flatten(1),
        )
        return sampled.view(bin_BNQK.shape)
