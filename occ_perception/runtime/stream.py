"""One vehicle's stream of camera frames through one network.

Legend: B batch (always 1 here), N cameras in the order of the model card, without masked ones,
X, Y, Z voxels.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.geometry import Float64, invert_transform, relative_motion
from occ_perception.models.card import ModelCard, ModelError
from occ_perception.models.inputs import (
    CameraTensors,
    DepthHint,
    GridAugmentation,
    NetInputs,
    StepControl,
)
from occ_perception.models.postprocess import NotFiniteError, decode
from occ_perception.models.state import (
    TemporalState,
    clone_state,
    remembers_cameras,
    state_of_cameras,
)
from occ_perception.runtime.calibration import Calibrator, RigTables
from occ_perception.runtime.execution import Execution, PreparedStep, prepared_step
from occ_perception.runtime.lidar_depth import lidar_depth
from occ_perception.runtime.preprocess import Preprocessor
from occ_perception.runtime.schedule import (
    Decision,
    FrameInfo,
    History,
    HistoryLimits,
    HistorySchedule,
)
from occ_perception.runtime.transfer import download, upload
from occ_perception.runtime.weights import LoadedModel


@dataclass(frozen=True, eq=False)
class StreamSnapshot:
    """Everything a stream remembers, as a value: a stream restored from it continues bit for bit.

    A step never writes into the tensors of an earlier state, so a snapshot costs nothing and
    stays what it was.

    Attributes:
        model: name and weights of the model the state belongs to.
        state: the network's temporal state.
        cameras: names along its camera axis.
        history: what the schedule remembers; None before the first frame.
        committed_world_T_cam_N44: camera poses of the last frame that entered the history.
        reset_reason: a reset that no prediction has reported yet.
    """

    model: str
    state: TemporalState
    cameras: tuple[str, ...]
    history: History | None = None
    committed_world_T_cam_N44: Float64 | None = None
    reset_reason: str = ""


@dataclass(frozen=True)
class StepGeometry:
    """The small inputs of one step, which go to the device together.

    Attributes:
        cameras: calibration.
        control: host decisions and motion.
    """

    cameras: CameraTensors
    control: StepControl


class OccupancyStream:
    """Feeds frames of one vehicle to a network and keeps its temporal history.

    Several streams may share one model; each owns its state. A stream is not thread-safe.

    Args:
        model: from :func:`~occ_perception.runtime.weights.load_model`; the stream runs where its
            weights are.
        frame_id: name of the ego frame in predictions.
        commit_spacing_s: wanted time between frames of the history; None is what the checkpoint
            was trained at, 0 commits every frame.
        limits: what a history survives.
        execution: how the network is run, float32 and eager unless given; or the network prepared
            to run so, which streams share if only one of them is in use.
    """

    def __init__(
        self,
        model: LoadedModel,
        frame_id: str = "base_link",
        commit_spacing_s: float | None = None,
        limits: HistoryLimits | None = None,
        execution: Execution | PreparedStep | None = None,
    ) -> None:
        self._model = model
        if not isinstance(execution, PreparedStep):
            execution = prepared_step(model.net, execution or Execution())
        self._net = execution
        self._device = model.device
        self._frame_id = frame_id
        spacing_s = self.card.history_spacing_s if commit_spacing_s is None else commit_spacing_s
        self._schedule = HistorySchedule(spacing_s, limits)
        self._preprocess = Preprocessor(self.card.preprocessing, self._device)
        self._calibrator = Calibrator(self.card)
        self._augmentation = upload(GridAugmentation.none(1), self._device)
        self._keeps_history = self.card.history_frames > 0
        self._memory = self._empty()

    @property
    def card(self) -> ModelCard:
        """The card of the model that runs here."""
        return self._model.card

    def reset(self, reason: str = "reset by the caller") -> None:
        """Forget the history; the next prediction gives ``reason`` as its history break."""
        had_history = self._memory.history is not None
        kept_reason = reason if had_history else self._memory.reset_reason
        self._memory = replace(self._empty(), reset_reason=kept_reason)

    def snapshot(self) -> StreamSnapshot:
        """What this stream remembers now."""
        if self._net.reuses_memory:
            return replace(self._memory, state=clone_state(self._memory.state))
        return self._memory

    def restore(self, snapshot: StreamSnapshot) -> None:
        """Continue from a snapshot of this stream or of another one with the same model.

        Raises:
            ValueError: the snapshot was taken with another model or other weights.
        """
        if snapshot.model != self._model.label:
            raise ValueError(
                f"snapshot belongs to model {snapshot.model}, this stream runs {self._model.label}"
            )
        self._memory = snapshot

    def step(self, frame: CameraFrame, commit: bool = True) -> OccupancyPrediction:
        """Predict occupancy at the frame's reference stamp.

        The history stays when cameras become masked. When one comes back, it is cleared if the
        network compares the images of a camera with earlier ones of the same camera.

        Args:
            frame: one frame set of cameras.
            commit: False only asks "what if": the stream is left as it was. True lets the
                schedule decide whether the frame enters the history.

        Raises:
            ModelError: the frame or its rig lacks a camera of the model that is not masked, or
                all are masked, the rig lacks the lidar's pose where the grid lies in the lidar
                frame, or the frame lacks the lidar points that the model is given.
            NotFiniteError: the network's output is NaN. The history is then forgotten, because it
                may be the cause.
        """
        clock = StageClock(self._device)
        images = self._images(frame)
        tables = self._calibrator.tables(frame.rig, frame.masked)
        images_N3HW = self._preprocess(list(images.values()), tables.plans)
        world_T_cam_N44 = self._calibrator.world_T_cameras(frame, tables)
        now = FrameInfo(
            frame.stamp_ns, frame.world_T_reference_ego, frame.sequence, tables.fingerprint
        )
        before = self._memory_of(tables.cameras)
        decision = self._schedule.decide(before.history, now)
        geometry = StepGeometry(
            cameras=self._calibrator.camera_tensors(now.world_T_ego, world_T_cam_N44, tables),
            control=_control(before, decision, now, world_T_cam_N44),
        )
        on_device = upload(geometry, self._device)
        inputs = NetInputs(
            images_BN3HW=images_N3HW[None],
            cameras=on_device.cameras,
            control=on_device.control,
            augmentation=self._augmentation,
            depth=self._depth(frame, world_T_cam_N44, tables),
        )
        clock.lap("preprocess")
        with torch.inference_mode():
            outputs, next_state = self._net(inputs, before.state)
            clock.lap("network")
            decoded = download(decode(outputs, self.card))
            with self._forgetting_if_not_finite(commit):
                decoded.require_numbers()
        clock.lap("labels")
        taken = commit and self._keeps_history
        if taken:
            self._remember(decision, next_state, tables.cameras, world_T_cam_N44)
        return OccupancyPrediction(
            stamp_ns=frame.stamp_ns,
            frame_id=self._frame_id,
            grid=self.card.grid,
            ego_T_grid=tables.ego_T_grid,
            labels=decoded.labels_BXYZ[0].numpy(),
            class_names=self.card.labels.class_names,
            empty_class=self.card.labels.empty_class,
            flow=None if decoded.flow_BXYZ2 is None else decoded.flow_BXYZ2[0].numpy(),
            model=self._model.label_without([n for n in self.card.cameras if n not in images]),
            camera_stamps_ns={name: frame.stamps_ns[name] for name in images},
            committed=taken and decision.commit,
            history_length=0 if decision.start else _length(before.history),
            history_break=decision.break_reason or before.reset_reason,
            timings_ms=clock.timings_ms(),
        )

    @contextmanager
    def _forgetting_if_not_finite(self, commit: bool) -> Iterator[None]:
        """Forgets the history when an output is not a number, unless the step only asks."""
        try:
            yield
        except NotFiniteError:
            if commit:
                self.reset("the last output was not a number (NaN)")
            raise

    def _images(self, frame: CameraFrame) -> dict[str, NDArray[np.uint8]]:
        """The frame's images in the model's camera order, without masked ones."""
        wanted = [name for name in self.card.cameras if name not in frame.masked]
        missing = [name for name in wanted if name not in frame.images]
        if missing or not wanted:
            raise ModelError(
                f"frame at {frame.stamp_ns} ns has no image of camera "
                f"{', '.join(missing or self.card.cameras)}, "
                f"which model {self.card.name} needs; it has {', '.join(frame.images)}. Drop the "
                "frame, or assemble frames with missing_camera='reuse_last'"
            )
        return {name: frame.images[name] for name in wanted}

    def _memory_of(self, cameras: tuple[str, ...]) -> StreamSnapshot:
        """The memory for a frame of these cameras; :attr:`_memory` stays as it is."""
        memory = self._memory
        back = [name for name in cameras if name not in memory.cameras]
        if back and remembers_cameras(memory.state):
            had_history = memory.history is not None
            reason = f"{', '.join(back)} sends images again" if had_history else memory.reset_reason
            memory = replace(self._empty(), reset_reason=reason)
        if cameras == memory.cameras:
            return memory
        kept = [memory.cameras.index(name) for name in cameras if name in memory.cameras]
        then_N44 = memory.committed_world_T_cam_N44
        if then_N44 is not None:  # nothing reads single cameras' motion where one may come back
            then_N44 = then_N44[kept] if len(kept) == len(cameras) else None
        with torch.inference_mode():
            state = state_of_cameras(memory.state, kept)
        return replace(memory, state=state, cameras=cameras, committed_world_T_cam_N44=then_N44)

    def _depth(
        self, frame: CameraFrame, world_T_cam_N44: Float64, tables: RigTables
    ) -> DepthHint | None:
        """Measured depth, for models that are given it."""
        if not self.card.measures_depth:
            return None
        if frame.lidar is None:
            raise ModelError(
                f"model {self.card.name} is given lidar depth, but the frame at {frame.stamp_ns} "
                "ns has no lidar points. Feed a lidar (the node's lidar.topic, `occ run "
                "--lidar-topic`), or choose a model whose sensors are cameras only"
            )
        geometry = self._model.net.config.geometry
        return lidar_depth(frame.lidar, world_T_cam_N44, tables, geometry, self._device)

    def _remember(
        self,
        decision: Decision,
        next_state: TemporalState,
        cameras: tuple[str, ...],
        world_T_cam_N44: Float64,
    ) -> None:
        self._memory = replace(self._memory, history=decision.history, reset_reason="")
        if decision.commit:
            self._memory = replace(
                self._memory,
                state=next_state,
                cameras=cameras,
                committed_world_T_cam_N44=world_T_cam_N44,
            )

    def _empty(self) -> StreamSnapshot:
        # Made as all later states are: a compiled network is compiled anew for another sort.
        with torch.inference_mode():
            state = self._model.net.initial_state(1, device=self._device)
        return StreamSnapshot(self._model.label, state, self.card.cameras)


def _control(
    before: StreamSnapshot, decision: Decision, now: FrameInfo, world_T_cam_N44: Float64
) -> StepControl:
    """The past of a step, in main memory; no motion at the first frame of a sequence."""
    history, then_N44 = before.history, before.committed_world_T_cam_N44
    motion, position = np.eye(4), 0
    camera_motion_N44 = np.broadcast_to(np.eye(4), world_T_cam_N44.shape)
    if not decision.start and history is not None:
        motion = relative_motion(history.committed.world_T_ego, now.world_T_ego)
        position = history.length
        if then_N44 is not None:
            camera_motion_N44 = invert_transform(then_N44) @ world_T_cam_N44
    return StepControl(
        start_B=torch.tensor([decision.start]),
        previous_T_current_B44=torch.from_numpy(np.array(motion)[None]),
        position_B=torch.tensor([position]),
        previous_cam_T_cam_BN44=torch.from_numpy(np.array(camera_motion_N44)[None]),
    )


def _length(history: History | None) -> int:
    return 0 if history is None else history.length


class StageClock:
    """Milliseconds per stage of one step; waits for the device, so that they add up."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begun = self._last = time.perf_counter()
        self._stages: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """Book the time since the last lap on ``stage``."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self._stages[stage] = 1e3 * (now - self._last)
        self._last = now

    def timings_ms(self) -> dict[str, float]:
        """All stages, and ``total``."""
        return {**self._stages, "total": 1e3 * (self._last - self._begun)}
