"""Images as the checkpoints expect them, from decoded RGB.

The reference pipeline is: Pillow resize by one factor so that the width fits, crop that keeps the
bottom, channel order swapped to BGR, normalisation with constants that keep their RGB order. That
order mix is a slip of the training code which the released checkpoints of ALOcc (arXiv 2411.07725)
and of its BEVDet ancestors have learnt. SparseOcc reads RGB; a card says which. Tests hold crop,
order and normalisation to reference images bit for bit, and the filter of the resize, which is
another one there, to its definition (docs/deviations.md).

Legend: N cameras in the order of the model card, H and W network input size, C channels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from occ_perception.geometry import ImageAffine
from occ_perception.models.card import Preprocessing

Size = tuple[int, int]


@dataclass(frozen=True)
class CropPlan:
    """How images of one size become network input.

    Attributes:
        image: (width, height) of the images that arrive.
        resized: (width, height) after resizing.
        box: (left, top, right, bottom) of the crop in the resized image. It may leave the
            image (a negative top); what lies outside becomes black.
    """

    image: Size
    resized: Size
    box: tuple[int, int, int, int]

    @classmethod
    def fit(cls, image: Size, input_size: Size) -> CropPlan:
        """Plan for images of (width, height) and a network input of (height, width).

        The arithmetic (truncation of float64 products) is the published one; for the published
        image sizes the products are exact.
        """
        width, height = image
        rows, columns = input_size
        scale = columns / width
        resized = (int(width * scale), int(height * scale))
        left = int(max(0, resized[0] - columns) / 2)
        top = resized[1] - rows
        return cls(image, resized, (left, top, left + columns, top + rows))

    def affine_from_native(self, native_width: int) -> ImageAffine:
        """Pixels of the same camera at ``native_width`` columns -> network input pixels.

        Camera codes are trained on intrinsics of the native image, so a driver that sends
        smaller images must not change them; only the affine absorbs the size.
        """
        columns = self.box[2] - self.box[0]
        return ImageAffine(columns / native_width, (float(-self.box[0]), float(-self.box[1])))


def crop_image(
    image: NDArray[np.uint8], plan: CropPlan, interpolation: str = "bicubic"
) -> NDArray[np.uint8]:
    """Resize and crop one RGB image (height, width, 3) to (H, W, 3), still RGB uint8.

    Pillow's filter of that name (bicubic is antialiased) defines the result; the resamplers of
    OpenCV and torch differ.
    """
    resample = Image.Resampling[interpolation.upper()]
    return np.asarray(Image.fromarray(image).resize(plan.resized, resample).crop(plan.box))


def normalisation_table(mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(C, 256) float32: the network input of every byte value, channels by **position**.

    The reference normaliser's arithmetic: float32 constants, a float32 subtraction, then a
    product with the float64 reciprocal. A table gives every device the same bits.
    """
    values = np.arange(256, dtype=np.float32)
    centred = values - np.asarray(mean, np.float32)[:, None]
    reciprocal = 1.0 / np.asarray(std, np.float32).astype(np.float64)
    table: NDArray[np.float32] = (centred * reciprocal[:, None]).astype(np.float32)
    return table


class Preprocessor:
    """Turns the images of one frame set into the network's image tensor.

    Args:
        preprocessing: the model card's image pipeline.
        device: where the tensor is wanted; bytes travel there, the table look-up happens there.
        threads: images resized at the same time (Pillow releases the interpreter lock).
    """

    def __init__(
        self, preprocessing: Preprocessing, device: torch.device, threads: int | None = None
    ) -> None:
        self._input_size = preprocessing.input_size
        self._interpolation = preprocessing.interpolation
        self._device = device
        order = ["rgb".index(channel) for channel in preprocessing.channel_order]
        self._channels = torch.tensor(order, device=device)
        table_C256 = normalisation_table(preprocessing.mean, preprocessing.std)
        self._table_C256 = torch.from_numpy(table_C256).to(device)
        self._pool = ThreadPoolExecutor(
            max_workers=threads or min(6, os.cpu_count() or 1), thread_name_prefix="preprocess"
        )

    def __call__(self, images: Sequence[NDArray[np.uint8]], plans: Sequence[CropPlan]) -> Tensor:
        """Images (N, 3, H, W) float32 on the device, from RGB images (height, width, 3)."""
        crops = torch.empty(
            (len(images), *self._input_size, 3),
            dtype=torch.uint8,
            pin_memory=self._device.type == "cuda",
        )
        into = crops.numpy()

        def fill(camera: int) -> None:
            into[camera] = crop_image(images[camera], plans[camera], self._interpolation)

        # list() waits for all of them and raises what a worker raised.
        list(self._pool.map(fill, range(len(images))))
        return self.normalise(crops.to(self._device, non_blocking=True))

    def normalise(self, crops_NHW3: Tensor) -> Tensor:
        """RGB bytes (N, H, W, 3) -> network input (N, 3, H, W) in the card's order of channels."""
        cameras, rows, columns, _ = crops_NHW3.shape
        ordered = crops_NHW3.index_select(-1, self._channels)
        bytes_N3P = ordered.permute(0, 3, 1, 2).reshape(cameras, 3, rows * columns)
        table_N3V = self._table_C256.expand(cameras, -1, -1)
        return table_N3V.gather(2, bytes_N3P.long()).view(cameras, 3, rows, columns)
