"""Properties of every metric: additivity, order, perfect predictions, relabelling, masks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, LabelSet
from occ_perception.metrics import (
    CountingMetric,
    FlowScore,
    RayIoU,
    SurroundOccIoU,
    VoxelIoU,
)

GRID = VoxelGrid.from_ranges((-3.2, 3.2, 0.8), (-3.2, 3.2, 0.8), (-1.0, 2.2, 0.8))
FRAMES = 4
KINDS = ("occ3d voxels", "occ3d masked voxels", "surroundocc", "waymo", "rays", "flow")

few = settings(max_examples=10, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors are tiny, so more threads only wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclasses.dataclass
class Frame:
    preds: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    origins: np.ndarray
    preds_flow: np.ndarray
    truth_flow: np.ndarray


def label_set_of(kind: str) -> LabelSet:
    names = {"surroundocc": "surroundocc", "waymo": "waymo", "flow": "openocc"}
    return LABEL_SETS[names.get(kind, "occ3d")]


def new_metric(kind: str, label_set: LabelSet | None = None) -> CountingMetric:
    label_set = label_set or label_set_of(kind)
    if kind == "rays":
        return RayIoU(label_set, GRID)
    if kind == "flow":
        return FlowScore(label_set, GRID)
    return SurroundOccIoU(label_set) if kind == "surroundocc" else VoxelIoU(label_set)


def add(metric: CountingMetric, kind: str, frames: list[Frame]) -> CountingMetric:
    def stacked(name: str) -> np.ndarray:
        return np.stack([getattr(frame, name) for frame in frames])

    arguments = [stacked("preds"), stacked("truth")]
    if kind == "occ3d masked voxels":
        arguments.append(stacked("mask"))
    if kind in ("rays", "flow"):
        arguments.append([frame.origins for frame in frames])
    if kind == "flow":
        arguments += [stacked("preds_flow"), stacked("truth_flow")]
    metric.update(*arguments)
    return metric


def draw_frames(kind: str, seed: int, count: int = FRAMES) -> list[Frame]:
    rng = np.random.default_rng(seed)
    free = label_set_of(kind).empty_class
    frames = []
    for _ in range(count):
        solid = rng.random(GRID.dims) < 0.3
        truth = np.where(solid, rng.integers(0, free, GRID.dims), free)
        guess = rng.integers(0, free + 1, GRID.dims)
        preds = np.where(rng.random(GRID.dims) < 0.7, truth, guess)
        truth = np.where(rng.random(GRID.dims) < 0.05, 255, truth)
        flow = rng.normal(size=(2, *GRID.dims, 2)).astype(np.float32)
        mask = rng.random(GRID.dims) < 0.5
        origins = rng.uniform((-2, -2, 0), (2, 2, 1.5), (rng.integers(1, 4), 3))
        frames.append(Frame(preds, truth, mask, origins, flow[0], flow[1]))
    return frames


def assert_same_counts(one: CountingMetric, other: CountingMetric) -> None:
    for name, counter in one.counters().items():
        assert torch.equal(counter, other.counters()[name]), name


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=st.integers(0, 10**6), owners=st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_merged_parts_of_any_partition_equal_one_pass_exactly(kind, seed, owners):
    frames = draw_frames(kind, seed)
    whole = add(new_metric(kind), kind, frames)
    merged = new_metric(kind)
    for owner in set(owners):
        part = new_metric(kind)
        for frame, frame_owner in zip(frames, owners, strict=True):
            if frame_owner == owner:
                add(part, kind, [frame])
        merged.merge(part)
    assert_same_counts(merged, whole)
    scores, expected = merged.compute(), whole.compute()
    for name, value in expected.items():
        assert torch.equal(scores[name].nan_to_num(-1), value.nan_to_num(-1)), name


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=st.integers(0, 10**6), order=st.permutations(range(FRAMES)))
def test_order_of_frames_changes_no_bit(kind, seed, order):
    frames = draw_frames(kind, seed)
    forward = add(new_metric(kind), kind, frames)
    assert_same_counts(add(new_metric(kind), kind, [frames[i] for i in order]), forward)


@pytest.mark.parametrize("kind", KINDS)
@few
@given(seed=st.integers(0, 10**6))
def test_perfect_prediction_scores_one_in_every_class_present(kind, seed):
    frames = draw_frames(kind, seed)
    label_set = label_set_of(kind)
    for frame in frames:
        frame.truth[frame.truth == 255] = label_set.empty_class
        frame.preds, frame.preds_flow = frame.truth, frame.truth_flow
    metric = add(new_metric(kind), kind, frames)
    scores = metric.compute()
    present = {label_set.class_names[k] for frame in frames for k in np.unique(frame.truth)}
    for name, value in scores.items():
        if name == "frames" or value.isnan():
            continue
        if "AVE" in name:
            assert value == 0.0, name
        elif kind == "surroundocc":
            # Absent classes count as zero here, and 1e-8 is added to each union.
            class_name = name[4:-1] if "[" in name else None
            if name == "IoU" or class_name in present:
                assert value == pytest.approx(1.0, abs=1e-7), name
        else:
            assert value == pytest.approx(1.0, abs=1e-12), name


@pytest.mark.parametrize("kind", ["occ3d voxels", "occ3d masked voxels", "rays", "flow", "waymo"])
@few
@given(seed=st.integers(0, 10**6), data=st.data())
def test_renaming_classes_renames_the_scores(kind, seed, data):
    label_set = label_set_of(kind)
    order = data.draw(st.permutations(range(label_set.num_classes)))  # new id -> old id
    renamed = LabelSet(
        "renamed",
        tuple(label_set.class_names[k] for k in order),
        order.index(label_set.empty_class),
    )
    new_id = np.full(256, 255)
    new_id[list(order)] = np.arange(label_set.num_classes)
    frames = draw_frames(kind, seed, count=2)
    expected = add(new_metric(kind), kind, frames).compute()
    for frame in frames:
        frame.preds, frame.truth = new_id[frame.preds], new_id[frame.truth]
    scores = add(new_metric(kind, renamed), kind, frames).compute()
    assert set(scores) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(scores[name], value, rtol=1e-12, atol=0, equal_nan=True)


@few
@given(seed=st.integers(0, 10**6))
def test_mask_and_its_complement_add_up_to_no_mask(seed):
    frames = draw_frames("occ3d voxels", seed)
    whole = add(new_metric("occ3d voxels"), "occ3d voxels", frames)
    halves = add(new_metric("occ3d voxels"), "occ3d masked voxels", frames)
    for frame in frames:
        frame.mask = ~frame.mask
    other = add(new_metric("occ3d voxels"), "occ3d masked voxels", frames)
    for name in ("confusion", "occupancy"):
        total = halves.counters()[name] + other.counters()[name]
        assert torch.equal(total, whole.counters()[name])


@few
@given(seed=st.integers(0, 10**6))
def test_what_lies_outside_the_mask_does_not_matter(seed):
    frames = draw_frames("occ3d voxels", seed)
    before = add(new_metric("occ3d voxels"), "occ3d masked voxels", frames)
    rng = np.random.default_rng(seed)
    for frame in frames:
        outside = ~frame.mask
        frame.preds[outside] = rng.integers(0, 18, outside.sum())
        frame.truth[outside] = rng.integers(0, 18, outside.sum())
    assert_same_counts(add(new_metric("occ3d voxels"), "occ3d masked voxels", frames), before)


@few
@given(seed=st.integers(0, 10**6), quarter_turns=st.integers(1, 3))
def test_turning_the_scene_turns_the_rays(seed, quarter_turns):
    """A quarter turn about z maps grid and beam pattern onto themselves, so RayIoU stays."""
    frames = draw_frames("rays", seed, count=2)
    expected = add(new_metric("rays"), "rays", frames).compute()
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarter_turns]
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])
    for frame in frames:
        frame.preds = np.rot90(frame.preds, quarter_turns, axes=(0, 1)).copy()
        frame.truth = np.rot90(frame.truth, quarter_turns, axes=(0, 1)).copy()
        frame.origins = frame.origins @ turn.T
    scores = add(new_metric("rays"), "rays", frames).compute()
    for name, value in expected.items():
        # float32 directions differ in the last bit: a handful of rays may graze another voxel.
        torch.testing.assert_close(scores[name], value, rtol=0, atol=5e-3, equal_nan=True)
