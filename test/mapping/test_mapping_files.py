"""Files of a map: OctoMap against octomap's own library, NumPy arrays, columns of points."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occ_perception.labels import LABEL_SETS
from occ_perception.mapping.drive_map import MapVoxels
from occ_perception.mapping.map_files import point_columns, read_arrays, write_arrays
from occ_perception.mapping.octomap_file import write_octomap
from occ_perception.mapping.voxel_blocks import MapError

OCC3D = LABEL_SETS["occ3d"]
FREE, ROAD = OCC3D.empty_class, OCC3D.class_names.index("driveable_surface")

READER = r"""
#include <cstdio>
#include <memory>
#include <octomap/AbstractOcTree.h>
#include <octomap/ColorOcTree.h>
int main(int, char** names) {
  std::unique_ptr<octomap::AbstractOcTree> any(octomap::AbstractOcTree::read(names[1]));
  auto* tree = dynamic_cast<octomap::ColorOcTree*>(any.get());
  if (!tree) return 1;
  std::printf("%.9g %zu %zu\n", tree->getResolution(), tree->size(), tree->calcNumNodes());
  std::printf("%.9g\n", tree->getRoot() ? tree->getRoot()->getLogOdds() : 0.0);
  tree->expand();
  for (auto it = tree->begin_leafs(); it != tree->end_leafs(); ++it)
    std::printf("%.9g %.9g %.9g %.9g %d %d %d %d\n", it.getX(), it.getY(), it.getZ(),
                it->getLogOdds(), it->getColor().r, it->getColor().g, it->getColor().b,
                int(tree->isNodeOccupied(*it)));
}
"""


def random_voxels(seed: int, count: int = 300, size: float = 0.4, reach: int = 12) -> MapVoxels:
    """Scattered voxels, and a block of free ones that can be pruned."""
    rng = np.random.default_rng(seed)
    indices = rng.integers(-reach, reach, (count, 3))
    block = np.stack(np.meshgrid(*[np.arange(32, 48)] * 3, indexing="ij"), -1).reshape(-1, 3)
    indices = np.concatenate([np.unique(indices, axis=0), block])
    log_odds = np.full(len(indices), -2.0, np.float32)
    scattered = len(indices) - len(block)
    log_odds[:scattered] = rng.choice([-2.0, -0.4, 0.85, 3.5], scattered)
    classes = np.full(len(indices), FREE, np.uint8)
    hit = log_odds > 0
    classes[hit] = rng.integers(0, FREE, hit.sum())
    order = rng.permutation(len(indices))
    return MapVoxels(
        size,
        (0.0, 0.0, 0.0),
        OCC3D.class_names,
        FREE,
        indices[order].astype(np.int32),
        log_odds[order],
        classes[order],
    )


def leaves(path: Path) -> tuple[dict[tuple[int, ...], tuple[float, tuple[int, ...]]], int]:
    """Key - 32768 -> log-odds and colour, by a recursive reading of the stream; nodes in it."""
    head, stream = path.read_bytes().split(b"\ndata\n", 1)
    lines = dict(line.split(" ", 1) for line in head.decode().splitlines() if line[0] != "#")
    assert head.startswith(b"# Octomap OcTree file\n") and lines["id"] == "ColorOcTree"
    found: dict[tuple[int, ...], tuple[float, tuple[int, ...]]] = {}
    place = 0

    def read(corner: tuple[int, int, int], depth: int) -> float:
        nonlocal place
        value, r, g, b, children = struct.unpack_from("<f4B", stream, place)
        place += 8
        width = 1 << (16 - depth)
        if not children:
            for step in np.ndindex(width, width, width):
                index = tuple(c + s - 32768 for c, s in zip(corner, step, strict=True))
                found[index] = (value, (r, g, b))
            return value
        below = []
        for child in range(8):
            if children >> child & 1:
                half = width // 2
                x, y, z = (c + half * (child >> n & 1) for n, c in enumerate(corner))
                below.append(read((x, y, z), depth + 1))
        assert value == max(below)
        return value

    read((0, 0, 0), 0)
    assert place == len(stream) == 8 * int(lines["size"])
    return found, int(lines["size"])


def expected_leaves(voxels: MapVoxels) -> dict[tuple[int, ...], tuple[float, tuple[int, ...]]]:
    palette = OCC3D.palette()
    palette[FREE] = 255
    colours = map(tuple, palette[voxels.classes].tolist())
    values = zip(voxels.log_odds.tolist(), colours, strict=True)
    return dict(zip(map(tuple, voxels.indices.tolist()), values, strict=True))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_octree_holds_every_voxel_and_prunes_equal_ones(tmp_path_factory, seed: int) -> None:
    path = tmp_path_factory.mktemp("map") / "map.ot"
    voxels = random_voxels(seed)
    write_octomap(path, voxels)
    found, nodes = leaves(path)
    assert found == expected_leaves(voxels)
    assert nodes < len(found)  # 4096 free voxels in one leaf


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that prints what octomap's library reads."""
    folder = tmp_path_factory.mktemp("reader")
    compiler = shutil.which("g++")
    if compiler is None or not Path("/usr/include/octomap/ColorOcTree.h").exists():
        pytest.skip("octomap's library or a compiler is missing; apt install liboctomap-dev g++")
    (folder / "reader.cpp").write_text(READER)
    command = [compiler, "-O0", "reader.cpp", "-loctomap", "-loctomath", "-o", "reader"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "reader"


def test_octomap_reads_the_same_voxels(reader: Path, tmp_path: Path) -> None:
    voxels = random_voxels(7)
    write_octomap(tmp_path / "map.ot", voxels)
    command = [str(reader), str(tmp_path / "map.ot")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    resolution, size, counted = lines[0].split()
    assert float(resolution) == 0.4
    assert size == counted  # the header's size is the number of nodes
    assert float(lines[1]) == voxels.log_odds.max()
    rows = np.array([line.split() for line in lines[2:]], dtype=float)
    order = np.lexsort(rows[:, :3].T)
    centres = voxels.centres()
    own = np.lexsort(np.round(centres, 6).T)
    assert np.allclose(rows[order, :3], centres[own], atol=1e-6)
    assert np.array_equal(rows[order, 3].astype(np.float32), voxels.log_odds[own])
    assert np.array_equal(rows[order, 7] == 1, voxels.occupied[own])
    palette = OCC3D.palette()
    palette[FREE] = 255
    assert np.array_equal(rows[order, 4:7], palette[voxels.classes[own]])


def test_an_octree_reaches_a_limited_way(tmp_path: Path) -> None:
    voxels = random_voxels(1)
    voxels.indices[0, 0] = 40_000
    with pytest.raises(MapError, match=r"reaches 16000 m from its origin.*13107 m"):
        write_octomap(tmp_path / "map.ot", voxels)
    assert not list(tmp_path.iterdir())


def test_arrays_are_read_as_written(tmp_path: Path) -> None:
    voxels = random_voxels(2)
    write_arrays(tmp_path / "map.npz", voxels)
    again = read_arrays(tmp_path / "map.npz")
    assert again.class_names == voxels.class_names and again.origin == voxels.origin
    assert (again.voxel_size, again.empty_class) == (voxels.voxel_size, voxels.empty_class)
    for name in ("indices", "log_odds", "classes"):
        assert np.array_equal(getattr(again, name), getattr(voxels, name)), name


def test_points_are_the_occupied_voxels() -> None:
    voxels = random_voxels(3)
    columns = point_columns(voxels)
    assert len(columns["x"]) == voxels.occupied.sum() > 50
    centres = voxels.centres()[voxels.occupied]
    assert np.allclose(np.stack([columns[n] for n in "xyz"], axis=-1), centres, atol=1e-5)
    assert np.array_equal(
        np.stack([columns[n] for n in ("red", "green", "blue")], axis=-1),
        OCC3D.palette()[columns["label"]],
    )
    assert np.allclose(np.unique(columns["probability"]), (0.7, 0.97), atol=5e-3)
