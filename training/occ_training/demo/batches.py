"""Batches made on the device from compact frames: bytes travel, arithmetic happens there.

Legend: B slots, N cameras, H, W network input size, X, Y, Z cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from occ_perception.geometry import relative_motion
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.models.inputs import CameraTensors
from occ_perception.models.zoo import ModelCard
from occ_perception.runtime.preprocess import Preprocessor
from occ_training.data.sample import Batch
from occ_training.demo.frames import FEATURE_STRIDE, TownFrame, input_from_native


@dataclass(frozen=True, eq=False)
class Slot:
    """What one slot of a batch shows.

    Attributes:
        frame: now.
        previous: the frame before, None at a start.
        mirror: factors on x and y of the grid, 1 or -1.
        number: of the frame in the run; draws belong to it.
    """

    frame: TownFrame
    previous: TownFrame | None
    mirror: tuple[float, float] = (1.0, 1.0)
    number: int = 0


class BatchMaker:
    """From slots to what network and losses take; cells that no camera sees are unlabelled.

    Args:
        card: of the model.
        device: where batches are wanted.
        jitter: strength of random brightness and contrast, 0 for none.
    """

    def __init__(self, card: ModelCard, device: torch.device, jitter: float = 0.0) -> None:
        self._device = device
        self._jitter = jitter
        self._normalise = Preprocessor(card.preprocessing, device, threads=1).normalise
        native = torch.from_numpy(input_from_native(card)).float().to(device)
        self._rotation_33 = torch.eye(3, device=device)
        self._rotation_33[:2, :2] = native[:2, :2]
        self._translation_3 = torch.cat([native[:2, 2], native.new_zeros(1)])

    def __call__(self, slots: Sequence[Slot], generator: torch.Generator | None = None) -> Batch:
        """One batch; light changes where there is a generator to draw it from."""
        frames = [slot.frame for slot in slots]
        B, N = len(frames), len(frames[0].crops_NHW3)
        crops = self._stack([frame.crops_NHW3 for frame in frames])
        if self._jitter and generator is not None:
            crops = self._other_light(crops, generator)
        images = self._normalise(crops.flatten(0, 1)).unflatten(0, (B, N))
        mirror_B2 = self._stack([np.asarray(slot.mirror, np.float32) for slot in slots])
        bda_B33 = torch.diag_embed(torch.cat([mirror_B2, torch.ones_like(mirror_B2[:, :1])], 1))
        labels = self._stack([frame.labels_XYZ for frame in frames])
        seen = _mirrored(self._seen(frames).view(labels.shape), slots)
        flow = _mirrored(self._flow(frames).view(*labels.shape, 2), slots)
        labels = _mirrored(labels, slots)
        return Batch(
            indices=tuple(slot.number for slot in slots),
            tokens=tuple(frame.token for frame in frames),
            sequences=tuple(frame.token for frame in frames),
            groups=tuple(range(B)),
            start_B=self._stack([np.asarray(slot.previous is None) for slot in slots]),
            images_BN3HW=images,
            cameras=CameraTensors(
                grid_T_cam_BN44=self._stack([frame.ego_T_cam_N44 for frame in frames]),
                K_BN33=self._stack([frame.K_N33 for frame in frames]),
                image_rotation_BN33=self._rotation_33.expand(B, N, 3, 3),
                image_translation_BN3=self._translation_3.expand(B, N, 3),
            ),
            bev_augmentation_B33=bda_B33,
            previous_T_current_B44=self._stack([_motion(slot) for slot in slots]),
            previous_cam_T_cam_BN44=torch.eye(4, device=self._device).expand(B, N, 4, 4).double(),
            matches_itself_B=torch.ones(B, dtype=torch.bool, device=self._device),
            depth_BNHW=_spread(self._stack([f.depth_Nhw for f in frames]).float(), 0.0),
            semantics_BNHW=_spread(self._stack([f.classes_Nhw for f in frames]), UNKNOWN_CLASS),
            labels_BXYZ=torch.where(seen, labels, UNKNOWN_CLASS),
            camera_mask_BXYZ=seen,
            flow_BXYZ2=flow * mirror_B2[:, None, None, None],
        )

    def _stack(self, arrays: Sequence[np.ndarray]) -> Tensor:
        return self._sent(np.stack(arrays))

    def _sent(self, array: np.ndarray) -> Tensor:
        """A GPU fetches it by itself from pinned memory, while the host goes on."""
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self._device, non_blocking=True)

    def _seen(self, frames: Sequence[TownFrame]) -> Tensor:
        """Whether a camera sees each cell, (B, cells), from one bit per cell."""
        packed = self._stack([frame.seen_packed for frame in frames])
        places = torch.arange(7, -1, -1, dtype=torch.uint8, device=self._device)
        bits = (packed[..., None] >> places) & 1
        return bits.flatten(1)[:, : frames[0].labels_XYZ.size].bool()

    def _flow(self, frames: Sequence[TownFrame]) -> Tensor:
        """(vx, vy) along ego axes of each cell, (B * cells, 2) m/s, from those that move."""
        cells = frames[0].labels_XYZ.size
        moving = [frame.moving + np.int64(cells) * slot for slot, frame in enumerate(frames)]
        velocities = np.concatenate([frame.velocities for frame in frames])
        flow = torch.zeros(len(frames) * cells, 2, device=self._device)
        flow[self._sent(np.concatenate(moving))] = self._sent(velocities).float()
        return flow

    def _other_light(self, crops: Tensor, generator: torch.Generator) -> Tensor:
        """Brightness and contrast of every picture, drawn anew."""
        draws = torch.rand(2, *crops.shape[:2], 1, 1, 1, generator=generator).to(self._device)
        gain, shift = 1.0 + self._jitter * (2.0 * draws - 1.0)
        lit = (crops.float() - 128.0) * gain + 128.0 * shift
        return lit.round().clamp(0.0, 255.0).to(torch.uint8)


def _motion(slot: Slot) -> np.ndarray:
    if slot.previous is None:
        return np.eye(4)
    return relative_motion(slot.previous.world_T_ego, slot.frame.world_T_ego)


def _spread(values_BNhw: Tensor, nothing: float) -> Tensor:
    """One value per feature pixel as a sparse map at input size, in the block's first pixel."""
    *lead, h, w = values_BNhw.shape
    sparse = values_BNhw.new_full((*lead, h * FEATURE_STRIDE, w * FEATURE_STRIDE), nothing)
    sparse[..., ::FEATURE_STRIDE, ::FEATURE_STRIDE] = values_BNhw
    return sparse


def _mirrored(volumes_BXYZ: Tensor, slots: Sequence[Slot]) -> Tensor:
    """Volumes as they stand in each slot's mirrored grid (symmetric about the origin)."""
    mirrored = []
    for volume, slot in zip(volumes_BXYZ, slots, strict=True):
        axes = [axis for axis, sign in enumerate(slot.mirror) if sign < 0]
        mirrored.append(volume.flip(axes) if axes else volume)
    return torch.stack(mirrored)
