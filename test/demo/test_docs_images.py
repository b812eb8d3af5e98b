"""The images in README.md and docs/ show what the code draws now: same view, same colours."""

from __future__ import annotations

import html
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from occ_perception.demo.first_look import MOMENT_S, first_look
from occ_perception.demo.report import run_rows
from occ_perception.demo.setting import Played
from occ_perception.viewer.images import FILM_SIZE

ROOT = Path(__file__).resolve().parents[2]
IMAGES = ROOT / "docs" / "images"

pytestmark = pytest.mark.skipif(
    not (IMAGES / "first.webp").is_file(),
    reason="scripts/docs_images.py makes these images of a trained network",
)

# Mean difference of two images, of 255. Compression, and a network whose history is longer or whose
# processor rounds otherwise, stay below; other colours, or another moment, do not.
_SAME = 6.0


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference after blurring to blocks of 4x4 pixels, of 255."""
    assert one.shape == other.shape
    size = (one.shape[1] // 4, one.shape[0] // 4)
    small = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in (one, other)]
    return float(np.abs(small[0].astype(float) - small[1].astype(float)).mean())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> np.ndarray:
    """The first image of the demonstration, as the code draws it now."""
    from occ_perception.models.zoo import get_card
    from occ_perception.runtime.weight_files import find_weights

    weights = find_weights(get_card("alocc_town"))
    assert weights is not None, "the package ships the weights of its demonstration"
    out = tmp_path_factory.mktemp("first")
    size = (480, 270)
    path = first_look(out, "alocc_town", str(weights), 0, "cpu", size)
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_first_image_is_what_the_code_draws(drawn: np.ndarray) -> None:
    shown = np.asarray(Image.open(IMAGES / "first.webp").convert("RGB"))
    assert shown.shape[1::-1] == FILM_SIZE
    assert difference(shown, drawn) < _SAME
    assert difference(shown[..., ::-1], drawn) > _SAME
    assert difference(shown[:, ::-1], drawn) > _SAME


def test_the_film_shows_the_same_moment(drawn: np.ndarray) -> None:
    path = IMAGES / "film.webp"
    assert path.stat().st_size < 3_000_000
    film = Image.open(path)
    period_s = film.info["duration"] / 1000
    assert film.n_frames * period_s > 10 and period_s <= 0.2

    def image(number: int) -> np.ndarray:
        film.seek(number)
        return np.asarray(film.convert("RGB"))

    number = round(MOMENT_S / period_s)
    small = cv2.resize(drawn, film.size, interpolation=cv2.INTER_AREA)
    same = difference(image(number), small)
    assert same < _SAME
    assert difference(image(number + 20), small) > same


def test_the_terminal_shows_the_rows_of_the_report() -> None:
    svg = (IMAGES / "terminal.svg").read_text()
    text = html.unescape(re.sub(r"<[^>]+>", "", svg)).replace("\xa0", " ")
    played = Played(None, [0], 1, [], [1.0], "", {"reason": "0"}, "")
    for name, _ in run_rows(played):
        assert name in text
    assert "mIoU" in text and "UNTRAINED" not in text and "untrained" not in text


@pytest.mark.parametrize("name", ["film.webp", "first.webp", "report.webp", "terminal.svg"])
def test_every_image_is_shown_somewhere(name: str) -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    assert any(f"images/{name}" in page.read_text() for page in pages)
