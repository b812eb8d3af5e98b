"""Class tables: numbers of classes, free space, movers, and colours that go by name."""

from __future__ import annotations

import numpy as np
import pytest

from occ_perception.labels import (
    LABEL_SETS,
    MOVING_CLASSES,
    PALETTE,
    UNKNOWN_CLASS,
    palette_of,
)


@pytest.mark.parametrize(
    ("name", "classes", "empty"),
    [
        ("occ3d", 18, 17),
        ("surroundocc", 18, 17),
        ("openoccupancy", 18, 17),
        ("openocc", 17, 16),
        ("waymo", 16, 15),
    ],
)
def test_sizes(name, classes, empty):
    labels = LABEL_SETS[name]
    assert labels.num_classes == classes
    assert labels.empty_class == empty
    assert labels.class_names[empty] == "free"
    assert classes <= UNKNOWN_CLASS


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_every_name_is_unique_and_has_a_colour(labels):
    assert len(set(labels.class_names)) == labels.num_classes
    assert set(labels.class_names) <= set(PALETTE)
    assert labels.palette().shape == (labels.num_classes, 3)
    assert labels.palette().dtype == np.uint8


def test_colours_go_by_name_not_by_id():
    occ3d, openocc = LABEL_SETS["occ3d"], LABEL_SETS["openocc"]
    assert occ3d.class_names.index("car") != openocc.class_names.index("car")
    for name in set(occ3d.class_names) & set(openocc.class_names):
        one = occ3d.palette()[occ3d.class_names.index(name)]
        other = openocc.palette()[openocc.class_names.index(name)]
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(occ3d.palette()[4], (255, 158, 0))


def test_openocc_renumbers_occ3d_without_its_others():
    assert set(LABEL_SETS["occ3d"].class_names) - set(LABEL_SETS["openocc"].class_names) == {
        "others"
    }
    assert set(LABEL_SETS["openocc"].class_names) < set(LABEL_SETS["occ3d"].class_names)


def test_movers():
    assert LABEL_SETS["openocc"].moving_ids() == tuple(range(8))
    assert LABEL_SETS["occ3d"].moving_ids() == (2, 3, 4, 5, 6, 7, 9, 10)
    assert LABEL_SETS["waymo"].moving_ids() == (1, 2, 4, 8, 9)
    assert set(PALETTE) > MOVING_CLASSES


def test_a_name_without_a_colour_is_seen():
    np.testing.assert_array_equal(palette_of(["car", "spaceship"]), [(255, 158, 0), (255, 0, 255)])


def test_real_labels_use_the_ids_of_their_tables(shared_dir):
    """Movers of the real OpenOcc file that have speed are of the classes said to move."""
    folder = shared_dir / "data" / "occ3d-openocc-labels"
    with np.load(folder / "openocc_flow_labels.npz") as file:
        semantics, flow = file["semantics"], file["flow"]
    moving = np.hypot(flow[..., 0], flow[..., 1]) > 0.2
    assert moving.any()
    assert set(np.unique(semantics[moving])) <= set(LABEL_SETS["openocc"].moving_ids())
    with np.load(folder / "occ3d_labels.npz") as file:
        occ3d = file["semantics"]
    assert (occ3d == LABEL_SETS["occ3d"].empty_class).mean() == pytest.approx(0.951, abs=1e-3)
    road = LABEL_SETS["occ3d"].class_names.index("driveable_surface")
    heights = np.bincount(np.nonzero(occ3d == road)[2], minlength=16)
    assert heights.argmax() == 2
