"""The page with a volume to turn: what it carries, and what a browser draws of it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_footage import guess_at, truth_at

from occ_perception.viewer.turntable import STYLE, turntable
from occ_perception.viewer.views import ViewerError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def carried(page: str) -> dict:
    return json.loads(re.search(r"\.turntable\"\), (.*)\);</script>", page)[1])


def test_the_page_carries_the_occupied_voxels() -> None:
    guess = guess_at(10**9)
    labels = np.full_like(guess.labels, guess.empty_class)
    labels[2:5, 3:6, 1:4] = 4
    labels[9] = 255
    data = carried(turntable({"one": replace(guess, labels=labels, flow=None)}))
    voxels = np.frombuffer(base64.b64decode(data["volumes"][0]["voxels"]), "<u2").reshape(-1, 4)
    assert data["dims"] == list(guess.grid.dims)
    assert sorted(map(tuple, voxels)) == [
        (x, y, z, 4) for x in (2, 3, 4) for y in (3, 4, 5) for z in (1, 2, 3)
    ]


def test_volumes_of_different_grids_are_refused() -> None:
    guess = guess_at(10**9)
    moved = replace(guess, grid=replace(guess.grid, lower=(-1.0, -2.0, -3.0)))
    with pytest.raises(ViewerError, match="one grid"):
        turntable({"one": guess, "other": moved})


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_draws_the_volume(tmp_path: Path) -> None:
    """Every free side of every voxel is two triangles; the button changes the volume."""
    guess, truth = guess_at(10**9), truth_at(10**9)
    press = "<script>document.querySelectorAll('.turntable button')[1].click();</script>"
    for name, after, shown in (("first", "", guess), ("second", press, truth)):
        page = tmp_path / f"{name}.html"
        body = turntable({"prediction": guess, "ground truth": truth})
        page.write_text(f"<!doctype html><style>{STYLE}</style><body>{body}{after}</body>")
        drawn = re.search(r'data-drawn="(\d+)"', in_browser(page, tmp_path))
        assert int(drawn[1]) == 6 * free_sides(shown)


def free_sides(volume) -> int:
    filled = np.pad((volume.labels != volume.empty_class) & (volume.labels != 255), 1)
    return sum(
        int((filled & ~np.roll(filled, step, axis)).sum()) for axis in range(3) for step in (-1, 1)
    )


def in_browser(page: Path, folder: Path) -> str:
    """The document after its scripts have run."""
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update"),
            *("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
            *(f"--user-data-dir={folder / 'browser'}", "--virtual-time-budget=3000"),
            *("--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stdout
