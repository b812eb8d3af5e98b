"""The run of the demonstration checkpoint at small size: frames, resuming, packing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

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
from occ_training.demo.training import DemoTraining, GateError

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
    gate_step=0,
)


def small_card():
    """The demonstration model for small pictures and few columns; its weights fit the real one."""
    return get_card("alocc_town").resized((64, 176), GRID)


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
    with FramePool([], card, processes=1) as pool:
        pool.wait_for(1)
    assert pool._workers is None
    failing = FramePool([Clip(3, -1, 4, 2)], get_card("alocc_town"), processes=1)
    with failing as pool, pytest.raises(RenderError, match=r"1 of 1 clips could not .*drive=-1"):
        pool.wait_for(1)


@pytest.mark.parametrize("processes", [0, 1])
def test_a_clip_that_cannot_be_rendered_does_not_keep_the_others_away(processes):
    clips = [Clip(3, -1, 4, 2), Clip(3, 1, 4, 1)]
    with FramePool(clips, get_card("alocc_town"), processes) as pool:
        pool.wait_for(1)
        assert len(pool.ready(0)) == 1
        assert len(pool.failures) == 1
        with pytest.raises(RenderError, match="1 of 2 clips could not be rendered, 2 are needed"):
            pool.wait_for(2)


def test_whoever_waits_for_a_process_that_was_killed_hears_of_it(monkeypatch):
    """A killed process takes its clip with it; no clip comes any more."""
    monkeypatch.setattr("occ_training.demo.pool._PATIENCE_S", 0.5)
    with FramePool([Clip(3, 1, 4, 2)], get_card("alocc_town"), processes=1) as pool:
        for worker in pool._workers._pool:
            worker.kill()
        with pytest.raises(RenderError, match="no clip came for"):
            pool.wait_for(1)


def test_a_saved_run_comes_in_small_files_and_belongs_to_its_plan(tmp_path):
    tensors = {f"net.{n}": torch.full((1_500_000,), float(n)) for n in range(6)}  # 6 MB each
    save(tmp_path, Saved(TINY.identity(), {"step": 3}, tensors))
    sizes = [path.stat().st_size for path in (tmp_path / "resume").iterdir()]
    assert len(sizes) > 2
    assert max(sizes) < 16e6
    longer = replace(TINY, steps=9, minutes=1.0, batch=2, gate_miou=0.5)
    again = load(tmp_path, longer.identity())
    assert again.facts["step"] == 3
    assert again.tensors.keys() == tensors.keys()
    assert all(torch.equal(again.tensors[n], t) for n, t in tensors.items())
    with pytest.raises(ResumeError, match="another plan: seed 0 there, 1 wanted"):
        load(tmp_path, replace(TINY, seed=1).identity())


def test_a_run_killed_whenever_it_saves_keeps_its_last_state(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    def saved(step):
        return Saved(TINY.identity(), {"step": step}, {"net.a": torch.ones(3)})

    save(tmp_path, saved(3))
    (tmp_path / "resume").rename(tmp_path / ".resume.old")  # killed between the two renames
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("occ_training.demo.resuming.torch.save", killed)
        save(tmp_path, saved(4))
    assert load(tmp_path, TINY.identity()).facts["step"] == 3
    save(tmp_path, saved(5))
    assert load(tmp_path, TINY.identity()).facts["step"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["resume"]


def test_learning_follows_steps_or_minutes_whichever_end_first():
    plan = Plan(steps=1000, minutes=10.0, warm_up_steps=100)
    assert plan.progress(500, 0.0) == plan.progress(0, 300.0) == 0.5
    assert plan.progress(10, 600.0) == plan.progress(2000, 0.0) == 1.0
    assert plan.learning_rate(0, 0.0) == pytest.approx(0.01)
    assert plan.learning_rate(100, 0.1) == pytest.approx(1.0)
    assert plan.learning_rate(100, 0.55) == pytest.approx(0.505)
    assert plan.learning_rate(300, 1.0) == pytest.approx(0.01)
    shares = [plan.depth_share(done) for done in (0.0, 0.25, 0.5, 0.9)]
    assert shares == pytest.approx([1.0, 0.5, 0.0, 0.0])
    assert shares[2] == 0.0
    shares = [plan.motion_share(done) for done in (0.0, 1 / 6, 0.25, 1 / 3, 0.9)]
    assert shares == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    assert shares[3] == 0.0


def test_a_run_that_goes_on_renders_the_same_clips_in_another_order():
    plan = Plan(towns=20)
    first, later = plan.training_clips(), plan.training_clips(step=700)
    assert set(first) == set(later)
    assert first != later
    for clips in (first, later):
        assert [a.town for a in clips[::2]] == [b.town for b in clips[1::2]]


def test_what_is_told_by_bits_and_lists_becomes_volumes(clip_frames):
    """Camera mask and velocities of a batch, against numpy on each frame."""
    batch = BatchMaker(small_card(), CPU)([Slot(frame, None) for frame in clip_frames])
    for number, frame in enumerate(clip_frames):
        cells = frame.labels_XYZ.size
        seen = np.unpackbits(frame.seen_packed, count=cells).astype(bool)
        assert np.array_equal(batch.camera_mask_BXYZ[number].flatten().numpy(), seen)
        flow = np.zeros((cells, 2), np.float32)
        flow[frame.moving] = frame.velocities
        assert np.array_equal(batch.flow_BXYZ2[number].flatten(0, 2).numpy(), flow)
    assert any(len(frame.moving) for frame in clip_frames)


def test_a_step_in_half_precision_keeps_geometry_exact(tmp_path):
    """As on a GPU: bfloat16 in convolutional parts only, the lifting sees float32."""
    card, seen = small_card(), []
    assert Plan().precision == "bf16"
    with FramePool(TINY.training_clips(), card, 0) as pool:
        pool.wait_for(1)
        training = DemoTraining(TINY, card, tmp_path, CPU)
        training.net.lift.register_forward_pre_hook(
            lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
        )
        convolution = next(m for m in training.net.image.modules() if isinstance(m, nn.Conv2d))
        convolution.register_forward_hook(lambda *a: seen.append(a[-1].dtype))
        training._step(pool), training._step(pool)
    assert seen == [torch.bfloat16, False] * 2
    assert all(t.isfinite().all() for t in training.net.state_dict().values())


def test_the_gate_is_not_passed_unseen_and_a_failed_one_stays_failed(tmp_path):
    card = small_card()
    gated = replace(TINY, gate_step=1, steps=3)
    with FramePool(TINY.training_clips(), card, 0) as pool:
        first = DemoTraining(replace(TINY, steps=2), card, tmp_path, CPU)
        first.train(pool)
        second = DemoTraining(gated, card, tmp_path, CPU)
        with pytest.raises(GateError, match=r"mIoU 10.0 % at the gate, expected more than 12 %"):
            second.train(pool, validate=lambda _: 0.1)
        with pytest.raises(GateError, match=r"--gate-miou 0\.09"):
            DemoTraining(gated, card, tmp_path, CPU)
        third = DemoTraining(replace(gated, gate_miou=0.09), card, tmp_path, CPU)
        assert third.step == 3
        assert not third.before_gate
        with torch.no_grad():
            next(iter(third._averages.values())).fill_(float("nan"))
        with pytest.raises(GateError, match="no longer a finite number after 3 steps"):
            third.save()


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
        first = DemoTraining(TINY, card, tmp_path, CPU)
        pool.wait_for(1)
        first._step(pool), first._step(pool)
        first.save()
        weights = {n: t.clone() for n, t in first.net.state_dict().items()}
        second = DemoTraining(TINY, card, tmp_path, CPU)
        assert second.step == 2
        for name, tensor in second.net.state_dict().items():
            assert torch.equal(tensor, weights[name]), name
        for name, tensor in second._averages.items():
            assert torch.equal(tensor, first._averages[name]), name
        moments = second._optimiser.state_dict()["state"], first._optimiser.state_dict()["state"]
        for number, before in moments[1].items():
            for name, exact in before.items():
                kept = moments[0][number][name]
                assert kept.dtype == torch.float32
                torch.testing.assert_close(kept, exact, rtol=2**-8, atol=1e-30)
    assert run(TINY, tmp_path, CPU, processes=0, card=card)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    assert len(files) <= 8, files
    assert max(sizes) < 16 * 2**20
    assert sum(sizes) < 64 * 2**20
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
        training = DemoTraining(plan, card, tmp_path, CPU)
        before = score(training.averaged(), card, pool, CPU)
        complete = training.train(pool, time.monotonic() + 900, log_every=20)
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
    """SIGKILL after a saved step; the same command goes on there, shorter than it was meant."""
    command = [
        sys.executable, "-m", "occ_training.demo.run", "--folder", str(tmp_path), "--towns", "1",
        "--drives", "1", "--clip-frames", "2", "--batch", "1", "--first-clips", "1",
        "--processes", "0", "--gate-step", "3", "--gate-miou", "-1", "--validation-towns", "1",
        "--device", "cpu", "--test-towns", "1", "--scored-frames", "1", "--save-every", "0",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--steps", "50"], env=environment)
    facts = tmp_path / "resume" / "run.json"
    try:
        wait_for(facts.is_file, seconds=400)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()
    saved = load(tmp_path, Plan(towns=1, drives=1, clip_frames=2).identity()).facts["step"]
    assert 1 <= saved < 50
    command += ["--steps", str(saved + 2)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr
    assert f"{saved + 2} steps" in done.stdout
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert [point["step"] for point in scores["curve"] if "mIoU" in point] == [max(3, saved + 1)]
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert again.returncode == 0, again.stderr
    assert "ms per step" not in again.stdout  # nothing left to train


def wait_for(condition, seconds):
    """Until something is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
