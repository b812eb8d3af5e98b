"""Makes the images of README.md and docs/ from the output of a demonstration.

    make demo 2>&1 | tee demo_terminal.txt
    python scripts/docs_images.py demo_out demo_terminal.txt

Needs Pillow, and Chromium for the picture of the report. Writes docs/images/: `film.webp`,
`first.webp`, `report.webp` and `terminal.svg`. test/demo/test_docs_images.py holds them to what the
code draws.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
from PIL import Image
from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
FILM_SIZE = (640, 360)
FILM_BYTES = 3_000_000
REPORT_SIZE = (1140, 2300)
_COLUMNS = 100


def write_film(film: Path, out: Path) -> None:
    """The whole film as an animated WebP below :data:`FILM_BYTES`, at its own speed."""
    reader = cv2.VideoCapture(str(film))
    period_ms = round(1000 / reader.get(cv2.CAP_PROP_FPS))
    images = []
    while (got := reader.read())[0]:
        small = cv2.resize(got[1][..., ::-1], FILM_SIZE, interpolation=cv2.INTER_AREA)
        images.append(Image.fromarray(small))
    for quality in range(80, 0, -10):
        images[0].save(
            out,
            save_all=True,
            append_images=images[1:],
            duration=period_ms,
            loop=0,
            quality=quality,
            method=6,
        )
        if out.stat().st_size < FILM_BYTES:
            return
    raise SystemExit(f"{out} has {out.stat().st_size} bytes at the lowest quality")


def write_report(page: Path, out: Path) -> None:
    """The page as Chromium shows it; the film in it stands still."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        raise SystemExit("the picture of the report needs Chromium: apt-get install chromium")
    width, height = REPORT_SIZE
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--screenshot={shot}"]
        options += ["--virtual-time-budget=5000", f"--window-size={width},{height}"]
        command = [browser, *options, page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        Image.open(shot).convert("RGB").save(out, quality=80, method=6)


def write_terminal(log: Path, out: Path) -> None:
    """What the terminal showed, as an SVG with text in it."""
    console = Console(record=True, width=_COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(log.read_text().strip()))
    out.write_text(console.export_svg(title="make demo"))


def main() -> None:
    """See the module."""
    demo_out, log = map(Path, sys.argv[1:])
    IMAGES.mkdir(exist_ok=True)
    write_film(demo_out / "film.mp4", IMAGES / "film.webp")
    first = Image.open(demo_out / "first.png").convert("RGB")
    first.save(IMAGES / "first.webp", quality=80, method=6)
    write_report(demo_out / "report.html", IMAGES / "report.webp")
    write_terminal(log, IMAGES / "terminal.svg")
    for path in sorted(IMAGES.iterdir()):
        print(f"{path}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
