"""docs/conventions.md says what the code does: class tables, colours, encodings, grid sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from occ_perception.codec import MAX_VOXELS, encode_occupancy, encoding_from_name
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, MOVING_CLASSES, PALETTE

PAGE = Path(__file__).parents[2] / "docs" / "conventions.md"


def table(first_heading: str) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table whose first column has this heading."""
    lines = PAGE.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_heading} |"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[0], rows[2:]


def test_class_ids():
    headings, rows = table("id")
    documented: dict[str, tuple[str, ...]] = {}
    for column, heading in enumerate(headings[1:], start=1):
        names = [row[column] for row in rows if row[column]]
        for label_set in heading.split(", "):
            documented[label_set] = tuple(names)
    assert [int(row[0]) for row in rows] == list(range(len(rows)))
    assert documented == {name: labels.class_names for name, labels in LABEL_SETS.items()}


def test_colours_and_movers():
    _, rows = table("class")
    colours = {name: tuple(int(value) for value in rgb.split(",")) for name, rgb, _ in rows}
    assert colours == PALETTE
    assert {name for name, _, moves in rows if moves == "yes"} == MOVING_CLASSES


def test_every_set_says_what_its_files_hold():
    _, rows = table("set")
    assert [row[0] for row in rows] == list(LABEL_SETS)
    for name, _, free in rows:
        assert str(LABEL_SETS[name].empty_class) in free


def test_encodings():
    _, rows = table("value")
    assert {name: int(value) for value, name, _ in rows} == {
        name: encoding_from_name(name) for name in ("dense", "sparse", "rle")
    }
    assert f"{MAX_VOXELS // 10**6} million voxels" in PAGE.read_text()


def test_grids():
    _, rows = table("models trained on")
    for _, _, horizontal, vertical, edge, dims in rows:
        (low, high), (bottom, top) = (
            map(float, extent.split(" to ")) for extent in (horizontal, vertical)
        )
        step = float(edge)
        grid = VoxelGrid.from_ranges((low, high, step), (low, high, step), (bottom, top, step))
        assert grid.dims == tuple(int(count) for count in dims.split(" x "))


@pytest.mark.parametrize("voxel", [(0, 0, 0), (3, 0, 0), (0, 2, 0), (1, 2, 3)])
def test_the_flat_index(voxel):
    assert "`i + nx * (j + ny * k)`" in PAGE.read_text()
    labels = np.zeros((5, 4, 6), np.uint8)
    labels[voxel] = 9
    (index,) = encode_occupancy(labels, 0, encoding_from_name("sparse")).indices
    i, j, k = voxel
    assert index == i + 5 * (j + 4 * k)
    assert labels.T.ravel()[index] == 9
