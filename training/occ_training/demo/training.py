"""The training loop of the demonstration checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from occ_perception.errors import OccError
from occ_perception.models.occupancy_net import OccupancyNet
from occ_perception.models.zoo import ModelCard
from occ_training.averaging import float_entries
from occ_training.computing import compute_in
from occ_training.data.sample import Batch
from occ_training.demo.batches import BatchMaker, Slot
from occ_training.demo.frames import TownFrame
from occ_training.demo.plan import Plan
from occ_training.demo.pool import FramePool
from occ_training.demo.resuming import Saved, load, save
from occ_training.slots import Slots
from occ_training.streams import seed_of
from occ_training.supervision import (
    DepthBins,
    ImageMasks,
    SupervisedStep,
    Term,
    Velocities,
    VoxelQuartet,
    full_precision,
)

# From nothing, in minutes: losses over all voxels teach far more per step than masks at drawn
# points, and squared velocity errors of 10 m/s must not take the whole clipped gradient.
TERMS: tuple[Term, ...] = (
    VoxelQuartet(),
    ImageMasks(),
    DepthBins(),
    Velocities(weight=0.05),
)
_LOSS_MEMORY = 0.98


class GateError(OccError):
    """The network learns too little, or nothing any more; going on would waste the time."""


@dataclass(eq=False)
class _Walk:
    """A slot's way through a clip."""

    frames: list[TownFrame] = field(default_factory=list)
    position: int = 0
    mirror: tuple[float, float] = (1.0, 1.0)


class DemoTraining:
    """A run that can be ended at any moment and goes on from its last minute.

    Slots begin with new clips when a run goes on; weights, averages, learning rate and random
    draws go on where they were, and so do the optimiser's moments, rounded to bfloat16.

    Args:
        plan: of the run.
        card: of the model; tests give one with other sizes.
        folder: of the run's files.
        device: to train on.

    Raises:
        GateError: the run in the folder has failed its gate.
        ResumeError: the folder holds another run.
    """

    def __init__(self, plan: Plan, card: ModelCard, folder: Path, device: torch.device) -> None:
        self.plan = plan
        self.card = card
        self.device = device
        self.curve: list[dict[str, float]] = []
        self.step = 0
        self.seconds = 0.0
        self.gate_reached: float | None = None
        self._folder = folder
        torch.manual_seed(plan.seed)
        self.net = card.build().to(device).train()
        compute_in(self.net, plan.precision)
        self._averages = {n: t.clone() for n, t in float_entries(self.net).items()}
        self._optimiser = torch.optim.AdamW(
            self.net.parameters(), lr=plan.lr, weight_decay=plan.weight_decay
        )
        self._batches = BatchMaker(card, device, plan.light)
        self._walks = [_Walk() for _ in range(plan.batch)]
        self._slots = Slots(self.net)
        self._losses: dict[str, float] = {}
        self._go_on()
        self._noted = self.step, self.seconds
        self._refuse_failed_gate()

    @property
    def progress(self) -> float:
        """Share of the training that is done."""
        return self.plan.progress(self.step, self.seconds)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to train."""
        return self.progress >= 1.0

    @property
    def before_gate(self) -> bool:
        """Whether the mIoU of validation towns will be asked for."""
        return self.plan.gate_step > 0 and self.gate_reached is None

    def train(
        self,
        pool: FramePool,
        until: float = math.inf,
        save_every_s: float = 60.0,
        log_every: int = 50,
        validate: Callable[[OccupancyNet], float] | None = None,
        report: Callable[[str], None] = print,
    ) -> bool:
        """Train to the end of the plan, or until a moment of ``time.monotonic``.

        Args:
            pool: frames to learn from.
            until: when to stop.
            save_every_s: seconds between states on disk.
            log_every: steps between points of the curve.
            validate: gives the mIoU of averaged weights; None leaves the gate out.
            report: told how it goes.

        Returns:
            Whether the plan is complete.

        Raises:
            GateError: see :class:`Plan`; or a loss or weight is no longer a finite number.
            RenderError: there are no frames to begin with.
        """
        pool.wait_for(max(1, self.plan.first_clips))
        saved_at = begun = time.monotonic()
        seconds_before = self.seconds
        while not self.complete and time.monotonic() < until:
            self._step(pool)
            now = time.monotonic()
            self.seconds = seconds_before + now - begun
            if self.step % log_every == 0 or self.complete:
                self._note(pool, report)
            if validate is not None and self.before_gate and self.step >= self.plan.gate_step:
                self._gate(validate, report)
            if now - saved_at > save_every_s:
                self.save()
                saved_at = now
        self.save()
        return self.complete

    def save(self) -> None:
        """Write the state of this moment.

        Raises:
            GateError: a weight is no longer a finite number; the state on disk stays.
        """
        if not all(bool(t.isfinite().all()) for t in self._averages.values()):
            raise self._diverged("a weight")
        tensors: dict[str, Tensor] = {f"net.{n}": t for n, t in self.net.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self._averages.items()}
        for number, moments in self._optimiser.state_dict()["state"].items():
            for name, tensor in moments.items():
                kept = tensor if name == "step" else tensor.bfloat16()
                tensors[f"moment.{number}.{name}"] = kept
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "gate_reached": self.gate_reached,
            "curve": self.curve,
        }
        save(self._folder, Saved(self.plan.identity(), facts, tensors))

    def averaged(self) -> OccupancyNet:
        """A network with averaged weights, in evaluation mode."""
        net = self.card.build().to(self.device)
        net.load_state_dict(self.net.state_dict())
        with torch.no_grad():
            for name, tensor in float_entries(net).items():
                tensor.copy_(self._averages[name])
        return net.eval()

    def _go_on(self) -> None:
        saved = load(self._folder, self.plan.identity())
        if saved is None:
            return
        self.step, self.seconds = int(saved.facts["step"]), float(saved.facts["seconds"])
        self.gate_reached = saved.facts["gate_reached"]
        self.curve = list(saved.facts["curve"])
        by_kind: dict[str, dict[str, Tensor]] = {"net": {}, "average": {}, "moment": {}}
        for name, tensor in saved.tensors.items():
            kind, rest = name.split(".", 1)
            by_kind[kind][rest] = tensor
        self.net.load_state_dict(by_kind["net"])
        self._averages = {n: t.to(self.device) for n, t in by_kind["average"].items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in by_kind["moment"].items():
            number, rest = name.split(".", 1)
            moments.setdefault(int(number), {})[rest] = tensor
        groups = self._optimiser.state_dict()["param_groups"]
        self._optimiser.load_state_dict({"state": moments, "param_groups": groups})

    def _step(self, pool: FramePool) -> None:
        plan, step = self.plan, self.step
        for group in self._optimiser.param_groups:
            group["lr"] = plan.lr * plan.learning_rate(step, self.progress)
        generator = torch.Generator().manual_seed(seed_of(plan.seed, step))
        batch = self._batches(self._next_slots(pool), generator)
        loss = torch.stack(list(self._loss_terms(batch).values())).sum()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), plan.clip_norm)
        self._optimiser.step()
        self.step += 1
        decay = plan.averaging.decay(self.step)
        current = float_entries(self.net)
        torch._foreach_lerp_(
            [self._averages[name] for name in current], list(current.values()), 1.0 - decay
        )

    def _loss_terms(self, batch: Batch) -> dict[str, Tensor]:
        outputs = self._slots.forward(
            batch,
            depth_rate=self.plan.depth_share(self.progress) or None,
            motion_rate=self.plan.motion_share(self.progress),
        )
        supervised = SupervisedStep(
            net=self.net,
            card=self.card,
            batch=batch,
            outputs=full_precision(outputs),
            seed=seed_of(self.plan.seed, self.step),
        )
        losses: dict[str, Tensor] = {}
        for term in TERMS:
            losses |= term(supervised)
        self._remember(losses)
        return losses

    def _next_slots(self, pool: FramePool) -> list[Slot]:
        """Every slot's next frame; one whose clip has ended takes any that is there."""
        rng = np.random.default_rng(seed_of(self.plan.seed, self.step, 1))
        slots = []
        for number, walk in enumerate(self._walks):
            if walk.position == len(walk.frames):
                walk.frames = pool.ready(int(rng.integers(len(pool))))
                walk.position = 0
                walk.mirror = (float(rng.choice((-1, 1))), float(rng.choice((-1, 1))))
            previous = walk.frames[walk.position - 1] if walk.position else None
            frame = walk.frames[walk.position]
            slots.append(Slot(frame, previous, walk.mirror, self.step * self.plan.batch + number))
            walk.position += 1
        return slots

    def _remember(self, losses: dict[str, Tensor]) -> None:
        # Reading a value waits for the GPU; every tenth step tells enough.
        if self.step % 10 and self._losses:
            return
        values = torch.stack([value.detach() for value in losses.values()]).tolist()
        for name, now in zip(losses, values, strict=True):
            if not math.isfinite(now):
                raise self._diverged(name)
            before = self._losses.get(name, now)
            self._losses[name] = before + (1.0 - _LOSS_MEMORY**10) * (now - before)

    def _note(self, pool: FramePool, report: Callable[[str], None]) -> None:
        steps, seconds = self.step - self._noted[0], self.seconds - self._noted[1]
        self._noted = self.step, self.seconds
        point: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds, 1)}
        point |= {"done": round(self.progress, 3), "ms per step": round(1e3 * seconds / steps)}
        point |= {name: round(value, 4) for name, value in self._losses.items()}
        point |= {"clips": len(pool)}
        if self.device.type == "cuda":
            point |= {"GPU GB": round(torch.cuda.max_memory_reserved(self.device) / 1e9, 1)}
        self.curve.append(point)
        report("  ".join(f"{name} {value:g}" for name, value in point.items()))
        if pool.failures:
            count = len(pool.failures)
            report(f"{count} clips could not be rendered, the first: {pool.failures[0]}")

    def _gate(
        self, validate: Callable[[OccupancyNet], float], report: Callable[[str], None]
    ) -> None:
        self.gate_reached = validate(self.averaged())
        report(f"step {self.step}: mIoU {100 * self.gate_reached:.1f} % on validation towns")
        self.curve.append({"step": self.step, "seconds": self.seconds, "mIoU": self.gate_reached})
        self.save()
        self._refuse_failed_gate()

    def _refuse_failed_gate(self) -> None:
        reached, wanted = self.gate_reached, self.plan.gate_miou
        if reached is not None and not reached > wanted:
            raise GateError(
                f"mIoU {100 * reached:.1f} % at the gate, expected more than {100 * wanted:.0f} %: "
                "look at the depth loss, the axes of mirrored labels and the class weights; "
                f"--gate-miou {reached - 0.01:.2f} goes on all the same"
            )

    def _diverged(self, what: str) -> GateError:
        return GateError(
            f"{what} is no longer a finite number after {self.step} steps; the same command goes "
            f"on from the last state in {self._folder}; where that fails too, give it "
            f"--lr {self.plan.lr / 2:g}"
        )
