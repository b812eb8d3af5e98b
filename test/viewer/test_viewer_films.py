"""Films are read back and compared with their images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_footage import guess_at, truth_at

from occ_perception.errors import OptionError
from occ_perception.viewer import films
from occ_perception.viewer.comparison import compare
from occ_perception.viewer.films import Film, ImageFolder
from occ_perception.viewer.images import FILM_SIZE, film_image


def image(number: int) -> np.ndarray:
    """A red bar on blue that moves to the right."""
    rgb = np.full((96, 160, 3), (20, 40, 200), np.uint8)
    rgb[:, 20 * number : 20 * number + 20] = (220, 30, 30)
    return rgb


def decoded(path: Path) -> tuple[list[np.ndarray], float]:
    reader = cv2.VideoCapture(str(path))
    images = []
    while True:
        read, bgr = reader.read()
        if not read:
            return images, reader.get(cv2.CAP_PROP_FPS)
        images.append(bgr[..., ::-1])


@pytest.mark.parametrize("codec", ["h264", "vp09", "mp4v"])
def test_a_film_holds_every_image_in_order_and_colour(tmp_path, monkeypatch, codec):
    monkeypatch.setattr(films, "_CODECS", (codec,))
    written = [image(n) for n in range(7)]
    with Film(tmp_path / "new" / "film.mp4", 2.5) as film:
        for rgb in written:
            film.write(rgb)
    assert film.codec == codec
    read, rate = decoded(tmp_path / "new" / "film.mp4")
    assert rate == pytest.approx(2.5)
    assert len(read) == 7
    for got, expected in zip(read, written, strict=True):
        assert np.abs(got.astype(int) - expected).mean() < 8
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["film.mp4"]


def test_the_codec_of_choice_is_one_that_every_browser_plays(tmp_path, monkeypatch):
    for codec in ("h264", "vp09"):
        if codec == "vp09":
            monkeypatch.setitem(sys.modules, "av", None)
        with Film(tmp_path / "film.mp4", 2) as film:
            film.write(image(0))
        assert film.codec == codec
        assert codec in films.BROWSER_CODECS


def test_images_of_odd_sizes_fit_into_h264(tmp_path):
    with Film(tmp_path / "film.mp4", 2) as film:
        film.write(image(1)[:95, :159])
    assert film.codec == "h264"
    assert decoded(tmp_path / "film.mp4")[0][0].shape == (96, 160, 3)


def test_a_film_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"an older film")

    def fail() -> None:
        with Film(path, 2) as film:
            film.write(image(0))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"an older film"
    assert [f.name for f in tmp_path.iterdir()] == ["film.mp4"]


def test_a_full_disk_is_noticed(tmp_path):
    """The process may write 20 kB to a file; OpenCV itself reports nothing."""
    code = f"""
import resource, signal
import numpy as np
from occ_perception.viewer.films import Film
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
rng = np.random.default_rng(0)
with Film({str(tmp_path / "film.mp4")!r}, 5) as film:
    for _ in range(8):
        film.write(rng.integers(0, 255, (240, 320, 3), np.uint8))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is the disk full?" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "rate", "message"),
    [("film.gif", 2.0, "ending in .mp4"), ("film.mp4", 0.0, "expected 0 to 240")],
)
def test_invalid_names_and_rates_of_films_are_refused(tmp_path, name, rate, message):
    with pytest.raises(OptionError, match=message):
        Film(tmp_path / name, rate)


def test_images_of_a_film_have_one_size(tmp_path):
    with Film(tmp_path / "film.mp4", 2) as film:
        film.write(image(0))
        with pytest.raises(ValueError, match="image of 96x160 in a film"):
            film.write(image(0).transpose(1, 0, 2).copy())


def test_a_folder_holds_the_images_unchanged(tmp_path):
    with ImageFolder(tmp_path / "frames") as folder:
        for n in range(3):
            folder.write(image(n))
    files = sorted((tmp_path / "frames").iterdir())
    assert [f.name for f in files] == ["000000.png", "000001.png", "000002.png"]
    np.testing.assert_array_equal(cv2.imread(str(files[2]))[..., ::-1], image(2))


def test_a_shorter_film_leaves_no_images_of_the_longer_one(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"kept")
    for count in (3, 1):
        with ImageFolder(tmp_path) as folder:
            for n in range(count):
                folder.write(image(n))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["000000.png", "mine.png"]


def test_the_screen_keeps_its_layout_whatever_it_shows():
    """Legend and layout are the same in all images of a film."""
    width, height = FILM_SIZE
    guess, truth = guess_at(10**9), truth_at(10**9)
    plain, compared = film_image(guess), film_image(guess, None, compare(guess, truth))
    assert plain.shape == compared.shape == (height, width, 3)
    later, later_truth = guess_at(3 * 10**9), truth_at(3 * 10**9)
    second = film_image(later, None, compare(later, later_truth))
    np.testing.assert_array_equal(second[640:, 1200:], compared[640:, 1200:])
    assert (second[46:560] != compared[46:560]).any()
