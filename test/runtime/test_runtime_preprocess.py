"""Images to network input, against real frames, definitions and a painted spot."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.preprocess import (
    CropPlan,
    Preprocessor,
    crop_image,
    normalisation_table,
)

CPU = torch.device("cpu")
NATIVE = (1600, 900)
GOLDEN_CASES = ("c0", "c1", "c2", "c3", "c4")


@pytest.fixture(scope="module")
def golden(shared_dir: Path):
    return np.load(shared_dir / "reference" / "golden_preprocess.npz")


def _case(golden, case: str, shared_dir: Path):
    meta = json.loads(str(golden["meta"]))[case]
    return meta, np.asarray(Image.open(shared_dir / "data" / meta["image"]))


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_crop_geometry_of_real_images_is_the_reference_one(golden, case, shared_dir) -> None:
    meta, image = _case(golden, case, shared_dir)
    plan = CropPlan.fit((image.shape[1], image.shape[0]), tuple(meta["input_size"]))
    assert list(plan.resized) == meta["resized"]
    assert list(plan.box) == meta["crop"]


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_reference_images_are_reproduced(golden, case, shared_dir) -> None:
    """Bit for bit, bytes and floats. The reference file was made with nearest-neighbour resizing,
    unlike the reference pipeline; so this proves crop, channel order and arithmetic, and the two
    tests of the filter below prove what cards ask for."""
    meta, image = _case(golden, case, shared_dir)
    plan = CropPlan.fit((image.shape[1], image.shape[0]), tuple(meta["input_size"]))
    crop = crop_image(image, plan, "nearest")
    digest = hashlib.sha256(np.ascontiguousarray(crop).tobytes()).hexdigest()
    assert digest == meta["sha256_uint8_rgb"]

    pipeline = replace(
        get_card("alocc_2d_mini").preprocessing,
        input_size=tuple(meta["input_size"]),
        interpolation="nearest",
    )
    images = Preprocessor(pipeline, CPU)([image], [plan])
    assert list(images.shape[1:]) == meta["shape"]
    ours = images.numpy().reshape(-1)[golden[f"{case}/index"]]
    np.testing.assert_array_equal(ours, golden[f"{case}/values"])


def _bicubic_by_definition(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Keys' cubic (a = -1/2), stretched by the shrink factor, centres at half pixels; along
    rows, rounded to bytes, then along columns."""

    def weights(n_in: int, n_out: int) -> np.ndarray:
        scale = n_in / n_out
        stretch = max(scale, 1.0)
        centre = (np.arange(n_out)[:, None] + 0.5) * scale
        x = np.abs((np.arange(n_in)[None] + 0.5 - centre) / stretch)
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        w = np.where(x < 1, near, np.where(x < 2, far, 0))
        return w / w.sum(axis=1, keepdims=True)

    width, height = size
    across = np.einsum("xj,ijc->ixc", weights(image.shape[1], width), image.astype(np.float64))
    across = np.rint(across).clip(0, 255)
    down = np.einsum("yi,ixc->yxc", weights(image.shape[0], height), across)
    return np.rint(down).clip(0, 255)


def test_resizing_is_antialiased_bicubic() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (225, 400, 3), dtype=np.uint8)
    plan = CropPlan.fit((400, 225), (64, 176))
    crop = crop_image(image, plan).astype(float)
    left, top, right, bottom = plan.box
    wanted = _bicubic_by_definition(image, plan.resized)[top:bottom, left:right]
    # Pillow's weights are fixed-point numbers: a few bytes round the other way.
    assert np.abs(crop - wanted).max() <= 1
    assert (crop != wanted).mean() < 0.01


@pytest.mark.parametrize("card", MODELS.values(), ids=lambda card: card.name)
def test_every_card_asks_for_the_filter_that_pillow_takes_unasked(card) -> None:
    """Reference code names none."""
    image = np.random.default_rng(0).integers(0, 256, (225, 400, 3), dtype=np.uint8)
    plan = CropPlan.fit((400, 225), (64, 176))
    unasked = np.asarray(Image.fromarray(image).resize(plan.resized).crop(plan.box))
    asked = crop_image(image, plan, card.preprocessing.interpolation)
    np.testing.assert_array_equal(asked, unasked)


def test_channels_are_blue_first_with_the_constants_in_rgb_order() -> None:
    pipeline = get_card("alocc_2d_mini").preprocessing
    red = np.zeros((900, 1600, 3), np.uint8)
    red[..., 0] = 200
    image = Preprocessor(pipeline, CPU)([red], [CropPlan.fit(NATIVE, pipeline.input_size)])[0]
    # Position 2 holds red, normalised with the constants usually meant for blue.
    assert torch.unique(image[2]).item() == pytest.approx((200 - 103.53) / 57.375, rel=1e-6)
    assert torch.unique(image[0]).item() == pytest.approx((0 - 123.675) / 58.395, rel=1e-6)


def test_a_card_may_ask_for_red_first() -> None:
    pipeline = get_card("sparseocc").preprocessing
    red = np.zeros((900, 1600, 3), np.uint8)
    red[..., 0] = 200
    image = Preprocessor(pipeline, CPU)([red], [CropPlan.fit(NATIVE, pipeline.input_size)])[0]
    assert torch.unique(image[0]).item() == pytest.approx((200 - 123.675) / 58.395, rel=1e-6)
    assert torch.unique(image[2]).item() == pytest.approx((0 - 103.53) / 57.375, rel=1e-6)


def test_the_table_is_what_opencv_computes() -> None:
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    every_byte = np.repeat(np.arange(256, dtype=np.float32)[None, :, None], 3, axis=2)
    # The reference code holds its constants in float32, but divides 1 by them in float64.
    as_held = np.array([mean, std], np.float32).astype(np.float64)
    centred = cv2.subtract(every_byte, as_held[:1])
    wanted = cv2.multiply(centred, 1.0 / as_held[1:])[0].T
    np.testing.assert_array_equal(normalisation_table(mean, std), wanted)


def test_images_shorter_than_the_input_get_black_rows_on_top() -> None:
    """The side cameras of Waymo: 886 rows where the front one has 1280."""
    plan = CropPlan.fit((1920, 886), (640, 960))
    assert (plan.resized, plan.box) == ((960, 443), (0, -197, 960, 443))
    white = np.full((886, 1920, 3), 255, np.uint8)
    crop = crop_image(white, plan)
    assert crop.shape == (640, 960, 3)
    assert (crop[:197] == 0).all() and (crop[197:] == 255).all()


def test_threads_change_nothing() -> None:
    pipeline = replace(get_card("alocc_2d_mini").preprocessing, input_size=(64, 176))
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (225, 400, 3), dtype=np.uint8) for _ in range(6)]
    plans = [CropPlan.fit((400, 225), (64, 176))] * 6
    alone = Preprocessor(pipeline, CPU, threads=1)(images, plans)
    many = Preprocessor(pipeline, CPU, threads=6)(images, plans)
    assert torch.equal(alone, many)
    for number, image in enumerate(images):
        single = Preprocessor(pipeline, CPU, threads=1)([image], plans[:1])
        assert torch.equal(alone[number], single[0])


@settings(max_examples=200)
@given(
    width=st.integers(200, 4000),
    height=st.integers(150, 3000),
    rows=st.integers(64, 1280),
    columns=st.integers(64, 1920),
)
def test_the_crop_always_has_the_input_size_and_keeps_the_bottom(
    width: int, height: int, rows: int, columns: int
) -> None:
    plan = CropPlan.fit((width, height), (rows, columns))
    left, top, right, bottom = plan.box
    assert (right - left, bottom - top) == (columns, rows)
    assert left == 0 and bottom == plan.resized[1]
    # The width fits but for the truncation of the published arithmetic.
    assert columns - 1 <= plan.resized[0] <= columns


@given(
    size=st.sampled_from([(256, 704), (512, 1408), (896, 1600), (64, 176)]),
    factor=st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.2, 2.0]),
)
def test_the_affine_of_native_pixels_does_not_depend_on_the_size_that_arrives(
    size: tuple[int, int], factor: float
) -> None:
    full = CropPlan.fit(NATIVE, size).affine_from_native(1600)
    arriving = (round(1600 * factor), round(900 * factor))
    other = CropPlan.fit(arriving, size).affine_from_native(1600)
    assert other.scale == full.scale
    assert np.abs(np.subtract(other.offset, full.offset)).max() <= 1.0  # truncation of one row


@pytest.mark.parametrize("image_size", [(1600, 900), (800, 450), (1920, 1080), (1920, 886)])
def test_a_spot_lands_where_the_affine_says(image_size: tuple[int, int]) -> None:
    """Independent of the formulas: paint a spot, find it again in the crop."""
    width, height = image_size
    native_width = 1600
    plan = CropPlan.fit(image_size, (256, 704))
    u, v = 0.3 * width, 0.8 * height
    y, x = np.mgrid[:height, :width]
    radius = width / 60
    spot = 255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * radius**2))
    image = np.repeat(spot[..., None], 3, axis=2).astype(np.uint8)
    crop = crop_image(image, plan)[..., 0].astype(float)
    rows, columns = np.mgrid[: crop.shape[0], : crop.shape[1]]
    found = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum()

    affine = plan.affine_from_native(native_width)
    to_native = native_width / width
    wanted = affine.scale * to_native * np.array([u, v]) + np.array(affine.offset)
    # The published affine leaves out the half-pixel term of resampling, (s - 1) / 2.
    wanted += (affine.scale * to_native - 1) / 2
    lost_rows = height * 704 / width - plan.resized[1]  # by truncation of the resized height
    assert np.abs(found - wanted).max() < 0.1 + lost_rows
