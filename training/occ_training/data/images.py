"""Images of a frame as network input: plain as at run time, or augmented for training.

Resize, crop, mirror, rotate, and the matching pixel map (BEVDet, arXiv 2112.11790). Legend: H, W
network input size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from occ_perception.geometry import Float64
from occ_perception.models.card import Preprocessing
from occ_perception.runtime.preprocess import CropPlan, Preprocessor, Size, crop_image
from occ_perception.sensing.images import EncodedImage, ImageError, decode_image
from occ_training.data.label_files import DataFileError


@dataclass(frozen=True, kw_only=True)
class ImageAugmentation:
    """Ranges that the augmentation of each image is drawn from.

    Attributes:
        scale: (lowest, highest), added to the factor that scales the native image to the width of
            the input.
        crop_below: (lowest, highest) share of the resized height below the crop.
        flip: probability of mirroring left and right.
        rotation_deg: (lowest, highest) counterclockwise rotation, degrees.
        light: strength of changes of brightness and contrast, 0 for none.
    """

    scale: tuple[float, float] = (-0.06, 0.11)
    crop_below: tuple[float, float] = (0.0, 0.0)
    flip: float = 0.5
    rotation_deg: tuple[float, float] = (-5.4, 5.4)
    light: float = 0.0

    def draw(
        self, rng: np.random.Generator, image: Size, preprocessing: Preprocessing
    ) -> ImagePlan:
        """The plan of one camera, drawn in the order scale, crop, mirror, rotation, light.

        Args:
            rng: random generator.
            image: (width, height) of the file; it can be smaller than the native image.
            preprocessing: sizes of native image and input.
        """
        rows, columns = preprocessing.input_size
        native_columns = preprocessing.native_size[1]
        factor = (columns / native_columns + rng.uniform(*self.scale)) * native_columns / image[0]
        resized = (int(image[0] * factor), int(image[1] * factor))
        top = int((1 - rng.uniform(*self.crop_below)) * resized[1]) - rows
        left = int(rng.uniform(0, max(0, resized[0] - columns)))
        mirror = bool(rng.uniform() < self.flip)
        crop = CropPlan(image, resized, (left, top, left + columns, top + rows))
        turn = float(rng.uniform(*self.rotation_deg))
        if not self.light:
            return ImagePlan(crop, factor, mirror, turn)
        contrast, brightness = 1.0 + self.light * rng.uniform(-1.0, 1.0, 2)
        return ImagePlan(crop, factor, mirror, turn, float(contrast), float(brightness))


@dataclass(frozen=True)
class ImagePlan:
    """How one camera's images become network input.

    Attributes:
        crop: sizes and box.
        factor: of the resizing, before sizes are truncated to whole pixels.
        mirror: left and right are swapped, after cropping.
        rotation_deg: counterclockwise rotation about the centre, after mirroring; corners from
            outside are black.
        contrast, brightness: factor about middle grey, and factor of middle grey; 1 for none.
    """

    crop: CropPlan
    factor: float
    mirror: bool = False
    rotation_deg: float = 0.0
    contrast: float = 1.0
    brightness: float = 1.0

    @classmethod
    def plain(cls, image: Size, preprocessing: Preprocessing) -> ImagePlan:
        """The plan of evaluation and of the running node."""
        input_size = preprocessing.input_size
        return cls(CropPlan.fit(image, input_size), input_size[1] / image[0])

    def apply(self, image: NDArray[np.uint8], interpolation: str) -> NDArray[np.uint8]:
        """RGB (height, width, 3) to RGB (H, W, 3), both uint8."""
        pixels = self._lit(crop_image(image, self.crop, interpolation))
        if not (self.mirror or self.rotation_deg):
            return pixels
        turned = Image.fromarray(pixels)
        if self.mirror:
            turned = turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(turned.rotate(self.rotation_deg))

    def _lit(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Contrast and brightness, as one table for all bytes."""
        if self.contrast == self.brightness == 1.0:
            return pixels
        table = (np.arange(256) - 128.0) * self.contrast + 128.0 * self.brightness
        return np.asarray(table.round().clip(0, 255).astype(np.uint8)[pixels])

    def pixel_map(self, native_columns: int) -> tuple[Float64, Float64]:
        """Pixels of the native image to input pixels: (3, 3) matrix, (3,) offset.

        Depth is the third component and does not change. Mirroring and rotation are about
        (W / 2, H / 2), half a pixel off the centre of the pixel grid, as in the reference code.
        """
        left, top, right, bottom = self.crop.box
        size = np.array([right - left, bottom - top], dtype=np.float64)
        matrix, offset = np.eye(3), np.zeros(3)
        matrix[:2, :2] *= self.factor * self.crop.image[0] / native_columns
        offset[:2] = (-left, -top)
        if self.mirror:
            flip = np.diag([-1.0, 1.0])
            matrix[:2, :2] = flip @ matrix[:2, :2]
            offset[:2] = flip @ offset[:2] + (size[0], 0.0)
        if self.rotation_deg:
            angle = np.deg2rad(self.rotation_deg)
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            middle = size / 2
            matrix[:2, :2] = turn @ matrix[:2, :2]
            offset[:2] = turn @ offset[:2] + middle - turn @ middle
        return matrix, offset


def read_image(path: Path, size: Size) -> NDArray[np.uint8]:
    """Decode a file with the decoder of the node; RGB (height, width, 3) uint8.

    Raises:
        DataFileError: missing, damaged, or not of the calibrated size.
    """
    try:
        image = decode_image(EncodedImage(path.suffix, path.read_bytes()))
    except (OSError, ImageError) as error:
        raise DataFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if image.shape[:2] != (size[1], size[0]):
        raise DataFileError(
            f"{path}: is {image.shape[1]}x{image.shape[0]} pixels, its intrinsics are for "
            f"{size[0]}x{size[1]}"
        )
    return image


def normalise(crops_NHW3: NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """RGB bytes (N, H, W, 3) to network input (N, 3, H, W), bit-identical to the running node."""
    return _normaliser(preprocessing).normalise(torch.from_numpy(crops_NHW3))


@cache
def _normaliser(preprocessing: Preprocessing) -> Preprocessor:
    return Preprocessor(preprocessing, torch.device("cpu"), threads=1)
