"""The thread that turns frame sets into predictions, so that callbacks stay short."""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections import Counter
from typing import Any

import torch
from rclpy.impl.rcutils_logger import RcutilsLogger

from occ_perception.errors import is_out_of_memory, sentence_for
from occ_perception.frames import CameraFrame, CameraRig, OccupancyPrediction
from occ_perception.models.postprocess import NotFiniteError
from occ_perception.ros.diagnostics import ERROR, OK, WARN, LatencyWindow, Status
from occ_perception.ros.lidar_input import LidarInput, MissingSweepError
from occ_perception.ros.outputs import Outputs
from occ_perception.ros.parameters import ParameterServer
from occ_perception.ros.synchronizer import Job, Mailbox
from occ_perception.ros.vehicle_subscriptions import VehicleSubscriptions
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.images import load_decoder

_LOG_EVERY_S = 5.0
# What errors of torch's devices begin with where they have no class of their own.
_DEVICE_ERROR = re.compile(r"(CUDA|cuDNN|cuBLAS|HIP)\b.*error", re.IGNORECASE)


class Worker:
    """Takes frame sets from a mailbox, runs the stream, publishes.

    Args:
        stream: the network with its history; used by this thread only.
        mailbox: source of the frame sets.
        vehicle: source of ego poses and mounts; counts unusable images.
        outputs: publishers of the predictions.
        parameters: live parameters are read at every frame set.
        lidar: sweeps for a model that takes lidar depth; None for other models.
        logger: logger of the node.
    """

    def __init__(
        self,
        stream: OccupancyStream,
        mailbox: Mailbox[Job],
        vehicle: VehicleSubscriptions,
        outputs: Outputs,
        parameters: ParameterServer,
        *,
        lidar: LidarInput | None,
        logger: RcutilsLogger,
    ) -> None:
        self._stream = stream
        self._mailbox = mailbox
        self._vehicle = vehicle
        self._outputs = outputs
        self._parameters = parameters
        self._lidar = lidar
        self._logger = logger
        self._latency = LatencyWindow()
        self._assembler: tuple[CameraRig, FrameAssembler] | None = None
        self._reset_lock = threading.Lock()
        self._reset_reason = ""
        self._failures: Counter[str] = Counter()
        self._last_failure = ""
        self._said_at: dict[str, float] = {}
        self._busy_since: float | None = None
        self._last: OccupancyPrediction | None = None
        self._overwritten_reported = 0
        self._breaks = 0
        self._last_break = ""
        self._frames = 0
        # A daemon thread: a network that hangs must not keep the process alive after the timeout
        # of stop().
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish the current frame set and end the thread; returns whether it ended in time."""
        self._mailbox.close()
        self._vehicle.poses.abandon_waits()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def reset(self, reason: str) -> None:
        """Clear the history before the next frame set; any thread may call this."""
        with self._reset_lock:
            self._reset_reason = reason
            self._mailbox.clear()
        self._vehicle.poses.abandon_waits()

    def _run(self) -> None:
        load_decoder()
        while (job := self._mailbox.take()) is not None:
            self._process(job)

    def _process(self, job: Job) -> None:
        started = time.monotonic()
        try:
            frame = self._assemble(job)
            assembled = time.monotonic()
            prediction = self._step(frame)
            stepped = time.monotonic()
            self._outputs.publish(prediction, self._parameters.values)
        except FrameError as error:
            if error.reason in ("undecodable_image", "size_mismatch"):
                self._vehicle.reject_image(error.camera, str(error))
            self._fail(error.reason, str(error))
            return
        except MissingSweepError as error:
            self._fail("no_lidar", str(error))
            return
        except Exception as error:
            if not self._outputs.are_open:
                return
            # An error in one frame must not stop the node. It is logged and reported.
            self._fail(*_fault_of(error))
            return
        finished = time.monotonic()
        self._note(prediction)
        self._latency.add(
            {
                "latency": 1e3 * (finished - job.closed_at),
                "waiting": 1e3 * (started - job.closed_at),
                "assembly": 1e3 * (assembled - started),
                **{
                    "step" if stage == "total" else stage: duration
                    for stage, duration in prediction.timings_ms.items()
                },
                "publishing": 1e3 * (finished - stepped),
            }
        )

    def _step(self, frame: CameraFrame) -> OccupancyPrediction:
        """One step of the stream; after one that failed, the next begins without a history.

        A failed step leaves the history as it was, but after an error of the device its tensors
        cannot be trusted, and they may be the memory that was missing.
        """
        with self._reset_lock:
            reason, self._reset_reason = self._reset_reason, ""
        self._busy_since = time.monotonic()
        try:
            if reason:
                # By now nothing refers to the tensors of a failed step any more.
                torch.cuda.empty_cache()
                self._stream.reset(reason)
            return self._stream.step(frame)
        except Exception as error:
            with self._reset_lock:
                if not self._reset_reason and not isinstance(error, NotFiniteError):
                    kind, _ = _fault_of(error)
                    self._reset_reason = f"the network failed on an earlier frame set: {kind}"
            raise
        finally:
            self._busy_since = None

    def _assemble(self, job: Job) -> CameraFrame:
        if self._assembler is None or self._assembler[0] is not job.rig:
            encodings = self._vehicle.plan.encodings
            self._assembler = (job.rig, FrameAssembler(job.rig, encodings=encodings))
        poses, wait_s = self._vehicle.poses, self._parameters.values.pose_wait_ms * 1e-3
        poses.wait_until_settled(job.frame_set.newest_stamp_ns, wait_s)
        frame = self._assembler[1].assemble(job.frame_set, poses)
        return frame if self._lidar is None else self._lidar.with_points(frame, self._vehicle)

    def _note(self, prediction: OccupancyPrediction) -> None:
        if not self._frames:
            occupied = int((prediction.labels != prediction.empty_class).sum())
            self._logger.info(
                f"first grid, of the images at {prediction.stamp_ns * 1e-9:.3f} s: {occupied} of "
                f"{prediction.labels.size} voxels are occupied"
            )
        self._frames += 1
        self._last = prediction
        self._last_failure = ""
        if prediction.history_break:
            self._breaks += 1
            self._last_break = prediction.history_break

    def _fail(self, kind: str, text: str) -> None:
        self._failures[kind] += 1
        self._last_failure = text.splitlines()[0]
        now = time.monotonic()
        if now - self._said_at.get(kind, -_LOG_EVERY_S) >= _LOG_EVERY_S:
            self._said_at[kind] = now
            self._logger.error(f"frame set dropped: {text}")

    def _stalled_for_s(self) -> float:
        """How long the network has been busy with one frame set, if that is a stall; 0 if not."""
        since = self._busy_since
        busy_s = 0.0 if since is None else time.monotonic() - since
        return busy_s if busy_s > self._parameters.values.stalled_after_s else 0.0

    def status(self) -> Status:
        """The diagnostics status of the worker."""
        last = self._last
        overwritten = self._mailbox.overwritten - self._overwritten_reported
        self._overwritten_reported = self._mailbox.overwritten
        if stalled_s := self._stalled_for_s():
            level = ERROR
            text = (
                f"the network has been busy with one frame set for {stalled_s:.0f} s "
                "(stalled_after_s): its device hangs or is too slow"
            )
        elif self._last_failure:
            level, text = ERROR, f"last frame set dropped: {self._last_failure}"
        elif last is None:
            level, text = WARN, "no frame set processed yet"
        elif overwritten:
            level = WARN
            text = (
                f"the network is slower than the cameras: {overwritten} frame sets overwritten "
                "since last report"
            )
        else:
            level, text = OK, "predicting"
        values: dict[str, Any] = {
            "frames": self._frames,
            "frame_sets_overwritten": self._mailbox.overwritten,
            "frame_sets_failed": self._failures.total(),
            **{
                f"frame_sets_failed_{kind}": count for kind, count in sorted(self._failures.items())
            },
            "history_length": last.history_length if last else 0,
            "history_breaks": self._breaks,
            "last_history_break": self._last_break,
            **self._outputs.figures(),
            **self._latency.figures(),
        }
        return Status("inference", level, text, values)


def _fault_of(error: Exception) -> tuple[str, str]:
    """The kind that an error of a step is counted under, and what is said about it."""
    told = str(error).strip().splitlines()
    first = told[0] if told else type(error).__name__
    if isinstance(error, NotFiniteError):
        return "not_finite", str(error)
    if is_out_of_memory(error):
        return "out_of_memory", f"{sentence_for(error)} ({first})"
    if isinstance(error, OverflowError):
        return "overflow", f"a number is too large: {first}\n{traceback.format_exc()}"
    if _is_of_device(error):
        return "device", f"the device failed ({first}); if this goes on, start the node again"
    return type(error).__name__, f"{error}\n{traceback.format_exc()}"


def _is_of_device(error: Exception) -> bool:
    own_class = getattr(torch, "AcceleratorError", ())  # torch 2.8 and later
    return isinstance(error, own_class) or (
        isinstance(error, RuntimeError) and _DEVICE_ERROR.match(str(error)) is not None
    )
