"""The run of the demonstration checkpoint at small size: frames, resuming, packing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.weights import load_model

pytest.importorskip("occ_training.demo.run", exc_type=ImportError)

from occ_training.demo.batches import BatchMaker, Slot
from occ_training.demo.frames import Clip, render_clip
from occ_training.demo.plan import Plan
from occ_training.demo.pool import FramePool, RenderError
from occ_training.demo.resuming import ResumeError, Saved, load, save
from occ_training.demo.run import WEIGHTS_FILE, run
from occ_training.demo.training import DemoTraining

CPU = torch.device("cpu")
GRID = VoxelGrid((-24.0, -24.0, -1.0), (1.2, 1.2, 6.4), (40, 40, 1))
TINY = Plan(
    towns=1,
    drives=1,
    clip_frames=2,
    steps=4,
    batch=1,
    first_clips=1,
    warm_up_steps=1,
    validation_towns=1,
    test_towns=1,
    scored_frames=2,
    gate_step=-1,
)


def small_card():
    """The demonstration model for small pictures and few columns; its weights fit the real one."""
    card = get_card("alocc_town")
    geometry = replace(card.recipe().geometry, input_size=(64, 176), grid=GRID)
    config = card.recipe().with_geometry(geometry)
    return replace(
        card,
        recipe=lambda: config,
        grid=config.output_grid,
        preprocessing=replace(card.preprocessing, input_size=(64, 176)),
    )


@pytest.fixture(scope="module")
def clip_frames():
    return render_clip(Clip(town=3, drive=1, first=4, frames=2), small_card())


def test_the_nearest_surface_of_a_feature_pixel_lies_in_a_cell_of_its_class(clip_frames):
    """Depth, class, calibration and labels of a frame are about the same world."""
    card, frame = small_card(), clip_frames[0]
    grid = card.grid
    batch = BatchMaker(card, CPU)([Slot(frame, None)])
    agree = total = 0
    for camera in range(6):
        rows, columns = np.nonzero(batch.depth_BNHW[0, camera].numpy())
        depth = batch.depth_BNHW[0, camera].numpy()[rows, columns].astype(np.float64)
        near = depth < 20.0
        pixel = np.stack([columns + 8.0, rows + 8.0, np.ones(len(rows))])[:, near]
        A = batch.cameras.image_rotation_BN33[0, camera].double().numpy()
        a = batch.cameras.image_translation_BN3[0, camera].double().numpy()
        native = np.linalg.inv(A) @ (pixel - a[:, None])
        ray = np.linalg.inv(batch.cameras.K_BN33[0, camera].double().numpy()) @ native
        T = batch.cameras.grid_T_cam_BN44[0, camera].double().numpy()
        points = (T[:3, :3] @ (ray * depth[near]) + T[:3, 3:]).T
        kinds = batch.semantics_BNHW[0, camera].numpy()[rows, columns][near]
        cells = np.floor((points - grid.lower) / grid.voxel_size).astype(int)
        inside = np.all((cells >= 0) & (cells < grid.dims), axis=1)
        # The surface is somewhere in a block of 16 x 16 pixels: look one cell around as well.
        for cell, kind in zip(cells[inside], kinds[inside], strict=True):
            low, high = np.maximum(cell - 1, 0), cell + 2
            around = frame.labels_XYZ[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
            agree += kind in around
            total += 1
    assert total > 100
    assert agree > 0.9 * total


def test_a_mirrored_batch_is_the_mirrored_world(clip_frames):
    card, (first, second) = small_card(), clip_frames
    plain, mirrored = (
        BatchMaker(card, CPU)([Slot(second, first, sign)]) for sign in ((1.0, 1.0), (1.0, -1.0))
    )
    assert torch.equal(mirrored.labels_BXYZ, plain.labels_BXYZ.flip(2))
    assert torch.equal(mirrored.bev_augmentation_B33[0], torch.diag(torch.tensor([1.0, -1.0, 1.0])))
    turned = plain.flow_BXYZ2.flip(2) * torch.tensor([1.0, -1.0])
    torch.testing.assert_close(mirrored.flow_BXYZ2, turned)
    assert (plain.labels_BXYZ[~plain.camera_mask_BXYZ] == UNKNOWN_CLASS).all()
    ahead = plain.previous_T_current_B44[0, 0, 3]
    assert 0.0 < ahead < 15.0  # metres in half a second
    assert not plain.start_B.item()


def test_the_pool_hands_over_what_processes_rendered_and_tells_of_failures(clip_frames):
    card = small_card()
    with FramePool([Clip(3, 1, 4, 2)], get_card("alocc_town"), processes=1) as pool:
        pool.wait_for(1)
        frames = pool.ready(0)
    assert np.array_equal(frames[0].world_T_ego, clip_frames[0].world_T_ego)
    assert frames[0].crops_NHW3.shape == (6, 256, 704, 3)
    with FramePool([Clip(3, -1, 4, 2)], card, processes=0) as pool, pytest.raises(RuntimeError):
        pool.wait_for(1)
    failing = FramePool([Clip(3, -1, 4, 2)], get_card("alocc_town"), processes=1)
    with failing as pool, pytest.raises(RenderError, match="drive=-1"):
        pool.wait_for(1)


def test_a_saved_run_comes_in_small_files_and_belongs_to_its_plan(tmp_path):
    tensors = {f"net.{n}": torch.full((1_500_000,), float(n)) for n in range(6)}  # 6 MB each
    save(tmp_path, Saved(TINY.to_json(), {"step": 3}, tensors))
    sizes = [path.stat().st_size for path in (tmp_path / "resume").iterdir()]
    assert len(sizes) > 2
    assert max(sizes) < 16e6
    again = load(tmp_path, TINY.to_json())
    assert again.facts["step"] == 3
    assert again.tensors.keys() == tensors.keys()
    assert all(torch.equal(again.tensors[n], t) for n, t in tensors.items())
    with pytest.raises(ResumeError, match="another plan"):
        load(tmp_path, replace(TINY, seed=1).to_json())
    (tmp_path / "resume").rename(tmp_path / ".resume.old")  # killed between two renames
    assert load(tmp_path, TINY.to_json()).facts["step"] == 3


def test_towns_of_the_splits_do_not_mix():
    plan = Plan()
    by_split = [
        {clip.town for clip in clips}
        for clips in (plan.training_clips(), plan.validation_clips(), plan.test_clips())
    ]
    assert [len(towns) for towns in by_split] == [400, 8, 50]
    assert not by_split[0] & by_split[1] | by_split[0] & by_split[2] | by_split[1] & by_split[2]
    assert sum(clip.frames for clip in plan.training_clips()) == 8000


@pytest.mark.slow
def test_an_ended_run_goes_on_and_its_checkpoint_loads(tmp_path, monkeypatch):
    """Ended after two steps and gone on with: the same plan, packed, loaded by its name."""
    card = small_card()
    with FramePool(TINY.training_clips(), card, 0) as pool:
        first = DemoTraining(replace(TINY), card, pool, tmp_path, CPU)
        pool.wait_for(1)
        first._step(), first._step()
        first.save()
        weights = {n: t.clone() for n, t in first.net.state_dict().items()}
        second = DemoTraining(replace(TINY), card, pool, tmp_path, CPU)
        assert second.step == 2
        for name, tensor in second.net.state_dict().items():
            assert torch.equal(tensor, weights[name]), name
        moments = second._optimiser.state_dict()["state"], first._optimiser.state_dict()["state"]
        assert torch.equal(moments[0][5]["exp_avg"], moments[1][5]["exp_avg"])
    assert run(TINY, tmp_path, CPU, processes=0, minutes=10.0, card=card)
    path = tmp_path / WEIGHTS_FILE
    assert path.stat().st_size < 12e6
    monkeypatch.setitem(MODELS, "alocc_town", replace(card, packaged=path))
    loaded = load_model("alocc_town")
    assert not loaded.report.problems
    assert "with history" in (tmp_path / "report.md").read_text()


@pytest.mark.slow
def test_two_frames_are_learnt_by_heart(tmp_path, capsys):
    """The loss of two frames falls to a fraction, and the network then knows them."""
    from occ_training.demo.scoring import score

    card = small_card()
    plan = replace(TINY, steps=300, lr=2e-3, warm_up_steps=20, light=0.0)
    with FramePool(plan.training_clips(), card, 0) as pool:
        training = DemoTraining(plan, card, pool, tmp_path, CPU)
        before = score(training.averaged(), card, pool, CPU)
        complete = training.train(time.monotonic() + 900, log_every=20)
        after = score(training.averaged(), card, pool, CPU)
    scores = (before.mean_iou, after.mean_iou, after.geometry_iou)
    with capsys.disabled():
        print("\nmIoU before and after, geometry IoU:", *(f"{100 * s:.1f} %" for s in scores))
        print(training.curve[0], training.curve[-1], sep="\n")
    assert complete
    assert after.mean_iou > 0.4 > 4 * before.mean_iou
    assert after.geometry_iou > 0.65
    assert after.velocity_error < 0.6 * after.standing_error


@pytest.mark.slow
def test_the_command_survives_a_kill(tmp_path):
    """SIGKILL in mid-run; the same command goes on from the saved step."""
    command = [
        sys.executable, "-m", "occ_training.demo.run", "--folder", str(tmp_path), "--towns", "1",
        "--drives", "1", "--clip-frames", "2", "--batch", "1", "--first-clips", "1",
        "--processes", "0", "--gate-step", "-1", "--device", "cpu", "--steps", "3",
        "--test-towns", "1", "--scored-frames", "1",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    time.sleep(15)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr
    assert "3 steps" in done.stdout
